//! Names of functions: looks addresses up in the symbols of the running program and its libraries.

use std::{collections::HashMap, ptr::with_exposed_provenance_mut};

use backtrace::Symbol;

/// Function at an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Function {
    /// Path without the hash of the compiler, such as `counter::call::mark_read`.
    pub(crate) name: String,
    /// Source file, empty if the program has no line tables.
    pub(crate) file: String,
    /// Line in the file, 0 if unknown.
    pub(crate) line: u32,
}

/// Functions by address. A stack shares most of its addresses with others, and a lookup costs microseconds.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    found: HashMap<usize, Vec<Function>>,
}

impl Symbols {
    /// Returns the functions at an address, the innermost first: more than one if some were inlined. An
    /// address without a symbol is a function named after it.
    pub(crate) fn at(&mut self, address: usize) -> &[Function] {
        self.found.entry(address).or_insert_with(|| {
            let mut functions = Vec::new();
            backtrace::resolve(with_exposed_provenance_mut(address), |symbol| {
                functions.extend(function(symbol));
            });
            if functions.is_empty() {
                functions.push(Function { name: format!("{address:#x}"), file: String::new(), line: 0 });
            }
            functions
        })
    }
}

fn function(symbol: &Symbol) -> Option<Function> {
    let name = format!("{:#}", symbol.name()?);
    let file = symbol.filename().map(|path| path.display().to_string()).unwrap_or_default();
    Some(Function { name, file, line: symbol.lineno().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn named_by_the_test() -> usize {
        // In the function's body, not at its end.
        let mut found = 0;
        backtrace::trace(|frame| {
            let mut here = false;
            backtrace::resolve_frame(frame, |symbol| {
                here |= symbol.name().is_some_and(|name| name.to_string().contains("named_by_the_test"));
            });
            if here {
                found = frame.ip().addr() - 1;
            }
            !here
        });
        found
    }

    #[test]
    fn an_address_has_the_name_of_its_function_without_the_hash() {
        let mut symbols = Symbols::default();
        let functions = symbols.at(named_by_the_test());
        let name = &functions.last().expect("a function").name;
        assert_eq!(name, "profiles::symbols::tests::named_by_the_test");
        assert_eq!(symbols.at(1)[0].name, "0x1", "no function");
    }
}

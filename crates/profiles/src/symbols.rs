//! Names of functions: looks addresses up in the symbols of the running program and its libraries.

use std::{collections::HashMap, ptr::with_exposed_provenance_mut};

use backtrace::Symbol;

/// Function at an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Function {
    /// Path without the hash of the compiler, such as `access::guard::authenticate`.
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
    let file = symbol.filename().map(|path| path.display().to_string()).unwrap_or_default();
    let name = qualified(&format!("{:#}", symbol.name()?), &file);
    Some(Function { name, file, line: symbol.lineno().unwrap_or_default() })
}

/// Adds a path to the name of an inlined function. Line tables have only its last part, such as
/// `{async_fn#0}`, and its file, from which the path of its module follows.
fn qualified(name: &str, file: &str) -> String {
    let has_path = name.starts_with('<') || name.split('<').next().is_some_and(|path| path.contains("::"));
    match module(file) {
        Some(module) if !has_path => format!("{module}::{name}"),
        _ => name.to_owned(),
    }
}

/// Returns the path of the module of a source file: `tokio::runtime::task` of
/// `/…/tokio-1.54.1/src/runtime/task.rs`.
fn module(file: &str) -> Option<String> {
    let path = file.strip_suffix(".rs")?.trim_start_matches("./");
    let (before, inside) = path.rsplit_once("/src/").or_else(|| Some(("", path.strip_prefix("src/")?)))?;
    let folder = before.rsplit('/').next().unwrap_or_default();
    let is_version = |version: &str| version.starts_with(|first: char| first.is_ascii_digit());
    let package = match folder.rsplit_once('-') {
        Some((package, version)) if is_version(version) => package,
        _ => folder,
    };
    let package = package.replace('-', "_");
    let parts = inside.split('/').filter(|part| !["lib", "main", "mod"].contains(part));
    let parts: Vec<&str> = [package.as_str()].into_iter().chain(parts).filter(|it| !it.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join("::"))
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
                here |= symbol
                    .name()
                    .is_some_and(|name| format!("{name:#}") == "profiles::symbols::tests::named_by_the_test");
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

    #[test]
    fn a_function_without_a_path_gets_that_of_its_file() {
        const CARGO: &str = "/cargo/registry/src/index";
        for (name, file, expected) in [
            ("{async_fn#0}", "crates/wake/src/lib.rs", "wake::{async_fn#0}"),
            ("send", "./src/process.rs", "process::send"),
            ("poll<a::B>", "/rustc/5980/library/core/src/future/mod.rs", "core::future::poll<a::B>"),
            ("run", &format!("{CARGO}/tokio-1.54.1/src/runtime/task.rs"), "tokio::runtime::task::run"),
            ("new", &format!("{CARGO}/async-graphql-7.2.1/src/a.rs"), "async_graphql::a::new"),
            ("new", &format!("{CARGO}/hyper-util/src/a.rs"), "hyper_util::a::new"),
            ("tokio::spawn<A>", "/x/tokio/src/task.rs", "tokio::spawn<A>"),
            ("<A as B>::poll", "/x/tokio/src/task.rs", "<A as B>::poll"),
            ("sqlite3_step", "/x/src/sqlite3.c", "sqlite3_step"),
            ("memcpy", "", "memcpy"),
        ] {
            assert_eq!(qualified(name, file), expected, "{name} in {file}");
        }
    }
}

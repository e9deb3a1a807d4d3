//! Maximum length of a file and of a function.

use syn::{spanned::Spanned, visit::Visit};

use crate::tree::{Source, Violation};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are too long.
pub fn files(sources: &[Source]) -> Vec<Violation> {
    let lengths = sources.iter().map(|source| (source, source.text.lines().count()));
    lengths
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(source, lines)| {
            Violation::new(&source.path, 1, format!("{lines} lines, {FILE_LINES_MAX} at most"))
        })
        .collect()
}

/// Functions that are too long, from `fn` to the closing brace.
pub fn functions(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        let mut visitor = Functions { source, violations: &mut violations };
        visitor.visit_file(&source.file);
    }
    violations
}

struct Functions<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line + 1 - first;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("`{}` has {lines} lines, {FUNCTION_LINES_MAX} at most", signature.ident);
            self.violations.push(Violation::new(&self.source.path, first, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

#[test]
fn a_file_of_501_lines_is_found_and_one_of_500_is_not() {
    let source = |lines| Source::parse("a.rs", &"\n".repeat(lines));
    assert_eq!(files(&[source(501)]), [Violation::new("a.rs".as_ref(), 1, "501 lines, 500 at most")]);
    assert_eq!(files(&[source(500)]), []);
}

#[test]
fn a_function_of_71_lines_is_found_at_every_level() {
    let function = |lines: usize| format!("fn f() {{{}}}", "\n".repeat(lines - 1));
    let contexts = ["\n@", "mod m {\n@}", "impl T {\n@}", "trait T {\n@}", "fn g() {\n@}"];
    for context in contexts {
        let source = |lines| [Source::parse("a.rs", &context.replace('@', &function(lines)))];
        let found = functions(&source(71));
        assert!(
            found.contains(&Violation::new("a.rs".as_ref(), 2, "`f` has 71 lines, 70 at most")),
            "{context}"
        );
    }
    assert_eq!(functions(&[Source::parse("a.rs", &function(70))]), []);
}

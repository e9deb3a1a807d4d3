//! Style of the sources that neither the compiler nor clippy checks: length of lines, tuples of
//! unrelated values, and locks that can be poisoned.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::tree::{Source, Text, Violation};

const CODE_COLUMNS: usize = 110;
const PROSE_COLUMNS: usize = 120;

/// Lines that are too long, in Rust, Protocol Buffers and Markdown. Addresses, tables and code in
/// Markdown may be longer.
pub fn lines(texts: &[Text]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for text in texts {
        let columns = match text.path.extension().and_then(|extension| extension.to_str()) {
            Some("rs" | "proto") => CODE_COLUMNS,
            Some("md") => PROSE_COLUMNS,
            _ => continue,
        };
        let prose = columns == PROSE_COLUMNS;
        let mut fenced = false;
        for (index, line) in text.text.lines().enumerate() {
            fenced ^= prose && line.trim_start().starts_with("```");
            let table = prose && line.trim_start().starts_with('|');
            let length = line.chars().count();
            if length > columns && !fenced && !table && !line.contains("://") {
                let what = format!("{length} columns, {columns} at most");
                violations.push(Violation::new(&text.path, index + 1, what));
            }
        }
    }
    violations
}

/// `let` statements that take a tuple apart in the statement that builds it. A `let … else` may match on
/// several values together.
pub fn tuples(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        let mut visitor = Tuples { source, violations: &mut violations };
        visitor.visit_file(&source.file);
    }
    violations
}

struct Tuples<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl<'ast> Visit<'ast> for Tuples<'_> {
    fn visit_local(&mut self, local: &'ast syn::Local) {
        let value = local.init.as_ref().filter(|init| init.diverge.is_none()).map(|init| init.expr.as_ref());
        if matches!((&local.pat, value), (syn::Pat::Tuple(_), Some(syn::Expr::Tuple(_)))) {
            let what = "a `let` for each value, not a tuple of them";
            self.violations.push(Violation::new(&self.source.path, local.let_token.span.start().line, what));
        }
        syn::visit::visit_local(self, local);
    }
}

/// Uses of `PoisonError`: `parking_lot` has locks without poisoning.
pub fn poisoned_locks(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        let mut uses = Vec::new();
        find(source.text.parse().expect("it was parsed before"), &mut uses);
        let what = "use `parking_lot` and no `PoisonError`";
        violations.extend(uses.into_iter().map(|line| Violation::new(&source.path, line, what)));
    }
    violations
}

fn find(tokens: TokenStream, lines: &mut Vec<usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => find(group.stream(), lines),
            TokenTree::Ident(name) if name == "PoisonError" => lines.push(name.span().start().line),
            TokenTree::Ident(_) | TokenTree::Literal(_) | TokenTree::Punct(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_found_and_addresses_and_tables_may_be_long() {
        let found = |path: &str, line: &str| lines(&[Text { path: path.into(), text: line.into() }]).len();
        let long = |columns| "é".repeat(columns);
        assert_eq!((found("a.rs", &long(111)), found("a.rs", &long(110))), (1, 0));
        assert_eq!((found("a.md", &long(121)), found("a.md", &long(120))), (1, 0));
        assert_eq!(found("a.rs", &["https://", &long(110)].concat()), 0);
        assert_eq!(found("a.md", &["| ", &long(121)].concat()), 0);
        assert_eq!(found("a.md", &["```\n", &long(121), "\n```\n", &long(121)].concat()), 1);
        assert_eq!(found("a.json", &long(121)), 0);
    }

    #[test]
    fn a_tuple_taken_apart_at_once_is_found() {
        let found = |text| tuples(&[Source::parse("a.rs", text)]).len();
        assert_eq!(found("fn f() { let (a, mut b) = (1, 2); }"), 1);
        assert_eq!(found("fn f() { let g = || { let (a, b) = (1, 2); }; }"), 1);
        assert_eq!(found("fn f() { let (a, b) = g(); assert_eq!((a, b), (1, 2)); }"), 0);
        assert_eq!(found("fn f() { let (Some(a), Some(b)) = (g(), g()) else { return }; }"), 0);
    }

    #[test]
    fn a_poisoned_lock_is_found_outside_comments() {
        let found = |text| poisoned_locks(&[Source::parse("a.rs", text)]).len();
        assert_eq!(found("use std::sync::PoisonError;"), 1);
        assert_eq!(found("fn f() { m!(a.unwrap_or_else(PoisonError::into_inner)) }"), 1);
        assert_eq!(found("/// PoisonError\nfn f() {}"), 0);
    }
}

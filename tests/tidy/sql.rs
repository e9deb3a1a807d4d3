//! Location of SQL: only in a service's store, and in the two crates whose subject is the database
//! (`db`, `events`).

use std::path::Path;

use proc_macro2::{Delimiter, Literal, TokenStream, TokenTree};
use syn::visit::Visit;

use crate::tree::{Source, Violation, only_in_tests};

/// SQL statements outside the stores. Tests may contain SQL anywhere.
pub fn statements(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| !source.test && !allowed(&source.path)) {
        let mut visitor = Literals { source, violations: &mut violations };
        visitor.visit_file(&source.file);
    }
    violations
}

fn allowed(path: &Path) -> bool {
    let store = path.ends_with("store.rs") || path.iter().any(|part| part == "store");
    store || path.starts_with("crates/db") || path.starts_with("crates/events")
}

struct Literals<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl Literals<'_> {
    fn inspect(&mut self, text: &str, line: usize) {
        if is_sql(text) {
            let start: String = text.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
            self.violations.push(Violation::new(
                &self.source.path,
                line,
                format!("SQL outside a store: `{start} …`"),
            ));
        }
    }

    /// Inspects the arguments of a macro, which are tokens. Attributes, and so doc comments, are skipped.
    fn inspect_tokens(&mut self, tokens: TokenStream) {
        let mut after_hash = false;
        for token in tokens {
            let hash = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '#');
            match token {
                TokenTree::Group(group) if after_hash && group.delimiter() == Delimiter::Bracket => {}
                TokenTree::Group(group) => self.inspect_tokens(group.stream()),
                TokenTree::Literal(literal) => self.inspect_literal(&literal),
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
            after_hash = hash;
        }
    }

    fn inspect_literal(&mut self, literal: &Literal) {
        if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
            self.inspect(&text.value(), literal.span().start().line);
        }
    }
}

impl<'ast> Visit<'ast> for Literals<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !only_in_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.inspect(&literal.value(), literal.span().start().line);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.inspect_tokens(call.tokens.clone());
    }
}

/// Returns true for the form of a statement; its first word is not enough: "update me" is English.
fn is_sql(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text
        .split(|letter: char| letter.is_whitespace() || "(),;".contains(letter))
        .filter(|word| !word.is_empty())
        .collect();
    let has = |word| words.contains(&word);
    match words.as_slice() {
        ["select", "1", ..] | ["insert", "into", _, ..] | ["delete", "from", _, ..] => true,
        ["create", "table" | "index" | "view" | "unique", ..] => true,
        ["select", ..] => has("from"),
        ["update", _, "set", ..] | ["update", _, "as", _, "set", ..] | ["update", _, _, "set", ..] => true,
        ["with", ..] => has("as") && has("select"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_differs_from_an_english_sentence() {
        let statements = [
            "select id from person",
            "SELECT 1",
            "insert into a (b) values ($1)",
            "update person set name = $1",
            "update person as p set name = $1",
            "delete from person",
            "with a as (select 1) select * from a",
            "\n  with a(b) as materialized (\nselect 1) select b",
            "create table a (b)",
        ];
        for statement in statements {
            assert!(is_sql(statement), "{statement}");
        }
        let sentences = [
            "select a dialog",
            "update me",
            "with a token as proof",
            "insert coin",
            "delete it",
            "",
            "the select from",
        ];
        for sentence in sentences {
            assert!(!is_sql(sentence), "{sentence}");
        }
    }

    #[test]
    fn a_statement_outside_a_store_is_found_in_every_notation() {
        let found = |path, text| statements(&[Source::parse(path, text)]);
        for text in [
            "const A: &str =\n\"select a from b\";",
            "fn f() { g(format!(\n\"delete from {t}\")); }",
            "fn f() { g(vec![(1,\nr#\"select a from b\"#)]); }",
        ] {
            let violations = found("dialog/src/send.rs", text);
            assert_eq!(violations.len(), 1, "{text}");
            assert!(violations[0].to_string().starts_with("dialog/src/send.rs:2: "), "{text}");
            for path in [
                "dialog/src/store.rs",
                "dialog/src/store/send.rs",
                "crates/db/src/lib.rs",
                "dialog/tests/a.rs",
            ] {
                assert_eq!(found(path, text), [], "{path}");
            }
        }
    }

    #[test]
    fn comments_and_test_modules_may_contain_sql() {
        let text = "/// select a from b\nfn f() {}\n\
                    #[cfg(test)] mod tests { const A: &str = \"select a from b\"; }\n\
                    m! { /// select a from b\n x }";
        assert_eq!(statements(&[Source::parse("dialog/src/send.rs", text)]), []);
    }
}

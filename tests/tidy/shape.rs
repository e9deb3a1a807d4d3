//! How sources are laid out and named: no `mod.rs`, no folder for two files, no name that could mean anything, no trait
//! for one implementation.

use std::{collections::BTreeMap, path::Path};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{ext::IdentExt, visit::Visit};

use crate::tree::{Source, Violation, only_in_tests};

const FOLDER_FILES: usize = 3;
const EMPTY_WORDS: [&str; 9] =
    ["manager", "helper", "helpers", "impl", "util", "utils", "data", "info", "base"];
/// Names that a published specification gives.
const GIVEN_NAMES: [&str; 1] = ["PageInfo"]; // Relay's connections

/// Modules in the old style.
pub fn module_files(sources: &[Source]) -> Vec<Violation> {
    let old = sources.iter().filter(|source| source.path.ends_with("mod.rs"));
    old.map(|source| Violation::new(&source.path, 1, "`foo.rs` beside `foo/`, not `foo/mod.rs`")).collect()
}

/// Folders with too few sources. The folders that cargo prescribes, and those without a source of their own, may have fewer.
pub fn folders(sources: &[Source]) -> Vec<Violation> {
    let mut counts = BTreeMap::<&Path, usize>::new();
    for folder in sources.iter().filter_map(|source| source.path.parent()) {
        *counts.entry(folder).or_default() += 1;
    }
    let few = counts.into_iter().filter(|(folder, count)| *count < FOLDER_FILES && !prescribed(folder));
    few.map(|(folder, count)| Violation::new(folder, 0, format!("{count} sources, {FOLDER_FILES} at least")))
        .collect()
}

/// A crate's root, its src and its tests.
fn prescribed(folder: &Path) -> bool {
    let root = !folder.iter().any(|part| part == "src" || part == "tests");
    root || folder.ends_with("src") || folder.ends_with("tests")
}

/// Types and modules with a word in their name that says nothing.
pub fn names(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        let mut visitor = Names { source, violations: &mut violations };
        visitor.visit_file(&source.file);
    }
    violations
}

struct Names<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl Names<'_> {
    fn look(&mut self, name: &Ident) {
        let text = name.unraw().to_string();
        if GIVEN_NAMES.contains(&text.as_str()) {
            return;
        }
        if let Some(word) = words(&text).into_iter().find(|word| EMPTY_WORDS.contains(&word.as_str())) {
            let what = format!("`{text}`: \"{word}\" says nothing");
            self.violations.push(Violation::new(&self.source.path, name.span().start().line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.look(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.look(&item.ident);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.look(&item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.look(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.look(&item.ident);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.look(&item.ident);
        syn::visit::visit_item_mod(self, item);
    }
}

/// The words of a name in either style, in lower case.
pub fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        let starts = letter == '_' || letter.is_uppercase();
        if starts && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter != '_') {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

/// Traits of ours with fewer than two implementations outside tests. An `impl` inside a macro counts as many.
pub fn traits(sources: &[Source]) -> Vec<Violation> {
    let mut visitor = Traits::default();
    for source in sources.iter().filter(|source| !source.test) {
        visitor.path = Some(&source.path);
        visitor.visit_file(&source.file);
    }
    let Traits { defined, implemented, .. } = visitor;
    let single = defined.into_iter().filter(|(name, _)| implemented.get(name).copied().unwrap_or(0) < 2);
    single
        .map(|(name, (path, line))| {
            Violation::new(path, line, format!("one implementation makes no trait: `{name}`"))
        })
        .collect()
}

#[derive(Default)]
struct Traits<'a> {
    path: Option<&'a Path>,
    defined: BTreeMap<String, (&'a Path, usize)>,
    implemented: BTreeMap<String, usize>,
}

impl<'ast> Visit<'ast> for Traits<'ast> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !only_in_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let path = self.path.expect("a file is being visited");
        self.defined.insert(item.ident.to_string(), (path, item.ident.span().start().line));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(name) = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last()) {
            *self.implemented.entry(name.ident.to_string()).or_default() += 1;
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        for name in implemented_in(call.tokens.clone()) {
            *self.implemented.entry(name).or_default() += 2;
        }
    }
}

/// Every name between an `impl` and its `for`, however deep.
fn implemented_in(tokens: TokenStream) -> Vec<String> {
    let (mut names, mut open) = (Vec::new(), None::<Vec<String>>);
    for token in tokens {
        match (token, &mut open) {
            (TokenTree::Group(group), _) => {
                open = None;
                names.extend(implemented_in(group.stream()));
            }
            (TokenTree::Ident(word), _) if word == "impl" => open = Some(Vec::new()),
            (TokenTree::Ident(word), Some(_)) if word == "for" => {
                names.extend(open.take().unwrap_or_default())
            }
            (TokenTree::Ident(word), Some(list)) => list.push(word.to_string()),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str) -> Source {
        Source::parse(path, "")
    }

    #[test]
    fn a_module_in_the_old_style_is_found() {
        assert_eq!(module_files(&[source("a/src/b/mod.rs"), source("a/src/b.rs")]).len(), 1);
    }

    #[test]
    fn a_folder_of_two_is_found_and_one_that_cargo_prescribes_is_not() {
        let two =
            ["a/src/b/c.rs", "a/src/b/d.rs", "a/src/lib.rs", "a/build.rs", "a/tests/one.rs"].map(source);
        assert_eq!(folders(&two), [Violation::new("a/src/b".as_ref(), 0, "2 sources, 3 at least")]);
        assert_eq!(folders(&["a/src/b/c.rs", "a/src/b/d.rs", "a/src/b/e.rs"].map(source)), []);
        assert_eq!(folders(&[source("tests/stories/main.rs")]).len(), 1);
    }

    #[test]
    fn an_empty_word_in_a_name_is_found_whole_and_alone() {
        let found = |text| names(&[Source::parse("a.rs", text)]).len();
        for bad in [
            "struct UserManager;",
            "enum DataKind {}",
            "trait StoreImpl {}",
            "type Info = u8;",
            "mod utils {}",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
        assert_eq!(found("mod outer { struct BaseOne; }"), 1);
        for good in ["struct Database;", "struct PageInfo;", "struct Informed;", "mod baseline {}"] {
            assert_eq!(found(good), 0, "{good}");
        }
    }

    #[test]
    fn a_trait_for_one_is_found_and_a_test_double_makes_no_second() {
        let found = |text| traits(&[Source::parse("a.rs", text)]).len();
        assert_eq!(found("trait A {} impl A for u8 {}"), 1);
        assert_eq!(found("trait A {} impl A for u8 {} #[cfg(test)] mod tests { impl A for u16 {} }"), 1);
        assert_eq!(found("trait A {} impl A for u8 {} impl<T> crate::A for Vec<T> {}"), 0);
        assert_eq!(found("trait A {} macro_rules! each { ($t:ty) => { impl A for $t {} } }"), 0);
        assert_eq!(found("impl Clone for u8 {}"), 0);
    }
}

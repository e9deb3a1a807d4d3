//! Layout of the sources: no `mod.rs`, at least three files in a folder, and at least two
//! implementations of a trait.

use std::{collections::BTreeMap, path::Path};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::tree::{Source, Violation, only_in_tests};

const FOLDER_FILES_MIN: usize = 3;

/// Modules that use a `mod.rs`.
pub fn module_files(sources: &[Source]) -> Vec<Violation> {
    let found = sources.iter().filter(|source| source.path.ends_with("mod.rs"));
    found.map(|source| Violation::new(&source.path, 1, "`foo.rs` beside `foo/`, not `foo/mod.rs`")).collect()
}

/// Folders with too few sources. The folders that Cargo prescribes may have fewer.
pub fn folders(sources: &[Source]) -> Vec<Violation> {
    let mut counts = BTreeMap::<&Path, usize>::new();
    for folder in sources.iter().filter_map(|source| source.path.parent()) {
        *counts.entry(folder).or_default() += 1;
    }
    let few = counts.into_iter().filter(|(folder, count)| *count < FOLDER_FILES_MIN && !prescribed(folder));
    few.map(|(folder, count)| {
        Violation::new(folder, 0, format!("{count} sources, {FOLDER_FILES_MIN} at least"))
    })
    .collect()
}

/// Returns true for a crate's root, its `src` and its `tests`, which Cargo prescribes.
fn prescribed(folder: &Path) -> bool {
    let root = !folder.iter().any(|part| part == "src" || part == "tests");
    root || folder.ends_with("src") || folder.ends_with("tests")
}

/// Traits of the project with fewer than two implementations outside tests. An `impl` inside a macro
/// counts as two.
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
            Violation::new(path, line, format!("`{name}` has fewer than two implementations"))
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

/// Returns every name between an `impl` and its `for`, at any depth.
fn implemented_in(tokens: TokenStream) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = None::<Vec<String>>;
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
    fn a_mod_rs_is_found() {
        assert_eq!(module_files(&[source("a/src/b/mod.rs"), source("a/src/b.rs")]).len(), 1);
    }

    #[test]
    fn a_folder_of_two_files_is_found_unless_cargo_prescribes_it() {
        let two =
            ["a/src/b/c.rs", "a/src/b/d.rs", "a/src/lib.rs", "a/build.rs", "a/tests/one.rs"].map(source);
        assert_eq!(folders(&two), [Violation::new("a/src/b".as_ref(), 0, "2 sources, 3 at least")]);
        assert_eq!(folders(&["a/src/b/c.rs", "a/src/b/d.rs", "a/src/b/e.rs"].map(source)), []);
        assert_eq!(folders(&[source("tests/stories/main.rs")]).len(), 1);
    }

    #[test]
    fn a_trait_with_one_implementation_is_found_and_test_doubles_do_not_count() {
        let found = |text| traits(&[Source::parse("a.rs", text)]).len();
        assert_eq!(found("trait A {} impl A for u8 {}"), 1);
        assert_eq!(found("trait A {} impl A for u8 {} #[cfg(test)] mod tests { impl A for u16 {} }"), 1);
        assert_eq!(found("trait A {} impl A for u8 {} impl<T> crate::A for Vec<T> {}"), 0);
        assert_eq!(found("trait A {} macro_rules! each { ($t:ty) => { impl A for $t {} } }"), 0);
        assert_eq!(found("impl Clone for u8 {}"), 0);
    }
}

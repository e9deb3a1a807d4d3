//! Names of types, modules and files: no empty word such as "manager", no type called after its
//! container, and no file name that needs its content to be understood.

use proc_macro2::Ident;
use syn::{ext::IdentExt, visit::Visit};

use crate::tree::{Source, Violation};

const EMPTY_WORDS: [&str; 9] =
    ["manager", "helper", "helpers", "impl", "util", "utils", "data", "info", "base"];
/// Names that a published specification gives.
const GIVEN_NAMES: [&str; 2] = [
    "PageInfo",    // Relay's connections
    "data_loader", // the DataLoader pattern of GraphQL servers
];
/// Names that say where a type is kept and not what it is.
const CONTAINER_NAMES: [&str; 2] = ["Shared", "Inner"];
/// File names to replace by the standard term for what the file holds.
const FILE_NAMES: [&str; 20] = [
    "stage", "feed", "live", "share", "floor", "lost", "scan", "shape", "part", "slot", "fills", "held",
    "patient", "place", "door", "scene", "turn", "turns", "seats", "world",
];

/// Files whose name does not say what they hold.
pub fn files(sources: &[Source]) -> Vec<Violation> {
    let stem = |source: &Source| source.path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let bad = sources.iter().filter_map(|source| {
        Some((source, stem(source).filter(|stem| FILE_NAMES.contains(&stem.as_str()))?))
    });
    bad.map(|(source, stem)| Violation::new(&source.path, 1, format!("`{stem}` is no term of the field")))
        .collect()
}

/// Types and modules with a word in their name that says nothing.
pub fn items(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        let mut visitor = Items { source, violations: &mut violations };
        visitor.visit_file(&source.file);
    }
    violations
}

struct Items<'a> {
    source: &'a Source,
    violations: &'a mut Vec<Violation>,
}

impl Items<'_> {
    fn inspect(&mut self, name: &Ident) {
        let text = name.unraw().to_string();
        if GIVEN_NAMES.contains(&text.as_str()) {
            return;
        }
        let empty = words(&text).into_iter().find(|word| EMPTY_WORDS.contains(&word.as_str()));
        let container = CONTAINER_NAMES.contains(&text.as_str()).then(|| text.clone());
        if let Some(word) = empty.or(container) {
            let what = format!("`{text}`: \"{word}\" says nothing");
            self.violations.push(Violation::new(&self.source.path, name.span().start().line, what));
        }
    }
}

impl<'ast> Visit<'ast> for Items<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.inspect(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.inspect(&item.ident);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.inspect(&item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.inspect(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.inspect(&item.ident);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.inspect(&item.ident);
        syn::visit::visit_item_mod(self, item);
    }
}

/// Returns the words of a name in snake or camel case, in lower case.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_word_is_found_only_as_a_whole_word() {
        let found = |text| items(&[Source::parse("a.rs", text)]).len();
        for bad in [
            "struct UserManager;",
            "enum DataKind {}",
            "trait StoreImpl {}",
            "type Info = u8;",
            "mod utils {}",
            "struct Shared;",
            "struct Inner;",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
        assert_eq!(found("mod outer { struct BaseOne; }"), 1);
        for good in [
            "struct Database;",
            "struct PageInfo;",
            "struct Informed;",
            "mod baseline {}",
            "mod data_loader {}",
            "struct SharedRead;",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
    }

    #[test]
    fn a_file_with_a_vague_name_is_found() {
        let found = |path| files(&[Source::parse(path, "")]).len();
        assert_eq!(found("gateway/src/shape.rs"), 1);
        assert_eq!(found("counter/src/store/part.rs"), 1);
        assert_eq!(found("gateway/src/response_shape.rs"), 0);
    }
}

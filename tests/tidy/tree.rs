//! Files of the project as input of the rules: texts, and parsed Rust sources. Files of modules that are
//! declared `#[cfg(test)]` are marked as tests.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use walkdir::{DirEntry, WalkDir};

/// One violation of a rule, at a line of a file; line 0 stands for the whole file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    path: PathBuf,
    line: usize,
    what: String,
}

impl Violation {
    pub fn new(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// A text file, its path relative to the project's root.
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

/// A parsed Rust file.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub file: syn::File,
    /// Compiled for tests only.
    pub test: bool,
}

impl Source {
    /// Parses a source. Panics at a syntax error, which the compiler reports too.
    pub fn parse(path: &str, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.into(), text: text.to_owned(), file, test: in_test_folder(Path::new(path)) }
    }
}

/// Reads the text files of the project, without build output, dependencies and stored data.
pub fn texts() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(belongs) {
        let entry = entry.expect("the project's folder can be read");
        if !entry.file_type().is_file() {
            continue;
        }
        // Files that are not UTF-8 are skipped: they are not text.
        if let Ok(text) = fs::read_to_string(entry.path()) {
            let path = entry.path().strip_prefix(root).expect("an entry is below the root").to_owned();
            texts.push(Text { path, text });
        }
    }
    texts
}

/// Reads and parses the Rust sources of the project.
pub fn sources() -> Vec<Source> {
    let texts = texts();
    let rust = texts.iter().filter(|text| text.path.extension().is_some_and(|extension| extension == "rs"));
    let mut sources: Vec<_> = rust
        .map(|text| Source::parse(text.path.to_str().expect("the project's paths are UTF-8"), &text.text))
        .collect();
    mark_tests(&mut sources);
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn belongs(entry: &DirEntry) -> bool {
    let foreign = [".git", "target", "node_modules", "dist", "data"];
    let built = entry.path().join("CACHEDIR.TAG").exists();
    !built && !foreign.iter().any(|name| entry.file_name() == *name)
}

fn in_test_folder(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "benches" || part == "bench")
}

/// Returns true when `#[cfg(test)]` is among the attributes.
pub fn only_in_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

/// Marks the files of modules that are declared `#[cfg(test)] mod name;`, and their descendants.
fn mark_tests(sources: &mut [Source]) {
    let declared: HashSet<PathBuf> = sources.iter().flat_map(test_modules).collect();
    for source in sources {
        let module = source.path.with_extension("");
        source.test |= module.ancestors().any(|folder| declared.contains(folder));
    }
}

fn test_modules(source: &Source) -> Vec<PathBuf> {
    let stem = source.path.file_stem().expect("a source has a name");
    let folder = if stem == "lib" || stem == "main" {
        source.path.parent().expect("a source lies in a folder").to_owned()
    } else {
        source.path.with_extension("")
    };
    let modules = source.file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && only_in_tests(&module.attrs) => Some(module),
        _ => None,
    });
    modules.map(|module| folder.join(module.ident.to_string())).collect()
}

#[test]
fn files_of_modules_declared_for_tests_are_marked() {
    let mut sources = [
        Source::parse("a/src/kernel.rs", "#[cfg(test)] mod tests; mod rule;"),
        Source::parse("a/src/kernel/tests.rs", ""),
        Source::parse("a/src/kernel/tests/histories.rs", ""),
        Source::parse("a/src/kernel/rule.rs", ""),
        Source::parse("a/src/lib.rs", "#[cfg(test)] mod story;"),
        Source::parse("a/src/story.rs", ""),
    ];
    mark_tests(&mut sources);
    let marked: Vec<bool> = sources.iter().map(|source| source.test).collect();
    assert_eq!(marked, [false, true, true, false, false, true]);
}

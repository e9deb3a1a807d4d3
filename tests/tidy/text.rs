//! Paths and addresses in the project's text: no folder of the machine it was written on, no host of a
//! package registry.

use crate::tree::{Text, Violation};

/// Folders of a machine. Built of pieces, so that this file does not contain them.
const FOLDERS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
/// Hosts of package registries. They belong in the user's Cargo and npm settings.
const HOSTS: [&str; 6] = [
    concat!("registry.", "npmjs"),
    concat!("registry.", "yarnpkg"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("proxy.", "golang.org"),
    concat!("pypi", ".org"),
];
/// The one index that cargo writes into its lock file.
const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Lines that name a folder outside the project or a registry's host.
pub fn places(texts: &[Text]) -> Vec<Violation> {
    let lines = texts
        .iter()
        .flat_map(|text| text.text.lines().enumerate().map(move |(index, line)| (text, index, line)));
    let found =
        lines.filter_map(|(text, index, line)| Some(Violation::new(&text.path, index + 1, forbidden(line)?)));
    found.collect()
}

fn forbidden(line: &str) -> Option<String> {
    if let Some(folder) = FOLDERS.into_iter().find(|folder| names_folder(line, folder)) {
        return Some(format!("names {folder}"));
    }
    let lock = line.trim_start().starts_with(concat!("\"resolved", "\":"));
    let index = line.contains("registry+") && !line.contains(INDEX) && !line.contains('`');
    let host = HOSTS.into_iter().find(|host| line.contains(host));
    host.or(lock.then_some("the address of a package"))
        .or(index.then_some("a registry"))
        .map(|name| format!("names {name}"))
}

/// Returns true where a path starts with `folder`. "a/home/b" and "https://x.example/home/" do not: the
/// folder continues another path.
fn names_folder(line: &str, folder: &str) -> bool {
    let starts = |before: Option<char>| {
        before.is_none_or(|letter| !letter.is_alphanumeric() && !"._-/~}".contains(letter))
    };
    line.match_indices(folder).any(|(at, _)| starts(line[..at].chars().next_back()))
}

#[test]
fn a_machine_path_is_found_and_a_project_path_is_not() {
    let bad = [
        concat!("cd /wo", "rk/main"),
        concat!("path = \"/ro", "ot/.cache\""),
        concat!("(/ho", "me/ada/x)"),
        concat!("https://registry.", "npmjs.org/react"),
        concat!("  \"resolved", "\": \"x\","),
        concat!("source = \"registry", "+https://mirror.example/index\""),
    ];
    for line in bad {
        let text = Text { path: "a".into(), text: format!("\n{line}\n") };
        let found = places(&[text]);
        assert_eq!(found.len(), 1, "{line}");
        assert!(found[0].to_string().starts_with("a:2: names "), "{line}");
    }
    for line in [
        "tests/work/x",
        "see https://example.org/home/page",
        "/workspace",
        INDEX,
        "~/root/x",
        "resolved: true",
    ] {
        assert_eq!(forbidden(line), None, "{line}");
    }
}

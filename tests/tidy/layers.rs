//! Dependencies between layers: services do not depend on each other, and foundation crates (`crates/`)
//! depend on neither services nor contracts and use no domain word.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;

use crate::{
    names::words as words_of,
    tree::{Source, Text, Violation},
};

const SERVICES: [&str; 4] = ["auth", "dialog", "counter", "gateway"];
/// Words that belong to a chat system. "user" and "message" are not among them: foundation crates have
/// callers and error messages.
const DOMAIN: [&str; 11] = [
    "dialog",
    "dialogs",
    "participant",
    "participants",
    "unread",
    "conversation",
    "conversations",
    "ledger",
    "saga",
    "badge",
    "tidings",
];

/// Services that depend on one another. Dependencies of tests count.
pub fn services(texts: &[Text]) -> Vec<Violation> {
    let of_service =
        |path: &Path| SERVICES.iter().any(|service| path == PathBuf::from(service).join("Cargo.toml"));
    forbidden(texts, of_service, &SERVICES)
}

/// Foundation crates that depend on a service or on the contracts.
pub fn foundations(texts: &[Text]) -> Vec<Violation> {
    let below = |path: &Path| path.starts_with("crates") && path.ends_with("Cargo.toml");
    forbidden(texts, below, &["proto", "auth", "dialog", "counter", "gateway", "tidings"])
}

fn forbidden(texts: &[Text], applies: impl Fn(&Path) -> bool, names: &[&str]) -> Vec<Violation> {
    let manifests = texts.iter().filter(|text| applies(&text.path));
    let found = manifests.flat_map(|manifest| {
        let found =
            dependencies(&manifest.text).into_iter().filter(|(_, name)| names.contains(&name.as_str()));
        found.map(|(line, name)| Violation::new(&manifest.path, line, format!("must not depend on `{name}`")))
    });
    found.collect()
}

/// Parses the dependencies of every kind that a manifest names, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.lines().map(str::trim).enumerate() {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            inside = section.ends_with("dependencies");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push((index + 1, name.trim_matches('"').to_owned()));
            }
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            let name = key.split('.').next().unwrap_or(key).trim().trim_matches('"');
            let renamed = value.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
            found.push((index + 1, renamed.unwrap_or(name).to_owned()));
        }
    }
    found
}

/// Identifiers of foundation crates that contain a domain word.
pub fn words(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates")) {
        let tokens = source.text.parse().expect("it was parsed before");
        find(tokens, &source.path, &mut violations);
    }
    violations
}

fn find(tokens: TokenStream, path: &Path, violations: &mut Vec<Violation>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => find(group.stream(), path, violations),
            TokenTree::Ident(name) => {
                let text = name.unraw().to_string();
                if let Some(word) = words_of(&text).iter().find(|word| DOMAIN.contains(&word.as_str())) {
                    let what = format!("`{text}`: \"{word}\" is a domain word");
                    violations.push(Violation::new(path, name.span().start().line, what));
                }
            }
            TokenTree::Literal(_) | TokenTree::Punct(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, text: &str) -> [Text; 1] {
        [Text { path: path.into(), text: text.into() }]
    }

    #[test]
    fn a_dependency_is_found_in_every_notation() {
        let notations = [
            "[dependencies]\ndialog.workspace = true",
            "[dev-dependencies]\ndialog = { path = \"../dialog\" }",
            "[build-dependencies]\n dialog = \"1\"",
            "\n[dependencies.dialog]\nworkspace = true",
            "[target.'cfg(unix)'.dependencies]\ndialog = \"1\"",
            "[dependencies]\nother = { package = \"dialog\", path = \"..\" }",
        ];
        for notation in notations {
            let found = services(&manifest("counter/Cargo.toml", notation));
            assert_eq!(
                found,
                [Violation::new("counter/Cargo.toml".as_ref(), 2, "must not depend on `dialog`")],
                "{notation}"
            );
            assert_eq!(foundations(&manifest("crates/db/Cargo.toml", notation)).len(), 1, "{notation}");
            assert_eq!(
                services(&manifest("Cargo.toml", notation)),
                [],
                "the binary may depend on all services: {notation}"
            );
        }
        assert_eq!(
            services(&manifest(
                "counter/Cargo.toml",
                "[package]\nname = \"dialog\"\n[dependencies]\n# dialog = 1\n"
            )),
            []
        );
    }

    #[test]
    fn a_foundation_crate_may_not_depend_on_contracts() {
        assert_eq!(
            foundations(&manifest("crates/db/Cargo.toml", "[dependencies]\nproto.workspace = true")).len(),
            1
        );
        assert_eq!(foundations(&manifest("auth/Cargo.toml", "[dependencies]\nproto.workspace = true")), []);
    }

    #[test]
    fn a_domain_word_is_found_in_names_and_not_in_comments() {
        let found = |path, text| words(&[Source::parse(path, text)]).len();
        for bad in [
            "struct DialogRow;",
            "fn f(unread_total: u8) {}",
            "fn f() { m!(self.participant) }",
            "use saga::x;",
        ] {
            assert_eq!(found("crates/db/src/lib.rs", bad), 1, "{bad}");
            assert_eq!(found("dialog/src/lib.rs", bad), 0, "{bad}");
        }
        assert_eq!(
            found("crates/db/src/lib.rs", "/// a dialog\nfn message(user: &str) { g(\"dialog\") }"),
            0
        );
    }
}

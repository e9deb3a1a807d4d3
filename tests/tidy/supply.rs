//! Dependencies: their licences, names and sources against deny.toml, which `cargo deny` reads too, and
//! a bill of materials (CycloneDX 1.5) of every package in Cargo.lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::tree::Violation;

/// The only source allowed for third-party packages.
const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A package entry of the lock file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    dependencies: Vec<String>,
}

impl Package {
    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// The locked packages, and the licences of those compiled for Linux on x86-64.
pub struct Supply {
    locked: Vec<Package>,
    licences: BTreeMap<(String, String), String>,
    deny: String,
}

impl Supply {
    /// Reads Cargo.lock, deny.toml and `cargo metadata`, which needs no network once the packages are
    /// fetched.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = |name: &str| fs::read_to_string(root.join(name)).expect("a file of the project");
        let deny = text("deny.toml");
        let mut licences = licences(root);
        for ((name, _), licence) in licences.iter_mut().filter(|(_, licence)| licence.is_empty()) {
            *licence = clarified(&deny, name).unwrap_or_default();
        }
        Self { locked: locked(&text("Cargo.lock")), licences, deny }
    }

    /// Packages whose licence is not allowed.
    pub fn licences(&self) -> Vec<Violation> {
        let allowed = list(&self.deny, "allow = [");
        let bad = self.licences.iter().filter(|(_, licence)| !permits(licence, &allowed));
        bad.map(|((name, _), licence)| violation(format!("{name}: `{licence}` is not allowed"))).collect()
    }

    /// Banned packages among those compiled for Linux on x86-64.
    pub fn bans(&self) -> Vec<Violation> {
        let banned: Vec<&str> =
            self.deny.lines().filter_map(|line| line.trim().strip_prefix("{ name = \"")).collect();
        let banned: BTreeSet<&str> = banned.iter().filter_map(|line| line.split('"').next()).collect();
        assert!(!banned.is_empty(), "deny.toml bans at least one package");
        let bad = self.licences.keys().filter(|(name, _)| banned.contains(name.as_str()));
        bad.map(|(name, _)| violation(format!("{name} is banned"))).collect()
    }

    /// Packages from another source than crates.io, and packages without a checksum.
    pub fn sources(&self) -> Vec<Violation> {
        let foreign = self.locked.iter().filter(|package| package.source.is_some());
        let bad =
            foreign.filter(|package| package.source.as_deref() != Some(INDEX) || package.checksum.is_none());
        bad.map(|package| violation(format!("{} comes from {:?}", package.name, package.source))).collect()
    }

    /// Writes target/sbom.json and reads it back.
    pub fn write_bill(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        fs::create_dir_all(&folder).expect("target/ can be created");
        let path = folder.join("sbom.json");
        fs::write(&path, serde_json::to_vec_pretty(&self.bill()).expect("JSON")).expect("written");
        let bill: Value = serde_json::from_slice(&fs::read(&path).expect("read back")).expect("valid JSON");
        let named: BTreeSet<&str> = bill["components"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["purl"].as_str().expect("a purl"))
            .collect();
        let references: BTreeSet<String> = self.locked.iter().map(Package::reference).collect();
        let references: BTreeSet<&str> = references.iter().map(String::as_str).collect();
        assert_eq!(named, references, "every package of Cargo.lock, and no other");
        for edge in bill["dependencies"].as_array().expect("a list") {
            let to =
                edge["dependsOn"].as_array().expect("a list").iter().map(|one| one.as_str().expect("a purl"));
            assert!(to.into_iter().all(|one| named.contains(one)), "{edge}");
        }
        path
    }

    fn bill(&self) -> Value {
        let components: Vec<Value> = self.locked.iter().map(|package| self.component(package)).collect();
        let edges = self.locked.iter().map(|package| {
            let to: Vec<String> =
                package.dependencies.iter().map(|name| self.find(name).reference()).collect();
            json!({ "ref": package.reference(), "dependsOn": to })
        });
        let edges: Vec<Value> = edges.collect();
        let own = self.find("tidings");
        json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "component": {
                "type": "application",
                "name": own.name,
                "version": own.version,
                "purl": own.reference(),
            } },
            "components": components,
            "dependencies": edges,
        })
    }

    fn component(&self, package: &Package) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": package.reference(),
            "name": package.name,
            "version": package.version,
            "purl": package.reference(),
        });
        if let Some(checksum) = &package.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if let Some(licence) = self.licences.get(&(package.name.clone(), package.version.clone())) {
            component["licenses"] = json!([{ "expression": licence }]);
        }
        component
    }

    /// Finds a dependency by its name in the lock file, which adds the version where several packages
    /// share a name.
    fn find(&self, name: &str) -> &Package {
        let mut words = name.split(' ');
        let name = words.next().expect("a name");
        let version = words.next();
        let fits = |package: &&Package| {
            package.name == name && version.is_none_or(|version| package.version == version)
        };
        self.locked.iter().find(fits).unwrap_or_else(|| panic!("{name} is not locked"))
    }
}

fn violation(what: String) -> Violation {
    Violation::new(Path::new("Cargo.lock"), 0, what)
}

/// Parses a lock file. Cargo generates it, so its layout is fixed.
fn locked(text: &str) -> Vec<Package> {
    let blocks = text.split("[[package]]\n").skip(1);
    let package = |block: &str| {
        let field = |name: &str| {
            let line = block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'));
            line.map(str::to_owned)
        };
        Package {
            name: field("name").expect("a package has a name"),
            version: field("version").expect("a package has a version"),
            source: field("source"),
            checksum: field("checksum"),
            dependencies: list(block, "dependencies = ["),
        }
    };
    blocks.map(package).collect()
}

/// Parses the strings of a list, on one line or one a line.
fn list(text: &str, beginning: &str) -> Vec<String> {
    let Some((_, rest)) = text.split_once(beginning) else { return Vec::new() };
    let inside = rest.split(']').next().unwrap_or_default();
    inside.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the licences of third-party packages compiled for Linux on x86-64, by name and version.
fn licences(root: &Path) -> BTreeMap<(String, String), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |arguments: &[&str]| {
        let output = Command::new(&cargo).args(arguments).current_dir(root).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let filter = "x86_64-unknown-linux-gnu";
    let metadata = run(&[
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--offline",
        "--all-features",
        "--filter-platform",
        filter,
    ]);
    let metadata: Value = serde_json::from_slice(&metadata).expect("cargo's JSON");
    let packages = metadata["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|package| !package["source"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    packages
        .map(|one| ((text(&one["name"]), text(&one["version"])), text(&one["license"]).replace('/', " OR ")))
        .collect()
}

/// Returns the licence that deny.toml gives a package which names only a file.
fn clarified(deny: &str, package: &str) -> Option<String> {
    let start = format!("{{ crate = \"{package}\", expression = \"");
    let (expression, _) = deny.lines().find_map(|line| line.trim().strip_prefix(&start))?.split_once('"')?;
    Some(expression.to_owned())
}

/// Returns true when an SPDX expression can be satisfied with allowed licences only.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+WITH+");
    let mut tokens = spaced.split_whitespace().peekable();
    let verdict = either(&mut tokens, allowed);
    verdict && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    let mut verdict = both(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        verdict |= both(tokens, allowed);
    }
    verdict
}

fn both(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    let mut verdict = single(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        verdict &= single(tokens, allowed);
    }
    verdict
}

fn single(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    match tokens.next() {
        Some("(") => {
            let verdict = either(tokens, allowed);
            tokens.next_if_eq(&")").is_some() && verdict
        }
        Some(name) => allowed.contains(&name.replace("+WITH+", " WITH ")),
        None => false,
    }
}

#[test]
fn a_licence_expression_needs_one_choice_of_allowed_licences() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    for good in
        ["MIT", "MIT OR GPL-3.0", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception OR GPL-3.0"]
    {
        assert!(permits(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "(MIT", "MIT ISC", "Apache-2.0"]
    {
        assert!(!permits(bad, &allowed), "{bad}");
    }
}

#[test]
fn a_licence_a_ban_and_a_foreign_source_are_found() {
    let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"git+https://example.org\"\n\
                dependencies = [\n \"b 2.0.0\",\n]\n\n\
                [[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
    let licences = BTreeMap::from([(("openssl".to_owned(), "1".to_owned()), "GPL-3.0".to_owned())]);
    let deny = "allow = [\n \"MIT\",\n]\ndeny = [\n { name = \"openssl\" },\n]\n".to_owned();
    let clarifying = "clarify = [\n { crate = \"a\", expression = \"MIT\", license-files = [] },\n]\n";
    assert_eq!(clarified(clarifying, "a").as_deref(), Some("MIT"));
    assert_eq!(clarified(clarifying, "b"), None);
    let supply = Supply { locked: locked(lock), licences, deny };
    assert_eq!(supply.locked[0].dependencies, ["b 2.0.0"]);
    let count = |violations: Vec<Violation>| violations.len();
    assert_eq!((count(supply.licences()), count(supply.bans()), count(supply.sources())), (1, 1, 1));
    assert_eq!(supply.find("b 2.0.0").reference(), "pkg:cargo/b@2.0.0");
}

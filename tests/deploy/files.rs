//! The configuration files, unchanged or with one text replaced, and their parsed content.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Output},
};

use serde_json::{Map, Value};

const PATHS: [&str; 14] = [
    "docker-compose.yml",
    ".env.example",
    "Dockerfile",
    ".dockerignore",
    "Cargo.toml",
    "deploy/haproxy.cfg",
    "deploy/env.sh",
    "deploy/image.sh",
    "deploy/postgres/databases.sh",
    "deploy/engines/pom.xml",
    "deploy/stack/roles.sh",
    "deploy/containers.sh",
    "deploy/jaeger.yml",
    "deploy/prometheus/prometheus.yml",
];

/// Texts of the files by path.
#[derive(Clone)]
pub struct Files(BTreeMap<&'static str, String>);

impl Files {
    /// Reads all files.
    pub fn read() -> Self {
        let read = |path| (path, std::fs::read_to_string(root().join(path)).unwrap());
        Self(PATHS.into_iter().map(read).collect())
    }

    /// Replaces every occurrence of a text in one file.
    pub fn with(mut self, path: &str, from: &str, to: &str) -> Self {
        let text = self.0.get_mut(path).unwrap();
        assert!(text.contains(from), "{path} does not have `{from}`");
        *text = text.replace(from, to);
        self
    }

    /// Returns the text of a file.
    pub fn text(&self, path: &str) -> &str {
        &self.0[path]
    }

    /// Parses the compose file, resolves anchors and merges, and substitutes the variables of
    /// .env.example. Passwords, which are empty there, become `secret`.
    pub fn compose(&self) -> Value {
        let mut yaml: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(self.text("docker-compose.yml")).unwrap();
        // Each call resolves one level of merges; the file has three.
        for _ in 0..4 {
            yaml.apply_merge().unwrap();
        }
        let mut value = serde_json::to_value(yaml).unwrap();
        self.substitute_all(&mut value);
        value
    }

    /// Returns the services by name.
    pub fn services(&self) -> Map<String, Value> {
        self.compose()["services"].as_object().unwrap().clone()
    }

    /// Returns the variables of .env.example.
    pub fn variables(&self) -> BTreeMap<&str, &str> {
        let lines = self.text(".env.example").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once('=')).collect()
    }

    fn substitute_all(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.substitute(text),
            Value::Array(list) => list.iter_mut().for_each(|value| self.substitute_all(value)),
            Value::Object(map) => map.values_mut().for_each(|value| self.substitute_all(value)),
            _ => {}
        }
    }

    fn substitute(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(Variable { before, name, default, after }) = variable(rest) {
            filled.push_str(before);
            let known = self.variables().get(name).copied();
            let known = known.map(|value| if name.ends_with("_PASSWORD") { "secret" } else { value });
            filled.push_str(known.unwrap_or(default));
            rest = after;
        }
        filled + rest
    }
}

/// A variable `${name:-default}` in a text.
pub struct Variable<'a> {
    pub before: &'a str,
    pub name: &'a str,
    pub default: &'a str,
    pub after: &'a str,
}

/// Finds the first variable of a text.
pub fn variable(text: &str) -> Option<Variable<'_>> {
    let (before, rest) = text.split_once("${")?;
    let (inside, after) = rest.split_once('}').unwrap();
    let end = inside.find(':').unwrap_or(inside.len());
    let default = inside[end..].strip_prefix(":-").unwrap_or_default();
    Some(Variable { before, name: &inside[..end], default, after })
}

/// Returns the environment of a service.
pub fn environment(service: &Value) -> BTreeMap<String, String> {
    let entries = service["environment"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    entries.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Returns the strings of a list; empty for any other value.
pub fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns the command of the program that a service runs; `None` for another image.
pub fn role(service: &Value) -> Option<&str> {
    service["image"]
        .as_str()?
        .starts_with("tidings:")
        .then(|| service["command"][0].as_str().unwrap_or("serve"))
}

/// Returns the port of `host:port`.
pub fn port(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(_, port)| port)
}

/// Returns the root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program with only this environment.
pub fn tidings(arguments: &[&str], environment: &BTreeMap<String, String>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .output()
        .unwrap()
}

/// Returns the variables that a command reads, from its `--help`; `None` for an unknown command.
pub fn settings_of(command: &str) -> Option<BTreeSet<String>> {
    let output = tidings(&[command, "--help"], &BTreeMap::new());
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    // clap prints `[env: NAME=]`, or `[env: NAME]` for hidden values.
    let names =
        help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next().map(str::to_owned));
    output.status.success().then(|| names.collect())
}

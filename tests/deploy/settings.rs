//! Environment variables: those of the roles against their `--help`, and those of .env.example.

use std::collections::BTreeSet;

use crate::files::{Files, Variable, environment, role, settings_of, tidings, variable};

/// Variables of OpenTelemetry, which the library reads. They are no flags.
const TRACES: [&str; 1] = ["OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Variables that a role does not read.
pub fn names(files: &Files) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, service) in files.services() {
        let Some(command) = role(&service) else { continue };
        let Some(settings) = settings_of(command) else {
            errors.push(format!("{name}: no command `{command}`"));
            continue;
        };
        let is_known = |name: &String| settings.contains(name) || TRACES.contains(&name.as_str());
        let unknown = environment(&service).into_keys().filter(|variable| !is_known(variable));
        errors.extend(unknown.map(|variable| format!("{name}: `{variable}` is no setting of {command}")));
    }
    let serve = settings_of("serve").unwrap();
    let image = image_environment(files);
    errors.extend(
        image
            .into_iter()
            .filter(|(name, _)| !serve.contains(name))
            .map(|(name, _)| format!("Dockerfile: `{name}`")),
    );
    errors
}

/// Settings that a role rejects. A role that accepts them all exits because the secrets are not on this
/// machine.
pub fn values(files: &Files) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, service) in files.services() {
        let Some(command) = role(&service).filter(|command| !["keygen", "migrate"].contains(command)) else {
            continue;
        };
        let output = tidings(&[command], &environment(&service));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let secret = ["tidings: SERVICE_TOKEN_FILE ", "tidings: SIGNING_KEY_FILE "];
        if output.status.code() != Some(2) || !secret.iter().any(|secret| stderr.starts_with(secret)) {
            errors.push(format!("{name}: {stderr}"));
        }
    }
    errors
}

/// Differences between the variables of the compose file and of .env.example, which must document each.
pub fn variables(files: &Files) -> Vec<String> {
    let mut used = BTreeSet::new();
    let mut rest = files.text("docker-compose.yml");
    while let Some(Variable { name, after, .. }) = variable(rest) {
        used.insert(name);
        rest = after;
    }
    let defined = files.variables();
    let missing = used.iter().filter(|name| !defined.contains_key(*name));
    let mut errors: Vec<String> = missing.map(|name| format!("`{name}` is not in .env.example")).collect();
    errors.extend(
        defined.keys().filter(|name| !used.contains(*name)).map(|name| format!("`{name}` is not used")),
    );
    let mut documented = false;
    for line in files.text(".env.example").lines() {
        match line.split_once('=').filter(|_| !line.starts_with('#')) {
            Some((name, _)) if !documented => errors.push(format!("`{name}` is not documented")),
            Some(_) => {}
            None => documented = line.starts_with('#'),
        }
    }
    errors
}

/// Returns the environment that the image sets.
pub fn image_environment(files: &Files) -> Vec<(String, String)> {
    let text = files.text("Dockerfile").rsplit_once("\nFROM ").unwrap().1.replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

//! Variables: of the roles, as their `--help` names them, and of .env.example.

use std::collections::BTreeSet;

use crate::files::{Files, environment, role, settings_of, tidings, variable};

/// Every variable that a role gets is one that it reads.
pub fn names(files: &Files) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, service) in files.services() {
        let Some(command) = role(&service) else { continue };
        let Some(settings) = settings_of(command) else {
            wrong.push(format!("{name}: no command `{command}`"));
            continue;
        };
        let unknown = environment(&service).into_keys().filter(|variable| !settings.contains(variable));
        wrong.extend(unknown.map(|variable| format!("{name}: `{variable}` is no setting of {command}")));
    }
    let serve = settings_of("serve").unwrap();
    let image = image_environment(files);
    wrong.extend(
        image
            .into_iter()
            .filter(|(name, _)| !serve.contains(name))
            .map(|(name, _)| format!("Dockerfile: `{name}`")),
    );
    wrong
}

/// Every role reads its settings to the end, where it finds that its secrets are not on this machine.
pub fn values(files: &Files) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, service) in files.services() {
        let Some(command) = role(&service).filter(|command| !["keygen", "migrate"].contains(command)) else {
            continue;
        };
        let output = tidings(&[command], &environment(&service));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let secret = ["tidings: SERVICE_TOKEN_FILE ", "tidings: SIGNING_KEY_FILE "];
        if output.status.code() != Some(2) || !secret.iter().any(|secret| said.starts_with(secret)) {
            wrong.push(format!("{name}: {said}"));
        }
    }
    wrong
}

/// The variables of the compose file are those of .env.example, which says what each is for.
pub fn variables(files: &Files) -> Vec<String> {
    let (mut used, mut rest) = (BTreeSet::new(), files.text("docker-compose.yml"));
    while let Some((_, (name, _), after)) = variable(rest) {
        used.insert(name);
        rest = after;
    }
    let given = files.variables();
    let missing = used.iter().filter(|name| !given.contains_key(*name));
    let mut wrong: Vec<String> = missing.map(|name| format!("`{name}` is not in .env.example")).collect();
    wrong.extend(
        given.keys().filter(|name| !used.contains(*name)).map(|name| format!("nothing uses `{name}`")),
    );
    let mut explained = false;
    for line in files.text(".env.example").lines() {
        match line.split_once('=').filter(|_| !line.starts_with('#')) {
            Some((name, _)) if !explained => wrong.push(format!("`{name}` is not explained")),
            Some(_) => {}
            None => explained = line.starts_with('#'),
        }
    }
    wrong
}

/// What the image sets by itself.
pub fn image_environment(files: &Files) -> Vec<(String, String)> {
    let text = files.text("Dockerfile").rsplit_once("\nFROM ").unwrap().1.replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

//! The Dockerfile: what is copied is there and not ignored, every crate is built, and the image runs as nobody.

use crate::{
    files::{Files, port, root},
    settings::image_environment,
};

/// Sources, stages, crates and the program.
pub fn copies(files: &Files) -> Vec<String> {
    let text = files.text("Dockerfile");
    let (mut wrong, mut stages, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(stage) = line.strip_prefix("FROM ").and_then(|from| from.split_once(" AS ")) {
            stages.push(stage.1);
        }
        let Some(words) = line.strip_prefix("COPY ").map(|words| words.split(' ').collect::<Vec<_>>()) else {
            continue;
        };
        match words[0].strip_prefix("--from=") {
            Some(stage) if stages.contains(&stage) => {}
            Some(stage) => wrong.push(format!("no stage `{stage}`")),
            None => copied.extend_from_slice(&words[..words.len() - 1]),
        }
    }
    for source in &copied {
        if !root().join(source).exists() {
            wrong.push(format!("no `{source}`"));
        } else if ignored(files.text(".dockerignore"), source) {
            wrong.push(format!("`{source}` is ignored"));
        }
    }
    for member in members(files) {
        if !copied.contains(&format!("{member}/Cargo.toml").as_str()) {
            wrong.push(format!("{member}: its manifest is not copied"));
        }
        if !copied.contains(&member.split('/').next().unwrap()) {
            wrong.push(format!("{member}: its sources are not copied"));
        }
    }
    for build in text.lines().filter(|line| line.contains("cargo build")) {
        if !build.contains("--release --locked --bin tidings") {
            wrong.push(format!("without --locked, or not the program: {build}"));
        }
    }
    if !text.contains("COPY --from=build /tidings/target/release/tidings /usr/local/bin/tidings\n") {
        wrong.push("no program".to_owned());
    }
    if !text.contains("COPY --from=page /web/dist web/dist\n") {
        wrong.push("no page".to_owned());
    }
    wrong
}

/// The crates of the workspace.
fn members(files: &Files) -> Vec<String> {
    let list = files.text("Cargo.toml").split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let mut members = Vec::new();
    for member in list.split(',').map(|member| member.trim().trim_matches('"')) {
        match member.strip_suffix("/*") {
            None => members.push(member.to_owned()),
            Some(folder) => {
                let inside =
                    std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
                members.extend(inside.map(|name| format!("{folder}/{}", name.to_str().unwrap())));
            }
        }
    }
    members
}

/// Whether .dockerignore keeps a path out; the last line that fits it decides.
fn ignored(lines: &str, path: &str) -> bool {
    let mut ignored = false;
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (pattern, out) = line.strip_prefix('!').map_or((line, true), |pattern| (pattern, false));
        let fits = match pattern.strip_prefix("**/") {
            Some(name) => path.split('/').any(|part| part == name),
            None => pattern == "*" || path == pattern || path.starts_with(&format!("{pattern}/")),
        };
        if fits {
            ignored = out;
        }
    }
    ignored
}

/// The user, the ports and the labels of the image.
pub fn running(files: &Files) -> Vec<String> {
    let image = files.text("Dockerfile").rsplit_once("\nFROM ").unwrap().1;
    let line = |start: &str| image.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default();
    let mut wrong = Vec::new();
    let user = line("USER ").split(':').next().and_then(|user| user.parse::<u32>().ok()).unwrap_or(0);
    if user == 0 {
        wrong.push("it runs as root, or as a user without a number".to_owned());
    }
    let exposed: Vec<&str> = line("EXPOSE ").split(' ').collect();
    for (_, address) in image_environment(files).iter().filter(|(name, _)| name.ends_with("LISTEN")) {
        if !exposed.contains(&port(address)) || !address.starts_with("0.0.0.0:") {
            wrong.push(format!("{} is not exposed", port(address)));
        }
    }
    for label in ["title", "description", "licenses", "version", "revision"] {
        if !image.contains(&format!("org.opencontainers.image.{label}=")) {
            wrong.push(format!("no label org.opencontainers.image.{label}"));
        }
    }
    if line("ENTRYPOINT ") != "[\"tidings\"]" {
        wrong.push("another entry point".to_owned());
    }
    wrong
}

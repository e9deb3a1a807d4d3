//! The Dockerfile: copied files exist and are not ignored, every crate is built, and the image runs without
//! privileges.

use crate::{
    files::{Files, port, root},
    settings::image_environment,
};

/// Copied sources, stages, crates and the program.
pub fn sources(files: &Files) -> Vec<String> {
    let text = files.text("Dockerfile");
    let mut errors = Vec::new();
    let mut stages = Vec::new();
    let mut copied = Vec::new();
    for line in text.lines() {
        if let Some(stage) = line.strip_prefix("FROM ").and_then(|from| from.split_once(" AS ")) {
            stages.push(stage.1);
        }
        let Some(words) = line.strip_prefix("COPY ").map(|words| words.split(' ').collect::<Vec<_>>()) else {
            continue;
        };
        match words[0].strip_prefix("--from=") {
            Some(stage) if stages.contains(&stage) => {}
            Some(stage) => errors.push(format!("no stage `{stage}`")),
            None => copied.extend_from_slice(&words[..words.len() - 1]),
        }
    }
    for source in &copied {
        if !root().join(source).exists() {
            errors.push(format!("no `{source}`"));
        } else if ignored(files.text(".dockerignore"), source) {
            errors.push(format!("`{source}` is ignored"));
        }
    }
    for member in members(files) {
        if !copied.contains(&format!("{member}/Cargo.toml").as_str()) {
            errors.push(format!("{member}: the manifest is not copied"));
        }
        if !copied.contains(&member.split('/').next().unwrap()) {
            errors.push(format!("{member}: the sources are not copied"));
        }
    }
    for build in text.lines().filter(|line| line.contains("cargo build")) {
        if !build.contains("--release --locked --bin tidings") {
            errors.push(format!("builds without --locked, or another binary: {build}"));
        }
    }
    let image = text.rsplit_once("\nFROM ").unwrap().1;
    if !text.contains("RUN deploy/image.sh target/release/tidings /image\n")
        || !image.contains("COPY --from=build /image/root/ /\n")
    {
        errors.push("the program is not copied".to_owned());
    }
    let user = image.lines().find_map(|line| line.strip_prefix("USER ")).unwrap_or_default();
    if !image.contains(&format!("COPY --from=build --chown={user} /image/owned/ /\n")) {
        errors.push("the folders do not belong to the user".to_owned());
    }
    if !text.contains("COPY --from=page /web/dist web/dist\n") {
        errors.push("the page is not copied".to_owned());
    }
    errors
}

/// Returns the crates of the workspace.
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

/// Returns true when .dockerignore excludes a path. The last matching line decides.
fn ignored(lines: &str, path: &str) -> bool {
    let mut ignored = false;
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (pattern, excludes) = line.strip_prefix('!').map_or((line, true), |pattern| (pattern, false));
        let matches = match pattern.strip_prefix("**/") {
            Some(name) => path.split('/').any(|part| part == name),
            None => pattern == "*" || path == pattern || path.starts_with(&format!("{pattern}/")),
        };
        if matches {
            ignored = excludes;
        }
    }
    ignored
}

/// User, ports, labels and entry point of the image.
pub fn runtime(files: &Files) -> Vec<String> {
    let image = files.text("Dockerfile").rsplit_once("\nFROM ").unwrap().1;
    let line = |start: &str| image.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default();
    let mut errors = Vec::new();
    let user = line("USER ").split(':').next().and_then(|user| user.parse::<u32>().ok()).unwrap_or(0);
    if user == 0 {
        errors.push("runs as root, or as a user without a number".to_owned());
    }
    let exposed: Vec<&str> = line("EXPOSE ").split(' ').collect();
    for (_, address) in image_environment(files).iter().filter(|(name, _)| name.ends_with("LISTEN")) {
        if !exposed.contains(&port(address)) || !address.starts_with("0.0.0.0:") {
            errors.push(format!("{} is not exposed", port(address)));
        }
    }
    for label in ["title", "description", "licenses", "version", "revision"] {
        if !image.contains(&format!("org.opencontainers.image.{label}=")) {
            errors.push(format!("no label org.opencontainers.image.{label}"));
        }
    }
    if line("ENTRYPOINT ") != "[\"tidings\"]" {
        errors.push("unexpected entry point".to_owned());
    }
    errors
}

//! What one part says about another: addresses, health, the balancer's gateways, secrets.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::files::{Files, environment, port, role, root, settings_of, strings};

/// Every URL leads to a service on a network that both are on, to the port on which it listens, and to a database of its own.
pub fn addresses(files: &Files) -> Vec<String> {
    let services = files.services();
    let mut wrong = Vec::new();
    for (name, service) in &services {
        for (variable, value) in environment(service) {
            let Some((host, port, path)) = target(&variable, &value) else { continue };
            let Some(other) = services.get(&host) else {
                wrong.push(format!("{name}: {variable}: no service `{host}`"));
                continue;
            };
            if !listens(&host, other).contains(&port) {
                wrong.push(format!("{name}: {variable}: `{host}` does not listen on {port}"));
            }
            let networks = strings(&other["networks"]);
            if !strings(&service["networks"]).iter().any(|network| networks.contains(network)) {
                wrong.push(format!("{name}: no way to `{host}`"));
            }
            if let Some(user) = value.strip_prefix("postgres://").and_then(|rest| rest.split(':').next()) {
                if user != path {
                    wrong.push(format!("{name}: {variable}: `{user}` is not the owner of `{path}`"));
                }
                if !databases(files).contains(&path.as_str()) {
                    wrong.push(format!("{name}: {variable}: no database `{path}`"));
                }
            }
        }
    }
    wrong
}

/// Host, port and path of an address, where the variable names one.
fn target(variable: &str, value: &str) -> Option<(String, String, String)> {
    let address = match value.split_once("://") {
        Some((_, rest)) if variable.ends_with("_URL") => rest,
        None if variable.starts_with("GATEWAY") => value,
        _ => return None,
    };
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    let (address, path) = address.split_once('/').unwrap_or((address, ""));
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    Some((host.to_owned(), port.to_owned(), path.to_owned()))
}

/// The ports on which others reach a service.
fn listens(name: &str, service: &Value) -> Vec<String> {
    let environment = environment(service);
    if role(service).is_some() {
        let listen = environment.get("LISTEN").and_then(|listen| listen.strip_prefix("0.0.0.0:"));
        return listen.map(str::to_owned).into_iter().collect();
    }
    match name {
        "postgres" => vec!["5432".to_owned()],
        "redis" => vec!["6379".to_owned()],
        "kafka" => {
            let advertised = environment["KAFKA_ADVERTISED_LISTENERS"]
                .strip_prefix("PLAINTEXT://kafka:")
                .map(str::to_owned);
            let open =
                |port: &String| environment["KAFKA_LISTENERS"].contains(&format!("PLAINTEXT://:{port},"));
            advertised.into_iter().filter(open).collect()
        }
        _ => Vec::new(),
    }
}

/// The databases that the server makes on an empty volume.
fn databases(files: &Files) -> Vec<&str> {
    let list = files.text("deploy/postgres/init.sh").split_once("for service in ").unwrap().1;
    list.split_once(';').unwrap().0.split(' ').collect()
}

/// Health is asked where it is told, with a command that there is.
pub fn health(files: &Files) -> Vec<String> {
    let services = files.services();
    let asks =
        |name: &str, what: &str| strings(&services[name]["healthcheck"]["test"]).join(" ").ends_with(what);
    let mut wrong = Vec::new();
    let ops = environment(&services["balancer"])["BALANCER_OPS_LISTEN"].clone();
    if !asks("balancer", &format!(" http://{ops}/readyz")) {
        wrong.push(format!("balancer: /readyz is at {ops}"));
    }
    if !files
        .text("deploy/haproxy.cfg")
        .contains("status 200 content-type text/plain string \"ok\" if { path /readyz }")
    {
        wrong.push("haproxy.cfg has no /readyz".to_owned());
    }
    for kafka in listens("kafka", &services["kafka"]) {
        if !asks("kafka", &format!("/dev/tcp/127.0.0.1/{kafka}")) {
            wrong.push(format!("kafka: it listens on {kafka}"));
        }
    }
    let check = files.text("Dockerfile").split_once("HEALTHCHECK ").unwrap().1.lines().next().unwrap();
    let command: Vec<String> = serde_json::from_str(check.split_once("CMD ").unwrap().1).unwrap();
    match settings_of(&command[1]) {
        None => wrong.push(format!("Dockerfile: no command `{}`", command[1])),
        Some(settings) if !settings.contains("OPS_LISTEN") => {
            wrong.push("the check does not know OPS_LISTEN".to_owned())
        }
        Some(_) => {}
    }
    wrong
}

/// The balancer reads what it is told, here and in the stack of processes, and knows every gateway.
pub fn balancer(files: &Files) -> Vec<String> {
    let configuration = files.text("deploy/haproxy.cfg");
    let preset: BTreeSet<&str> = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("presetenv ")?.split(' ').next())
        .collect();
    let asked: BTreeSet<&str> =
        configuration.split("\"${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect();
    let mut wrong: Vec<String> =
        asked.difference(&preset).map(|name| format!("`{name}` has no default")).collect();
    let services = files.services();
    let told = environment(&services["balancer"]);
    let script = files
        .text("deploy/stack/up.sh")
        .split_once("launch balancer ")
        .unwrap()
        .1
        .split_once("\n}")
        .unwrap()
        .0;
    let script = script.split_whitespace().filter_map(|word| word.split_once("=\"127").map(|(name, _)| name));
    for name in told.keys().map(String::as_str).chain(script) {
        if !asked.contains(name) {
            wrong.push(format!("`{name}` is nothing to the balancer"));
        }
    }
    for (name, service) in services.iter().filter(|(_, service)| role(service) == Some("gateway")) {
        let address = format!("{name}:{}", port(&environment(service)["LISTEN"]));
        if !told.iter().any(|(variable, value)| variable.starts_with("GATEWAY") && *value == address) {
            wrong.push(format!("{name}: it gets no requests"));
        }
    }
    wrong
}

/// Roles read the files that `keygen` makes, from a volume that belongs to them; auth alone has the keys that sign. Files of
/// ours that are mounted are there.
pub fn secrets(files: &Files) -> Vec<String> {
    let services = files.services();
    let made = environment(&services["keygen"]);
    let owned = files.text("Dockerfile").split_once("RUN install -d ").unwrap().1.lines().next().unwrap();
    let mut wrong = Vec::new();
    for (name, service) in &services {
        let mounts: Vec<(&str, &str)> =
            strings(&service["volumes"]).into_iter().filter_map(|volume| volume.split_once(':')).collect();
        for (source, _) in mounts.iter().filter(|(source, _)| source.starts_with('.')) {
            if !root().join(source).is_file() {
                wrong.push(format!("{name}: no file {source}"));
            }
        }
        if role(service).is_none() {
            continue;
        }
        for (_, folder) in &mounts {
            let folder = folder.trim_end_matches(":ro");
            if !owned.split(' ').any(|word| word == folder) {
                wrong.push(format!("{name}: `{folder}` belongs to root"));
            }
        }
        for (variable, path) in
            environment(service).iter().filter(|(variable, _)| variable.ends_with("_FILE"))
        {
            if made.get(variable) != Some(path) {
                wrong.push(format!("{name}: nobody makes {path}"));
            }
            if !mounts
                .iter()
                .any(|(_, folder)| path.starts_with(&format!("{}/", folder.trim_end_matches(":ro"))))
            {
                wrong.push(format!("{name}: {path} is on no volume"));
            }
        }
        if !["auth", "keygen"].contains(&name.as_str())
            && mounts.iter().any(|(volume, _)| *volume == "signing-key")
        {
            wrong.push(format!("{name}: it could sign"));
        }
    }
    wrong
}

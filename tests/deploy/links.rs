//! References between parts: addresses, health checks, the balancer's gateways, secrets.

use std::{collections::BTreeSet, ops::RangeInclusive};

use serde_json::Value;

use crate::files::{Files, environment, port, role, root, settings_of, strings};

/// Ports that Linux gives to outgoing connections. A service cannot start while one of them has its port.
const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// URLs that do not name a service on a common network, a port on which it listens, and the user's own
/// database; ports that an outgoing connection may have.
pub fn addresses(files: &Files) -> Vec<String> {
    let services = files.services();
    let mut errors = Vec::new();
    for (name, service) in &services {
        for port in listen_ports(name, service) {
            if port.parse().is_ok_and(|port| EPHEMERAL_PORTS.contains(&port)) {
                errors.push(format!("{name}: an outgoing connection may have the port {port}"));
            }
        }
        for (variable, value) in environment(service) {
            let Some(Target { host, port, path }) = target(&variable, &value) else { continue };
            let Some(other) = services.get(&host) else {
                errors.push(format!("{name}: {variable}: no service `{host}`"));
                continue;
            };
            if !listen_ports(&host, other).contains(&port) {
                errors.push(format!("{name}: {variable}: `{host}` does not listen on {port}"));
            }
            let networks = strings(&other["networks"]);
            if !strings(&service["networks"]).iter().any(|network| networks.contains(network)) {
                errors.push(format!("{name}: no common network with `{host}`"));
            }
            if let Some(user) = value.strip_prefix("postgres://").and_then(|rest| rest.split(':').next()) {
                if user != path {
                    errors.push(format!("{name}: {variable}: `{user}` is not the owner of `{path}`"));
                }
                if !databases(files).contains(&path.as_str()) {
                    errors.push(format!("{name}: {variable}: no database `{path}`"));
                }
            }
        }
    }
    errors
}

/// An address, parsed.
struct Target {
    host: String,
    port: String,
    path: String,
}

/// Parses the address of a variable; `None` if the variable holds no address.
fn target(variable: &str, value: &str) -> Option<Target> {
    let address = match value.split_once("://") {
        Some((_, rest)) if variable.ends_with("_URL") => rest,
        None if variable.starts_with("GATEWAY") => value,
        _ => return None,
    };
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    let (address, path) = address.split_once('/').unwrap_or((address, ""));
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    Some(Target { host: host.to_owned(), port: port.to_owned(), path: path.to_owned() })
}

/// Returns the ports on which other services reach a service.
fn listen_ports(name: &str, service: &Value) -> Vec<String> {
    let environment = environment(service);
    if role(service).is_some() {
        let listen = environment.get("LISTEN").and_then(|listen| listen.strip_prefix("0.0.0.0:"));
        return listen.map(str::to_owned).into_iter().collect();
    }
    match name {
        "postgres" => vec!["5432".to_owned()],
        "redis" => vec!["6379".to_owned()],
        "prometheus" => vec!["9090".to_owned()],
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

/// Returns the databases that the service `databases` creates.
fn databases(files: &Files) -> Vec<&str> {
    let list = files.text("deploy/postgres/databases.sh").split_once("for service in ").unwrap().1;
    list.split_once(';').unwrap().0.split(' ').collect()
}

/// Health checks that request the wrong address or use an unknown command.
pub fn health(files: &Files) -> Vec<String> {
    let services = files.services();
    let requests =
        |name: &str, url: &str| strings(&services[name]["healthcheck"]["test"]).join(" ").ends_with(url);
    let mut errors = Vec::new();
    let ops = environment(&services["balancer"])["BALANCER_OPS_LISTEN"].clone();
    if !requests("balancer", &format!(" http://{ops}/readyz")) {
        errors.push(format!("balancer: /readyz is at {ops}"));
    }
    if !files
        .text("deploy/haproxy.cfg")
        .contains("status 200 content-type text/plain string \"ok\" if { path /readyz }")
    {
        errors.push("haproxy.cfg has no /readyz".to_owned());
    }
    for kafka in listen_ports("kafka", &services["kafka"]) {
        if !requests("kafka", &format!("/dev/tcp/127.0.0.1/{kafka}")) {
            errors.push(format!("kafka: listens on {kafka}"));
        }
    }
    let check = files.text("Dockerfile").split_once("HEALTHCHECK ").unwrap().1.lines().next().unwrap();
    let command: Vec<String> = serde_json::from_str(check.split_once("CMD ").unwrap().1).unwrap();
    match settings_of(&command[1]) {
        None => errors.push(format!("Dockerfile: no command `{}`", command[1])),
        Some(settings) if !settings.contains("OPS_LISTEN") => {
            errors.push("the health check does not read OPS_LISTEN".to_owned())
        }
        Some(_) => {}
    }
    errors
}

/// Variables that the balancer does not use, here and in the stack of processes, and gateways that it
/// does not know.
pub fn balancer(files: &Files) -> Vec<String> {
    let configuration = files.text("deploy/haproxy.cfg");
    let preset: BTreeSet<&str> = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("presetenv ")?.split(' ').next())
        .collect();
    let used: BTreeSet<&str> =
        configuration.split("\"${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect();
    let mut errors: Vec<String> =
        used.difference(&preset).map(|name| format!("`{name}` has no default")).collect();
    let services = files.services();
    let given = environment(&services["balancer"]);
    let script = files
        .text("deploy/stack/roles.sh")
        .split_once("launch balancer ")
        .unwrap()
        .1
        .split_once("\n}")
        .unwrap()
        .0;
    let script = script.split_whitespace().filter_map(|word| word.split_once("=\"127").map(|(name, _)| name));
    for name in given.keys().map(String::as_str).chain(script) {
        if !used.contains(name) {
            errors.push(format!("the balancer does not use `{name}`"));
        }
    }
    for (name, service) in services.iter().filter(|(_, service)| role(service) == Some("gateway")) {
        let address = format!("{name}:{}", port(&environment(service)["LISTEN"]));
        if !given.iter().any(|(variable, value)| variable.starts_with("GATEWAY") && *value == address) {
            errors.push(format!("{name}: the balancer does not know it"));
        }
    }
    errors
}

/// Secrets that `keygen` does not write, that are on no volume or on one owned by root, or that give a role
/// other than auth the signing key. Also mounted files that are not in the repository, or that a container
/// cannot read in a checkout with umask 077.
pub fn secrets(files: &Files) -> Vec<String> {
    let services = files.services();
    let written = environment(&services["keygen"]);
    let owned = files.text("deploy/image.sh").split_once("install -d -m 700 ").unwrap().1;
    let owned: Vec<&str> = owned
        .lines()
        .next()
        .unwrap()
        .split('"')
        .filter_map(|word| word.strip_prefix("$folder/owned"))
        .collect();
    let readable = files.text("deploy/env.sh").split_once("mounted=(").unwrap().1.split_once(')').unwrap().0;
    let mut errors = Vec::new();
    for (name, service) in &services {
        let mounts: Vec<(&str, &str)> =
            strings(&service["volumes"]).into_iter().filter_map(|volume| volume.split_once(':')).collect();
        for (source, _) in mounts.iter().filter(|(source, _)| source.starts_with('.')) {
            if !root().join(source).exists() {
                errors.push(format!("{name}: no file {source}"));
            }
            if !readable.split_whitespace().any(|path| Some(path) == source.strip_prefix("./")) {
                errors.push(format!("{name}: deploy/env.sh does not make {source} readable"));
            }
        }
        if role(service).is_none() {
            continue;
        }
        for (_, folder) in &mounts {
            let folder = folder.trim_end_matches(":ro");
            if !owned.contains(&folder) {
                errors.push(format!("{name}: `{folder}` belongs to root"));
            }
        }
        for (variable, path) in
            environment(service).iter().filter(|(variable, _)| variable.ends_with("_FILE"))
        {
            if written.get(variable) != Some(path) {
                errors.push(format!("{name}: keygen does not write {path}"));
            }
            if !mounts
                .iter()
                .any(|(_, folder)| path.starts_with(&format!("{}/", folder.trim_end_matches(":ro"))))
            {
                errors.push(format!("{name}: {path} is on no volume"));
            }
        }
        if !["auth", "keygen"].contains(&name.as_str())
            && mounts.iter().any(|(volume, _)| *volume == "signing-key")
        {
            errors.push(format!("{name}: has the signing key"));
        }
    }
    errors
}

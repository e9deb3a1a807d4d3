//! The compose file: known keys, start order, restrictions, capacity, published ports and image versions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    files::{Files, environment, port, role, strings},
    observability,
};

type IsKind = fn(&Value) -> bool;

/// Keys of a service in this project, with the kind of their value. A new key must be added here.
const KEYS: [(&str, IsKind); 26] = [
    ("build", Value::is_object),
    ("cap_drop", Value::is_array),
    ("command", Value::is_array),
    ("cpus", Value::is_number),
    ("depends_on", Value::is_object),
    ("entrypoint", Value::is_array),
    ("environment", Value::is_object),
    ("healthcheck", Value::is_object),
    ("image", Value::is_string),
    ("logging", Value::is_object),
    ("mem_limit", Value::is_string),
    ("network_mode", Value::is_string),
    ("networks", Value::is_array),
    ("pids_limit", Value::is_number),
    ("ports", Value::is_array),
    ("profiles", Value::is_array),
    ("pull_policy", Value::is_string),
    ("read_only", Value::is_boolean),
    ("restart", Value::is_string),
    ("security_opt", Value::is_array),
    ("stop_grace_period", Value::is_string),
    ("stop_signal", Value::is_string),
    ("tmpfs", Value::is_array),
    ("ulimits", Value::is_object),
    ("user", Value::is_string),
    ("volumes", Value::is_array),
];

/// Unknown keys, values of the errors kind, and networks and volumes that are undefined or unused.
pub fn schema(files: &Files) -> Vec<String> {
    let compose = files.compose();
    let mut errors = Vec::new();
    for key in compose.as_object().unwrap().keys() {
        if !["name", "services", "networks", "volumes"].contains(&key.as_str()) && !key.starts_with("x-") {
            errors.push(format!("unknown key `{key}`"));
        }
    }
    let mut used = BTreeSet::new();
    for (name, service) in files.services() {
        for (key, value) in service.as_object().unwrap() {
            match KEYS.iter().find(|(known, _)| known == key) {
                None => errors.push(format!("{name}: unknown key `{key}`")),
                Some((_, is_kind)) if !is_kind(value) => {
                    errors.push(format!("{name}: `{key}` is of the wrong kind: {value}"))
                }
                Some(_) => {}
            }
        }
        for network in strings(&service["networks"]) {
            used.insert(network.to_owned());
            if compose["networks"].get(network).is_none() {
                errors.push(format!("{name}: no network `{network}`"));
            }
        }
        for volume in strings(&service["volumes"]).iter().filter_map(|volume| volume.split(':').next()) {
            used.insert(volume.to_owned());
            if !volume.starts_with('.') && compose["volumes"].get(volume).is_none() {
                errors.push(format!("{name}: no volume `{volume}`"));
            }
        }
    }
    let defined =
        ["networks", "volumes"].into_iter().flat_map(|kind| compose[kind].as_object().unwrap().keys());
    errors.extend(defined.filter(|name| !used.contains(*name)).map(|name| format!("`{name}` is not used")));
    errors
}

/// Dependencies that do not exist, whose condition cannot be met, or that are circular.
pub fn dependencies(files: &Files) -> Vec<String> {
    let services = files.services();
    let mut errors = Vec::new();
    let mut waits = BTreeMap::new();
    for (name, service) in &services {
        let needed = service["depends_on"].as_object().into_iter().flatten();
        let mut names = BTreeSet::new();
        for (other, dependency) in needed {
            names.insert(other.as_str());
            let Some(needed) = services.get(other) else {
                errors.push(format!("{name}: no service `{other}`"));
                continue;
            };
            let health = &needed["healthcheck"];
            let has_check =
                health["disable"] != true && (role(needed).is_some() || health["test"].is_array());
            match dependency["condition"].as_str() {
                Some("service_healthy") if has_check => {}
                Some("service_healthy") => errors.push(format!("{name}: `{other}` has no health check")),
                Some("service_completed_successfully") if needed["restart"] == "no" => {}
                Some("service_completed_successfully") => errors.push(format!("{name}: `{other}` restarts")),
                other => errors.push(format!("{name}: unknown condition {other:?}")),
            }
        }
        waits.insert(name.as_str(), names);
    }
    while let Some(first) = waits.iter().find(|(_, names)| names.is_empty()).map(|(name, _)| *name) {
        waits.remove(first);
        for names in waits.values_mut() {
            names.remove(first);
        }
    }
    if errors.is_empty() && !waits.is_empty() {
        errors.push(format!("circular dependency: {:?}", waits.keys()));
    }
    errors
}

/// Missing restrictions: file system, capabilities, user, limits of resources, restarts.
pub fn restrictions(files: &Files) -> Vec<String> {
    /// The start script writes into the image's folder.
    const WRITABLE: &str = "kafka";
    /// The image sets an unprivileged user itself.
    const UNPRIVILEGED: &str = "apache/kafka:";
    let mut errors = Vec::new();
    for (name, service) in files.services() {
        if service["read_only"] != true && name != WRITABLE {
            errors.push(format!("{name}: the root file system is writable"));
        }
        if strings(&service["cap_drop"]) != ["ALL"] {
            errors.push(format!("{name}: capabilities are not dropped"));
        }
        if !strings(&service["security_opt"]).contains(&"no-new-privileges:true") {
            errors.push(format!("{name}: may gain privileges"));
        }
        for limit in ["mem_limit", "cpus", "pids_limit", "restart"] {
            if service[limit].is_null() {
                errors.push(format!("{name}: no `{limit}`"));
            }
        }
        let named =
            service["user"].as_str().is_some_and(|user| !user.is_empty() && user != "root" && user != "0");
        let image = service["image"].as_str().unwrap_or_default();
        if !named && role(&service).is_none() && !image.starts_with(UNPRIVILEGED) {
            errors.push(format!("{name}: runs as root"));
        }
    }
    errors
}

/// Volumes that an image declares and the compose file does not mount: Docker creates one without a name
/// for each container, and nothing removes it.
pub fn anonymous_volumes(files: &Files) -> Vec<String> {
    /// `VOLUME` lines of the images.
    const DECLARED: [(&str, &[&str]); 8] = [
        ("apache/kafka:", &["/etc/kafka/secrets", "/mnt/shared/config", "/var/lib/kafka/data"]),
        ("ghcr.io/kafbat/kafka-ui:", &[]),
        ("grafana/grafana:", &[]),
        ("haproxy:", &[]),
        ("jaegertracing/jaeger:", &["/tmp"]),
        ("postgres:", &["/var/lib/postgresql/data"]),
        ("prom/prometheus:", &["/prometheus"]),
        ("redis:", &["/data"]),
    ];
    let mut errors = Vec::new();
    for (name, service) in files.services().iter().filter(|(_, service)| role(service).is_none()) {
        let image = service["image"].as_str().unwrap_or_default();
        let Some((_, declared)) = DECLARED.iter().find(|(known, _)| image.starts_with(known)) else {
            errors.push(format!("{name}: the volumes of `{image}` are not known"));
            continue;
        };
        let volumes = strings(&service["volumes"]);
        let mut mounted = strings(&service["tmpfs"]);
        mounted.extend(volumes.iter().filter_map(|volume| volume.split(':').nth(1)));
        let missing = declared.iter().filter(|folder| !mounted.contains(folder));
        errors.extend(missing.map(|folder| format!("{name}: `{folder}` becomes an anonymous volume")));
    }
    errors
}

/// Limits of open files and threads that are too low for gateways and the balancer.
pub fn capacity(files: &Files) -> Vec<String> {
    /// A gateway's default limit of connections plus a reserve. Each connection of the balancer takes
    /// two files.
    const OPEN_FILES_MIN: u64 = 20_000;
    let services = files.services();
    let mut errors = Vec::new();
    for (name, service) in
        services.iter().filter(|(name, of)| *name == "balancer" || role(of) == Some("gateway"))
    {
        let open = service["ulimits"]["nofile"]["soft"].as_u64().unwrap_or_default();
        if open < OPEN_FILES_MIN {
            errors.push(format!("{name}: limit of {open} open files"));
        }
    }
    let threads =
        files.text("deploy/haproxy.cfg").lines().find_map(|line| line.trim().strip_prefix("nbthread "));
    let threads = threads.and_then(|threads| threads.parse().ok()).unwrap_or(u64::MAX);
    if services["balancer"]["pids_limit"].as_u64().is_none_or(|allowed| threads >= allowed) {
        errors.push(format!("balancer: {threads} threads exceed the limit"));
    }
    errors
}

/// Ports published by other services than the balancer, or on other interfaces than loopback. Those of the
/// profile `observability` have a rule of their own.
pub fn exposure(files: &Files) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, service) in files.services() {
        let ports = strings(&service["ports"]);
        if observability::is_part(&service) {
            continue;
        }
        if name != "balancer" {
            errors.extend(ports.iter().map(|port| format!("{name}: published at {port}")));
            continue;
        }
        let listen = environment(&service)["BALANCER_LISTEN"].clone();
        for published in ports {
            if port(published) != port(&listen) {
                errors.push(format!("{name}: does not listen on {}", port(published)));
            }
            if !published.starts_with("127.0.0.1:") {
                errors.push(format!("{name}: published on all interfaces by default"));
            }
        }
        if strings(&service["networks"]).contains(&"inside") {
            errors.push(format!("{name}: is on network `inside`"));
        }
    }
    if files.compose()["networks"]["inside"]["internal"] != true {
        errors.push("`inside` is not internal".to_owned());
    }
    errors
}

/// Images without a version, a Kafka other than the tests', and a Rust older than `rust-version`.
pub fn versions(files: &Files) -> Vec<String> {
    let services = files.services();
    let used = services.values().filter(|service| role(service).is_none());
    let mut images: Vec<&str> = used.filter_map(|service| service["image"].as_str()).collect();
    let stages =
        files.text("Dockerfile").lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
    // Docker's name of the empty image.
    images.extend(stages.filter(|image| *image != "scratch"));
    let mut errors = Vec::new();
    for image in &images {
        if version(image).len() < 2 {
            errors.push(format!("`{image}` has no version"));
        }
    }
    let between = |path, start: &str, end: &str| {
        files.text(path).split_once(start).unwrap().1.split_once(end).unwrap().0
    };
    let kafka = between("deploy/engines/pom.xml", "<artifactId>kafka_2.13</artifactId>", "</version>").trim();
    let kafka = kafka.trim_start_matches("<version>");
    if !images.contains(&format!("apache/kafka:{kafka}").as_str()) {
        errors.push(format!("the tests run on Kafka {kafka}"));
    }
    let rust = format!("rust:{}", between("Cargo.toml", "rust-version = \"", "\""));
    if !images.iter().any(|image| image.starts_with("rust:") && version(image) >= version(&rust)) {
        errors.push(format!("Rust is older than rust-version: {images:?}"));
    }
    errors
}

/// Parses the numbers of a tag.
fn version(image: &str) -> Vec<u32> {
    let tag = image.split_once(':').map_or("", |(_, tag)| tag.trim_start_matches('v'));
    tag.split('-').next().unwrap().split('.').map_while(|part| part.parse().ok()).collect()
}

//! The compose file by itself: its shape, the order of starting, what containers may do and what is published.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::files::{Files, environment, port, role, strings};

type Fits = fn(&Value) -> bool;

/// The keys of a service that are used here, and what stands there: a compose file that needs another one adds it.
const KEYS: [(&str, Fits); 23] = [
    ("build", Value::is_object),
    ("cap_drop", Value::is_array),
    ("command", Value::is_array),
    ("cpus", Value::is_number),
    ("depends_on", Value::is_object),
    ("environment", Value::is_object),
    ("healthcheck", Value::is_object),
    ("image", Value::is_string),
    ("logging", Value::is_object),
    ("mem_limit", Value::is_string),
    ("networks", Value::is_array),
    ("pids_limit", Value::is_number),
    ("ports", Value::is_array),
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

/// Keys, their kinds, and that networks and volumes are there and used.
pub fn shape(files: &Files) -> Vec<String> {
    let compose = files.compose();
    let mut wrong = Vec::new();
    for key in compose.as_object().unwrap().keys() {
        if !["name", "services", "networks", "volumes"].contains(&key.as_str()) && !key.starts_with("x-") {
            wrong.push(format!("`{key}` is no key of a compose file"));
        }
    }
    let mut used = BTreeSet::new();
    for (name, service) in files.services() {
        for (key, value) in service.as_object().unwrap() {
            match KEYS.iter().find(|(known, _)| known == key) {
                None => wrong.push(format!("{name}: `{key}` is no key of a service that is known here")),
                Some((_, fits)) if !fits(value) => wrong.push(format!("{name}: `{key}` is no {value}")),
                Some(_) => {}
            }
        }
        for network in strings(&service["networks"]) {
            used.insert(network.to_owned());
            if compose["networks"].get(network).is_none() {
                wrong.push(format!("{name}: no network `{network}`"));
            }
        }
        for volume in strings(&service["volumes"]).iter().filter_map(|volume| volume.split(':').next()) {
            used.insert(volume.to_owned());
            if !volume.starts_with('.') && compose["volumes"].get(volume).is_none() {
                wrong.push(format!("{name}: no volume `{volume}`"));
            }
        }
    }
    let defined =
        ["networks", "volumes"].into_iter().flat_map(|kind| compose[kind].as_object().unwrap().keys());
    wrong.extend(defined.filter(|name| !used.contains(*name)).map(|name| format!("nothing uses `{name}`")));
    wrong
}

/// What a service waits for is there, tells what is waited for, and does not wait for the service.
pub fn order(files: &Files) -> Vec<String> {
    let services = files.services();
    let (mut wrong, mut waits) = (Vec::new(), BTreeMap::new());
    for (name, service) in &services {
        let needed = service["depends_on"].as_object().into_iter().flatten();
        let mut names = BTreeSet::new();
        for (other, how) in needed {
            names.insert(other.as_str());
            let Some(needed) = services.get(other) else {
                wrong.push(format!("{name}: no service `{other}`"));
                continue;
            };
            let health = &needed["healthcheck"];
            let tells = health["disable"] != true && (role(needed).is_some() || health["test"].is_array());
            match how["condition"].as_str() {
                Some("service_healthy") if tells => {}
                Some("service_healthy") => wrong.push(format!("{name}: `{other}` has no health check")),
                Some("service_completed_successfully") if needed["restart"] == "no" => {}
                Some("service_completed_successfully") => {
                    wrong.push(format!("{name}: `{other}` does not end"))
                }
                other => wrong.push(format!("{name}: {other:?} is no condition")),
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
    if wrong.is_empty() && !waits.is_empty() {
        wrong.push(format!("a circle: {:?}", waits.keys()));
    }
    wrong
}

/// Rights, bounds and restarts.
pub fn confined(files: &Files) -> Vec<String> {
    /// Its start script writes into the image's own folder.
    const WRITES: &str = "kafka";
    /// Its image has a user without rights.
    const NOBODY: &str = "apache/kafka:";
    let mut wrong = Vec::new();
    for (name, service) in files.services() {
        if service["read_only"] != true && name != WRITES {
            wrong.push(format!("{name}: the root file system can be written"));
        }
        if strings(&service["cap_drop"]) != ["ALL"] {
            wrong.push(format!("{name}: it keeps capabilities"));
        }
        if !strings(&service["security_opt"]).contains(&"no-new-privileges:true") {
            wrong.push(format!("{name}: it may gain privileges"));
        }
        for bound in ["mem_limit", "cpus", "pids_limit", "restart"] {
            if service[bound].is_null() {
                wrong.push(format!("{name}: no `{bound}`"));
            }
        }
        let named =
            service["user"].as_str().is_some_and(|user| !user.is_empty() && user != "root" && user != "0");
        let image = service["image"].as_str().unwrap_or_default();
        if !named && role(&service).is_none() && !image.starts_with(NOBODY) {
            wrong.push(format!("{name}: it runs as root"));
        }
    }
    wrong
}

/// Whoever has clients may have them open, and makes no more threads than it may.
pub fn roomy(files: &Files) -> Vec<String> {
    /// A gateway's connections by default, and what else it has open; the balancer's take two each.
    const OPEN: u64 = 20_000;
    let services = files.services();
    let mut wrong = Vec::new();
    for (name, service) in
        services.iter().filter(|(name, of)| *name == "balancer" || role(of) == Some("gateway"))
    {
        let open = service["ulimits"]["nofile"]["soft"].as_u64().unwrap_or_default();
        if open < OPEN {
            wrong.push(format!("{name}: it may open {open} files"));
        }
    }
    let threads =
        files.text("deploy/haproxy.cfg").lines().find_map(|line| line.trim().strip_prefix("nbthread "));
    let threads = threads.and_then(|threads| threads.parse().ok()).unwrap_or(u64::MAX);
    if services["balancer"]["pids_limit"].as_u64().is_none_or(|allowed| threads >= allowed) {
        wrong.push(format!("balancer: {threads} threads"));
    }
    wrong
}

/// What can be reached from outside, and from where.
pub fn published(files: &Files) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, service) in files.services() {
        let ports = strings(&service["ports"]);
        if name != "balancer" {
            wrong.extend(ports.iter().map(|port| format!("{name}: published at {port}")));
            continue;
        }
        let listen = environment(&service)["BALANCER_LISTEN"].clone();
        for published in ports {
            if port(published) != port(&listen) {
                wrong.push(format!("{name}: it does not listen on {}", port(published)));
            }
            if !published.starts_with("127.0.0.1:") {
                wrong.push(format!("{name}: published to everybody unless told otherwise"));
            }
        }
        if strings(&service["networks"]).contains(&"inside") {
            wrong.push(format!("{name}: it is inside"));
        }
    }
    if files.compose()["networks"]["inside"]["internal"] != true {
        wrong.push("`inside` has a way out".to_owned());
    }
    wrong
}

/// Images by version; Kafka's is that of the tests, Rust's is new enough.
pub fn pinned(files: &Files) -> Vec<String> {
    let services = files.services();
    let used = services.values().filter(|service| role(service).is_none());
    let mut images: Vec<&str> = used.filter_map(|service| service["image"].as_str()).collect();
    images.extend(
        files.text("Dockerfile").lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next()),
    );
    let mut wrong = Vec::new();
    for image in &images {
        if version(image).len() < 2 {
            wrong.push(format!("`{image}` names no version"));
        }
    }
    let between = |path, start: &str, end: &str| {
        files.text(path).split_once(start).unwrap().1.split_once(end).unwrap().0
    };
    let kafka = between("deploy/engines/pom.xml", "<artifactId>kafka_2.13</artifactId>", "</version>").trim();
    let kafka = kafka.trim_start_matches("<version>");
    if !images.contains(&format!("apache/kafka:{kafka}").as_str()) {
        wrong.push(format!("the tests run on Kafka {kafka}"));
    }
    let rust = format!("rust:{}", between("Cargo.toml", "rust-version = \"", "\""));
    if !images.iter().any(|image| image.starts_with("rust:") && version(image) >= version(&rust)) {
        wrong.push(format!("an older Rust than rust-version: {images:?}"));
    }
    wrong
}

/// The numbers of a tag.
fn version(image: &str) -> Vec<u32> {
    let tag = image.split_once(':').map_or("", |(_, tag)| tag);
    tag.split('-').next().unwrap().split('.').map_while(|part| part.parse().ok()).collect()
}

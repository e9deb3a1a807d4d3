//! The profile `observability` of the compose file: apart from the core, published on loopback only, and with
//! the addresses that Prometheus, Jaeger and the roles expect of each other.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    COMPOSE, assert_fails, assert_passes,
    files::{Files, environment, port, role, strings},
};

const PROFILE: &str = "observability";

/// Returns true for a service that runs only with the profile.
pub fn is_part(service: &Value) -> bool {
    strings(&service["profiles"]) == [PROFILE]
}

/// Other profiles, services of the core that need this one, and ports on other interfaces than loopback or
/// that the health check does not request. Networks that lead to the balancer or to other machines.
fn separation(files: &Files) -> Vec<String> {
    let services = files.services();
    let mut errors = Vec::new();
    for (name, service) in &services {
        if !is_part(service) {
            if !service["profiles"].is_null() {
                errors.push(format!("{name}: another profile"));
            }
            let needed = service["depends_on"].as_object().into_iter().flatten().map(|(other, _)| other);
            let missing = needed.filter(|other| services.get(*other).is_some_and(is_part));
            errors.extend(missing.map(|other| format!("{name}: `{other}` runs only with the profile")));
            continue;
        }
        let ports = strings(&service["ports"]);
        if ports.len() != 1 || !ports[0].starts_with("127.0.0.1:") {
            errors.push(format!("{name}: published at {ports:?}"));
        }
        if strings(&service["networks"]) != ["inside", "published"] {
            errors.push(format!("{name}: is on {}", service["networks"]));
        }
        let check = strings(&service["healthcheck"]["test"]).join(" ");
        let port = port(ports.first().copied().unwrap_or_default());
        if name != "jaeger" && !check.contains(&format!(" http://127.0.0.1:{port}/")) {
            errors.push(format!("{name}: the health check does not request {port}"));
        }
    }
    let published = &files.compose()["networks"]["published"];
    if published["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] != "false" {
        errors.push("`published` leads to other machines".to_owned());
    }
    errors
}

/// Roles that Prometheus does not scrape at their operations port, and targets that are no role.
fn targets(files: &Files) -> Vec<String> {
    let configuration: Value =
        serde_yaml_ng::from_str(files.text("deploy/prometheus/prometheus.yml")).unwrap();
    let jobs = configuration["scrape_configs"].as_array().unwrap();
    let job = jobs.iter().find(|job| job["job_name"] == "tidings").unwrap();
    let scraped: BTreeSet<&str> = strings(&job["static_configs"][0]["targets"]).into_iter().collect();
    let services = files.services();
    let listening =
        services.iter().filter(|(_, service)| role(service).is_some()).filter_map(|(name, service)| {
            let listen = environment(service).get("OPS_LISTEN")?.strip_prefix("0.0.0.0:")?.to_owned();
            Some(format!("{name}:{listen}"))
        });
    let listening: Vec<String> = listening.collect();
    let mut errors: Vec<String> = Vec::new();
    for address in &listening {
        if !scraped.contains(address.as_str()) {
            errors.push(format!("Prometheus does not scrape {address}"));
        }
    }
    let unknown = scraped.iter().filter(|target| !listening.iter().any(|address| address == *target));
    errors.extend(unknown.map(|target| format!("`{target}` is no role")));
    errors
}

/// Roles that do not send their traces to the collector of .env, and a profile that sets another address than
/// the one at which Jaeger receives them.
fn traces(files: &Files) -> Vec<String> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let services = files.services();
    let mut errors = Vec::new();
    for (name, service) in &services {
        let runs = matches!(role(service), Some("auth" | "dialog" | "counter" | "gateway"));
        if runs && environment(service).get(VARIABLE).map(String::as_str) != Some("") {
            errors.push(format!("{name}: {VARIABLE} is not that of .env, or not empty by default"));
        }
    }
    let script = files.text("deploy/containers.sh");
    let set = script.split_once("OTEL_EXPORTER_OTLP_ENDPOINT=").unwrap().1.lines().next().unwrap();
    let jaeger: Value = serde_yaml_ng::from_str(files.text("deploy/jaeger.yml")).unwrap();
    let receives = jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].as_str().unwrap();
    let expected = receives.strip_prefix("0.0.0.0:").map(|port| format!("http://jaeger:{port}"));
    if expected.as_deref() != Some(set) {
        errors.push(format!("the profile sets {set}, and Jaeger listens on {receives}"));
    }
    let health = jaeger["extensions"]["healthcheckv2"]["http"]["endpoint"].as_str().unwrap();
    let check = strings(&services["jaeger"]["healthcheck"]["test"]).join(" ");
    if !check.ends_with(&format!(" http://{health}/status")) {
        errors.push(format!("jaeger: its health is at {health}"));
    }
    let pages = jaeger["extensions"]["jaeger_query"]["http"]["endpoint"].as_str().unwrap();
    if !strings(&services["jaeger"]["ports"]).iter().any(|published| port(published) == port(pages)) {
        errors.push(format!("jaeger: its pages are at {pages}"));
    }
    errors
}

#[test]
fn the_profile_is_apart_and_published_on_loopback_only() {
    assert_passes(separation);
    let fails = |from, to, expected| assert_fails(separation, COMPOSE, from, to, expected);
    fails("  profiles: [observability]\n", "  profiles: [other]\n", "grafana: another profile");
    fails("127.0.0.1:${PROMETHEUS_PORT", "${PROMETHEUS_PORT", "prometheus: published at");
    fails("networks: [inside, published]", "networks: [inside, published, edge]", "kafka-ui: is on ");
    fails("127.0.0.1:3000/api", "127.0.0.1:3001/api", "grafana: the health check does not request 3000");
    fails("masquerade: \"false\"", "masquerade: \"true\"", "leads to other machines");
    let needs = |service| format!("{service}: {{ condition: service_healthy }}");
    fails(&needs("redis"), &needs("jaeger"), "counter: `jaeger` runs only with the profile");
}

#[test]
fn prometheus_scrapes_every_role() {
    assert_passes(targets);
    let path = "deploy/prometheus/prometheus.yml";
    assert_fails(
        targets,
        path,
        "gateway1:9090, gateway2:9090",
        "gateway:9090",
        "does not scrape gateway1:9090",
    );
    assert_fails(
        targets,
        path,
        "gateway2:9090",
        "gateway2:9090, gateway3:9090",
        "`gateway3:9090` is no role",
    );
    assert_fails(
        targets,
        COMPOSE,
        "    OPS_LISTEN: 0.0.0.0:9090\n    AUTH",
        "    AUTH",
        "`gateway1:9090` is no role",
    );
}

#[test]
fn every_role_sends_its_traces_where_jaeger_receives_them() {
    assert_passes(traces);
    assert_fails(
        traces,
        COMPOSE,
        "ENDPOINT: ${OTEL",
        "ENDPOINTS: ${OTEL",
        "auth: OTEL_EXPORTER_OTLP_ENDPOINT",
    );
    assert_fails(
        traces,
        ".env.example",
        "_ENDPOINT=",
        "_ENDPOINT=http://jaeger:4317",
        "not empty by default",
    );
    assert_fails(
        traces,
        "deploy/containers.sh",
        "http://jaeger:4317",
        "http://jaeger:4318",
        "Jaeger listens on",
    );
    assert_fails(
        traces,
        COMPOSE,
        "127.0.0.1:13133/status",
        "127.0.0.1:13134/status",
        "jaeger: its health is at",
    );
    assert_fails(traces, "deploy/jaeger.yml", "0.0.0.0:16686", "0.0.0.0:16687", "jaeger: its pages are at");
}

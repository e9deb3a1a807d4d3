//! Container configuration against the program: docker-compose.yml, .env.example, the Dockerfile and the
//! files that they name. Needs no container engine. Each rule returns the errors that it finds in the
//! files, and its test also proves on broken files that the rule can fail.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

mod compose;
mod files;
mod image;
mod links;
mod observability;
mod settings;

use files::Files;

type Rule = fn(&Files) -> Vec<String>;

/// Asserts that the rule finds no error in the real files.
fn assert_passes(rule: Rule) {
    let errors = rule(&Files::read());
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// Asserts that the rule finds the expected error after a text is replaced in one file.
fn assert_fails(rule: Rule, path: &str, from: &str, to: &str, expected: &str) {
    let errors = rule(&Files::read().with(path, from, to));
    assert!(errors.iter().any(|error| error.contains(expected)), "`{from}` → `{to}`: {errors:?}");
}

const COMPOSE: &str = "docker-compose.yml";
const DOCKERFILE: &str = "Dockerfile";

#[test]
fn the_compose_file_has_only_known_keys() {
    assert_passes(compose::schema);
    assert_fails(compose::schema, COMPOSE, "    user: redis", "    usr: redis", "redis: unknown key `usr`");
    assert_fails(compose::schema, COMPOSE, "pids_limit: 512", "pids_limit: many", "kafka: `pids_limit`");
    assert_fails(
        compose::schema,
        COMPOSE,
        "    networks: [edge]\n",
        "    networks: [egde]\n",
        "balancer: no network `egde`",
    );
    assert_fails(compose::schema, COMPOSE, "\n  signing-key:\n", "\n", "no volume `signing-key`");
    assert_fails(
        compose::schema,
        COMPOSE,
        "volumes:\n  postgres:\n",
        "volumes:\n  postgres:\n  old:\n",
        "`old` is not used",
    );
}

#[test]
fn services_start_after_their_dependencies() {
    assert_passes(compose::dependencies);
    assert_fails(
        compose::dependencies,
        COMPOSE,
        "redis: { condition: service_healthy }",
        "rdis: { condition: service_healthy }",
        "`rdis`",
    );
    let migrated = "migrate: { condition: service_completed_successfully }";
    assert_fails(
        compose::dependencies,
        COMPOSE,
        migrated,
        "migrate: { condition: service_healthy }",
        "`migrate` has no health check",
    );
    assert_fails(
        compose::dependencies,
        COMPOSE,
        "postgres: { condition: service_healthy }\n",
        "gateway1: { condition: service_healthy }\n",
        "circular dependency",
    );
    assert_fails(
        compose::dependencies,
        COMPOSE,
        "  restart: \"no\"",
        "  restart: always",
        "`keygen` restarts",
    );
}

#[test]
fn containers_are_restricted() {
    assert_passes(compose::restrictions);
    assert_fails(
        compose::restrictions,
        COMPOSE,
        "  read_only: true\n",
        "",
        "auth: the root file system is writable",
    );
    assert_fails(
        compose::restrictions,
        COMPOSE,
        "  cap_drop: [ALL]\n",
        "",
        "redis: capabilities are not dropped",
    );
    assert_fails(
        compose::restrictions,
        COMPOSE,
        "no-new-privileges:true",
        "no-new-privileges:false",
        "may gain privileges",
    );
    assert_fails(
        compose::restrictions,
        COMPOSE,
        "    mem_limit: 256m\n    cpus",
        "    cpus",
        "redis: no `mem_limit`",
    );
    assert_fails(compose::restrictions, COMPOSE, "    user: postgres\n", "", "postgres: runs as root");
}

#[test]
fn containers_leave_no_anonymous_volumes() {
    assert_passes(compose::anonymous_volumes);
    assert_fails(
        compose::anonymous_volumes,
        COMPOSE,
        "    tmpfs: [/etc/kafka/secrets, /mnt/shared/config]\n",
        "",
        "kafka: `/mnt/shared/config`",
    );
    assert_fails(
        compose::anonymous_volumes,
        COMPOSE,
        "tmpfs: [/tmp, /var/lib/postgresql/data]",
        "tmpfs: [/tmp]",
        "databases: `/var/lib/postgresql/data`",
    );
    assert_fails(compose::anonymous_volumes, COMPOSE, "image: redis:", "image: valkey:", "not known");
}

#[test]
fn gateways_and_balancer_may_open_enough_files() {
    assert_passes(compose::capacity);
    assert_fails(
        compose::capacity,
        COMPOSE,
        "nofile: { soft: 65536",
        "nofile: { soft: 1024",
        "gateway1: limit of 1024 open files",
    );
    assert_fails(
        compose::capacity,
        COMPOSE,
        "    ulimits: *descriptors\n    depends",
        "    depends",
        "balancer: limit of 0 open files",
    );
    assert_fails(compose::capacity, "deploy/haproxy.cfg", "    nbthread 2\n", "", "threads");
}

#[test]
fn only_the_balancer_is_published() {
    assert_passes(compose::exposure);
    assert_fails(
        compose::exposure,
        COMPOSE,
        "    user: redis\n",
        "    user: redis\n    ports: ['6379:6379']\n",
        "redis: published",
    );
    assert_fails(compose::exposure, COMPOSE, "    internal: true\n", "", "`inside` is not internal");
    assert_fails(
        compose::exposure,
        COMPOSE,
        "    networks: [edge]\n",
        "    networks: [edge, inside]\n",
        "balancer: is on network `inside`",
    );
    assert_fails(
        compose::exposure,
        COMPOSE,
        ":8080}:8080\"",
        ":8080}:8081\"",
        "balancer: does not listen on 8081",
    );
    assert_fails(
        compose::exposure,
        ".env.example",
        "BALANCER_PUBLISH=127.0.0.1:",
        "BALANCER_PUBLISH=0.0.0.0:",
        "on all interfaces",
    );
}

#[test]
fn images_are_pinned_by_version() {
    assert_passes(compose::versions);
    assert_fails(compose::versions, COMPOSE, "haproxy:3.0.11-alpine", "haproxy:alpine", "haproxy:alpine");
    assert_fails(compose::versions, COMPOSE, "redis:7.4.5-bookworm", "redis:7", "redis:7");
    assert_fails(compose::versions, DOCKERFILE, "FROM scratch\nARG", "FROM debian\nARG", "`debian`");
    assert_fails(
        compose::versions,
        COMPOSE,
        "apache/kafka:4.3.1",
        "apache/kafka:4.0.0",
        "the tests run on Kafka",
    );
    assert_fails(compose::versions, DOCKERFILE, "rust:1.95.0-slim", "rust:1.94.0-slim", "rust-version");
}

#[test]
fn every_variable_is_a_setting_of_its_role() {
    assert_passes(settings::names);
    assert_fails(settings::names, COMPOSE, "SAGA_DEADLINE: ", "SAGA_DEADLIN: ", "dialog: `SAGA_DEADLIN`");
    assert_fails(
        settings::names,
        COMPOSE,
        "    DATA_DIR: /keys/token",
        "    DIR: /keys/token",
        "keygen: `DIR`",
    );
    assert_fails(
        settings::names,
        COMPOSE,
        "command: [migrate]",
        "command: [migrat]",
        "migrate: no command `migrat`",
    );
    assert_fails(settings::names, DOCKERFILE, "DATA_DIR=/data", "DATA=/data", "Dockerfile: `DATA`");
}

#[test]
fn every_role_accepts_its_settings() {
    assert_passes(settings::values);
    assert_fails(
        settings::values,
        COMPOSE,
        "DRAIN_WINDOW: 10s",
        "DRAIN_WINDOW: 10",
        "a duration is a number",
    );
    assert_fails(settings::values, ".env.example", "INTROSPECTION=on", "INTROSPECTION=yes", "on or off");
    assert_fails(
        settings::values,
        ".env.example",
        "ALLOWED_ORIGINS=loopback,",
        "ALLOWED_ORIGINS=localhost,",
        "is not an origin",
    );
    assert_fails(settings::values, COMPOSE, "      DIALOG_URL: http://dialog:7052\n", "", "counter: ");
}

#[test]
fn every_variable_is_documented_and_used() {
    assert_passes(settings::variables);
    assert_fails(
        settings::variables,
        ".env.example",
        "\nTOKEN_ISSUER=tidings\n",
        "\n",
        "`TOKEN_ISSUER` is not in .env.example",
    );
    assert_fails(
        settings::variables,
        ".env.example",
        "RUST_LOG=info",
        "RUST_LOG=info\nOLD=1",
        "`OLD` is not used",
    );
    assert_fails(
        settings::variables,
        ".env.example",
        "# Issuer (`iss`) of access tokens.\n",
        "",
        "`TOKEN_ISSUER` is not documented",
    );
}

#[test]
fn no_service_has_a_port_that_an_outgoing_connection_may_have() {
    assert_fails(
        links::addresses,
        COMPOSE,
        "LISTEN: 0.0.0.0:7052",
        "LISTEN: 0.0.0.0:50052",
        "dialog: an outgoing connection may have the port 50052",
    );
}

#[test]
fn every_address_names_a_listening_service() {
    assert_passes(links::addresses);
    assert_fails(
        links::addresses,
        COMPOSE,
        "COUNTER_URL: http://counter:7053",
        "COUNTER_URL: http://count:7053",
        "no service `count`",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "LISTEN: 0.0.0.0:7052",
        "LISTEN: 0.0.0.0:50052",
        "`dialog` does not listen on 7052",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "LISTEN: 0.0.0.0:7051",
        "LISTEN: 127.0.0.1:7051",
        "`auth` does not listen on 7051",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "GATEWAY2: gateway2:8080",
        "GATEWAY2: gateway2:8081",
        "`gateway2` does not listen on 8081",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "redis://redis:6379",
        "redis://redis:6380",
        "`redis` does not listen on 6380",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "PLAINTEXT://kafka:9092",
        "PLAINTEXT://kafka:9094",
        "`kafka` does not listen on 9092",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "  networks: [inside, edge]",
        "  networks: [edge]",
        "gateway1: no common network with `auth`",
    );
    assert_fails(
        links::addresses,
        "deploy/postgres/databases.sh",
        "auth dialog counter",
        "auth dialog",
        "no database `counter`",
    );
    assert_fails(
        links::addresses,
        COMPOSE,
        "@postgres:5432/dialog\n",
        "@postgres:5432/auth\n",
        "`dialog` is not the owner",
    );
}

#[test]
fn health_checks_request_the_right_address() {
    assert_passes(links::health);
    assert_fails(links::health, COMPOSE, "127.0.0.1:9090/readyz", "127.0.0.1:9091/readyz", "balancer: ");
    assert_fails(links::health, COMPOSE, "127.0.0.1/9092\"", "127.0.0.1/9093\"", "kafka: ");
    assert_fails(
        links::health,
        DOCKERFILE,
        "CMD [\"tidings\", \"healthcheck\"]",
        "CMD [\"tidings\", \"health\"]",
        "no command `health`",
    );
    assert_fails(
        links::health,
        "deploy/haproxy.cfg",
        "{ path /readyz } { nbsrv",
        "{ path /ready } { nbsrv",
        "haproxy.cfg",
    );
}

#[test]
fn the_balancer_receives_its_variables() {
    assert_passes(links::balancer);
    assert_fails(
        links::balancer,
        COMPOSE,
        "BALANCER_LISTEN: ",
        "BALANCER_BIND: ",
        "the balancer does not use `BALANCER_BIND`",
    );
    assert_fails(
        links::balancer,
        "deploy/haproxy.cfg",
        "presetenv GATEWAY2",
        "presetenv GATEWAY3",
        "`GATEWAY2` has no default",
    );
    assert_fails(
        links::balancer,
        COMPOSE,
        "GATEWAY2: gateway2:8080",
        "GATEWAY2: gateway1:8080",
        "gateway2: the balancer does not know it",
    );
    assert_fails(
        links::balancer,
        "deploy/stack/roles.sh",
        "GATEWAY2=\"127",
        "GATEWAY3=\"127",
        "the balancer does not use `GATEWAY3`",
    );
}

#[test]
fn secrets_are_mounted_only_where_needed() {
    assert_passes(links::secrets);
    let mounted = "    - service-token:/keys/token:ro\n";
    assert_fails(
        links::secrets,
        COMPOSE,
        "9092\n  SERVICE_TOKEN_FILE: /keys/token/service-token\n",
        "9092\n  SERVICE_TOKEN_FILE: /keys/token/other\n",
        "keygen does not write",
    );
    assert_fails(
        links::secrets,
        COMPOSE,
        mounted,
        "    - signing-key:/keys/signing:ro\n",
        "dialog: has the signing key",
    );
    assert_fails(
        links::secrets,
        "deploy/image.sh",
        "\"$folder/owned/keys/signing\"",
        "",
        "`/keys/signing` belongs to root",
    );
    assert_fails(
        links::secrets,
        COMPOSE,
        "./deploy/haproxy.cfg:",
        "./deploy/nginx.conf:",
        "no file ./deploy/nginx.conf",
    );
    assert_fails(
        links::secrets,
        "deploy/env.sh",
        "    deploy/haproxy.cfg ",
        "    ",
        "make ./deploy/haproxy.cfg readable",
    );
}

#[test]
fn the_image_is_built_from_existing_files() {
    assert_passes(image::sources);
    assert_fails(image::sources, DOCKERFILE, "COPY src src", "COPY sources src", "no `sources`");
    assert_fails(image::sources, ".dockerignore", "!proto\n", "", "`proto` is ignored");
    assert_fails(image::sources, DOCKERFILE, "--from=page", "--from=pages", "no stage `pages`");
    assert_fails(
        image::sources,
        DOCKERFILE,
        "COPY crates/events/Cargo.toml crates/events/\n",
        "",
        "crates/events: the manifest",
    );
    assert_fails(image::sources, DOCKERFILE, "COPY dialog dialog\n", "", "dialog: the sources");
    assert_fails(
        image::sources,
        DOCKERFILE,
        "image.sh target/release/",
        "image.sh target/debug/",
        "the program is not copied",
    );
    assert_fails(image::sources, DOCKERFILE, "--chown=10001:10001 ", "", "do not belong to the user");
    assert_fails(image::sources, DOCKERFILE, "--release --locked", "--release", "without --locked");
}

#[test]
fn the_image_runs_without_privileges() {
    assert_passes(image::runtime);
    assert_fails(image::runtime, DOCKERFILE, "USER 10001:10001\n", "", "runs as root");
    assert_fails(image::runtime, DOCKERFILE, "EXPOSE 8080 9090", "EXPOSE 8080", "9090 is not exposed");
    assert_fails(
        image::runtime,
        DOCKERFILE,
        "org.opencontainers.image.licenses",
        "licenses",
        "no label org.opencontainers.image.licenses",
    );
}

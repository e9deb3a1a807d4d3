//! What the containers are made from, held to the program: docker-compose.yml, .env.example, the Dockerfile and what they
//! name. No container engine is needed. A rule reads the files and says what is wrong; each proves that it can, on files
//! that were broken.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test there")]

mod compose;
mod files;
mod image;
mod links;
mod settings;

use files::Files;

type Rule = fn(&Files) -> Vec<String>;

fn hold(rule: Rule) {
    let wrong = rule(&Files::read());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Replaces a text in one file, and expects the rule to say this.
fn breaks(rule: Rule, path: &str, from: &str, to: &str, expected: &str) {
    let wrong = rule(&Files::read().with(path, from, to));
    assert!(wrong.iter().any(|wrong| wrong.contains(expected)), "`{from}` → `{to}`: {wrong:?}");
}

const COMPOSE: &str = "docker-compose.yml";
const DOCKERFILE: &str = "Dockerfile";

#[test]
fn the_compose_file_has_the_shape_that_compose_reads() {
    hold(compose::shape);
    breaks(compose::shape, COMPOSE, "    user: redis", "    usr: redis", "redis: `usr` is no key");
    breaks(compose::shape, COMPOSE, "pids_limit: 512", "pids_limit: many", "kafka: `pids_limit`");
    breaks(
        compose::shape,
        COMPOSE,
        "    networks: [edge]\n",
        "    networks: [egde]\n",
        "balancer: no network `egde`",
    );
    breaks(compose::shape, COMPOSE, "\n  signing-key:\n", "\n", "no volume `signing-key`");
    breaks(
        compose::shape,
        COMPOSE,
        "volumes:\n  postgres:\n",
        "volumes:\n  postgres:\n  old:\n",
        "nothing uses `old`",
    );
}

#[test]
fn everything_starts_after_what_it_needs() {
    hold(compose::order);
    breaks(
        compose::order,
        COMPOSE,
        "redis: { condition: service_healthy }",
        "rdis: { condition: service_healthy }",
        "`rdis`",
    );
    let migrated = "migrate: { condition: service_completed_successfully }";
    breaks(
        compose::order,
        COMPOSE,
        migrated,
        "migrate: { condition: service_healthy }",
        "`migrate` has no health check",
    );
    breaks(
        compose::order,
        COMPOSE,
        "postgres: { condition: service_healthy }\n",
        "gateway1: { condition: service_healthy }\n",
        "circle",
    );
    breaks(compose::order, COMPOSE, "  restart: \"no\"", "  restart: always", "`keygen` does not end");
}

#[test]
fn a_container_may_do_no_more_than_it_must() {
    hold(compose::confined);
    breaks(
        compose::confined,
        COMPOSE,
        "  read_only: true\n",
        "",
        "auth: the root file system can be written",
    );
    breaks(compose::confined, COMPOSE, "  cap_drop: [ALL]\n", "", "redis: it keeps capabilities");
    breaks(
        compose::confined,
        COMPOSE,
        "no-new-privileges:true",
        "no-new-privileges:false",
        "may gain privileges",
    );
    breaks(compose::confined, COMPOSE, "    mem_limit: 256m\n    cpus", "    cpus", "redis: no `mem_limit`");
    breaks(compose::confined, COMPOSE, "    user: postgres\n", "", "postgres: it runs as root");
}

#[test]
fn whoever_has_clients_has_room_for_them() {
    hold(compose::roomy);
    breaks(
        compose::roomy,
        COMPOSE,
        "nofile: { soft: 65536",
        "nofile: { soft: 1024",
        "gateway1: it may open 1024",
    );
    breaks(
        compose::roomy,
        COMPOSE,
        "    ulimits: *descriptors\n    depends",
        "    depends",
        "balancer: it may open 0",
    );
    breaks(compose::roomy, "deploy/haproxy.cfg", "    nbthread 2\n", "", "threads");
}

#[test]
fn only_the_balancer_can_be_reached_from_outside() {
    hold(compose::published);
    breaks(
        compose::published,
        COMPOSE,
        "    user: redis\n",
        "    user: redis\n    ports: ['6379:6379']\n",
        "redis: published",
    );
    breaks(compose::published, COMPOSE, "    internal: true\n", "", "`inside` has a way out");
    breaks(
        compose::published,
        COMPOSE,
        "    networks: [edge]\n",
        "    networks: [edge, inside]\n",
        "balancer: it is inside",
    );
    breaks(
        compose::published,
        COMPOSE,
        ":8080}:8080\"",
        ":8080}:8081\"",
        "balancer: it does not listen on 8081",
    );
    breaks(
        compose::published,
        ".env.example",
        "BALANCER_PUBLISH=127.0.0.1:",
        "BALANCER_PUBLISH=0.0.0.0:",
        "to everybody",
    );
}

#[test]
fn images_are_pinned_by_version() {
    hold(compose::pinned);
    breaks(compose::pinned, COMPOSE, "haproxy:3.0.11-alpine", "haproxy:alpine", "haproxy:alpine");
    breaks(compose::pinned, COMPOSE, "redis:7.4.5-bookworm", "redis:7", "redis:7");
    breaks(compose::pinned, DOCKERFILE, "FROM debian:12.11-slim", "FROM debian", "`debian`");
    breaks(compose::pinned, COMPOSE, "apache/kafka:4.3.1", "apache/kafka:4.0.0", "the tests run on Kafka");
    breaks(compose::pinned, DOCKERFILE, "rust:1.95.0-slim", "rust:1.94.0-slim", "rust-version");
}

#[test]
fn every_variable_is_a_setting_of_the_role_that_gets_it() {
    hold(settings::names);
    breaks(settings::names, COMPOSE, "SAGA_DEADLINE: ", "SAGA_DEADLIN: ", "dialog: `SAGA_DEADLIN`");
    breaks(settings::names, COMPOSE, "    DATA_DIR: /keys/token", "    DIR: /keys/token", "keygen: `DIR`");
    breaks(
        settings::names,
        COMPOSE,
        "command: [migrate]",
        "command: [migrat]",
        "migrate: no command `migrat`",
    );
    breaks(settings::names, DOCKERFILE, "DATA_DIR=/data", "DATA=/data", "Dockerfile: `DATA`");
}

#[test]
fn every_role_takes_the_values_that_it_gets() {
    hold(settings::values);
    breaks(settings::values, COMPOSE, "DRAIN_WINDOW: 10s", "DRAIN_WINDOW: 10", "a duration is a number");
    breaks(settings::values, ".env.example", "INTROSPECTION=on", "INTROSPECTION=yes", "on or off");
    breaks(
        settings::values,
        ".env.example",
        "ALLOWED_ORIGINS=loopback,",
        "ALLOWED_ORIGINS=localhost,",
        "is no origin",
    );
    breaks(settings::values, COMPOSE, "      DIALOG_URL: http://dialog:50052\n", "", "counter: ");
}

#[test]
fn every_variable_is_explained_and_every_explained_one_is_used() {
    hold(settings::variables);
    breaks(
        settings::variables,
        ".env.example",
        "\nTOKEN_ISSUER=tidings\n",
        "\n",
        "`TOKEN_ISSUER` is not in .env.example",
    );
    breaks(
        settings::variables,
        ".env.example",
        "RUST_LOG=info",
        "RUST_LOG=info\nOLD=1",
        "nothing uses `OLD`",
    );
    breaks(
        settings::variables,
        ".env.example",
        "# Issuer that access tokens name.\n",
        "",
        "`TOKEN_ISSUER` is not explained",
    );
}

#[test]
fn every_address_leads_to_something_that_listens_there() {
    hold(links::addresses);
    breaks(
        links::addresses,
        COMPOSE,
        "COUNTER_URL: http://counter:50053",
        "COUNTER_URL: http://count:50053",
        "no service `count`",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "LISTEN: 0.0.0.0:50052",
        "LISTEN: 0.0.0.0:50062",
        "`dialog` does not listen on 50052",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "LISTEN: 0.0.0.0:50051",
        "LISTEN: 127.0.0.1:50051",
        "`auth` does not listen on 50051",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "GATEWAY2: gateway2:8080",
        "GATEWAY2: gateway2:8081",
        "`gateway2` does not listen on 8081",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "redis://redis:6379",
        "redis://redis:6380",
        "`redis` does not listen on 6380",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "PLAINTEXT://kafka:9092",
        "PLAINTEXT://kafka:9094",
        "`kafka` does not listen on 9092",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "  networks: [inside, edge]",
        "  networks: [edge]",
        "gateway1: no way to `auth`",
    );
    breaks(
        links::addresses,
        "deploy/postgres/init.sh",
        "auth dialog counter",
        "auth dialog",
        "no database `counter`",
    );
    breaks(
        links::addresses,
        COMPOSE,
        "@postgres:5432/dialog\n",
        "@postgres:5432/auth\n",
        "`dialog` is not the owner",
    );
}

#[test]
fn a_health_check_asks_where_the_answer_is() {
    hold(links::health);
    breaks(links::health, COMPOSE, "127.0.0.1:9090/readyz", "127.0.0.1:9091/readyz", "balancer: ");
    breaks(links::health, COMPOSE, "127.0.0.1/9092\"", "127.0.0.1/9093\"", "kafka: ");
    breaks(
        links::health,
        DOCKERFILE,
        "CMD [\"tidings\", \"healthcheck\"]",
        "CMD [\"tidings\", \"health\"]",
        "no command `health`",
    );
    breaks(
        links::health,
        "deploy/haproxy.cfg",
        "{ path /readyz } { nbsrv",
        "{ path /ready } { nbsrv",
        "haproxy.cfg",
    );
}

#[test]
fn the_balancer_is_told_what_it_asks_for() {
    hold(links::balancer);
    breaks(
        links::balancer,
        COMPOSE,
        "BALANCER_LISTEN: ",
        "BALANCER_BIND: ",
        "`BALANCER_BIND` is nothing to the balancer",
    );
    breaks(
        links::balancer,
        "deploy/haproxy.cfg",
        "presetenv GATEWAY2",
        "presetenv GATEWAY3",
        "`GATEWAY2` has no default",
    );
    breaks(
        links::balancer,
        COMPOSE,
        "GATEWAY2: gateway2:8080",
        "GATEWAY2: gateway1:8080",
        "gateway2: it gets no requests",
    );
    breaks(
        links::balancer,
        "deploy/stack/up.sh",
        "GATEWAY2=\"127",
        "GATEWAY3=\"127",
        "`GATEWAY3` is nothing to the balancer",
    );
}

#[test]
fn secrets_reach_those_who_need_them_and_nobody_else() {
    hold(links::secrets);
    let mounted = "    - service-token:/keys/token:ro\n";
    breaks(
        links::secrets,
        COMPOSE,
        "9092\n  SERVICE_TOKEN_FILE: /keys/token/service-token\n",
        "9092\n  SERVICE_TOKEN_FILE: /keys/token/other\n",
        "nobody makes",
    );
    breaks(links::secrets, COMPOSE, mounted, "    - signing-key:/keys/signing:ro\n", "dialog: it could sign");
    breaks(
        links::secrets,
        DOCKERFILE,
        "/keys/signing /keys/token",
        "/keys/token",
        "`/keys/signing` belongs to root",
    );
    breaks(
        links::secrets,
        COMPOSE,
        "./deploy/haproxy.cfg:",
        "./deploy/nginx.conf:",
        "no file ./deploy/nginx.conf",
    );
}

#[test]
fn the_image_is_built_from_what_is_there() {
    hold(image::copies);
    breaks(image::copies, DOCKERFILE, "COPY src src", "COPY sources src", "no `sources`");
    breaks(image::copies, ".dockerignore", "!proto\n", "", "`proto` is ignored");
    breaks(image::copies, DOCKERFILE, "--from=page", "--from=pages", "no stage `pages`");
    breaks(
        image::copies,
        DOCKERFILE,
        "COPY crates/events/Cargo.toml crates/events/\n",
        "",
        "crates/events: its manifest",
    );
    breaks(image::copies, DOCKERFILE, "COPY dialog dialog\n", "", "dialog: its sources");
    breaks(
        image::copies,
        DOCKERFILE,
        "/tidings/target/release/tidings /usr",
        "/tidings/target/debug/tidings /usr",
        "no program",
    );
    breaks(image::copies, DOCKERFILE, "--release --locked", "--release", "without --locked");
}

#[test]
fn the_image_runs_as_nobody() {
    hold(image::running);
    breaks(image::running, DOCKERFILE, "USER 10001:10001\n", "", "it runs as root");
    breaks(image::running, DOCKERFILE, "EXPOSE 8080 9090", "EXPOSE 8080", "9090 is not exposed");
    breaks(
        image::running,
        DOCKERFILE,
        "org.opencontainers.image.licenses",
        "licenses",
        "no label org.opencontainers.image.licenses",
    );
}

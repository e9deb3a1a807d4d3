# Image of all roles: `docker run IMAGE auth`, `gateway` and so on. Without a command it runs `serve`: all roles in one process
# on SQLite in /data. The build needs the package registries. The image runs on a read-only file system as an unprivileged
# user.

# Bundles the pages at /, /graphiql and /playground.
FROM node:22.20.0-bookworm-slim AS page
WORKDIR /web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY web/app/package.json web/app/package-lock.json web/app/.npmrc app/
RUN cd app && npm ci --omit=dev --ignore-scripts --no-audit --no-fund
COPY web ./
RUN node build.mjs && cd app && npm run build -- --emptyOutDir=false --outDir=../dist

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tidings
ENV CARGO_INCREMENTAL=0
# Cargo features, such as heap-profiles, for which the setting of jemalloc is meant.
ARG FEATURES=
ENV JEMALLOC_SYS_WITH_MALLOC_CONF=prof:true
# Builds the dependencies in a separate layer, which is reused until a manifest or the lock file changes. Here every workspace
# crate is empty, with an empty build script, so that Cargo also builds the build dependencies.
COPY Cargo.toml Cargo.lock ./
COPY auth/Cargo.toml auth/
COPY dialog/Cargo.toml dialog/
COPY counter/Cargo.toml counter/
COPY gateway/Cargo.toml gateway/
COPY proto/Cargo.toml proto/
COPY crates/access/Cargo.toml crates/access/
COPY crates/db/Cargo.toml crates/db/
COPY crates/events/Cargo.toml crates/events/
COPY crates/limit/Cargo.toml crates/limit/
COPY crates/profiles/Cargo.toml crates/profiles/
COPY crates/redis-link/Cargo.toml crates/redis-link/
COPY crates/resilience/Cargo.toml crates/resilience/
COPY crates/telemetry/Cargo.toml crates/telemetry/
COPY crates/testkit/Cargo.toml crates/testkit/
COPY crates/visible-text/Cargo.toml crates/visible-text/
COPY crates/wake/Cargo.toml crates/wake/
COPY fuzz/Cargo.toml fuzz/
COPY bench/load/Cargo.toml bench/load/
RUN for crate in auth dialog counter gateway proto crates/* fuzz bench/load; do \
        mkdir "$crate/src" && touch "$crate/src/lib.rs" && echo 'fn main() {}' >"$crate/build.rs"; \
    done \
    && mkdir src && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --bin tidings --features "$FEATURES" \
    && rm -r src auth dialog counter gateway proto crates fuzz bench
COPY src src
COPY auth auth
COPY dialog dialog
COPY counter counter
COPY gateway gateway
COPY proto proto
COPY crates crates
COPY fuzz fuzz
COPY bench bench
COPY web web
COPY --from=page /web/dist web/dist
# Cargo and the build scripts compare modification times: the sources must be newer than the empty crates, and the bundled
# page newer than its sources.
RUN find src auth dialog counter gateway proto crates fuzz bench -type f -exec touch {} + \
    && find web/dist -type f -exec touch {} + \
    && cargo build --release --locked --bin tidings --features "$FEATURES"
COPY deploy/image.sh deploy/image.sh
RUN deploy/image.sh target/release/tidings /image

# Debug information of the program: `docker build --target debug --output FOLDER .`
FROM scratch AS debug
COPY --from=build /image/tidings.debug /

# Only the program and the C library: no shell, no package that needs updates.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidings" \
    org.opencontainers.image.description="A chat backend whose unread counts are exact and live" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/root/ /
COPY --from=build --chown=10001:10001 /image/owned/ /
USER 10001:10001
ENV LISTEN=0.0.0.0:8080 \
    OPS_LISTEN=0.0.0.0:9090 \
    DATA_DIR=/data \
    LOG_FORMAT=json
EXPOSE 8080 9090
# The image has no HTTP client, so the program itself requests /readyz at OPS_LISTEN.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["tidings", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidings"]
CMD ["serve"]

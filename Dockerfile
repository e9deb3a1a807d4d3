# One image for all roles: `docker run IMAGE auth`, `gateway` and so on; without a word it is `serve`, everything in one
# process on SQLite in /data. The build needs the package registries; the image needs nothing, and runs on a read-only disk as
# a user without rights.

# The page at /, bundled.
FROM node:22.20.0-bookworm-slim AS page
WORKDIR /web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY web ./
RUN node build.mjs

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tidings
ENV CARGO_INCREMENTAL=0
# The dependencies in a layer of their own, which stays until a manifest or the lock file changes: every crate of ours is an
# empty one here, with a build script where it has one, so that what those need is built too.
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
COPY crates/redis-link/Cargo.toml crates/redis-link/
COPY crates/resilience/Cargo.toml crates/resilience/
COPY crates/telemetry/Cargo.toml crates/telemetry/
COPY crates/testkit/Cargo.toml crates/testkit/
COPY crates/wake/Cargo.toml crates/wake/
COPY fuzz/Cargo.toml fuzz/
RUN for crate in auth dialog counter gateway proto crates/* fuzz; do \
        mkdir "$crate/src" && touch "$crate/src/lib.rs" && echo 'fn main() {}' >"$crate/build.rs"; \
    done \
    && mkdir src && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --bin tidings \
    && rm -r src auth dialog counter gateway proto crates fuzz
COPY src src
COPY auth auth
COPY dialog dialog
COPY counter counter
COPY gateway gateway
COPY proto proto
COPY crates crates
COPY fuzz fuzz
COPY web web
COPY --from=page /web/dist web/dist
# Cargo and the build scripts go by the time of a file: all of these are newer than the empty ones, and the page is newer
# than its sources.
RUN find src auth dialog counter gateway proto crates fuzz -type f -exec touch {} + \
    && find web/dist -type f -exec touch {} + \
    && cargo build --release --locked --bin tidings

FROM debian:12.11-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidings" \
    org.opencontainers.image.description="A backend for conversations whose unread counts are exact and live" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
# A volume that is mounted on one of these folders for the first time takes over its owner.
RUN install -d -o 10001 -g 10001 -m 700 /data /keys/signing /keys/token
COPY --from=build /tidings/target/release/tidings /usr/local/bin/tidings
USER 10001:10001
ENV LISTEN=0.0.0.0:8080 \
    OPS_LISTEN=0.0.0.0:9090 \
    DATA_DIR=/data \
    LOG_FORMAT=json
EXPOSE 8080 9090
# No HTTP client is in the image: the program asks the role that runs beside it, at OPS_LISTEN.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["tidings", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidings"]
CMD ["serve"]

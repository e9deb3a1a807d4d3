# shellcheck shell=bash
# Builds the whole Dockerfile on stand-ins of its base images, when it or a manifest has changed since the last time: the file
# `whole.sum` beside this one has the checksum of that time. Sourced, not run.

# Debian's release in the tags of the base images.
base_release=bookworm

whole_sum() (
    cd "$root"
    find Dockerfile .dockerignore deploy/image.sh Cargo.toml web/package.json {auth,dialog,counter,gateway,proto,fuzz,bench/load,crates/*}/Cargo.toml |
        LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1
)

whole_is_due() {
    case ${WHOLE:-auto} in
        0) return 1 ;;
        1) return 0 ;;
    esac
    [ "$(whole_sum)" != "$(cat "$here/whole.sum" 2>/dev/null)" ]
}

# Base images with the toolchains of this machine. Rust optimises nothing here, which takes a third of the time: what is proved
# is that the Dockerfile builds, from the manifests that it copies to an image that runs.
make_base_images() {
    local tree=$work/base toolchain node
    if [ ! -e "$tree.done" ]; then
        rm -rf "$tree"
        debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates "$base_release" "$tree" >"$tree.log" 2>&1 9>&-
        # This machine may reach the registries through a proxy with a certificate of its own.
        cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/"
        cp /etc/apt/apt.conf.d/*proxy* "$tree/etc/apt/apt.conf.d/" 2>/dev/null || true
        touch "$tree.done"
    fi
    tar -C "$tree" -cf - . | docker import - base:1.0 >/dev/null
    toolchain=$(rustc --print sysroot)
    base_image rust --exclude=./share/doc -C "$toolchain" . <<'DOCKERFILE'
FROM base:1.0
ADD files.tar /usr/local/
ENV CARGO_HOME=/usr/local/cargo CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0
DOCKERFILE
    node=$(dirname "$(dirname "$(realpath "$(command -v node)")")")
    base_image node -C "$node" bin/node lib/node_modules/npm <<'DOCKERFILE'
FROM base:1.0
ADD files.tar /usr/local/
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
DOCKERFILE
}

# Builds a base image from the Dockerfile on standard input and an archive of files: base_image NAME TAR-ARGUMENTS…
base_image() {
    local name=$1 folder=$work/base-$1
    shift
    mkdir -p "$folder"
    cat >"$folder/Dockerfile"
    tar -cf "$folder/files.tar" "$@"
    build "$folder" --network=host --tag "$(grep -o "^FROM $name:[^ ]*" "$root/Dockerfile" | cut -d' ' -f2)" >/dev/null
    rm -r "$folder"
}

build_whole() {
    start_engine host 9>&-
    make_base_images
    step "base images with the toolchains of this machine"
    DOCKER_BUILDKIT=0 docker build "$root" --network=host --tag tidings:whole >"$work/whole.log" 2>&1 ||
        { tail -n 40 "$work/whole.log" >&2; fail "the Dockerfile"; }
    stop_engine
    whole_sum >"$here/whole.sum"
    step "the whole Dockerfile; commit tests/containers/whole.sum"
}

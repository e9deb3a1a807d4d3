# shellcheck shell=bash
# Small images with the names that docker-compose.yml uses, for machines that cannot pull: Debian's packages of PostgreSQL,
# Redis, HAProxy and Prometheus, and the jars of Kafka that `make engines` uses. They have the users, folders, volumes and commands of the
# originals, as far as docker-compose.yml relies on them. Sourced, not run.

# Debian's release with the HAProxy of docker-compose.yml, and with the compose plugin, which runs on older ones too.
release=trixie
packages=(postgresql-17 redis-server haproxy prometheus python3-grpcio openjdk-21-jre-headless wget)

# Creates a Debian system with all packages in $work/tree.
make_tree() {
    local tree=$work/tree
    rm -rf "$tree"
    debootstrap --variant=minbase "$release" "$tree"
    # No service is started and no database cluster is created.
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    mkdir -p "$tree/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$tree/etc/postgresql-common/createcluster.conf"
    # Java's package needs /proc. The mount ends with the namespace.
    unshare --mount --pid --fork --mount-proc="$tree/proc" chroot "$tree" env DEBIAN_FRONTEND=noninteractive LC_ALL=C sh -c '
        apt-get -qq update &&
        apt-get -qq install -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io "$@" &&
        cd /tmp && apt-get -qq download docker-compose && dpkg -x docker-compose_*.deb compose &&
        apt-get clean && rm -rf /var/lib/apt/lists/* /tmp/*.deb' _ "${packages[@]}"
    mkdir -p "$DOCKER_CONFIG/cli-plugins"
    mv "$tree/tmp/compose/usr/libexec/docker/cli-plugins/docker-compose" "$DOCKER_CONFIG/cli-plugins/"
    rm -rf "$tree/tmp/compose"
}

# Builds a folder as an image under the name that docker-compose.yml uses: make_stand_in NAME FOLDER [OPTION…]
make_stand_in() {
    local name=$1 folder=$2 image
    shift 2
    image=$(grep -o "image: .*$name:.*" "$root/docker-compose.yml" | head -n 1 | grep -o '[^ ]*$')
    build "$folder" --tag "$image" "$@" >"$work/$name.log" 2>&1 || { cat "$work/$name.log" >&2; return 1; }
}

# Builds a file server in place of a program: make_placeholder NAME USER USER-ID PORT FILE-OF-HEALTH-CHECK
make_placeholder() {
    make_stand_in "$1" "$here/images/placeholder" --build-arg USER_NAME="$2" --build-arg USER_ID="$3" --build-arg PORT="$4" \
        --build-arg HEALTH="$5"
}

# The classic builder, because the other one would look for newer base images in a registry.
build() { DOCKER_BUILDKIT=0 docker build --quiet "$@" 2> >(grep -v -e '^DEPRECATED' -e '^ ' -e '^$' >&2); }

make_stand_ins() {
    local name
    docker image inspect stand-in:1.0 >/dev/null 2>&1 || tar -C "$work/tree" -cf - . | docker import - stand-in:1.0 >/dev/null
    printf 'FROM stand-in:1.0\nCOPY . /opt/kafka/libs/\n' | build --tag stand-in-kafka:1.0 --file - "$kafka_jars" >/dev/null
    for name in haproxy redis postgres kafka prometheus jaeger; do make_stand_in "$name" "$here/images/$name"; done
    make_placeholder grafana grafana 472 3000 api/health
    make_placeholder kafka-ui kafkaui 100 8080 actuator/health
}

# Builds the last stage of the Dockerfile around a program that is already built: make_image REVISION
make_image() {
    local folder=$work/image
    if [ ! "$folder/root" -nt "$program" ]; then "$root/deploy/image.sh" "$program" "$folder"; fi
    awk '/^FROM /{ stage = "" } { stage = stage $0 "\n" } END { printf "%s", stage }' "$root/Dockerfile" |
        sed 's#^COPY --from=build \(.*\)/image/#COPY \1#' >"$folder/Dockerfile"
    build "$folder" --build-arg REVISION="$1" --tag tidings:local
}

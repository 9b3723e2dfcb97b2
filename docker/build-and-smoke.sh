#!/usr/bin/env bash
# Builds the image without a container engine and without an image registry, and runs the smoke test in it. Debian, as root.
#   docker/build-and-smoke.sh
# The build stage's base image is made on the spot: a minimal Debian with a C compiler and this machine's Rust toolchain.
# Where docker is at hand, `docker build .` does the same from the published base image.
set -euo pipefail
cd "$(dirname "$0")/.."

limit_mb=50
port=18000
work=target/image
store=(--root "$PWD/$work/storage" --runroot "$PWD/$work/run" --storage-driver vfs)
base=localhost/openelm-build-base
image=localhost/openelm-server

need=(buildah debootstrap curl)
missing=()
for tool in "${need[@]}"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
mkdir -p "$work"

echo "== base of the build stage"
if ! buildah "${store[@]}" inspect --type image "$base" >/dev/null 2>&1; then
    [ -d "$work/root" ] || debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$work/root" >/dev/null
    container=$(buildah "${store[@]}" from scratch)
    buildah "${store[@]}" add --quiet "$container" "$work/root" / >/dev/null
    buildah "${store[@]}" add --quiet "$container" "$(rustc --print sysroot)" /usr/local/rust >/dev/null
    buildah "${store[@]}" config --env PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin --env CARGO_HOME=/usr/local/cargo "$container"
    buildah "${store[@]}" commit --quiet --rm "$container" "$base" >/dev/null
fi

echo "== build"
cargo fetch --locked --quiet
registry="${CARGO_HOME:-$HOME/.cargo}/registry"
buildah "${store[@]}" bud --isolation chroot --pull-never --format docker --layers=false \
    --volume "$registry:/usr/local/cargo/registry" --env CARGO_NET_OFFLINE=true \
    --build-arg "RUST_IMAGE=$base" --tag "$image" .

echo "== size"
container=$(buildah "${store[@]}" from --pull-never "$image")
mounted=$(buildah "${store[@]}" mount "$container")
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    buildah "${store[@]}" umount "$container" >/dev/null
    buildah "${store[@]}" rm "$container" >/dev/null
}
trap finish EXIT
size_mb=$(du -sm "$mounted" | cut -f1)
echo "$size_mb MB (limit $limit_mb MB)"
[ "$size_mb" -lt "$limit_mb" ]
buildah "${store[@]}" inspect --type image --format '{{.Docker.Config.Healthcheck.Test}} user={{.Docker.Config.User}}' "$image"
echo

echo "== smoke test"
inside() { buildah "${store[@]}" run --isolation chroot --env "OPENELM_PORT=$port" "$container" -- /usr/local/bin/openelm-server "$@"; }
inside serve &
server=$!
url="http://127.0.0.1:$port"
for _ in $(seq 100); do
    curl -fsS -o /dev/null "$url/readyz" 2>/dev/null && break
    sleep 0.1
done
inside healthcheck
process=$(pgrep -nf "^/usr/local/bin/openelm-server serve")
[ "$(awk '/^Uid:/ {print $2}' "/proc/$process/status")" = 65532 ]
curl -fsS "$url/v1/completions" -H 'content-type: application/json' \
    -d '{"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}' | grep -q '"text"'
curl -fsSN "$url/v1/chat/completions" -H 'content-type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Hello!"}], "stream": true}' | grep -q '^data: \[DONE\]'
kill -TERM "$process"
wait "$server" && status=0 || status=$?
server=
echo "exit status after SIGTERM: $status"
[ "$status" -eq 0 ]
if inside healthcheck 2>/dev/null; then
    echo "healthcheck does not notice that the server is gone" >&2
    exit 1
fi
echo "== image ok: $size_mb MB"

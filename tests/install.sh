#!/usr/bin/env bash
# Installs what the tests need and is not there yet. Run it as often as you like.
#   Debian packages   compiler, Python with venv, Node with npm, curl, shellcheck (as root or through sudo)
#   Rust for macOS    the target's standard library, or Debian's rustc with the library's source: see tests/gpu/metal-types.sh
#   target/tools      promtool, taken out of Debian's prometheus package: nothing is started on the machine
#   target/venv       Python packages of tests/clients/python/requirements.txt
#   target/venv-openai2   those of tests/clients/python/openai2/requirements.txt: clients that need version 2 of the openai package
#   tests/clients/node/node_modules   the packages of package-lock.json
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

updated=no
update_once() {
    if [ "$updated" = no ]; then
        as_root apt-get update -qq
        updated=yes
    fi
}

has() { command -v "$1" >/dev/null 2>&1; }

missing=()
has cc || missing+=(gcc libc6-dev)
has c++ || missing+=(g++)
has curl || missing+=(curl)
has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
has node || missing+=(nodejs)
has npm || missing+=(npm)
has shellcheck || missing+=(shellcheck)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    update_once
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! has cargo; then
    echo "cargo is missing: install Rust 1.95 or later with rustup (https://rustup.rs)" >&2
    exit 1
fi

tests/gpu/metal-types.sh install

if [ ! -x target/tools/promtool ] && ! has promtool; then
    echo "fetching promtool"
    update_once
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    chmod 755 "$folder"
    (cd "$folder" && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb unpacked)
    mkdir -p target/tools
    mv "$folder/unpacked/usr/bin/promtool" target/tools/
fi

install_python() {
    local folder=$1 requirements=$2
    if ! cmp -s "$requirements" "$folder/.installed"; then
        echo "installing Python packages into $folder"
        python3 -m venv --clear "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
        cp "$requirements" "$folder/.installed"
    fi
}
install_python target/venv tests/clients/python/requirements.txt
install_python target/venv-openai2 tests/clients/python/openai2/requirements.txt

lock=tests/clients/node/package-lock.json
stamp=tests/clients/node/node_modules/.installed
if ! cmp -s "$lock" "$stamp"; then
    echo "installing Node packages"
    npm ci --prefix tests/clients/node --no-audit --no-fund --silent
    cp "$lock" "$stamp"
fi

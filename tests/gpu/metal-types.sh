#!/usr/bin/env bash
# Checks the crate with the feature `metal` for macOS, on any machine: its types and warnings, and clippy's. Nothing is linked or run, and no
# dependency needs a C compiler for that target.
#   tests/gpu/metal-types.sh install   gets what the check needs and is not there yet
#   tests/gpu/metal-types.sh           checks
# With rustup this is the target's standard library. Elsewhere Debian's rustc builds one from its source, without clippy.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-apple-darwin

has_target() { [ -d "$(rustc --print target-libdir --target "$target")" ]; }
has_source() { [ -x /usr/bin/rustc ] && [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]; }

install() {
    if has_target || has_source || timeout 300 rustup target add "$target"; then
        return
    fi
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends rustc-web rust-web-src >/dev/null
}

check() {
    # Dependencies' macros are built for this check: optimising them, as elsewhere, takes longer than all else.
    local arguments=(--quiet --locked --target "$target" --features metal --config 'profile.dev.package."*".opt-level=0')
    if has_target; then
        cargo clippy "${arguments[@]}" -- -D warnings
    else
        RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" cargo check "${arguments[@]}" "-Zbuild-std=std,panic_abort"
    fi
}

case "${1:-check}" in
install) install ;;
check) check ;;
*)
    echo "metal-types: expected install or nothing, see the head of this file" >&2
    exit 2
    ;;
esac

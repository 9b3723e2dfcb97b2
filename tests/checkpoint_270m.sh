#!/usr/bin/env bash
# Serves a random bf16 checkpoint of the shape of OpenELM-270M, talks to it and prints what it measured.
# The checkpoint (543 MB) is made once, under target/checkpoints. A baseline, not a benchmark: one run, whatever else the machine does.
set -euo pipefail
cd "$(dirname "$0")/.."

checkpoint=target/checkpoints/openelm-270m-bf16
if [ ! -f "$checkpoint/complete" ]; then
    target/venv/bin/python tests/tools/make_checkpoint.py --size 270M --dtype bf16 --out "$checkpoint"
    target/venv/bin/python tests/tools/make_tokenizer.py "$checkpoint"
    touch "$checkpoint/complete"
fi
CHECKPOINT="$PWD/$checkpoint" target/venv/bin/pytest -p no:cacheprovider --quiet -s tests/clients/python/checkpoint_270m.py

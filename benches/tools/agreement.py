#!/usr/bin/env python3
"""Whether openelm-server and llama.cpp read each other's GGUF files and continue prompts alike.

The golden checkpoints of tests/golden, written by `openelm-server quantize` and by llama-quantize, are served by both, and their greedy
tokens compared. `benches/compare.sh --golden` calls this. The status is 1 when a file in f32 or f16 is continued differently.

Both sides compute f32 and f16 files alike. In blocks each rounds activations in its own way, so tokens may part where two are nearly as
likely. Golden weights are random, so that this happens more often than with trained ones.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

from compare import FOLDER, ROOT, SERVER, clean_environment, free_port, post, started

GOLDEN = ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd64-gqa4-bf16"]
OUR_TYPES = ["bf16", "q8_0", "q4_0"]
# Five-bit blocks are widened to 16 bits here. K-quants take rows of 256, which these models do not have.
PEER_TYPES = ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# Neither side rounds activations.
EXACT = ["f32", "f16"]
EOS = 2


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\nended with status {done.returncode}:\n{done.stderr[-2000:]}")


def files_of(name):
    """Every file of a golden checkpoint: who wrote it, its type, and where it is."""
    folder = FOLDER / "golden"
    checkpoint = folder / name
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "golden" / name, checkpoint)
    run(sys.executable, "tests/tools/make_tokenizer.py", checkpoint)
    for kind in OUR_TYPES:
        file = folder / f"{name}-ours-{kind}.gguf"
        run(SERVER, "quantize", checkpoint, file, "--type", kind)
        yield "openelm-server", kind, file
    for kind in PEER_TYPES:
        file = folder / f"{name}-peer-{kind}.gguf"
        run(FOLDER / "build/bin/llama-quantize", "--pure", folder / f"{name}-ours-bf16.gguf", file, kind)
        yield "llama.cpp", kind.lower(), file


def greedy(port, case, is_ours):
    """The tokens that a server puts after a prompt, end-of-sequence ruled out."""
    count = len(case["greedy_new_tokens"])
    if is_ours:
        body = {"max_tokens": count, "logit_bias": {str(EOS): -100}, "return_token_ids": True}
        answer = post(port, "/v1/completions", {"prompt": case["input_ids"], "temperature": 0, **body})
        return answer["choices"][0]["token_ids"]
    body = {"n_predict": count, "ignore_eos": True, "return_tokens": True, "cache_prompt": False}
    return post(port, "/completion", {"prompt": case["input_ids"], "temperature": 0, **body})["tokens"]


def continuations(file, cases, is_ours):
    if is_ours:
        command = [SERVER, "serve", "--model", str(file), "--kv-cache-dtype", "float32", "--log-level", "warn"]
    else:
        command = [f"{FOLDER}/build/bin/llama-server", "-m", str(file), "-np", "1", "-c", "512", "-ctk", "f32", "-ctv", "f32"]
    port = free_port()
    with started(f"golden-{'ours' if is_ours else 'peer'}", command, port):
        return [greedy(port, case, is_ours) for case in cases]


def equal_before_parting(a, b):
    return next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))


def compare(file, cases):
    """Of each case: tokens that are equal before the first difference, and all of them."""
    ours, peer = (continuations(file, cases, is_ours) for is_ours in (True, False))
    return [(equal_before_parting(a, b), len(a)) for a, b in zip(ours, peer, strict=True)]


def main():
    os.chdir(ROOT)
    # So that servers are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    clean_environment()
    print(f"{'checkpoint':<20}  {'written by':<14}  {'type':<5}  {'equal sequences':>15}  {'equal tokens before they part':>30}")
    wrong = []
    for name in GOLDEN:
        cases = json.loads((ROOT / "tests" / "golden" / name / "golden.json").read_text())["cases"]
        for writer, kind, file in files_of(name):
            found = compare(file, cases)
            whole, equal, all_tokens = sum(a == b for a, b in found), sum(a for a, _ in found), sum(b for _, b in found)
            sequences, tokens = f"{whole} of {len(cases)}", f"{equal} of {all_tokens}"
            print(f"{name:<20}  {writer:<14}  {kind:<5}  {sequences:>15}  {tokens:>30}", flush=True)
            if kind in EXACT and equal < all_tokens:
                wrong.append(f"{name} in {kind}")
    if wrong:
        raise SystemExit(f"the sides do not compute the same model: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

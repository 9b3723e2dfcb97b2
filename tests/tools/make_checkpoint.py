#!/usr/bin/env python3
"""Random-weight OpenELM checkpoint of a published size, in the Hugging Face layout (numpy only).

  make_checkpoint.py --size 270M --dtype bf16 --out out/openelm-270M
  make_checkpoint.py --size 3B   --dtype bf16 --out out/openelm-3B --max-shard-bytes 5000000000

Sizes: 270M 450M 1_1B 3B. dtypes: f32 f16 bf16.
Init: linear N(0, 1/fan_in), embedding N(0, 1/model_dim), out_proj and proj_2 N(0, 1/(model_dim*2*layers)),
norm gains 1; logits come out with a standard deviation near 1. Same seed, size and dtype => same bytes.
--tile N repeats one block of N random values (fast to write; same arithmetic cost when run).
"""

import argparse
import json
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import openelm_ref as R  # noqa: E402


def maker(name, shape, cfg, rng, tile):
    d, n = cfg["model_dim"], cfg["num_transformer_layers"]

    def make():
        if "norm" in name:
            return np.ones(shape, np.float32)
        if name.endswith("out_proj.weight") or name.endswith("proj_2.weight"):
            std = (d * 2 * n) ** -0.5
        else:
            std = shape[1] ** -0.5
        count = int(np.prod(shape))
        if tile and count > tile:
            block = rng.standard_normal(tile, dtype=np.float32) * np.float32(std)
            return np.resize(block, count).reshape(shape)
        out = np.empty(count, np.float32)
        for s in range(0, count, 1 << 24):
            out[s : s + (1 << 24)] = rng.standard_normal(min(1 << 24, count - s), dtype=np.float32)
        out *= np.float32(std)
        return out.reshape(shape)

    return make


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--size", choices=list(R.PUBLISHED), required=True)
    ap.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="bf16")
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--max-shard-bytes", type=int, default=5_000_000_000)
    ap.add_argument("--tile", type=int, default=0)
    a = ap.parse_args()
    td = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[a.dtype]
    sz = 4 if a.dtype == "f32" else 2
    cfg = R.hf_config(torch_dtype=td, **R.PUBLISHED[a.size])
    os.makedirs(a.out, exist_ok=True)
    json.dump(cfg, open(os.path.join(a.out, "config.json"), "w"), indent=2)
    json.dump(
        {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.39.3"},
        open(os.path.join(a.out, "generation_config.json"), "w"),
        indent=2,
    )
    rng = np.random.default_rng(a.seed)
    shards, cur, used, total = [], [], 0, 0
    for name, shape in R.tensor_shapes(cfg).items():
        b = int(np.prod(shape)) * sz
        if cur and used + b > a.max_shard_bytes:
            shards.append(cur)
            cur, used = [], 0
        cur.append((name, shape, maker(name, shape, cfg, rng, a.tile)))
        used += b
        total += b
    shards.append(cur)
    t0, wmap = time.time(), {}
    for i, items in enumerate(shards):
        fn = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        R.write_safetensors(os.path.join(a.out, fn), items, dtype=a.dtype.upper())
        wmap.update({n: fn for n, _, _ in items})
    if len(shards) > 1:
        json.dump(
            {"metadata": {"total_size": total}, "weight_map": wmap},
            open(os.path.join(a.out, "model.safetensors.index.json"), "w"),
            indent=2,
        )
    print(f"{a.size} {a.dtype}: {R.count(cfg)} parameters, {total} tensor bytes, {len(shards)} file(s), {time.time() - t0:.1f} s")


if __name__ == "__main__":
    main()

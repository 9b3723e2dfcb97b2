#!/usr/bin/env python3
"""Writes DIR/<name>/{config.json,generation_config.json,model.safetensors,golden.json} (numpy only).

  make_golden.py [DIR]        default: tests/golden

Truth is the float64 numpy reference over the float32 weights in the file. The greedy paths keep a distance of at least
MIN_GAP between the two largest logits, so that a correct implementation in f32 cannot leave them."""

import hashlib
import json
import os
import sys

import numpy as np
import openelm_ref as R

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
MODELS = {
    # name: (config kwargs, seed)
    "tiny-hd64-gqa4": (
        dict(
            num_transformer_layers=3,
            model_dim=128,
            head_dim=64,
            num_gqa_groups=4,
            qkv_multipliers=(2.0, 6.0),
            ffn_multipliers=(0.5, 1.5),
            ffn_dim_divisor=32,
            vocab_size=384,
            max_context_length=256,
            rope_max_length=512,
        ),
        11,
    ),
    "tiny-hd32-gqa2": (
        dict(
            num_transformer_layers=5,
            model_dim=96,
            head_dim=32,
            num_gqa_groups=2,
            qkv_multipliers=(0.5, 2.0),
            ffn_multipliers=(0.5, 4.0),
            ffn_dim_divisor=16,
            vocab_size=500,
            max_context_length=256,
            rope_max_length=512,
            rope_freq_constant=1000,
        ),
        22,
    ),
    "tiny-hd128-gqa3": (
        dict(
            num_transformer_layers=2,
            model_dim=128,
            head_dim=128,
            num_gqa_groups=3,
            qkv_multipliers=(3.0, 6.0),
            ffn_multipliers=(0.5, 4.0),
            ffn_dim_divisor=64,
            vocab_size=512,
            max_context_length=256,
            rope_max_length=512,
        ),
        33,
    ),
}
LENGTHS = [1, 2, 3, 7, 16, 33, 64, 100, 128, 200]
N_NEW = 32
MIN_GAP = 0.03


def weights(c, seed):
    rng = np.random.default_rng(seed)
    d, out = c["model_dim"], {}
    for name, shape in R.tensor_shapes(c).items():
        if "norm" in name:
            a = 1.0 + 0.25 * rng.standard_normal(shape)
        elif "token_embeddings" in name or "lm_head" in name:
            a = 2.0 * d**-0.5 * rng.standard_normal(shape)
        elif name.endswith("out_proj.weight") or name.endswith("proj_2.weight"):
            a = 1.2 * shape[1] ** -0.5 * rng.standard_normal(shape)
        else:
            a = 1.3 * shape[1] ** -0.5 * rng.standard_normal(shape)
        out[name] = a.astype(np.float32)
    return out


def f32(v):
    # shortest decimal that round-trips through float32
    return [float(str(x)) for x in np.asarray(v).astype(np.float32)]


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else GOLDEN
    for name, (kw, seed) in MODELS.items():
        path = os.path.join(target, name)
        os.makedirs(path, exist_ok=True)
        c = R.hf_config(**kw)
        json.dump(c, open(os.path.join(path, "config.json"), "w"), indent=2)
        json.dump(
            {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.39.3"},
            open(os.path.join(path, "generation_config.json"), "w"),
            indent=2,
        )
        w = weights(c, seed)
        st = os.path.join(path, "model.safetensors")
        R.write_safetensors(st, [(k, v.shape, (lambda v=v: v)) for k, v in w.items()])
        m = R.OpenELM(c, w, np.float64)
        rng = np.random.default_rng(seed + 1000)
        cases = []
        for n in LENGTHS:
            for attempt in range(200):
                ids = (
                    [1] + [int(x) for x in rng.integers(3, c["vocab_size"], size=n - 1)]
                    if n > 1
                    else [int(rng.integers(3, c["vocab_size"])) if attempt else 1]
                )
                new, gap = m.greedy(ids, N_NEW)
                if gap >= MIN_GAP and len(set(new)) >= 5:
                    break
            lg = m.forward(ids)
            mx = lg.max(axis=-1)
            lse = mx + np.log(np.exp(lg - mx[:, None]).sum(axis=-1))
            pos = sorted({0, n // 2, n - 1})
            nll = [float(lse[t] - lg[t, ids[t + 1]]) for t in range(n - 1)]
            cases.append(
                {
                    "length": n,
                    "input_ids": ids,
                    "logits": {str(t): f32(lg[t]) for t in pos},
                    "argmax_per_position": [int(x) for x in lg.argmax(axis=-1)],
                    "logsumexp_per_position": f32(lse),
                    "logit_sum_per_position": f32(lg.sum(axis=-1)),
                    "next_token_nll_per_position": f32(nll),
                    "greedy_new_tokens": new,
                    "greedy_min_top1_top2_gap": gap,
                }
            )
            print(name, "len", n, "gap %.4f" % gap, "distinct", len(set(new)), "max|logit| %.2f" % np.abs(lg).max())
        e = R.expand_config(c)
        json.dump(
            {
                "format": "openelm-golden-1",
                "model": name,
                "truth": "numpy float64 forward over the float32 weights; values printed as float32",
                "model_safetensors_sha256": hashlib.sha256(open(st, "rb").read()).hexdigest(),
                "parameters": R.count(c),
                "derived": {"q_heads": e["q_heads"], "kv_heads": e["kv_heads"], "ffn_dims": e["ffn_dims"]},
                "suggested_tolerance_f32_abs": 2e-4,
                "cases": cases,
            },
            open(os.path.join(path, "golden.json"), "w"),
        )
        print(name, "params", R.count(c), "bytes", os.path.getsize(st), e)


if __name__ == "__main__":
    main()

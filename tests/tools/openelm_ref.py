"""A plain numpy reference of the OpenELM family: the truth of `tests/golden`.

* `make_divisible`, `expand_config`: layer-wise scaling, as in the published configs
* `write_safetensors`, `read_safetensors`: the format, as far as needed (F32, F16, BF16)
* `OpenELM`: forward pass with a KV cache, in any numpy float dtype
"""

import json
import os
import struct

import numpy as np

# ---------------------------------------------------------------- scaling ----


def make_divisible(v, divisor):
    """Round v to the nearest multiple of divisor (ties up), never below divisor,
    and one step further up when rounding would lose more than 10 per cent."""
    rounded = (int(v + divisor / 2) // divisor) * divisor
    rounded = max(divisor, rounded)
    if rounded < 0.9 * v:
        rounded += divisor
    return int(rounded)


def spread(lo, hi, n):
    """n values from lo to hi inclusive, each rounded to two decimals (half-even
    on the binary value, as Python's round does)."""
    return [round(float(x), 2) for x in np.linspace(lo, hi, num=n, dtype=float)]


def expand_config(c):
    """Return a dict with per-layer lists filled in: q_heads, kv_heads, ffn_dims."""
    n = c["num_transformer_layers"]
    d, hd, g = c["model_dim"], c["head_dim"], c["num_gqa_groups"]
    if isinstance(c.get("num_query_heads"), list) and isinstance(c.get("num_kv_heads"), list):
        q, kv = list(c["num_query_heads"]), list(c["num_kv_heads"])
    else:
        m = c["qkv_multipliers"]
        mult = spread(m[0], m[1], n) if isinstance(m, (list, tuple)) else [m] * n
        q = [make_divisible(d * x, hd * g) // hd for x in mult]
        kv = [x // g for x in q]
    f = c["ffn_multipliers"]
    if isinstance(f, (int, float)):
        fm = [f] * n
    elif len(f) == 2 and n != 2:
        fm = spread(f[0], f[1], n)
    else:
        fm = list(f)
    ffn = [make_divisible(x * d, c["ffn_dim_divisor"]) for x in fm]
    assert len(q) == len(kv) == len(ffn) == n
    return {"q_heads": q, "kv_heads": kv, "ffn_dims": ffn, "ffn_multipliers": fm}


PUBLISHED = {
    "270M": dict(num_transformer_layers=16, model_dim=1280, head_dim=64),
    "450M": dict(num_transformer_layers=20, model_dim=1536, head_dim=64),
    "1_1B": dict(num_transformer_layers=28, model_dim=2048, head_dim=64),
    "3B": dict(num_transformer_layers=36, model_dim=3072, head_dim=128),
}


def hf_config(
    num_transformer_layers,
    model_dim,
    head_dim,
    vocab_size=32000,
    num_gqa_groups=4,
    qkv_multipliers=(0.5, 1.0),
    ffn_multipliers=(0.5, 4.0),
    ffn_dim_divisor=256,
    rope_freq_constant=10000,
    max_context_length=2048,
    rope_max_length=4096,
    torch_dtype="float32",
    tied=True,
):
    """A config.json in the published key set (lists already expanded)."""
    c = {
        "activation_fn_name": "swish",
        "architectures": ["OpenELMForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_openelm.OpenELMConfig",
            "AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM",
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "ffn_dim_divisor": ffn_dim_divisor,
        "ffn_multipliers": list(ffn_multipliers),
        "ffn_with_glu": True,
        "head_dim": head_dim,
        "initializer_range": 0.02,
        "max_context_length": max_context_length,
        "model_dim": model_dim,
        "model_type": "openelm",
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "num_gqa_groups": num_gqa_groups,
        "num_kv_heads": None,
        "num_query_heads": None,
        "num_transformer_layers": num_transformer_layers,
        "qkv_multipliers": list(qkv_multipliers),
        "rope_freq_constant": rope_freq_constant,
        "rope_max_length": rope_max_length,
        "share_input_output_layers": tied,
        "torch_dtype": torch_dtype,
        "transformers_version": "4.39.3",
        "use_cache": True,
        "vocab_size": vocab_size,
    }
    e = expand_config(c)
    c["num_query_heads"], c["num_kv_heads"] = e["q_heads"], e["kv_heads"]
    c["ffn_multipliers"] = e["ffn_multipliers"]
    return c


def tensor_shapes(c):
    """Ordered {name: shape} of the HF checkpoint."""
    e = expand_config(c)
    d, hd = c["model_dim"], c["head_dim"]
    out = {"transformer.token_embeddings.weight": (c["vocab_size"], d)}
    for i in range(c["num_transformer_layers"]):
        p = f"transformer.layers.{i}."
        q, kv, f = e["q_heads"][i], e["kv_heads"][i], e["ffn_dims"][i]
        out[p + "attn.k_norm.weight"] = (hd,)
        out[p + "attn.out_proj.weight"] = (d, q * hd)
        out[p + "attn.q_norm.weight"] = (hd,)
        out[p + "attn.qkv_proj.weight"] = ((q + 2 * kv) * hd, d)
        out[p + "attn_norm.weight"] = (d,)
        out[p + "ffn.proj_1.weight"] = (2 * f, d)
        out[p + "ffn.proj_2.weight"] = (d, f)
        out[p + "ffn_norm.weight"] = (d,)
    out["transformer.norm.weight"] = (d,)
    if not c["share_input_output_layers"]:
        out["lm_head.weight"] = (c["vocab_size"], d)
    return out


# ------------------------------------------------------------ safetensors ----

_NP = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


def to_bf16_bits(a):
    u = np.ascontiguousarray(a, dtype="<f4").view("<u4")
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2")  # round to nearest even


def write_safetensors(path, items, dtype="F32", metadata=None):
    """items: list of (name, shape, callable -> float32 array). Streams tensor by tensor."""
    size = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}[dtype]
    head, off = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, shape, _ in items:
        n = int(np.prod(shape)) * size
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [off, off + n]}
        off += n
    raw = json.dumps(head, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as fh:
        fh.write(struct.pack("<Q", len(raw)))
        fh.write(raw)
        for name, shape, make in items:
            a = np.asarray(make())
            assert a.shape == tuple(shape), (name, a.shape, shape)
            fh.write((to_bf16_bits(a) if dtype == "BF16" else a.astype(_NP[dtype])).tobytes())
    return off


def read_safetensors(path):
    with open(path, "rb") as fh:
        n = struct.unpack("<Q", fh.read(8))[0]
        head = json.loads(fh.read(n))
        body = fh.read()
    head.pop("__metadata__", None)
    out = {}
    for k, v in head.items():
        s, e = v["data_offsets"]
        if v["dtype"] == "BF16":
            a = (np.frombuffer(body[s:e], "<u2").astype("<u4") << 16).view("<f4")
        else:
            a = np.frombuffer(body[s:e], _NP[v["dtype"]])
        out[k] = a.reshape(v["shape"])
    return out


# ------------------------------------------------------------------ model ----


class OpenELM:
    def __init__(self, config, weights, dtype=np.float64):
        self.c, self.t = config, dtype
        self.e = expand_config(config)
        self.w = {k: np.asarray(v, dtype=dtype) for k, v in weights.items()}
        hd = config["head_dim"]
        k = np.arange(0, hd, 2, dtype=dtype)
        self.inv_freq = (dtype(config["rope_freq_constant"]) ** (-k / dtype(hd))).astype(dtype)

    def rms(self, x, w):
        ms = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(ms + self.t(1e-6)) * w

    def rope(self, x, start):
        # x [T, H, hd]; pairs are (j, j + hd/2)
        T, half = x.shape[0], x.shape[-1] // 2
        ang = (np.arange(start, start + T, dtype=self.t))[:, None] * self.inv_freq[None, :]
        c, s = np.cos(ang)[:, None, :], np.sin(ang)[:, None, :]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)

    def new_cache(self):
        return [None] * self.c["num_transformer_layers"]

    def forward(self, ids, cache=None):
        """ids: list of ints. Returns logits [T, V]; cache (if given) is updated in place."""
        cache = self.new_cache() if cache is None else cache
        hd = self.c["head_dim"]
        start = 0 if cache[0] is None else cache[0][0].shape[0]
        x = self.w["transformer.token_embeddings.weight"][np.asarray(ids)]
        T = len(ids)
        qpos = np.arange(start, start + T)[:, None]
        kpos = np.arange(0, start + T)[None, :]
        visible = kpos <= qpos
        for i in range(self.c["num_transformer_layers"]):
            p = f"transformer.layers.{i}."
            nq, nk, f = self.e["q_heads"][i], self.e["kv_heads"][i], self.e["ffn_dims"][i]
            h = self.rms(x, self.w[p + "attn_norm.weight"])
            qkv = (h @ self.w[p + "attn.qkv_proj.weight"].T).reshape(T, nq + 2 * nk, hd)
            q, k, v = qkv[:, :nq], qkv[:, nq : nq + nk], qkv[:, nq + nk :]
            if self.c["normalize_qk_projections"]:
                q = self.rms(q, self.w[p + "attn.q_norm.weight"])
                k = self.rms(k, self.w[p + "attn.k_norm.weight"])
            q, k = self.rope(q, start), self.rope(k, start)
            if cache[i] is not None:
                k = np.concatenate([cache[i][0], k], axis=0)
                v = np.concatenate([cache[i][1], v], axis=0)
            cache[i] = (k, v)
            out = np.empty((T, nq, hd), dtype=self.t)
            per = nq // nk
            for a in range(nq):
                sc = (q[:, a] @ k[:, a // per].T) * self.t(hd**-0.5)
                sc = np.where(visible, sc, -np.inf)
                sc = np.exp(sc - sc.max(axis=-1, keepdims=True))
                out[:, a] = (sc / sc.sum(axis=-1, keepdims=True)) @ v[:, a // per]
            x = x + out.reshape(T, nq * hd) @ self.w[p + "attn.out_proj.weight"].T
            h = self.rms(x, self.w[p + "ffn_norm.weight"])
            gu = h @ self.w[p + "ffn.proj_1.weight"].T
            gate, up = gu[:, :f], gu[:, f:]
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[p + "ffn.proj_2.weight"].T
        x = self.rms(x, self.w["transformer.norm.weight"])
        head = self.w["transformer.token_embeddings.weight"] if self.c["share_input_output_layers"] else self.w["lm_head.weight"]
        return x @ head.T

    def greedy(self, ids, n):
        """n greedy tokens (EOS ignored), with the smallest top-1/top-2 gap met on the way."""
        cache = self.new_cache()
        lg = self.forward(ids, cache)[-1]
        out, gap = [], np.inf
        for _ in range(n):
            o = np.sort(lg)[-2:]
            gap = min(gap, float(o[1] - o[0]))
            out.append(int(np.argmax(lg)))
            if len(out) < n:
                lg = self.forward([out[-1]], cache)[-1]
        return out, gap


def load(path, dtype=np.float64):
    c = json.load(open(os.path.join(path, "config.json")))
    idx = os.path.join(path, "model.safetensors.index.json")
    if os.path.exists(idx):
        w = {}
        for f in sorted(set(json.load(open(idx))["weight_map"].values())):
            w.update(read_safetensors(os.path.join(path, f)))
    else:
        w = read_safetensors(os.path.join(path, "model.safetensors"))
    return OpenELM(c, w, dtype)


def count(c):
    return sum(int(np.prod(s)) for s in tensor_shapes(c).values())


if __name__ == "__main__":
    for s, kw in PUBLISHED.items():
        c = hf_config(**kw)
        print(s, c["num_query_heads"], c["num_kv_heads"], expand_config(c)["ffn_dims"], count(c))

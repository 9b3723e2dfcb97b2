"""OpenELM architecture in PyTorch (tensor names and config keys of the Hugging Face checkpoints)."""

import json, math, torch, torch.nn as nn, torch.nn.functional as F


def make_divisible(v, divisor, min_value=None):
    min_value = min_value or divisor
    n = max(min_value, int(v + divisor / 2) // divisor * divisor)
    return n + divisor if n < 0.9 * v else n


def make_config(vocab, dim, layers, head_dim=32, gqa=2, qkv=(0.5, 1.0), ffn=(0.5, 4.0), ctx=512, ffn_div=64):
    lin = lambda a, b: [round(a + (b - a) * i / max(1, layers - 1), 2) for i in range(layers)]
    q = [make_divisible(dim * m, head_dim * gqa) // head_dim for m in lin(*qkv)]
    return {
        "activation_fn_name": "swish",
        "architectures": ["OpenELMForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "ffn_dim_divisor": ffn_div,
        "ffn_multipliers": lin(*ffn),
        "ffn_with_glu": True,
        "head_dim": head_dim,
        "initializer_range": 0.02,
        "max_context_length": ctx,
        "model_dim": dim,
        "model_type": "openelm",
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "num_gqa_groups": gqa,
        "num_kv_heads": [h // gqa for h in q],
        "num_query_heads": q,
        "num_transformer_layers": layers,
        "qkv_multipliers": list(qkv),
        "rope_freq_constant": 10000,
        "rope_max_length": 2 * ctx,
        "share_input_output_layers": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": vocab,
    }


class RMSNorm(nn.Module):
    def __init__(self, d, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return y.type_as(x) * self.weight.type_as(x)


def rope(x, cos, sin):  # half-split rotation, x: B,H,S,D
    h = x.shape[-1] // 2
    r = torch.cat((-x[..., h:], x[..., :h]), -1)
    return x * cos.type_as(x) + r * sin.type_as(x)


class Attn(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        self.hq, self.hk, self.d = c["num_query_heads"][i], c["num_kv_heads"][i], c["head_dim"]
        self.qkv_proj = nn.Linear(c["model_dim"], (self.hq + 2 * self.hk) * self.d, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.d), RMSNorm(self.d)
        self.out_proj = nn.Linear(self.hq * self.d, c["model_dim"], bias=False)

    def forward(self, x, cos, sin, cache=None):
        B, S, _ = x.shape
        qkv = self.qkv_proj(x).view(B, S, self.hq + 2 * self.hk, self.d).transpose(1, 2)
        q, k, v = qkv.split([self.hq, self.hk, self.hk], 1)
        q, k = rope(self.q_norm(q), cos, sin), rope(self.k_norm(k), cos, sin)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        g = self.hq // self.hk
        if g > 1:
            k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=S > 1)
        return self.out_proj(y.transpose(1, 2).reshape(B, S, -1))


class FFN(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        h = make_divisible(c["ffn_multipliers"][i] * c["model_dim"], c["ffn_dim_divisor"])
        self.proj_1 = nn.Linear(c["model_dim"], 2 * h, bias=False)
        self.proj_2 = nn.Linear(h, c["model_dim"], bias=False)

    def forward(self, x):
        a, b = self.proj_1(x).chunk(2, -1)
        return self.proj_2(F.silu(a) * b)


class Layer(nn.Module):
    def __init__(self, c, i):
        super().__init__()
        self.attn, self.ffn = Attn(c, i), FFN(c, i)
        self.attn_norm, self.ffn_norm = RMSNorm(c["model_dim"]), RMSNorm(c["model_dim"])

    def forward(self, x, cos, sin, cache=None):
        x = x + self.attn(self.attn_norm(x), cos, sin, cache)
        return x + self.ffn(self.ffn_norm(x))


class OpenELM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        t = nn.Module()
        t.token_embeddings = nn.Embedding(c["vocab_size"], c["model_dim"])
        t.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_transformer_layers"]))
        t.norm = RMSNorm(c["model_dim"])
        self.transformer = t
        d = c["head_dim"]
        inv = 1.0 / c["rope_freq_constant"] ** (torch.arange(0, d, 2).float() / d)
        f = torch.outer(torch.arange(c["rope_max_length"]).float(), inv)
        f = torch.cat((f, f), -1)
        self.register_buffer("cos", f.cos(), persistent=False)
        self.register_buffer("sin", f.sin(), persistent=False)
        n = 2 * c["num_transformer_layers"]
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = c["initializer_range"]
                if name.endswith(("out_proj.weight", "proj_2.weight")):
                    std = std / math.sqrt(n) * 1.0
                nn.init.normal_(p, 0, std)

    def hidden(self, ids, caches=None, pos=0):
        x = self.transformer.token_embeddings(ids)
        S = ids.shape[1]
        cos, sin = self.cos[pos : pos + S], self.sin[pos : pos + S]
        for i, l in enumerate(self.transformer.layers):
            x = l(x, cos, sin, None if caches is None else caches[i])
        return self.transformer.norm(x)

    def forward(self, ids, targets=None):
        h = self.hidden(ids)
        if targets is None:
            return F.linear(h, self.transformer.token_embeddings.weight)
        h = h.reshape(-1, h.shape[-1])
        t = targets.reshape(-1)
        logits = F.linear(h, self.transformer.token_embeddings.weight)
        return F.cross_entropy(logits.float(), t, ignore_index=-100)

    @torch.no_grad()
    def generate(self, ids, n, temp=0.8, top_p=0.95, stop=(2,), seed=0, rep=1.0):
        g = torch.Generator().manual_seed(seed)
        caches = [[] for _ in self.transformer.layers]
        x = torch.tensor([ids])
        pos = 0
        out = []
        for _ in range(n):
            h = self.hidden(x, caches, pos)
            pos += x.shape[1]
            lg = F.linear(h[:, -1], self.transformer.token_embeddings.weight)[0].float()
            if rep != 1.0 and out:
                u = torch.tensor(sorted(set(out[-64:])))
                lg[u] = torch.where(lg[u] > 0, lg[u] / rep, lg[u] * rep)
            if temp <= 0:
                t = int(lg.argmax())
            else:
                p = (lg / temp).softmax(-1)
                s, ix = p.sort(descending=True)
                keep = s.cumsum(-1) - s < top_p
                s = s * keep
                t = int(ix[torch.multinomial(s / s.sum(), 1, generator=g)])
            if t in stop:
                break
            out.append(t)
            x = torch.tensor([[t]])
            if pos >= self.c["rope_max_length"] - 1:
                break
        return out


def n_params(m):
    return sum(p.numel() for p in m.parameters())


SIZES = {  # dim, layers, head_dim, gqa groups, qkv and ffn multipliers (first..last layer)
    "3m": dict(dim=192, layers=8, head_dim=64, gqa=2, qkv=(0.6, 1.0), ffn=(0.75, 3.25)),
    "5m": dict(dim=256, layers=8, head_dim=64, gqa=2, qkv=(0.5, 1.0), ffn=(0.5, 3.0)),
    "7m": dict(dim=256, layers=10, head_dim=64, gqa=2, qkv=(0.5, 1.0), ffn=(0.75, 3.5)),
    "12m": dict(dim=384, layers=10, head_dim=64, gqa=2, qkv=(0.5, 1.0), ffn=(0.5, 3.0)),
}
if __name__ == "__main__":
    for k, v in SIZES.items():
        c = make_config(3072, **v)
        m = OpenELM(c)
        print(k, n_params(m), c["num_query_heads"], c["num_kv_heads"], c["ffn_multipliers"])

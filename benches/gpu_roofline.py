#!/usr/bin/env python3
"""What a GPU can do at most with OpenELM, on paper: bytes, operations and launches of a step, as tables in Markdown.

gpu_roofline.py [CONFIG.json ...] [--context 512,2048] [--streams 1,16,64] [--prompt 2048] [--only models,kv,decode,prefill,h100,what-if]

Without a file the four published sizes are taken, from the formulas of layer-wise scaling. Three bounds of a step are computed: bytes over
bandwidth, operations over the peak of the tensor cores, and launches times what one costs. The first two overlap in a kernel, so the larger
one counts ("roof"). Launches follow each other and each depends on the one before, so their fixed cost comes on top ("together").
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of a weight, a key or a value: bfloat16 or float16.
HALF = 2
# Rows of logits that a runner took at once when the tables were made: the head is read once for each. They are 64 since
# (`LOGIT_ROWS` in src/ops/gpu/mod.rs).
LOGIT_ROWS = 32
# Positions of a split of attention's context, for contexts of up to 4,096 (`LEAST_SPLIT` in src/ops/gpu/mod.rs).
SPLIT = 256
# Rows of a step of prefill (`max_num_batched_tokens`).
STEP_TOKENS = 512


@dataclass(frozen=True)
class Device:
    """What the data sheet says, and what a launch may cost."""

    name: str
    # GB/s of memory.
    bandwidth: float
    # Dense, 16-bit operands, sums in f32.
    tensor_tflops: float
    f32_tflops: float
    # Low and high, of a launch that is part of a recording.
    launch_us: tuple[float, float]


DEVICES = (
    Device("H100", 3352, 989.4, 66.9, (2, 4)),
    Device("RTX 4090", 1008, 165.2, 82.6, (3, 5)),
    Device("L4", 300, 121, 30.3, (3, 6)),
    # No units for matrices: its peak in 16 bits is taken to be that of f32.
    Device("M2 Max", 400, 13.5, 13.5, (5, 10)),
)

# H100 80GB HBM3, tokens/s by benches/RESULTS.md of 2026-11-26: size, what, streams or prompt, context at the first of 16 steps.
MEASURED = (
    ("270M", "decode", 1, 128, 1_296),
    ("270M", "decode", 16, 128, 16_130),
    ("270M", "decode", 64, 128, 44_937),
    ("270M", "decode", 1, 1_900, 1_132),
    ("270M", "decode", 64, 1_900, 26_061),
    ("270M", "prefill", 512, 0, 203_700),
    ("1.1B", "decode", 1, 128, 561),
    ("1.1B", "decode", 16, 128, 8_031),
    ("1.1B", "decode", 64, 128, 24_375),
    ("1.1B", "decode", 1, 1_900, 503),
    ("1.1B", "decode", 64, 1_900, 12_251),
    ("1.1B", "prefill", 512, 0, 82_700),
)
MEASURED_STEPS = 16


def make_divisible(value: float, divisor: int) -> int:
    """The nearest multiple of `divisor` (ties up), one more where that loses over a tenth."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def spread(low: float, high: float, count: int) -> list[float]:
    """`count` values from `low` to `high`, with two decimals each."""
    step = (high - low) / max(count - 1, 1)
    return [round(low + i * step, 2) for i in range(count - 1)] + [round(high, 2)]


def per_layer(value: Any, layers: int) -> list[float]:
    """A number for every layer, from a number, two ends or a list."""
    if isinstance(value, int | float):
        return [value] * layers
    return spread(*value, layers) if len(value) == 2 and layers != 2 else list(value)


@dataclass(frozen=True)
class Model:
    """Shapes of a checkpoint."""

    name: str
    dim: int
    head_dim: int
    vocabulary: int
    q_heads: list[int]
    kv_heads: list[int]
    ffn: list[int]
    has_gate: bool = True
    has_qk_norm: bool = True
    is_tied: bool = True

    @classmethod
    def of_config(cls, name: str, config: dict[str, Any]) -> "Model":
        """From the keys of config.json. Lists of heads count where there are any, else `qkv_multipliers`."""
        layers, dim, head_dim = config["num_transformer_layers"], config["model_dim"], config["head_dim"]
        groups = config.get("num_gqa_groups", 1)
        multipliers = per_layer(config.get("qkv_multipliers", 1.0), layers)
        derived = [make_divisible(dim * x, head_dim * groups) // head_dim for x in multipliers]
        q_heads = config.get("num_query_heads") or derived
        ffn = per_layer(config.get("ffn_multipliers", 4.0), layers)
        return cls(
            name,
            dim,
            head_dim,
            config.get("vocab_size", 32_000),
            q_heads,
            config.get("num_kv_heads") or [heads // groups for heads in q_heads],
            [make_divisible(x * dim, config.get("ffn_dim_divisor", 256)) for x in ffn],
            config.get("ffn_with_glu", True),
            config.get("normalize_qk_projections", False),
            config.get("share_input_output_layers", False),
        )

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.ffn)

    @property
    def layer_weights(self) -> int:
        """Values of the matrices of all layers."""
        widths = zip(self.q_heads, self.kv_heads, self.ffn, strict=True)
        columns = 3 if self.has_gate else 2
        return sum(self.dim * (2 * self.head_dim * (q + kv) + columns * f) for q, kv, f in widths)

    @property
    def head_weights(self) -> int:
        """Values of the matrix that gives logits."""
        return self.vocabulary * self.dim

    @property
    def gains(self) -> int:
        """Values of all norms."""
        return self.dim * (2 * self.layers + 1) + (2 * self.head_dim * self.layers if self.has_qk_norm else 0)

    @property
    def parameters(self) -> int:
        """Values of a checkpoint."""
        return self.layer_weights + self.gains + self.head_weights * (1 if self.is_tied else 2)

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step with logits reads at least: a table that is not the head is read by the row."""
        return (self.layer_weights + self.gains + self.head_weights) * HALF

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of a token."""
        return 2 * sum(self.kv_heads) * self.head_dim * HALF

    def attention_flops(self, positions: int) -> int:
        """Of scores and sums, where queries see so many positions together."""
        return 4 * sum(self.q_heads) * self.head_dim * positions

    def decode_bytes(self, streams: int, context: int) -> int:
        """Of a step: weights once, a row of the embedding, the context's keys and values, and those of a new token for each stream."""
        return self.step_bytes + streams * (self.dim * HALF + (context + 1) * self.kv_bytes)

    def decode_flops(self, streams: int, context: int) -> int:
        """Of a step."""
        return streams * (2 * (self.layer_weights + self.head_weights) + self.attention_flops(context))

    def layer_launches(self, is_split: bool) -> int:
        """Norm, qkv, norm-rope-store, attention (and the merge of its splits), out, norm, proj_1, SwiGLU, proj_2."""
        return 10 if is_split else 9

    def launches(self, context: int, logits: int) -> int:
        """Of a step whose longest sequence has `context` positions: embedding, layers, last norm; gather and head for some rows each."""
        return 2 + self.layers * self.layer_launches(context > SPLIT) + 2 * math.ceil(logits / LOGIT_ROWS)


PUBLISHED = {"270M": (16, 1280, 64), "450M": (20, 1536, 64), "1.1B": (28, 2048, 64), "3B": (36, 3072, 128)}


def published(name: str) -> Model:
    """A published size."""
    layers, dim, head_dim = PUBLISHED[name]
    config = {
        "num_transformer_layers": layers,
        "model_dim": dim,
        "head_dim": head_dim,
        "num_gqa_groups": 4,
        "qkv_multipliers": [0.5, 1.0],
        "ffn_multipliers": [0.5, 4.0],
        "normalize_qk_projections": True,
        "share_input_output_layers": True,
    }
    return Model.of_config(name, config)


@dataclass(frozen=True)
class Prompt:
    """A prompt computed in steps of `STEP_TOKENS`, logits of its last row alone."""

    model: Model
    tokens: int

    @property
    def linear_flops(self) -> int:
        """Of all products."""
        return 2 * (self.model.layer_weights * self.tokens + self.model.head_weights)

    @property
    def attention_flops(self) -> int:
        """Causal: the row at position p sees p + 1 positions."""
        return self.model.attention_flops(self.tokens * (self.tokens + 1) // 2)

    @property
    def ends(self) -> list[int]:
        """Where steps end."""
        return [min(first + STEP_TOKENS, self.tokens) for first in range(0, self.tokens, STEP_TOKENS)]

    @property
    def bytes(self) -> int:
        """Weights once a step, keys and values of what was before, and the new ones written."""
        before = sum(self.ends[:-1])
        layers = self.model.layer_weights * HALF * len(self.ends)
        return layers + self.model.head_weights * HALF + self.model.kv_bytes * (before + self.tokens)

    @property
    def launches(self) -> int:
        """Of all steps."""
        return sum(self.model.launches(end, int(end == self.tokens)) for end in self.ends)

    def roof(self, device: Device) -> float:
        """Seconds, everything on tensor cores."""
        return max(self.bytes / device.bandwidth / 1e9, (self.linear_flops + self.attention_flops) / device.tensor_tflops / 1e12)

    def as_built(self, device: Device) -> float:
        """Seconds with attention in f32 FMA, as `paged_attention.cu` computes it."""
        products = max(self.bytes / device.bandwidth / 1e9, self.linear_flops / device.tensor_tflops / 1e12)
        return products + self.attention_flops / device.f32_tflops / 1e12


def decode_roof(device: Device, model: Model, streams: int, context: int) -> float:
    """Seconds of a step by bytes or operations."""
    by_bytes = model.decode_bytes(streams, context) / device.bandwidth / 1e9
    return max(by_bytes, model.decode_flops(streams, context) / device.tensor_tflops / 1e12)


def is_bound_by_flops(device: Device, model: Model, streams: int, context: int) -> bool:
    """Whether operations take longer than bytes."""
    flops = model.decode_flops(streams, context) / device.tensor_tflops / 1e12
    return flops > model.decode_bytes(streams, context) / device.bandwidth / 1e9


def digits(figure: float) -> str:
    """Three significant digits, and all before the point."""
    if figure == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(figure)))
    return f"{round(figure, places):,.{max(0, places)}f}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Words of the first column to the left, all else to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def triple(figures: Iterable[str]) -> str:
    """Figures of the numbers of streams, in one cell."""
    return " · ".join(figures)


def devices_table() -> str:
    """What every figure rests on."""
    head = ["device", "GB/s", "TFLOP/s, 16-bit products", "TFLOP/s, f32", "FLOP a byte at the ridge", "µs a launch, assumed"]
    rows = (
        [
            d.name,
            f"{d.bandwidth:,.0f}",
            f"{d.tensor_tflops:g}",
            f"{d.f32_tflops:g}",
            f"{1e3 * d.tensor_tflops / d.bandwidth:.0f}",
            f"{d.launch_us[0]:g}–{d.launch_us[1]:g}",
        ]
        for d in DEVICES
    )
    return table(head, rows)


def models_table(models: list[Model]) -> str:
    """What a step reads and computes."""
    head = [
        "",
        "layers",
        "parameters",
        "bytes of weights a step",
        "MFLOP a token: layers",
        "head",
        "attention, each 1,000 positions",
        "KV bytes a token",
    ]
    head += ["launches: context ≤ 256", "above", "64 streams, above"]

    def row(m: Model) -> list[str]:
        flops = [2 * m.layer_weights, 2 * m.head_weights, m.attention_flops(1000)]
        launches = [m.launches(SPLIT, 1), m.launches(SPLIT + 1, 1), m.launches(SPLIT + 1, 64)]
        sizes = [f"{figure:,}" for figure in (m.layers, m.parameters, m.step_bytes)]
        return [m.name, *sizes, *(f"{x / 1e6:,.1f}" for x in flops), f"{m.kv_bytes:,}", *map(str, launches)]

    return table(head, map(row, models))


def kv_table(models: list[Model], streams: list[int], contexts: list[int]) -> str:
    """Bytes of a step that are keys and values."""
    head = ["MB of keys and values read a step", *(f"{n} × {context:,}" for context in contexts for n in streams)]
    rows = ([m.name, *(digits(n * c * m.kv_bytes / 1e6) for c in contexts for n in streams)] for m in models)
    return table(head, rows)


def decode_table(models: list[Model], streams: list[int], contexts: list[int]) -> str:
    """Tokens a second by each bound."""
    names = triple(map(str, streams))
    head = ["device, model", *(f"roof at {c:,}: {names}" for c in contexts), f"launches alone, low cost: {names}", f"high cost: {names}"]
    head += [f"together at {c:,}, high cost: {names}" for c in contexts[:1]]

    def row(d: Device, m: Model) -> list[str]:
        def rate(seconds: Callable[[int], float]) -> str:
            return triple(digits(n / seconds(n)) for n in streams)

        def roofs(context: int) -> str:
            marks = ("\\*" if is_bound_by_flops(d, m, n, context) else "" for n in streams)
            return triple(digits(n / decode_roof(d, m, n, context)) + mark for n, mark in zip(streams, marks, strict=True))

        def launches(n: int, cost: float) -> float:
            return m.launches(contexts[0], n) * cost / 1e6

        low, high = d.launch_us
        both = rate(lambda n: decode_roof(d, m, n, contexts[0]) + launches(n, high))
        bounds = [rate(lambda n: launches(n, low)), rate(lambda n: launches(n, high))]
        return [f"{d.name}, {m.name}", *map(roofs, contexts), *bounds, both]

    return table(head, (row(d, m) for d in DEVICES for m in models))


def prefill_table(models: list[Model], tokens: int) -> str:
    """A prompt's operations, and tokens a second without and with attention as it is built."""
    head = [
        f"prompt of {tokens:,}",
        "TFLOP: products",
        "attention",
        "head, last row",
        "launches",
        *(f"{d.name}: roof · as built" for d in DEVICES),
    ]

    def row(m: Model) -> list[str]:
        prompt, head_flops = Prompt(m, tokens), 2 * m.head_weights
        flops = [digits(x / 1e12) for x in (prompt.linear_flops - head_flops, prompt.attention_flops, head_flops)]
        rates = [triple(digits(tokens / seconds) for seconds in (prompt.roof(d), prompt.as_built(d))) for d in DEVICES]
        return [m.name, *flops, str(prompt.launches), *rates]

    return table(head, map(row, models))


def h100_table() -> str:
    """The measured beside the bounds. The launches of prefill are not recorded, which costs them more than assumed here."""
    device, cost = DEVICES[0], DEVICES[0].launch_us[1]
    head = [
        "H100",
        "roof, ms",
        "launches",
        f"+ {cost:g} µs each, ms",
        "measured, ms",
        "tokens/s",
        "of the roof",
        "of both",
        "µs a launch beyond the roof",
    ]

    def row(size: str, what: str, count: int, context: int, rate: int) -> list[str]:
        m = published(size)
        if what == "prefill":
            title, prompt = f"{size}, prefill of {count}", Prompt(m, count)
            roof, launches = prompt.roof(device), prompt.launches
        else:
            title, middle = f"{size}, {count} at {context:,}", context + MEASURED_STEPS // 2
            roof, launches = decode_roof(device, m, count, middle), m.launches(middle, count)
        both, found = roof + launches * cost / 1e6, count / rate
        shares = [f"{roof / found:.0%}", f"{both / found:.0%}", f"{(found - roof) / launches * 1e6:.1f}"]
        return [title, f"{roof * 1e3:.3f}", str(launches), f"{both * 1e3:.3f}", f"{found * 1e3:.3f}", f"{rate:,}", *shares]

    return table(head, (row(*one) for one in MEASURED))


def kv_note() -> str:
    """How fast keys and values were read: what the longer context of 64 streams adds to a step."""
    rates = {(size, context): rate for size, what, count, context, rate in MEASURED if what == "decode" and count == 64}

    def found(size: str) -> str:
        added = 64 * (1_900 - 128) * published(size).kv_bytes
        seconds = 64 / rates[size, 1_900] - 64 / rates[size, 128]
        return f"{size} {added / seconds / 1e9:,.0f} GB/s ({added / seconds / 1e9 / DEVICES[0].bandwidth:.0%})"

    return "Keys and values, from 128 to 1,900 positions of 64 streams: " + ", ".join(map(found, ("270M", "1.1B")))


def what_if_table(models: list[Model]) -> str:
    """One stream on an H100, if there were fewer or cheaper launches."""
    device, context = DEVICES[0], 512
    cases = (
        ("as built, 4 µs", 10, 4.0),
        ("5 a layer, 4 µs", 5, 4.0),
        ("as built, 1.3 µs", 10, 1.3),
        ("5 a layer, 1.3 µs", 5, 1.3),
    )
    head = [f"one stream at {context}, tokens/s", *(title for title, _, _ in cases), "one kernel at 78% of the bandwidth"]

    def row(m: Model) -> list[str]:
        roof = decode_roof(device, m, 1, context)
        fewer = (roof + (4 + m.layers * each) * cost / 1e6 for _, each, cost in cases)
        return [m.name, *(digits(1 / seconds) for seconds in fewer), digits(0.78 / roof)]

    return table(head, map(row, models))


def numbers(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="*", help="config.json of checkpoints; else the published sizes")
    parser.add_argument("--context", type=numbers, default=[512, 2048], help="tokens that each stream has in the KV cache [512,2048]")
    parser.add_argument("--streams", type=numbers, default=[1, 16, 64], help="sequences of a step of decode [1,16,64]")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of a prompt [2048]")
    parser.add_argument("--only", type=lambda text: text.split(","), help="these tables alone, as models,decode")
    arguments = parser.parse_args()
    models = [Model.of_config(path.parent.name or path.stem, json.loads(path.read_text())) for path in arguments.configs]
    models = models or [published(name) for name in PUBLISHED]
    tables = {
        "devices": devices_table,
        "models": lambda: models_table(models),
        "kv": lambda: kv_table(models, arguments.streams, arguments.context),
        "decode": lambda: decode_table(models, arguments.streams, arguments.context),
        "prefill": lambda: prefill_table(models, arguments.prompt),
        "h100": lambda: h100_table() + "\n\n" + kv_note(),
        "what-if": lambda: what_if_table(models),
    }
    unknown = set(arguments.only or tables) - set(tables)
    if unknown:
        parser.error(f"no table is called {', '.join(sorted(unknown))}; there are {', '.join(tables)}")
    print("\n\n".join(make() for name, make in tables.items() if name in (arguments.only or tables)))


if __name__ == "__main__":
    main()

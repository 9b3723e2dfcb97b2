#!/usr/bin/env python3
"""What benches/compare.sh found, as a table: medians of both sides, their ratio, the share of the machine's limit, and what was aimed at.

compare_table.py RESULTS.json [--markdown]
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
# Cores that others may take before the figures are worth little: llama.cpp's threads spin and lose a whole time slice at each step.
IDLE_CORES = 0.1
HEAD = ["", "unit", "openelm-server", "llama.cpp", "ratio", "target", "of the limit", "target"]


@dataclass(frozen=True)
class Bound:
    """What a figure is to be: at least or at most a limit."""

    limit: float
    at_most: bool = False

    def verdict(self, figure, text):
        is_met = figure <= self.limit if self.at_most else figure >= self.limit
        return f"{'≤' if self.at_most else '≥'} {text} {'met' if is_met else 'MISSED'}"


@dataclass(frozen=True)
class Row:
    """One line of the table. Targets of ratios may differ by the CPU's vendor."""

    title: str
    unit: str
    ratio: dict[str, Bound] | Bound | None = None
    value: Bound | None = None
    limit: str = ""
    share: Bound | None = None


def by_vendor(intel, amd):
    return {"intel": Bound(intel), "amd": Bound(amd)}


ROWS = {
    "decode_1": Row("decode, 1 stream", "tokens/s", by_vendor(1.3, 1.0), limit="read", share=Bound(0.90)),
    "decode_16": Row("decode, 16 streams", "tokens/s", by_vendor(3.5, 2.3), limit="arithmetic", share=Bound(0.75)),
    "prefill_512": Row("prefill of 512", "tokens/s", by_vendor(1.8, 1.6), limit="arithmetic", share=Bound(0.78)),
    "http_16_rate": Row("HTTP, 16 clients, 128 in, 64 out", "tokens/s", by_vendor(2.6, 1.7)),
    "http_16_ttft": Row("HTTP, 16 clients, TTFT p50", "ms", Bound(1 / 2.5, at_most=True)),
    "context": Row("decode at 1,900 / at 128 tokens", "%", value=Bound(88.0)),
    "start": Row("exec to first token", "s", value=Bound(1.5, at_most=True)),
    # Its target is weights + KV cache + 100 MB, which the results hold as `at_most`.
    "memory": Row("resident under 16 clients", "MB"),
    "demo": Row("demo model, 1 stream", "tokens/s", value=Bound(1500.0)),
}


# What other targets hold for weights in blocks: ratios on Intel and AMD, shares of the limit, seconds to the first token.
BLOCK_TARGETS = {
    "q8_0": {"decode_1": (1.75, 1.15), "decode_16": (6, 4.3), "prefill_512": (4.3, 2.7), "http_16_rate": (5, 3.2), "http_16_ttft": (4, 3)},
    "q4_0": {
        "decode_1": (1.6, 1.0),
        "decode_16": (4.2, 3.1),
        "prefill_512": (2.7, 2.1),
        "http_16_rate": (3.6, 2.2),
        "http_16_ttft": (3, 2.5),
    },
}
BLOCK_SHARES = {"decode_1": 0.88, "decode_16": None, "prefill_512": 0.55}
BLOCK_START_S = 0.8


def rows_of(weights):
    """The lines of the table for weights as `bf16`, `q8_0` or `q4_0`."""
    if weights not in BLOCK_TARGETS:
        return ROWS
    rows = dict(ROWS)
    for key, (intel, amd) in BLOCK_TARGETS[weights].items():
        is_time = key == "http_16_ttft"
        ratio = {vendor: Bound(1 / factor if is_time else factor, at_most=is_time) for vendor, factor in (("intel", intel), ("amd", amd))}
        share = BLOCK_SHARES.get(key)
        rows[key] = replace(rows[key], ratio=ratio, share=Bound(share) if share else None)
    rows["start"] = replace(rows["start"], value=Bound(BLOCK_START_S, at_most=True))
    return rows


def digits(figure):
    """At least three significant digits, and all before the point."""
    if figure == 0 or not math.isfinite(figure):
        return str(figure)
    return f"{figure:,.{max(0, 2 - math.floor(math.log10(abs(figure))))}f}"


def cells(row, found, vendor):
    """The columns of one row; `found` holds the figures of every round: `ours`, and where measured `peer` and `share`."""
    ours = statistics.median(found["ours"])
    peer = statistics.median(found["peer"]) if found.get("peer") else None
    share = statistics.median(found["share"]) if found.get("share") else None
    ratio, target, share_target = "", "", ""
    if peer is not None:
        ratio = f"{ours / peer:.2f}"
        bound = row.ratio.get(vendor) if isinstance(row.ratio, dict) else row.ratio
        if bound:
            target = bound.verdict(ours / peer, f"{bound.limit:.2f}")
    value = Bound(found["at_most"], at_most=True) if "at_most" in found else row.value
    if value:
        target = value.verdict(ours, f"{digits(value.limit)} {row.unit}")
    if share is not None and row.share:
        share_target = row.share.verdict(share, f"{row.share.limit:.0%}")
    return [
        row.title,
        row.unit,
        digits(ours),
        "" if peer is None else digits(peer),
        ratio,
        target,
        "" if share is None else f"{share:.1%} of {row.limit}",
        share_target,
    ]


def count(rounds):
    return "one round" if rounds == 1 else f"medians of {rounds} rounds"


def others(foreign_cores):
    """What else ran, over all rounds."""
    line = f"everything else took {statistics.median(foreign_cores):.2f} cores, in the worst round {max(foreign_cores):.2f}"
    return line if max(foreign_cores) <= IDLE_CORES else f"{line}: NOT IDLE, measure again"


def head(results):
    """Lines above the table: what was compared, where and how."""
    machine, versions = results["machine"], results["versions"]
    memory = f"{machine['memory_bytes'] / 2**30:.1f} GiB"
    flags, agreement = results["peer_flags"], results["agreement"]
    weights, rounds = results.get("weights", "bf16"), count(results["rounds"])
    return [
        f"{versions['openelm-server']} ({results['kernels'] or 'kernels not asked'}) and {versions['peer']}",
        f"random weights of OpenELM-{results['size']} in {weights}, {rounds} in turn, {results['date']}",
        f"{machine['cpu']} ({machine['id']}), {machine['cores']} cores, {memory}; {results['threads']} threads each",
        f"llama.cpp with its defaults{' and ' + flags if flags else ''}; prompts over HTTP are token ids, the same for both",
        others(results["foreign_cores"]),
        *([] if results.get("is_complete", True) else ["INTERRUPTED: there are fewer rounds than that"]),
        *([f"the likeliest first tokens of both are equal for {agreement} prompts"] if agreement else []),
    ]


def as_text(lines, rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    # Words to the left, figures to the right.
    aligned = [
        "  ".join(
            cell.rjust(width) if 2 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", *(line.rstrip() for line in aligned)])


def as_markdown(lines, rows):
    rule = ["---:" if 2 <= column <= 4 else "---" for column in range(len(HEAD))]
    return "\n".join(["  \n".join(lines), "", *("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])])


def table(results, is_markdown=False):
    """The whole text."""
    vendor = VENDORS.get(results["machine"]["vendor"])
    titles = rows_of(results.get("weights", "bf16"))
    rows = [HEAD, *(cells(titles[key], found, vendor) for key, found in results["rows"].items())]
    return (as_markdown if is_markdown else as_text)(head(results), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    print(table(json.loads(arguments.results.read_text()), arguments.markdown))


if __name__ == "__main__":
    main()

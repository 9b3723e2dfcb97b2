#!/usr/bin/env python3
"""Measures openelm-server and llama.cpp in turn on the same weights; benches/compare.sh builds both, makes the weights and calls this.

Every round of a measurement is ours and then theirs, each in a process of its own, since the bandwidth of shared machines swings within
minutes. Over HTTP both servers get the same requests from the same driver, `openelm-server bench --url`: token ids, each prompt new.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from compare_table import ROWS, table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import start  # noqa: E402
from launch import ending  # noqa: E402

SERVER = "target/release/openelm-server"
FOLDER = Path("target/compare")
START_SECONDS = 300
CLIENTS = 16
# The KV cache of both servers.
KV_TOKENS = 8192
SLACK_BYTES = 100e6
# Prompts whose likeliest next tokens are compared, and their length without the first token.
PROBES = 16
PROBE_LENGTH = 24


class Session:
    """Runs commands, remembers them and what they said."""

    def __init__(self, arguments):
        self.size, self.rounds, self.peer_flags = arguments.size, arguments.rounds, shlex.split(arguments.peer_flags)
        self.weights = arguments.weights
        checkpoint = f"{FOLDER}/openelm-{self.size}-bf16"
        self.gguf = checkpoint + ("" if self.weights == "bf16" else f"-{self.weights}") + ".gguf"
        # Both sides quantise the same bf16 by the same plain rule.
        self.model_flags = ["--model", checkpoint, "--quantization", "none" if self.weights == "bf16" else self.weights]
        self.commands, self.raw, self.rows, self.foreign_cores = [], [], {}, []
        (FOLDER / "logs").mkdir(parents=True, exist_ok=True)
        self.model = self.kernels = self.agreement = None
        self.machine = self.ours("limits", "--only", "limits")["machine"]
        self.threads = arguments.threads or self.machine["cores"]

    def note(self, command):
        line = shlex.join(command)
        if line not in self.commands:
            self.commands.append(line)

    def run(self, name, command):
        """Standard output of `command`, which must succeed; its other output is kept in a log."""
        self.note(command)
        log = FOLDER / "logs" / f"{name}.log"
        with open(log, "w") as errors:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        if done.returncode != 0:
            end = "\n".join(log.read_text().splitlines()[-5:])
            raise SystemExit(f"{shlex.join(command)}\nended with status {done.returncode}, see {log}:\n{end}")
        return done.stdout

    def ours(self, name, *flags):
        """The report of one round of `openelm-server bench`."""
        output = FOLDER / "round.json"
        self.run(f"ours-{name}", [SERVER, "bench", *flags, "--device", "cpu", "--rounds", "1", "--output-json", str(output)])
        report = json.loads(output.read_text())
        self.raw.append({"measurement": name, "side": "ours", "report": report})
        if report["model"]:
            self.kernels = report["model"]["kernels"]
        return report

    def our_model(self, name, *flags):
        report = self.ours(name, *self.model_flags, "--threads", str(self.threads), *flags)
        self.model = report["model"]
        return report

    def peer(self, name, tool, *flags):
        """The one result of a llama.cpp tool that prints JSON."""
        command = [f"{FOLDER}/build/bin/{tool}", "-m", self.gguf, "-t", str(self.threads), *flags, *self.peer_flags]
        lines = self.run(f"peer-{name}", command).strip()
        # An array of one, or a line of its own among others.
        report = json.loads(lines)[0] if lines.startswith("[") else json.loads(lines.splitlines()[-1])
        self.raw.append({"measurement": name, "side": "peer", "report": report})
        return report

    def add(self, key, **figures):
        """Appends the figures of one round to a row."""
        row = self.rows.setdefault(key, {})
        for name, figure in figures.items():
            row.setdefault(name, []).append(figure)
        said = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
        print(f"compare: {ROWS[key].title}: {said}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def watched(self):
        """Notes how many cores everything else kept from what is measured inside, the host of a virtual machine among it."""
        began, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        yield
        foreign = (busy_seconds() - busy - (own_seconds() - own)) / (time.monotonic() - began)
        self.foreign_cores.append(round(max(foreign, 0.0), 3))

    def results(self, is_complete):
        vendor, name = cpu_id()
        git = ["git", "describe", "--always", "--dirty", "--tags"]
        described = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
        version = self.raw[0]["report"]["version"]
        return {
            "schema": 1,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "size": self.size,
            "weights": self.weights,
            "rounds": self.rounds,
            "is_complete": is_complete,
            "threads": self.threads,
            "machine": self.machine | {"vendor": vendor, "id": name},
            "versions": {
                "openelm-server": f"openelm-server {version} {described}".strip(),
                "peer": (FOLDER / "peer-version").read_text().strip(),
            },
            "kernels": self.kernels,
            "agreement": self.agreement,
            "foreign_cores": self.foreign_cores,
            "peer_flags": shlex.join(self.peer_flags),
            # In the order of the table, whatever the order of measuring.
            "rows": {key: self.rows[key] for key in ROWS if key in self.rows},
            "commands": self.commands,
            "raw": self.raw,
        }


def busy_seconds():
    """Of all cores since the machine started: user, nice, system, interrupts and what the host took."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Of this process and its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cpu_id():
    """The vendor, and all that names the kind of CPU where hosts hide its model."""
    text = Path("/proc/cpuinfo").read_text()
    fields = {key: value for key, value in re.findall(r"^(\S[^\t\n]*?)\s*: (.*)$", text, re.MULTILINE)}
    vendor = fields.get("vendor_id", "unknown vendor")
    return vendor, f"{vendor} family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"


# ------------------------------------------------------------- measurements ----


def as_the_peer(steps):
    """Flags for as many steps in a row as the tools of llama.cpp take, once a round after a warm-up."""
    return ["--decode-steps", str(steps), "--min-round-ms", "0"]


def decode_1(session):
    # The peer begins with nothing in its cache.
    report = session.our_model("decode_1", "--only", "decode", "--batch", "1", "--context", "1", *as_the_peer(128))["decode"][0]
    peer = session.peer("decode_1", "llama-bench", "-p", "0", "-n", "128", "-r", "1", "-o", "json")
    session.add("decode_1", ours=report["tokens_per_s"]["median"], peer=peer["avg_ts"], share=report["share_of_read"]["median"])


def decode_16(session):
    report = session.our_model("decode_16", "--only", "decode", "--batch", "16", "--context", "128", *as_the_peer(64))["decode"][0]
    shape = ["-c", "8192", "-b", "2048", "-ub", "512", "-npp", "128", "-ntg", "64", "-npl", "16"]
    peer = session.peer("decode_16", "llama-batched-bench", *shape, "--output-format", "jsonl")
    session.add("decode_16", ours=report["tokens_per_s"]["median"], peer=peer["speed_tg"], share=report["share_of_peak"]["median"])


def prefill_512(session):
    report = session.our_model("prefill_512", "--only", "prefill", "--prefill", "512", "--min-round-ms", "0")["prefill"][0]
    peer = session.peer("prefill_512", "llama-bench", "-p", "512", "-n", "0", "-r", "1", "-o", "json")
    session.add("prefill_512", ours=report["tokens_per_s"]["median"], peer=peer["avg_ts"], share=report["share_of_peak"]["median"])


def http_16(session):
    if session.model is None:
        session.our_model("model", "--only", "decode", "--batch", "1", "--context", "16")
    kv_bytes = session.model["kv_bytes_per_token"] * KV_TOKENS
    threads = str(session.threads)
    ours = [SERVER, "serve", *session.model_flags, "--no-enable-prefix-caching", "--kv-cache-memory-bytes", str(kv_bytes)]
    ours += ["--threads", threads, "--log-level", "warn"]
    peer = [f"{FOLDER}/build/bin/llama-server", "-m", session.gguf, "-np", str(CLIENTS), "-c", str(KV_TOKENS), "-t", threads]
    our_figures, our_memory, our_tokens = serve_and_drive(session, "ours", ours)
    peer_figures, peer_memory, peer_tokens = serve_and_drive(session, "peer", [*peer, *session.peer_flags])
    check_agreement(session, our_tokens, peer_tokens)
    rates = [figures["output_tokens_per_s"]["median"] for figures in (our_figures, peer_figures)]
    session.add("http_16_rate", ours=rates[0], peer=rates[1])
    session.add("http_16_ttft", ours=our_figures["ttft_p50_ms"]["median"], peer=peer_figures["ttft_p50_ms"]["median"])
    session.add("memory", ours=our_memory, peer=peer_memory)
    session.rows["memory"]["at_most"] = (session.model["weight_bytes"] + kv_bytes + SLACK_BYTES) / 1e6


def context(session):
    short, long = session.our_model("context", "--only", "decode", "--batch", "1", "--context", "128,1900")["decode"]
    session.add("context", ours=100 * long["tokens_per_s"]["median"] / short["tokens_per_s"]["median"])


def exec_to_first_token(session):
    # Weights that are in blocks already, as they are served day by day: quantising at load is not what a start is compared by.
    model = session.model_flags if session.weights == "bf16" else ["--model", session.gguf]
    flags = [*model, "--threads", str(session.threads)]
    session.note(["benches/start.py", str(session.rounds), "--", *flags])
    if "start" not in session.rows:
        # Warms the page cache, as start.py does.
        start.one_round(flags)
    figures = start.one_round(flags)
    session.raw.append({"measurement": "start", "side": "ours", "report": figures})
    session.add("start", ours=figures["exec to first token s"])


def demo(session):
    flags = ["--model", "embedded", "--threads", str(session.threads), "--only", "decode", "--batch", "1", "--context", "128"]
    session.add("demo", ours=session.ours("demo", *flags)["decode"][0]["tokens_per_s"]["median"])


# Each is called once a round.
MEASUREMENTS = {
    "decode_1": decode_1,
    "decode_16": decode_16,
    "prefill_512": prefill_512,
    "http_16": http_16,
    "context": context,
    "start": exec_to_first_token,
    "demo": demo,
}


# --------------------------------------------------------------- over HTTP ----


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def started(name, command, port):
    """The process of a server that answers; ended afterwards."""
    log = FOLDER / "logs" / f"{name}-server.log"
    with open(log, "w") as output:
        command = [*command, "--host", "127.0.0.1", "--port", str(port)]
        with ending(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)) as process:
            wait_until_healthy(process, port, log)
            yield process


def wait_until_healthy(process, port, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}, see {log}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.1)
    raise SystemExit(f"the server was not ready after {START_SECONDS} s, see {log}")


def first_tokens(port):
    """The texts of the likeliest tokens after a few prompts."""
    tokens = []
    for number in range(PROBES):
        prompt = [1, *((7919 * (number * PROBE_LENGTH + position) % 31000) + 300 for position in range(PROBE_LENGTH))]
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        tokens.append(post(port, "/v1/completions", body)["choices"][0]["text"].strip())
    return tokens


def post(port, path, body):
    """What a server answers."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"a request was answered with status {response.status}: {answer.decode(errors='replace')[:1000]}")
        return json.loads(answer)


def check_agreement(session, ours, peer):
    """Both sides compute the same model: their likeliest tokens are equal but for what rounding may turn over."""
    equal = sum(a == b for a, b in zip(ours, peer, strict=True))
    session.agreement = f"{equal} of {PROBES}"
    if equal < PROBES / 2:
        raise SystemExit(f"the sides do not compute the same model: {session.agreement} likeliest tokens are equal: {ours}, {peer}")


def serve_and_drive(session, side, command):
    """Figures of one round after a warm-up by the driver, the resident memory in MB (10^6) when it was over, and the first tokens."""
    port = free_port()
    session.note([*command, "--host", "127.0.0.1", "--port", "PORT"])
    with started(side, command, port) as process:
        tokens = first_tokens(port)
        shape = ["--http", str(CLIENTS), "--http-prompt-tokens", "128", "--http-output-tokens", "64"]
        output = FOLDER / "round.json"
        drive = [SERVER, "bench", "--url", f"http://127.0.0.1:{port}", "--only", "http", *shape, "--rounds", "1"]
        session.run(f"{side}-http", [*drive, "--output-json", str(output)])
        report = json.loads(output.read_text())
        memory_mb = start.memory_mb(process.pid, "VmRSS") * 2**20 / 1e6
    session.raw.append({"measurement": "http_16", "side": side, "report": report, "resident_mb": memory_mb})
    return report["http"][0]["figures"], memory_mb, tokens


# -------------------------------------------------------------------- main ----


def clean_environment():
    """Removes the variables that would configure either side, for all processes from here on. No packed weights are kept: every start
    is a first one, and nothing is written behind while something is measured."""
    for name in [name for name in os.environ if name.startswith(("OPENELM_", "LLAMA_", "GGML_"))]:
        del os.environ[name]
    os.environ["OPENELM_WEIGHT_CACHE"] = "off"


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a whole number from 1")
    return number


def parse():
    # Whoever reads a message of it has called compare.sh, which has flags of its own.
    parser = argparse.ArgumentParser(
        prog="compare", usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="270M", help="size of the weights, which must have been made")
    parser.add_argument("--weights", default="bf16", choices=["bf16", "q8_0", "q4_0"], help="how both sides store the weights")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, help="of both sides; without it the physical cores")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="measurements with commas between them")
    parser.add_argument("--peer-flags", default="", metavar="FLAGS", help="for all programs of llama.cpp, as '-fa on'")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--output-json", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="check these flags and end")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {','.join(MEASUREMENTS)}")
    if arguments.output_json and not arguments.output_json.absolute().parent.is_dir():
        parser.error(f"--output-json {arguments.output_json}: expected a file in a directory that is there")
    return arguments


def measure(session, names, output):
    """All rounds, one measurement after the other; what there is by then is written after each round."""
    for name in names:
        for _ in range(session.rounds):
            with session.watched():
                MEASUREMENTS[name](session)
            write(session, output, is_complete=False)


def write(session, output, is_complete):
    results = session.results(is_complete)
    output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main():
    arguments = parse()
    if arguments.check:
        return
    output = (arguments.output_json or ROOT / FOLDER / f"results-{arguments.size}-{arguments.weights}.json").absolute()
    os.chdir(ROOT)
    # So that servers are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    clean_environment()
    session = Session(arguments)
    measure(session, arguments.only.split(","), output)
    results = write(session, output, is_complete=True)
    print(table(results, arguments.markdown))
    print(f"compare: everything is in {output}", file=sys.stderr)


if __name__ == "__main__":
    main()

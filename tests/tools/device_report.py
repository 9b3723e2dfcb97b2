"""What a GPU shows of the server, as a report: the same answers alone and beside 63 others with preemption, clients that leave,
devices that are not there, throughput beside the memory's bandwidth, and what sending steps ahead gives. Called by tests/device.sh;
needs numpy for the checkpoint."""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]

# GB/s by NVIDIA's data sheets.
BANDWIDTH = {"H100 80GB HBM3": 3352, "H200": 4800, "A100-SXM4-80GB": 2039, "L4": 300, "RTX 4090": 1008}


class Server:
    """The server on a port that the system chose."""

    def __init__(self, binary, *flags, environment=None):
        self.log = tempfile.TemporaryFile("w+")
        command = [binary, "--port", "0", "--log-level", "warn", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, **(environment or {})}
        )
        self.banner, self.url = [], None
        for line in self.process.stdout:
            self.banner.append(line)
            if "http://" in line and self.url is None:
                self.url = "http://" + line.split("http://")[1].split()[0].rstrip("/")
            if self.url and "ready after" in line:
                break

    def error(self):
        self.process.wait(60)
        self.log.seek(0)
        return self.log.read().strip()

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def __enter__(self):
        if self.url is None:
            raise RuntimeError(f"the server did not start: {self.error()}")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def body(index):
    words = "a little fox went to the river and saw that the moon was in the water".split()
    prompt = " ".join(words[: 3 + index % 12]) + f" {index}"
    return {"prompt": prompt, "max_tokens": 150, "temperature": 0.8, "seed": index, "ignore_eos": True, "logprobs": 1}


def chosen(answer):
    logprobs = answer["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"]


def streams(binary):
    """64 requests side by side in a cache too small for them, beside each alone with its steps one by one: the same bits."""
    with Server(binary, "--device", "cuda", "--batch-invariant", "--no-enable-prefix-caching", "--no-async-scheduling") as server:
        alone = [chosen(server.post("/v1/completions", body(i))) for i in range(64)]
    flags = ("--kv-cache-memory-bytes", "6MiB", "--max-num-seqs", "64")
    with Server(binary, "--device", "cuda", "--batch-invariant", *flags) as server:
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            together = list(pool.map(lambda i: chosen(server.post("/v1/completions", body(i))), range(64)))
        preempted = int(server.metric("vllm:num_preemptions_total"))
    different = sum(a != b for a, b in zip(alone, together, strict=True))
    return different == 0 and preempted > 0, f"{different} of 64 answers differ from those alone; {preempted} preemptions"


def leavers(binary):
    """Clients that leave in the middle of a stream: nothing runs on, and no block stays taken."""
    with Server(binary, "--device", "cuda") as server:
        host = server.url.removeprefix("http://")
        for index in range(32):
            connection = http.client.HTTPConnection(host, timeout=30)
            payload = json.dumps({**body(index), "max_tokens": 400, "stream": True})
            connection.request("POST", "/v1/completions", payload, {"content-type": "application/json"})
            connection.getresponse().read(64)
            connection.close()
        until = time.monotonic() + 10
        while server.metric("vllm:num_requests_running") and time.monotonic() < until:
            time.sleep(0.05)
        running, used = server.metric("vllm:num_requests_running"), server.metric("vllm:kv_cache_usage_perc")
        answered = len(server.post("/v1/completions", body(0))["choices"])
    note = f"32 left; {running:.0f} run on, {used:.0%} of the cache is taken, the next is answered"
    return running == 0 and used == 0 and answered == 1, note


def refusals(binary):
    """Starts that cannot be, and what they say."""
    starts = [
        (("--device", "cuda:200"), None, "cuda:200"),
        (("--device", "cuda"), {"CUDA_VISIBLE_DEVICES": ""}, "--device"),
        (("--device", "cuda", "--dtype", "float32"), None, "--dtype"),
        (("--device", "cuda", "--kv-cache-dtype", "int8"), None, "--kv-cache-dtype"),
        (("--device", "cuda", "--kv-cache-memory-bytes", "900GB"), None, "--kv-cache-memory-bytes"),
        (("--device", "metal"), None, "Metal"),
    ]
    notes, is_right = [], True
    for flags, environment, word in starts:
        server = Server(binary, *flags, environment=environment)
        error = server.error()
        is_right &= server.url is None and word in error
        notes.append(f"`{' '.join(flags)}`: {error.splitlines()[-1] if error else 'no error'}")
    with Server(binary, "--device", "auto", environment={"CUDA_VISIBLE_DEVICES": ""}) as server:
        is_on_cpu = any("cpu " in line for line in server.banner)
        is_right &= is_on_cpu and bool(server.post("/v1/completions", body(1))["choices"])
        notes.append(f"`--device auto` without a device: {'serves on the CPU' if is_on_cpu else 'does not serve on the CPU'}")
    return is_right, "\n  - ".join(["", *notes])


def random_weights(size):
    checkpoint = pathlib.Path(tempfile.gettempdir()) / f"openelm-{size}-bf16"
    if not checkpoint.exists():
        maker = [sys.executable, ROOT / "tests/tools/make_checkpoint.py", "--size", size, "--dtype", "bf16", "--out", checkpoint]
        subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    return checkpoint


def bench(binary, out, size, name, *flags):
    """The report of `bench`."""
    file, model = out / f"bench-{name}.json", random_weights(size)
    command = [binary, "bench", "--device", "cuda", "--model", str(model), "--max-num-seqs", "64", "--skip-tokenizer-init"]
    command += ["--rounds", "3", "--threads", "8", "--output-json", str(file), *flags]
    with (out / f"bench-{name}.txt").open("w") as text:
        subprocess.run(command, check=True, stdout=text, stderr=subprocess.STDOUT)
    return json.loads(file.read_text())


def throughput(binary, out, size, bandwidth):
    """Prefill and decode of random weights, decode beside what reading weights, keys and values alone would take."""
    flags = ["--only", "prefill,decode", "--batch", "1,4,16,64", "--context", "128,1900", "--min-round-ms", "300"]
    report = bench(binary, out, size, size, *flags)
    model = report["model"]
    lines = [f"{size} in bfloat16, random weights", "", "| | tokens/s | of the memory's bandwidth |", "|---|--:|--:|"]
    for found in report["prefill"]:
        lines.append(f"| prefill of {found['prompt_tokens']} | {found['tokens_per_s']['median']:,.0f} | |")
    for found in report["decode"]:
        context = found["context_tokens"] + found["steps"] / 2
        read = model["weight_bytes_per_step"] + found["sequences"] * context * model["kv_bytes_per_token"]
        share = f"{read / (found['step_ms']['median'] / 1e3) / (bandwidth * 1e9):.0%}" if bandwidth else "not known"
        name = f"decode, {found['sequences']} at {found['context_tokens']}"
        lines.append(f"| {name} | {found['tokens_per_s']['median']:,.0f} | {share} |")
    return "\n".join([*lines, ""])


def overlap(binary, out, size):
    """The server under load with steps sent ahead and one by one: output tokens a second."""
    flags = ["--only", "http", "--http", "1,16,64", "--http-prompt-tokens", "64", "--http-output-tokens", "200"]
    lines = [f"{size} over HTTP, tokens/s", "", "| clients | one by one | sent ahead | ratio |", "|---|--:|--:|--:|"]
    switches = {"no-async-scheduling": [], "async-scheduling": []}
    for switch, found in switches.items():
        report = bench(binary, out, size, f"{size}-{switch}", *flags, f"--{switch}")
        found += [(level["clients"], level["figures"]["output_tokens_per_s"]["median"]) for level in report["http"]]
    for (clients, before), (_, after) in zip(*switches.values(), strict=True):
        lines.append(f"| {clients} | {before:,.0f} | {after:,.0f} | {after / before:.2f} |")
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="the server, built with CUDA")
    parser.add_argument("--tests", type=int, default=0, help="status of the tests that ran before")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--sizes", default="270M,1_1B", help="sizes whose throughput is measured")
    arguments = parser.parse_args()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().splitlines()[0]
    bandwidth = next((gbs for name, gbs in BANDWIDTH.items() if re.search(rf"\b{name}\b", card)), None)
    parts = [("streams beside each other", streams), ("clients that leave", leavers), ("devices that are not there", refusals)]
    report, failed = [f"# {card}", "", f"* tests: {'passed' if arguments.tests == 0 else 'FAILED'}"], arguments.tests != 0
    for name, check in parts:
        try:
            is_right, note = check(arguments.server)
        except Exception as error:  # the report says what happened, and the other parts run
            is_right, note = False, repr(error)
        failed |= not is_right
        report.append(f"* {name}: {'passed' if is_right else 'FAILED'}: {note}")
    for size in filter(None, arguments.sizes.split(",")):
        try:
            report += ["", throughput(arguments.server, arguments.out, size, bandwidth)]
            report += [overlap(arguments.server, arguments.out, size)]
        except subprocess.CalledProcessError as error:
            report += ["", f"throughput of {size}: FAILED: {error}"]
            failed = True
    (arguments.out / "report.md").write_text("\n".join(report) + "\n")
    print("\n".join(report))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

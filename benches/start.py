#!/usr/bin/env python3
"""Time from exec to the first token over HTTP, and memory, of the release binary; medians over rounds.

benches/start.py [ROUNDS] [-- ARGUMENTS OF THE SERVER]     e.g. benches/start.py 5 -- --model DIR --skip-tokenizer-init
"""

import http.client
import json
import statistics
import sys
import time
from pathlib import Path

from launch import running


def memory_mb(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


def one_round(arguments: list[str]) -> dict[str, float]:
    with running(arguments) as server:
        ready = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = {"prompt": [1, 9, 9], "max_tokens": 8, "stream": True, "ignore_eos": True, "return_token_ids": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        while (line := reply.readline()) and not line.startswith(b"data: "):
            pass
        first = time.perf_counter()
        reply.read()
        figures = {"exec to ready s": ready - server.started, "exec to first token s": first - server.started}
        return figures | {"resident MB": memory_mb(server.pid, "VmRSS"), "peak resident MB": memory_mb(server.pid, "VmHWM")}


def main() -> None:
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    rounds = int(sys.argv[1]) if cut > 1 else 5
    # The first round warms the page cache.
    results = [one_round(sys.argv[cut + 1 :]) for _ in range(rounds + 1)][1:]
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name:24s} median {statistics.median(values):9.3f}   min {min(values):9.3f}   max {max(values):9.3f}")


if __name__ == "__main__":
    main()

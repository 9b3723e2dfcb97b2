#!/usr/bin/env python3
"""What an idle server costs, and what a process that wants a core takes from one stream; of the release binary.

benches/neighbour.py [ARGUMENTS OF THE SERVER]     e.g. benches/neighbour.py --model DIR --skip-tokenizer-init
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import time

from launch import ending, running

IDLE_SECONDS = 20
TOKENS = 128
ROUNDS = 5


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(port: int) -> float:
    """Tokens a second of one request with a short prompt."""
    body = {"prompt": [1, 9, 9, 5, 7], "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    started = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    reply.read()
    return TOKENS / (time.perf_counter() - started)


def median_rate(port: int) -> float:
    return statistics.median(rate(port) for _ in range(ROUNDS))


def main() -> None:
    with running(["--no-enable-prefix-caching", *sys.argv[1:]]) as server:
        rate(server.port)
        time.sleep(1)
        before = cpu_seconds(server.pid)
        time.sleep(IDLE_SECONDS)
        print(f"idle                         {(cpu_seconds(server.pid) - before) / IDLE_SECONDS:8.2%} of a core")
        alone = median_rate(server.port)
        with ending(subprocess.Popen([sys.executable, "-c", "while True: pass"])):
            time.sleep(0.5)
            beside = median_rate(server.port)
        alone = statistics.median([alone, median_rate(server.port)])
        print(f"one stream alone             {alone:8.1f} tokens/s")
        print(f"beside a process on one core {beside:8.1f} tokens/s, {beside / alone:.0%}")


if __name__ == "__main__":
    main()

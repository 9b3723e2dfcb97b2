#!/usr/bin/env python3
"""What requests that mean harm cost one who streams beside them; of the release binary.

benches/hostile.py [--model DIR] [--binary FILE] [--seconds N] [--quiet-seconds N] [--only TEXT] [--json FILE] [-- ARGUMENTS OF THE SERVER]

One stream runs all the time, read by a process of its own. The gaps between its tokens are measured alone, and then beside each input, sent
again and again, each time a little different: by one client every quarter of a second, by one without a pause, and by four at a time.
Prints a table, and what misses a target: each answer is there within a second, none is a failure of the server (503 turns somebody away and
is none), the stream never breaks, and the 99th percentile of its gaps at most doubles. Exits with 1 if a target is missed. The first row is
a plain request, which misses nothing: any request takes a share of the processors, and the clients take theirs too.
"""

import argparse
import contextlib
import gzip
import http.client
import itertools
import json
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launch import BINARY, Running, running
from start import memory_mb

MOST_SECONDS = 1.0
MOST_RATIO = 2.0
# Clients, and how long each of them waits between its requests.
LOADS = ((1, 0.25), (1, 0.0), (4, 0.0))
# A client gives up after so long.
PATIENCE = 60
SETTLE_SECONDS = 1.0
# Stands in a body where each request has a number of its own, so that nothing is known from the one before.
NUMBER = b"00000000"
PLAIN = "a plain request, to compare with"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Input:
    """What is sent again and again."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def completion(name: str, **fields: object) -> Input:
    body = {"prompt": "Once", "max_tokens": 4, "user": NUMBER.decode()} | fields
    return Input(name, "/v1/completions", json.dumps(body).encode())


def chat(name: str, **fields: object) -> Input:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "user": NUMBER.decode()} | fields
    return Input(name, "/v1/chat/completions", json.dumps(body).encode())


def words(size: int) -> str:
    """Text of so many characters, of words that seldom come twice."""
    chance = random.Random(0)
    letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz     ", k=size))
    return " ".join(letters.split())


def with_schema(name: str, properties: dict[str, object]) -> Input:
    schema = {"type": "object", "title": NUMBER.decode(), "properties": properties, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return chat(name, response_format=wanted)


def many_properties(size: int, value: dict[str, object]) -> dict[str, object]:
    """Properties that are so many bytes in all."""
    return {f"property{index}": value for index in range(size // (len(json.dumps(value)) + 20))}


def with_regex(name: str, regex: str) -> Input:
    return completion(name, structured_outputs={"regex": regex + f"({NUMBER.decode()})?"})


def nested(depth: int) -> bytes:
    return b'{"max_tokens": 4, "prompt": ' + b"[" * depth + b"]" * depth + b"}"


def wide_and_deep(depth: int, width: int) -> object:
    inner: object = {}
    for _ in range(depth):
        inner = {"a": inner} | {f"k{index}": [index] for index in range(width)}
    return inner


def inputs() -> Iterator[Input]:
    yield completion(PLAIN)
    yield completion("prompt of 1 MB, words", prompt=words(1_000_000))
    yield completion("prompt of 1 MB, one word", prompt="ab" * 500_000)
    yield Input("JSON 10,000 deep", "/v1/completions", nested(10_000))
    yield with_schema("schema of 5 MB", many_properties(5_000_000, {"type": "string"}))
    for value, name in (({"type": "string", "maxLength": 9}, "strings"), ({"type": "string", "pattern": "(a|b)*a(a|b){9}$"}, "patterns")):
        yield with_schema(f"schema of 200 KB, {name}", many_properties(200_000, value))
        objects = {f"part{index}": {"type": "object", "properties": many_properties(6_000, value)} for index in range(10)}
        yield with_schema(f"schema of 60 KB, objects of {name}", objects)
    yield with_regex("regex, nested repeats", "((a{1,1000}){1,1000}){1,1000}")
    yield with_regex("regex, a long repeat", "[a-z]{0,60000}x")
    yield with_regex("regex, 50 ambiguous parts", "(a|aa)*(b|bb)*c{5000}" * 50)
    yield completion("grammar, ambiguous", structured_outputs={"grammar": f'start: start start | "a"\n// {NUMBER.decode()}'})
    yield chat("chat_template_kwargs, nested", chat_template_kwargs=wide_and_deep(100, 500))
    yield chat("50,000 empty messages", messages=[{"role": "user", "content": ""}] * 50_000)
    yield completion("1,000 stop strings", stop=[f"stop {index}" for index in range(1000)])
    yield completion("64 stop strings of 4,096 bytes", stop=["a" * 4090 + f"{index:06}" for index in range(64)])
    yield completion("logit_bias of 100,000 keys", logit_bias={str(index): 1 for index in range(100_000)})
    yield Input("gzip of 100 MB", "/v1/completions", gzip.compress(b"0" * 100_000_000), {"Content-Encoding": "gzip"})


def answer(port: int, hostile: Input, number: int) -> str:
    """Sends the input once. The status and the code of the error, or what became of the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        body = hostile.body.replace(NUMBER, b"%08d" % number)
        # A server may answer and close before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", hostile.path, body, JSON | hostile.headers)
        reply = http.client.HTTPResponse(connection.sock, method="POST")
        reply.begin()
        return told(reply.status, reply.read())
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def told(status: int, body: bytes) -> str:
    if status == 200:
        return "200"
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return str(status)
    return " ".join(str(part) for part in (status, error.get("code") or error.get("type"), error.get("param")) if part)


def attack(port: int, hostile: Input, plan: tuple[float, float], numbers: Iterator[int], found: list[tuple[str, float]]) -> None:
    """Sends until a time, with a pause after each answer."""
    until, pause = plan
    while (begun := time.monotonic()) < until:
        said = answer(port, hostile, next(numbers))
        found.append((said, time.monotonic() - begun))
        time.sleep(pause)


class Stream:
    """A stream that starts anew when it ends, read by a process of its own."""

    def __init__(self, port: int, tokens: int) -> None:
        self.found: multiprocessing.Queue = multiprocessing.Queue()
        self.process = multiprocessing.Process(target=watch, args=(port, tokens, self.found), daemon=True)
        self.process.start()

    def gaps(self, during: Callable[[], object]) -> tuple[list[float], int]:
        """Seconds between tokens while something is done, and how often the stream broke."""
        begun = time.monotonic()
        during()
        ended = time.monotonic()
        gaps, broken = [], 0
        # The gap that it ends in counts.
        while (event := self.found.get(timeout=PATIENCE))[0] <= ended:
            if event[0] >= begun:
                gaps += [event[1]] if event[1] is not None else []
                broken += event[1] is None
        return [*gaps, event[1]] if event[1] is not None and event[0] - event[1] < ended else gaps, broken


def watch(port: int, tokens: int, found: multiprocessing.Queue) -> None:
    """Reports each token: when it came and how long after the one before it. No gap: the stream broke."""
    while True:
        try:
            read_stream(port, tokens, found)
        except (OSError, http.client.HTTPException, ValueError):
            found.put((time.monotonic(), None))
            time.sleep(0.1)


def read_stream(port: int, tokens: int, found: multiprocessing.Queue) -> None:
    # With token ids there is a chunk for each token, also for one without text.
    body = {"prompt": "Once", "max_tokens": tokens, "ignore_eos": True, "stream": True, "return_token_ids": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), JSON)
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(f"the stream was answered {reply.status}")
        last, line = None, b""
        while line := reply.readline():
            if line.startswith(b"data: [DONE]"):
                return
            if not line.startswith(b"data: ") or b'"error"' in line:
                if line.strip():
                    raise ValueError("the stream failed")
                continue
            now = time.monotonic()
            if last is not None:
                found.put((now, now - last))
            last = now
        raise ValueError("the stream broke off")
    finally:
        connection.close()


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


@dataclass
class Row:
    """What one input did."""

    input: str
    clients: int
    pause_seconds: float
    answers: dict[str, int]
    median_seconds: float
    worst_seconds: float
    tokens_per_second: float
    gap_p50_ms: float
    gap_p99_ms: float
    worst_gap_ms: float
    ratio: float
    broken: int

    def misses(self) -> Iterator[str]:
        if self.input == PLAIN:
            return
        if self.worst_seconds > MOST_SECONDS:
            yield f"answer after {self.worst_seconds:.2f} s"
        if not self.ratio <= MOST_RATIO:
            yield f"gaps {self.ratio:.1f} times as long"
        if self.broken:
            yield f"stream broke {self.broken} times"
        yield from (f"answered {said}" for said in self.answers if not (said[0] in "24" or said.startswith("503")))


def measure(server: Running, stream: Stream, hostile: Input, load: tuple[int, float], seconds: float, quiet_p99: float) -> Row:
    clients, pause = load
    found: list[tuple[str, float]] = []
    numbers = itertools.count(random.Random(hostile.name + str(clients)).randrange(10**7))

    def attacks() -> None:
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=attack, args=(server.port, hostile, (until, pause), numbers, found)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    begun = time.monotonic()
    gaps, broken = stream.gaps(attacks)
    took = time.monotonic() - begun
    stream.gaps(lambda: time.sleep(SETTLE_SECONDS))
    times, p99 = [seconds for _, seconds in found], percentile(gaps, 0.99)
    return Row(
        hostile.name,
        clients,
        pause,
        dict(Counter(said for said, _ in found).most_common()),
        statistics.median(times),
        max(times),
        len(gaps) / took,
        percentile(gaps, 0.5) * 1e3,
        p99 * 1e3,
        max(gaps, default=float("nan")) * 1e3,
        p99 / quiet_p99,
        broken,
    )


HEADER = """| input | clients | answers | median s | worst s | tokens/s | gap p50 ms | p99 ms | worst ms | p99, times quiet | misses |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|---|"""


def line(row: Row) -> str:
    answers = ", ".join(f"{count} × {said}" for said, count in row.answers.items())
    times = f"{row.median_seconds:.3f} | {row.worst_seconds:.3f}"
    gaps = f"{row.tokens_per_second:.0f} | {row.gap_p50_ms:.2f} | {row.gap_p99_ms:.2f} | {row.worst_gap_ms:.1f} | {row.ratio:.2f}"
    clients = f"{row.clients}, each {row.pause_seconds} s" if row.pause_seconds else str(row.clients)
    return f"| {row.input} | {clients} | {answers} | {times} | {gaps} | {'; '.join(row.misses())} |"


def quiet(stream: Stream, seconds: float) -> list[float]:
    gaps, broken = stream.gaps(lambda: time.sleep(seconds))
    if broken or not gaps:
        raise SystemExit("the stream does not run by itself")
    p50, p99, worst = (percentile(gaps, share) * 1e3 for share in (0.5, 0.99, 1))
    print(f"quiet: p50 {p50:.2f} ms, p99 {p99:.2f} ms, worst {worst:.1f} ms, {len(gaps) / seconds:.0f} tokens/s", flush=True)
    return gaps


def context(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/v1/models")
    return json.loads(connection.getresponse().read())["data"][0]["max_model_len"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory of a checkpoint; the demo model without it")
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--seconds", type=float, default=5, help="how long each input is sent")
    parser.add_argument("--quiet-seconds", type=float, default=10)
    parser.add_argument("--only", default="", help="inputs whose name has this in it")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("server", nargs="*", help="further arguments of the server, behind --")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    chosen = [hostile for hostile in inputs() if options.only in hostile.name]
    rows = []
    with running((["--model", options.model] if options.model else []) + options.server, options.binary) as server:
        stream = Stream(server.port, context(server.port) - 16)
        stream.gaps(lambda: time.sleep(SETTLE_SECONDS))
        before = quiet(stream, options.quiet_seconds)
        print("\n" + HEADER, flush=True)
        for hostile, load in itertools.product(chosen, LOADS):
            rows.append(measure(server, stream, hostile, load, options.seconds, percentile(before, 0.99)))
            print(line(rows[-1]), flush=True)
        print()
        after = quiet(stream, options.quiet_seconds)
        memory = memory_mb(server.pid, "VmHWM")
        print(f"peak resident memory {memory:.0f} MB")
        stream.process.kill()
    if options.json:
        quiet_ms = {name: percentile(gaps, 0.99) * 1e3 for name, gaps in (("before", before), ("after", after))}
        figures = [asdict(row) | {"misses": list(row.misses())} for row in rows]
        options.json.write_text(json.dumps({"quiet_p99_ms": quiet_ms, "peak_resident_mb": memory, "rows": figures}, indent=1))
    sys.exit(1 if any(True for row in rows for _ in row.misses()) else 0)


if __name__ == "__main__":
    main()

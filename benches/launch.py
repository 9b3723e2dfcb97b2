"""Starts the release binary as a process of its own, for the measurements from outside, and ends it whatever happens."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BINARY = Path(__file__).parent.parent / "target/release/openelm-server"
# How long a server may take to end before it is killed.
END_SECONDS = 60


@dataclass(frozen=True)
class Running:
    """A server that is ready, and when it was started (of `time.perf_counter`)."""

    pid: int
    port: int
    started: float


@contextlib.contextmanager
def ending(process: subprocess.Popen, seconds: float = END_SECONDS) -> Iterator[subprocess.Popen]:
    """Ends the process on the way out: asked at first, killed when it takes longer than so many seconds."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running(arguments: list[str], binary: Path = BINARY) -> Iterator[Running]:
    """A server with these arguments on a free port, from when its banner says that it is ready."""
    command = [binary, "serve", "--port", "0", "--log-level", "error", *arguments]
    started = time.perf_counter()
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout
        port = 0
        for line in process.stdout:
            if "listens on" in line:
                port = int(line.split("http://", 1)[1].split()[0].rsplit(":", 1)[1])
            if "ready after" in line:
                break
        else:
            raise SystemExit(f"the server ended with status {process.wait()} before it was ready")
        yield Running(process.pid, port, started)

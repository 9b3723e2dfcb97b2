"""Starts the server binary on a free loopback port and reads what it says about itself."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("OPENELM_SERVER_BIN", ROOT / "target" / "release" / "openelm-server"))
GOLDEN = ROOT / "tests" / "golden"
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
START_SECONDS = 60
METRIC = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def clean_environment(**extra):
    """The caller's environment without what configures the server, and with what the test sets. No weights are kept in its home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENELM_")}
    return kept | {"OPENELM_WEIGHT_CACHE": "off"} | extra


def wait_until(condition, seconds, what):
    """Polls `condition` until it is true and returns its value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Reply:
    """A whole HTTP response."""

    def __init__(self, response, body):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = body

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error object; checks that it has exactly the four keys of the OpenAI schema."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str) and error["message"], error
        assert isinstance(error["type"], str), error
        assert error["param"] is None or isinstance(error["param"], str), error
        assert error["code"] is None or isinstance(error["code"], str), error
        return error


class Server:
    """A running server. Use as a context manager; leaving it ends the process."""

    def __init__(self, *args, env=None):
        self.output = deque(maxlen=2000)
        self.port = None
        command = [str(BINARY), "serve", "--port", "0", *map(str, args)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(**(env or {})),
            text=True,
            errors="replace",
        )
        self._address_known = threading.Event()
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()
        try:
            self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def _read_output(self):
        for line in self.process.stdout:
            self.output.append(line.rstrip("\n"))
            found = ADDRESS.search(line)
            if found and self.port is None:
                self.port = int(found.group(1))
                self._address_known.set()
        self._address_known.set()

    def _wait_ready(self):
        self._address_known.wait(START_SECONDS)
        if self.port is None:
            raise AssertionError("the server printed no address:\n" + self.log)
        wait_until(lambda: self._ready_or_dead(), START_SECONDS, "ready")

    def _ready_or_dead(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz").status == 200
        return False

    @property
    def log(self):
        return "\n".join(self.output)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None, timeout=60):
        """One request on a connection of its own. A body that is not bytes or str is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Reply(response, response.read())
        finally:
            connection.close()

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, body, **kwargs):
        return self.request("POST", path, body=body, **kwargs)

    def complete(self, **body):
        """A completion that must succeed, as parsed JSON."""
        reply = self.post("/v1/completions", body)
        assert reply.status == 200, reply.text
        return reply.json

    def metrics(self):
        """All samples of /metrics as {name: [(labels, value)]}."""
        samples = {}
        for line in self.get("/metrics").text.splitlines():
            found = METRIC.match(line)
            if found and not line.startswith("#"):
                name, labels, value = found.groups()
                samples.setdefault(name, []).append((dict(LABEL.findall(labels or "")), float(value)))
        return samples

    def metric(self, name, **labels):
        """Sum of the samples of `name` that carry `labels`."""
        samples = self.metrics().get(name, [])
        assert samples, f"no metric {name}"
        return sum(value for found, value in samples if labels.items() <= found.items())

    def wait_idle(self, seconds=15):
        """Waits until nothing runs or waits."""

        def idle():
            samples = self.metrics()
            names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
            return all(value == 0 for name in names for _, value in samples[name])

        wait_until(idle, seconds, "idle")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds):
        """The exit status."""
        status = self.process.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return status

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def run_binary(*args, env=None, seconds=60):
    """Runs the binary to its end and returns the completed process, output as text."""
    return subprocess.run(
        [str(BINARY), *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=clean_environment(**(env or {})),
        check=False,
    )


def sse_events(raw):
    """The data of each event of a stream, comments left out. Checks the framing: lines end in LF, events in an empty line."""
    text = raw.decode()
    assert "\r" not in text
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            assert len(lines) == 1 and lines[0].startswith("data: "), block
            events.append(lines[0].removeprefix("data: "))
    return events


def chunks_of(raw):
    """The parsed chunks of a whole stream, which must end with [DONE]."""
    events = sse_events(raw)
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]

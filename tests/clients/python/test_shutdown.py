"""SIGTERM: unready at once, running requests finish, exit 0; past the time limit they are ended."""

import http.client
import json
import signal
import threading
import time

import pytest
from harness import Server, sse_events, wait_until

BODY = {"prompt": "Once upon a time", "max_tokens": 450, "ignore_eos": True, "stream": True}


class Stream(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, server, **fields):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self.connection.request("POST", "/v1/completions", json.dumps(BODY | fields), {"content-type": "application/json"})
        self.response = self.connection.getresponse()
        self.raw = self.response.read(200)
        self.error = None
        self.start()

    def run(self):
        try:
            self.raw += self.response.read()
        except (OSError, http.client.HTTPException) as error:
            self.error = error

    def finished(self):
        """Whether all came: the last event, and the finish reason before it."""
        assert self.response.status == 200
        return self.error is None and sse_events(self.raw)[-1] == "[DONE]" and b'"length"' in self.raw


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_running_streams_finish(sent):
    with Server() as server:
        streams = [Stream(server, n=2) for _ in range(16)]
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        kept.request("GET", "/readyz")
        assert kept.getresponse().read() is not None
        server.process.send_signal(sent)

        def unready():
            try:
                return server.get("/readyz", timeout=5).status == 503
            except OSError:
                return False

        wait_until(unready, 5, "readyz answers 503")
        assert any(stream.is_alive() for stream in streams), "too quick: nothing was running any more"
        reply = server.post("/v1/completions", BODY)
        assert reply.status == 503 and reply.headers["retry-after"]
        assert server.get("/livez").status == 200
        assert server.wait_exit(60) == 0
        for stream in streams:
            stream.join(10)
            assert stream.finished(), (stream.error, stream.raw[-300:])


def test_an_idle_server_ends_at_once():
    with Server() as server:
        started = time.monotonic()
        server.terminate()
        assert server.wait_exit(10) == 0
        assert time.monotonic() - started < 5


def test_past_the_limit_streams_end_with_an_error():
    with Server("--shutdown-timeout", "1s") as server:
        streams = [Stream(server, n=8, logprobs=5) for _ in range(8)]
        started = time.monotonic()
        server.terminate()
        status = server.wait_exit(30)
        assert time.monotonic() - started < 15
        assert status == 0
        for stream in streams:
            stream.join(10)
        cut = [stream for stream in streams if not stream.finished()] if all(stream.error is None for stream in streams) else streams
        assert cut, "too quick: all finished within the limit"
        for stream in cut:
            assert stream.error is not None or b'"error"' in stream.raw

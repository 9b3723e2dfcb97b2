"""HTTP itself: methods, types, sizes, compression, framing of streams, slow and broken clients."""

import gzip
import json
import socket
import subprocess
import time

import pytest
from harness import Server, chunks_of, sse_events

COMPLETIONS = "/v1/completions"
BODY = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
JSON = {"content-type": "application/json"}


def raw_exchange(server, payload, seconds=20):
    """Sends bytes as they are and returns everything that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(payload)
        received = b""
        while True:
            piece = connection.recv(65536)
            if not piece:
                return received
            received += piece


def test_unknown_route(demo):
    for path in ("/", "/v1", "/v1/nothing", "/v1/completions/x"):
        reply = demo.get(path)
        assert reply.status == 404, path
        assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path"), [("GET", COMPLETIONS), ("PUT", COMPLETIONS), ("POST", "/v1/models"), ("DELETE", "/health")])
def test_wrong_method(demo, method, path):
    reply = demo.request(method, path, headers=JSON)
    assert reply.status == 405
    assert reply.headers["allow"]
    assert reply.error["type"] == "invalid_request_error"


def test_head(demo):
    for path in ("/health", "/v1/models", "/metrics"):
        reply = demo.request("HEAD", path)
        assert (reply.status, reply.body) == (200, b""), path


def test_wrong_media_type(demo):
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        reply = demo.post(COMPLETIONS, json.dumps(BODY), headers=headers)
        assert reply.status == 415, reply.text
        assert reply.error["type"] == "invalid_request_error"


def test_a_body_too_large(demo):
    body = json.dumps(BODY | {"prompt": "x" * (5 << 20)})
    reply = demo.post(COMPLETIONS, body, headers=JSON)
    assert reply.status == 413
    assert reply.error["type"] == "invalid_request_error"


def test_compressed_bodies(demo):
    headers = JSON | {"content-encoding": "gzip"}
    reply = demo.post(COMPLETIONS, gzip.compress(json.dumps(BODY).encode()), headers=headers)
    assert reply.status == 200, reply.text
    assert reply.json["choices"][0]["text"] == demo.complete(**BODY)["choices"][0]["text"]
    bomb = gzip.compress(json.dumps(BODY | {"prompt": "x" * (64 << 20)}).encode())
    assert len(bomb) < 1 << 20
    assert demo.post(COMPLETIONS, bomb, headers=headers).status == 413
    assert demo.post(COMPLETIONS, b"not gzip", headers=headers).status == 400


def test_request_ids(demo):
    reply = demo.post(COMPLETIONS, BODY, headers={"x-request-id": "abc-123"})
    assert reply.headers["x-request-id"] == "abc-123"
    made = {demo.get("/v1/models").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert demo.get("/nothing").headers["x-request-id"]


def test_completion_stream_framing(demo):
    reply = demo.post(COMPLETIONS, BODY | {"stream": True, "n": 2, "stream_options": {"include_usage": True}})
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in reply.headers["cache-control"]
    chunks = chunks_of(reply.body)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    *deltas, last = chunks
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 16
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in deltas)
    reasons = [choice["finish_reason"] for chunk in deltas for choice in chunk["choices"] if choice["finish_reason"]]
    assert len(reasons) == 2


def test_chat_stream_framing(demo):
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, "temperature": 0, "stream": True}
    chunks = chunks_of(demo.post("/v1/chat/completions", body).body)
    assert all("usage" not in chunk for chunk in chunks)
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
    assert roles[0] == "assistant" and not any(roles[1:])
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])


def test_a_silent_stream_gets_comments():
    # One sequence at a time: the second stream has nothing to say until the first is done.
    with Server("--max-num-seqs", "1", "--sse-keep-alive", "50ms") as server:
        body = {"prompt": "Once upon a time", "max_tokens": 450, "ignore_eos": True, "n": 6}
        payload = json.dumps(body).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as first:
            first.sendall(head.encode() + payload)
            time.sleep(0.1)
            reply = server.post(COMPLETIONS, BODY | {"stream": True}, timeout=120)
    assert reply.body.startswith(b":"), reply.body[:80]
    assert sse_events(reply.body)[-1] == "[DONE]"


def test_curl_reads_a_stream(demo):
    command = ["curl", "-sS", "--no-buffer", "--max-time", "60", demo.url + COMPLETIONS]
    command += ["-H", "content-type: application/json", "-d", json.dumps(BODY | {"stream": True})]
    done = subprocess.run(command, capture_output=True, timeout=90, check=True)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks_of(done.stdout))
    assert text == demo.complete(**BODY)["choices"][0]["text"]


def test_http_1_0_and_pipelines(demo):
    answer = raw_exchange(demo, b"GET /health HTTP/1.0\r\n\r\n")
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"200"
    answer = raw_exchange(demo, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2


def test_garbage_is_not_a_crash(demo):
    for payload in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"):
        raw_exchange(demo, payload)
    assert demo.get("/health").status == 200


def test_a_head_that_never_ends_is_cut():
    with Server("--header-timeout", "1s") as server:
        started = time.monotonic()
        raw_exchange(server, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
        assert 0.5 < time.monotonic() - started < 10
        assert server.get("/health").status == 200


def test_api_keys():
    keys = ["first-key", "second-key"]
    with Server("--api-key", keys[0], "--api-key", keys[1]) as server:
        assert server.get("/health").status == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "first-key"}, {"authorization": "Bearer first-ke"}):
            reply = server.get("/v1/models", headers=headers)
            assert reply.status == 401, headers
            assert reply.error["type"] == "authentication_error" and reply.error["code"] == "invalid_api_key"
            assert server.post(COMPLETIONS, BODY, headers=headers).status == 401
        for key in keys:
            assert server.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status == 200
        assert not any(key in server.log for key in keys)

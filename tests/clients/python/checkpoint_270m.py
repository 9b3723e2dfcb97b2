"""A random checkpoint of a published size: it serves, both ways, and how fast. Run by tests/checkpoint_270m.sh."""

import json
import os
import time

import pytest
from harness import Server, chunks_of

CHECKPOINT = os.environ["CHECKPOINT"]
# Far below what any machine of the last ten years does: a slower engine is broken.
LEAST_TOKENS_PER_SECOND = 3


@pytest.fixture(scope="module")
def server():
    with Server("--model", CHECKPOINT) as server:
        yield server


def timed(call):
    started = time.monotonic()
    value = call()
    return value, time.monotonic() - started


def test_from_start_to_first_token():
    started = time.monotonic()
    with Server("--model", CHECKPOINT) as server:
        ready = time.monotonic() - started
        server.complete(prompt="hello", max_tokens=1)
        first = time.monotonic() - started
        resident = server.metric("process_resident_memory_bytes")
    print(f"\nexec to ready {ready:.2f} s, to first token {first:.2f} s, resident {resident / 1e6:.0f} MB")


def test_decode(server):
    body = {"prompt": "hello", "max_tokens": 64, "temperature": 0, "ignore_eos": True}
    server.complete(**body)
    answer, seconds = timed(lambda: server.complete(**body))
    assert answer["usage"]["completion_tokens"] == 64
    print(f"\ndecode, one stream: {64 / seconds:.1f} tokens/s")
    assert 64 / seconds > LEAST_TOKENS_PER_SECOND


def test_prefill(server):
    ids = [1] + [300 + number * 7 % 30000 for number in range(511)]
    _, seconds = timed(lambda: server.complete(prompt=ids, max_tokens=1, temperature=0))
    print(f"\nprefill of 512 tokens: {512 / seconds:.0f} tokens/s")


def test_a_batch_says_what_each_says_alone(server):
    prompts = [f"{number} birds in the tree" for number in range(4)]
    body = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 2}
    together, seconds = timed(lambda: server.complete(prompt=prompts, **body)["choices"])
    print(f"\ndecode, four streams: {4 * 12 / seconds:.1f} tokens/s")
    for prompt, choice in zip(prompts, together, strict=True):
        alone = server.complete(prompt=prompt, **body)["choices"][0]
        assert alone | {"index": 0} == choice | {"index": 0}


def test_chat_and_stream(server):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
    whole = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    chunks = chunks_of(server.post("/v1/chat/completions", body | {"stream": True}).body)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole
    entry = server.get("/v1/models").json["data"][0]
    config = json.loads(open(os.path.join(CHECKPOINT, "config.json")).read())
    assert entry["max_model_len"] == config["max_context_length"] == 2048

"""The same request gets the same answer, bit for bit, whatever else runs and however the server is set up."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import Server, chunks_of

STORY = "One day a small fox walked through the deep green forest and found a shiny red stone near the river. "
TOKENS = 48
# A block of 32 tokens of the demo model: 15 kv heads over all layers, 64 wide, keys and values, 2 bytes each.
BLOCK_BYTES = 32 * 15 * 64 * 2 * 2


def requests():
    """16 prompts from one word to about 300 tokens, half greedy, half sampled, all with log-probabilities."""
    found = []
    for number in range(16):
        prompt = (STORY * 12)[: 1 + 73 * number] if number % 4 else f"{number} little birds"
        body = {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": 3, "return_token_ids": True}
        body |= {"temperature": 0} if number % 2 else {"temperature": 1.1, "top_p": 0.95, "seed": number, "presence_penalty": 0.3}
        found.append(body)
    return found


def answer(server, body):
    """Everything of a choice: text, ids, log-probabilities as printed."""
    (choice,) = server.complete(**body)["choices"]
    assert choice["finish_reason"] == "length"
    return choice


def alone(server):
    return [answer(server, body) for body in requests()]


def together(server):
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda body: answer(server, body), requests()))


@pytest.fixture(scope="module")
def truth():
    """One request at a time, no prefix cache."""
    with Server("--no-enable-prefix-caching", "--threads", "1") as server:
        return alone(server)


def test_the_answers_are_worth_comparing(truth):
    assert len({choice["text"] for choice in truth}) == 16
    assert all(len(choice["logprobs"]["token_logprobs"]) == TOKENS for choice in truth)


@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_batch(truth, threads):
    with Server("--no-enable-prefix-caching", "--threads", threads) as server:
        assert together(server) == truth


def test_with_default_settings(truth):
    with Server() as server:
        assert together(server) == truth
        assert alone(server) == truth


def test_after_prefix_hits(truth):
    with Server() as server:
        assert alone(server) == truth
        before = server.metric("vllm:prefix_cache_hits_total")
        assert together(server) == truth
        assert server.metric("vllm:prefix_cache_hits_total") > before


def test_chunked_by_seven(truth):
    with Server("--max-num-batched-tokens", "7", "--max-num-seqs", "4") as server:
        assert together(server) == truth


def test_with_preemption(truth):
    with Server("--kv-cache-memory-bytes", 20 * BLOCK_BYTES, "--no-enable-prefix-caching") as server:
        assert together(server) == truth
        assert server.metric("vllm:num_preemptions_total") > 0


def test_larger_blocks(truth):
    with Server("--block-size", "64") as server:
        assert together(server) == truth


def test_streamed(truth):
    with Server() as server, ThreadPoolExecutor(16) as pool:
        raws = list(pool.map(lambda body: server.post("/v1/completions", body | {"stream": True}).body, requests()))
    for raw, whole in zip(raws, truth, strict=True):
        choices = [chunk["choices"][0] for chunk in chunks_of(raw)]
        assert "".join(choice["text"] for choice in choices) == whole["text"]
        assert [token for choice in choices for token in choice.get("token_ids") or []] == whole["token_ids"]
        parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]
        for key, expected in whole["logprobs"].items():
            assert [entry for part in parts for entry in part[key]] == expected, key


def test_scores_of_a_prompt(truth):
    body = {"prompt": STORY * 3, "max_tokens": 0, "echo": True, "logprobs": 2}
    with Server("--threads", "1") as first, Server("--max-num-batched-tokens", "7", "--max-num-seqs", "4") as second:
        expected = first.complete(**body)["choices"]
        assert first.complete(**body)["choices"] == expected, "after the prompt was cached"
        assert second.complete(**body)["choices"] == expected, "chunked"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_types(dtype):
    with Server("--dtype", dtype) as server:
        assert together(server) == alone(server)

"""More work than fits, clients that leave, clients that do not read."""

import asyncio
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
from harness import Server, wait_until
from openai import AsyncOpenAI, OpenAI
from test_invariance import BLOCK_BYTES

COMPLETIONS = "/v1/completions"
PROMPT = "Once upon a time, there was a little"


def request_bytes(body):
    """A POST of `body` as it goes over the wire."""
    payload = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def nothing_left(server):
    """Waits until no sequence and, with prefix caching off, no block is held."""
    server.wait_idle(30)
    wait_until(lambda: server.metric("vllm:kv_cache_usage_perc") == 0, 10, "an empty KV cache")


async def test_64_streams_on_a_pool_too_small_for_them():
    tokens = 100
    with Server("--kv-cache-memory-bytes", 20 * BLOCK_BYTES, "--no-enable-prefix-caching") as server:

        async def stream(client, number):
            received, reason = 0, None
            chunks = await client.completions.create(
                model="openelm-demo",
                prompt=f"Story {number}. {PROMPT}",
                max_tokens=tokens,
                seed=number,
                stream=True,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
            async for chunk in chunks:
                assert reason is None
                received += len(chunk.choices[0].token_ids or [])
                reason = chunk.choices[0].finish_reason
            return received, reason

        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=150) as client:
            ends = await asyncio.gather(*(stream(client, number) for number in range(64)))
        assert ends == [(tokens, "length")] * 64
        assert server.metric("vllm:num_preemptions_total") > 0
        assert server.metric("vllm:generation_tokens_total") == 64 * tokens
        nothing_left(server)


async def leave_at_random(server, number, dice):
    """Sends a request, streamed or not, reads for a random time and goes away, sometimes with a reset."""
    body = {"prompt": f"{number} {PROMPT}", "max_tokens": 400, "ignore_eos": True, "stream": number % 2 == 0, "n": dice.choice([1, 1, 3])}
    payload = request_bytes(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if dice.random() < 0.1:
            payload = payload[: dice.randrange(1, len(payload))]
        writer.write(payload)
        await writer.drain()
        if dice.random() > 0.1:
            deadline = dice.uniform(0, 0.5)
            try:
                async with asyncio.timeout(deadline):
                    while await reader.read(4096):
                        pass
            except TimeoutError:
                pass
    finally:
        if dice.random() < 0.5:
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


async def test_200_clients_that_leave_at_random_moments():
    dice = random.Random(4)
    with Server("--no-enable-prefix-caching") as server:
        for wave in range(4):
            clients = [leave_at_random(server, wave * 50 + number, random.Random(dice.random())) for number in range(50)]
            await asyncio.gather(*clients)
        await asyncio.to_thread(nothing_left, server)
        assert server.metric("vllm:request_success_total", finished_reason="abort") > 0
        whole = await asyncio.to_thread(server.complete, prompt=PROMPT, max_tokens=8, temperature=0)
        assert whole["choices"][0]["text"]


def test_a_client_that_leaves_while_it_waits():
    with Server("--max-num-seqs", "1", "--no-enable-prefix-caching") as server:
        body = {"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True}
        sockets = []
        for _ in range(8):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            connection.sendall(request_bytes(body))
            sockets.append(connection)
        wait_until(lambda: server.metric("vllm:num_requests_waiting") > 0, 10, "a queue")
        for connection in sockets:
            connection.close()
        nothing_left(server)


def test_overload_is_refused_with_a_time_to_retry():
    with Server("--max-num-seqs", "1", "--max-num-queued-reqs", "2") as server:
        body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda _: server.post(COMPLETIONS, body, timeout=120), range(16)))
        refused = [reply for reply in replies if reply.status == 503]
        assert refused and any(reply.status == 200 for reply in replies)
        assert {reply.status for reply in replies} == {200, 503}
        for reply in refused:
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.error["type"] == "overloaded_error"
        assert server.metric("vllm:admission_rejections_total", reason="max_num_queued_reqs") == len(refused)
        assert server.get("/readyz").status == 200


def test_too_many_tokens_in_the_queue():
    with Server("--max-num-seqs", "1", "--max-num-queued-tokens", "600") as server:
        # Tokens of waiting prompts are counted: one prompt of 400 may wait, a second may not.
        body = {"prompt": [1] + [7] * 399, "max_tokens": 100, "ignore_eos": True}
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: server.post(COMPLETIONS, body, timeout=120), range(8)))
        assert {reply.status for reply in replies} == {200, 503}
        assert server.metric("vllm:admission_rejections_total", reason="max_num_queued_tokens") > 0


def test_the_sdk_retries_an_overload():
    with Server("--max-num-seqs", "1", "--max-num-queued-reqs", "1") as server:
        with OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
            request = {"model": "openelm-demo", "prompt": PROMPT, "max_tokens": 100, "extra_body": {"ignore_eos": True}}

            def attempt(retries):
                try:
                    return client.with_options(max_retries=retries).completions.create(**request).usage.completion_tokens
                except openai.InternalServerError as error:
                    return error.status_code

            with ThreadPoolExecutor(8) as pool:
                assert 503 in list(pool.map(attempt, [0] * 8))
            with ThreadPoolExecutor(3) as pool:
                assert list(pool.map(attempt, [8] * 3)) == [100] * 3


def test_a_reader_that_stalls_is_cut_and_slows_nobody():
    with Server("--write-timeout", "2s", "--no-enable-prefix-caching") as server:
        quiet = {"prompt": PROMPT, "max_tokens": 150, "ignore_eos": True, "temperature": 0}
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        # More than loopback buffers hold: 64 choices of 450 tokens with 20 alternatives each.
        stalled.sendall(request_bytes(quiet | {"max_tokens": 450, "n": 64, "temperature": 1, "logprobs": 20, "stream": True}))
        wait_until(lambda: server.metric("vllm:num_requests_running") > 0, 10, "running")
        started = time.monotonic()
        assert server.complete(**quiet)["usage"]["completion_tokens"] == 150
        assert time.monotonic() - started < 30
        nothing_left(server)
        received = 0
        stalled.settimeout(10)
        try:
            while piece := stalled.recv(1 << 20):
                received += len(piece)
                assert b"[DONE]" not in piece, "the whole stream fitted into buffers: nothing stalled"
        except ConnectionResetError:
            pass
        finally:
            stalled.close()
        assert received > 0
        assert server.get("/health").status == 200

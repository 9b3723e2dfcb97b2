"""The asynchronous OpenAI client: many requests at once, streams left in the middle."""

import asyncio

from harness import wait_until

PROMPT = "Once upon a time, there was a little"


async def test_many_at_once(async_client, model):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    answers = await asyncio.gather(*(async_client.completions.create(**request) for _ in range(32)))
    assert len({answer.choices[0].text for answer in answers}) == 1
    assert len({answer.id for answer in answers}) == 32


async def test_many_streams_at_once(async_client, model):
    async def collect(seed):
        messages = [{"role": "user", "content": "Tell me a story."}]
        stream = await async_client.chat.completions.create(model=model, messages=messages, max_tokens=32, seed=seed, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    together = await asyncio.gather(*(collect(seed) for seed in range(12)))
    alone = [await collect(seed) for seed in range(3)]
    assert together[:3] == alone
    assert len(set(together)) > 1


async def test_a_stream_left_in_the_middle_is_freed(async_client, model, demo):
    stream = await async_client.completions.create(model=model, prompt=PROMPT, max_tokens=450, stream=True, extra_body={"ignore_eos": True})
    received = 0
    async for _ in stream:
        received += 1
        if received == 3:
            break
    await stream.close()
    demo.wait_idle(10)


async def test_a_cancelled_request_is_freed(async_client, model, demo):
    before = demo.metric("vllm:request_success_total", finished_reason="abort")
    task = asyncio.create_task(
        async_client.completions.create(model=model, prompt=PROMPT, max_tokens=450, n=8, extra_body={"ignore_eos": True})
    )
    await asyncio.to_thread(wait_until, lambda: demo.metric("vllm:num_requests_running") > 0, 10, "running")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    demo.wait_idle(10)
    assert demo.metric("vllm:request_success_total", finished_reason="abort") > before

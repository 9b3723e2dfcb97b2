"""What the OpenAI client offers around an answer: raw and streaming responses, events, keys, retries, deadlines, synchronous and not."""

import http.server
import json
import threading

import openai
import pytest
from harness import Server
from openai import AsyncOpenAI, OpenAI

PROMPT = "Once upon a time, there was a little"
MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]
SHORT = [{"role": "user", "content": "Hello!"}]
"""Is answered by a text that ends by itself."""


def test_a_raw_chat_response_has_status_headers_and_the_answer(client, model):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=MESSAGES, max_tokens=4, temperature=0, extra_headers={"x-request-id": "raw"}
    )
    assert raw.status_code == 200 and raw.request_id == "raw"
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    assert answer.id == raw.http_response.json()["id"] and answer._request_id == "raw"


def test_a_raw_stream_is_parsed_to_chunks(client, model):
    raw = client.completions.with_raw_response.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    text = "".join(chunk.choices[0].text for chunk in raw.parse())
    assert text == client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0).choices[0].text


def test_a_streaming_response_is_read_in_the_three_ways(client, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**request).choices[0].message.content
    streaming = client.chat.completions.with_streaming_response
    with streaming.create(**request) as response:
        assert response.status_code == 200 and response.headers["x-request-id"]
        assert response.parse().choices[0].message.content == whole
    with streaming.create(**request) as response:
        assert json.loads(b"".join(response.iter_bytes()))["choices"][0]["message"]["content"] == whole
    with streaming.create(**request, stream=True) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole


def test_events_of_the_helper_come_in_order_and_add_up(client, model):
    with client.chat.completions.stream(model=model, messages=SHORT, temperature=0, logprobs=True, top_logprobs=1) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event for event in events if event.type == "content.delta"]
    (done,) = (event for event in events if event.type == "content.done")
    assert "".join(event.delta for event in deltas) == deltas[-1].snapshot == done.content == final.choices[0].message.content
    tokens = [token for event in events if event.type == "logprobs.content.delta" for token in event.content]
    (scored,) = (event for event in events if event.type == "logprobs.content.done")
    assert tokens == scored.content == final.choices[0].logprobs.content
    assert {event.type for event in events} == {
        "chunk",
        "content.delta",
        "content.done",
        "logprobs.content.delta",
        "logprobs.content.done",
    }
    whole = client.chat.completions.create(model=model, messages=SHORT, temperature=0, logprobs=True, top_logprobs=1)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert tokens == whole.choices[0].logprobs.content


def test_the_helper_keeps_choices_apart_and_has_the_usage(client, model):
    request = {"model": model, "messages": SHORT, "n": 3, "seed": 1, "temperature": 1.0}
    with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**request)
    assert [choice.message.content for choice in final.choices] == [choice.message.content for choice in whole.choices]
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_the_helper_says_that_an_answer_was_cut(client, model):
    with client.chat.completions.stream(model=model, messages=MESSAGES, temperature=0, max_tokens=3) as stream:
        events = list(stream)
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            stream.get_final_completion()
    (choice,) = caught.value.completion.choices
    assert choice.finish_reason == "length" and choice.message.content == events[-1].content


async def test_the_asynchronous_helper_gives_the_same_events(async_client, client, model):
    async with async_client.chat.completions.stream(model=model, messages=SHORT, temperature=0) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    with client.chat.completions.stream(model=model, messages=SHORT, temperature=0) as stream:
        expected = list(stream)
    assert [event.type for event in events] == [event.type for event in expected]
    assert final.choices[0].message.content == events[-1].content == expected[-1].content


async def test_raw_and_streaming_responses_are_there_asynchronously(async_client, model):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    raw = await async_client.completions.with_raw_response.create(**request)
    assert raw.status_code == 200 and raw.request_id
    whole = raw.parse().choices[0].text
    async with async_client.completions.with_streaming_response.create(**request) as response:
        assert (await response.parse()).choices[0].text == whole
    async with async_client.completions.with_streaming_response.create(**request, stream=True) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert "".join(json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines[:-1]) == whole


async def test_models_are_listed_asynchronously(async_client, model):
    assert [found.id async for found in async_client.models.list()] == [model]
    with pytest.raises(openai.NotFoundError) as caught:
        await async_client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


async def test_errors_are_the_same_asynchronously(async_client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        await async_client.completions.create(model=model, prompt=PROMPT, top_p=2)
    assert (caught.value.param, caught.value.type) == ("top_p", "invalid_request_error")
    assert caught.value.request_id


def test_apis_that_are_not_there_are_errors_with_the_four_fields(client, model):
    calls = [
        lambda: client.responses.create(model=model, input="Hello"),
        lambda: client.embeddings.create(model=model, input="Hello"),
        lambda: client.moderations.create(input="Hello"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert set(caught.value.body) == {"message", "type", "param", "code"}
        assert caught.value.type == "invalid_request_error"


def test_a_key_is_needed_where_the_server_has_one():
    with Server("--api-key", "right") as server:
        with OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert (caught.value.status_code, caught.value.type) == (401, "authentication_error")
            assert client.with_options(api_key="right").models.list().data


@pytest.fixture
def broken_twice(demo):
    """Answers 503 with Retry-After twice, then what the server answers. Yields its URL and the list of requests that came."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append(self.headers["x-stainless-retry-count"])
            if len(seen) <= 2:
                status, answer = 503, b'{"error": {"message": "busy", "type": "overloaded_error", "param": null, "code": null}}'
            else:
                reply = demo.post(self.path, body, headers={"content-type": "application/json"})
                status, answer = reply.status, reply.body
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            if status == 503:
                self.send_header("retry-after", "0.01")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}/v1", seen
        proxy.shutdown()
        thread.join()


def test_a_request_tried_again_gives_the_same_answer(broken_twice, client, model):
    url, seen = broken_twice
    request = {"model": model, "prompt": PROMPT, "max_tokens": 8, "seed": 4}
    with OpenAI(base_url=url, api_key="unused", max_retries=2) as patient:
        answer = patient.completions.create(**request)
    assert seen == ["0", "1", "2"]
    assert answer.choices[0].text == client.completions.create(**request).choices[0].text


def test_a_wrong_request_is_sent_once(demo, model):
    sent = []
    transport = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: sent.append(request.url.path)]})
    with OpenAI(base_url=demo.url + "/v1", api_key="unused", max_retries=3, http_client=transport) as client:
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=model, prompt=PROMPT, temperature=-1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model=model, prompt=PROMPT, max_tokens=400, extra_body={"ignore_eos": True, "timeout_ms": 1})
    assert caught.value.status_code == 504 and caught.value.code == "deadline_exceeded"
    assert len(sent) == 2, "x-should-retry: false is heard, at a 504 too"


def test_a_client_that_times_out_frees_its_sequence(demo, client, model):
    before = demo.metric("vllm:request_success_total", finished_reason="abort")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).completions.create(
            model=model, prompt=PROMPT, max_tokens=450, n=8, extra_body={"ignore_eos": True}
        )
    demo.wait_idle()
    assert demo.metric("vllm:request_success_total", finished_reason="abort") > before


async def test_one_connection_serves_many_requests(demo, model):
    connections = set()

    async def note(response):
        connections.add(response.extensions["network_stream"].get_extra_info("client_addr"))

    transport = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
    async with AsyncOpenAI(base_url=demo.url + "/v1", api_key="unused", http_client=transport) as client:
        for _ in range(4):
            await client.completions.create(model=model, prompt=PROMPT, max_tokens=1)
            stream = await client.completions.create(model=model, prompt=PROMPT, max_tokens=2, stream=True)
            async for _ in stream:
                pass
    assert len(connections) == 1

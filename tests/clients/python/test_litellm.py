"""litellm: it finds our errors under its own names, and streams and counts as from any OpenAI-compatible server."""

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

PROMPT = "Once upon a time, there was a little"
MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "feed",
        "parameters": {
            "type": "object",
            "properties": {"animal": {"enum": ["cat", "dog"]}},
            "required": ["animal"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def chat(demo, model):
    """The arguments that name the server, for a chat."""
    return {"model": f"openai/{model}", "api_base": demo.url + "/v1", "api_key": "unused", "num_retries": 0, "max_retries": 0}


@pytest.fixture(scope="module")
def text(chat, model):
    """The same for a completion."""
    return chat | {"model": f"text-completion-openai/{model}"}


def test_a_chat_whole_and_streamed(chat, client, model):
    request = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    answer = litellm.completion(**chat, **request)
    assert answer.usage.completion_tokens == 24 and answer.choices[0].finish_reason == "length"
    chunks = list(litellm.completion(**chat, **request, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    direct = client.chat.completions.create(model=model, **request).choices[0].message.content
    assert streamed == answer.choices[0].message.content == direct
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.usage.completion_tokens == 24 and built.choices[0].message.content == direct


async def test_chats_asynchronously(chat):
    request = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = await litellm.acompletion(**chat, **request)
    stream = await litellm.acompletion(**chat, **request, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == answer.choices[0].message.content


def test_a_completion_whole_and_streamed(text, client, model):
    request = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    answer = litellm.text_completion(**text, **request).choices[0].text
    streamed = "".join(chunk.choices[0].text or "" for chunk in litellm.text_completion(**text, **request, stream=True))
    assert answer == streamed == client.completions.create(model=model, **request).choices[0].text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_that_does_not_fit_is_recognised(chat, stream):
    with pytest.raises(litellm.ContextWindowExceededError) as caught:
        litellm.completion(**chat, messages=[{"role": "user", "content": "word " * 2000}], stream=stream)
    assert "512" in str(caught.value) and caught.value.status_code == 400


def test_an_answer_that_does_not_fit_is_recognised(chat):
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**chat, messages=MESSAGES, max_tokens=5000)


def test_other_errors_have_their_own_kinds(chat):
    with pytest.raises(litellm.BadRequestError) as caught:
        litellm.completion(**chat, messages=MESSAGES, temperature=3)
    assert not isinstance(caught.value, litellm.ContextWindowExceededError) and "temperature" in str(caught.value)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**chat | {"model": "openai/nothing"}, messages=MESSAGES)


def test_parameters_beyond_openais_arrive(chat, client, model):
    request = {"messages": MESSAGES, "max_tokens": 12, "temperature": 1.5, "seed": 3}
    greedy = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12, temperature=0).choices[0].message.content
    assert litellm.completion(**chat, **request, extra_body={"top_k": 1}).choices[0].message.content == greedy


def test_log_probabilities_arrive(chat):
    answer = litellm.completion(**chat, messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2)
    assert [len(entry["top_logprobs"]) for entry in answer.choices[0].logprobs.model_dump()["content"]] == [2] * 4


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_is_called(chat, stream):
    request = {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required", "max_tokens": 100, "temperature": 0}
    answer = litellm.completion(**chat, **request, stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=MESSAGES)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.arguments.replace(" ", "") in ('{"animal":"cat"}', '{"animal":"dog"}')

"""LangChain's ChatOpenAI and OpenAI: whole, streamed and in batches; objects and tools."""

from typing import Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

QUESTION = "Tell me a story about a fox."
CONVERSATION = [SystemMessage("You tell stories."), HumanMessage("Hello!"), AIMessage("Hello."), HumanMessage(QUESTION)]


class Pet(BaseModel, extra="forbid"):
    """A pet."""

    animal: Literal["cat", "dog", "fox"]
    tame: bool


@tool
def feed(animal: Literal["cat", "dog"], twice: bool) -> str:
    """Feeds an animal."""
    return f"The {animal} is full."


@pytest.fixture
def chat(demo, model):
    return ChatOpenAI(
        base_url=demo.url + "/v1", api_key="unused", model=model, temperature=0, max_tokens=24, max_retries=0, stream_usage=True
    )


@pytest.fixture
def bounded(chat):
    """With room for the longest object of the tests."""
    return chat.model_copy(update={"max_tokens": 100})


def test_invoke_gives_the_text_and_what_it_took(chat, client, model):
    answer = chat.invoke(CONVERSATION)
    messages = [
        {"role": role, "content": message.content}
        for role, message in zip(("system", "user", "assistant", "user"), CONVERSATION, strict=True)
    ]
    direct = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
    assert answer.content == direct.choices[0].message.content
    assert answer.usage_metadata["output_tokens"] == direct.usage.completion_tokens
    assert answer.response_metadata["finish_reason"] == direct.choices[0].finish_reason
    assert answer.response_metadata["system_fingerprint"] == direct.system_fingerprint


def test_a_stream_adds_up_to_the_message(chat):
    whole = chat.invoke(QUESTION)
    chunks = list(chat.stream(QUESTION))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.content == whole.content and len(chunks) > 10
    assert total.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


def test_a_batch_is_answered_as_one_by_one(chat):
    questions = [f"Tell me about the {animal}." for animal in ("cat", "dog", "fox", "bird", "bear")]
    together = [answer.content for answer in chat.batch(questions)]
    assert together == [chat.invoke(question).content for question in questions]


async def test_all_of_it_asynchronously(chat):
    whole = await chat.ainvoke(QUESTION)
    assert "".join([chunk.content async for chunk in chat.astream(QUESTION)]) == whole.content
    assert [answer.content for answer in await chat.abatch([QUESTION] * 4)] == [whole.content] * 4


def test_log_probabilities_and_stop_strings(chat):
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    entries = answer.response_metadata["logprobs"]["content"]
    assert len(entries) == answer.usage_metadata["output_tokens"]
    first = answer.content.split()[2]
    assert first not in chat.invoke(QUESTION, stop=[first]).content


def test_completions(demo, client, model):
    prompt = "Once upon a time, there was a little"
    text = OpenAI(base_url=demo.url + "/v1", api_key="unused", model=model, temperature=0, max_tokens=16, max_retries=0)
    whole = text.invoke(prompt)
    assert (
        whole
        == "".join(text.stream(prompt))
        == client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=16).choices[0].text
    )
    assert text.batch([prompt, prompt]) == [whole, whole]


def test_errors_come_through(chat):
    with pytest.raises(openai.BadRequestError) as caught:
        chat.invoke("word " * 2000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.model_copy(update={"temperature": 3}).invoke(QUESTION)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_structured_answer(bounded, method):
    asked = bounded.with_structured_output(Pet, method=method)
    assert isinstance(asked.invoke(QUESTION), Pet)
    with_raw = bounded.with_structured_output(Pet, method=method, include_raw=True).invoke(QUESTION)
    assert isinstance(with_raw["parsed"], Pet) and with_raw["parsing_error"] is None


@pytest.mark.parametrize("strict", [None, True], ids=["as it comes", "strict"])
@pytest.mark.parametrize("choice", ["any", "feed"])
def test_bound_tools_are_called(bounded, choice, strict):
    """LangChain's schemas say nothing of further keys unless they are strict. A small model must not invent some for ever."""
    asked = bounded.bind_tools([feed], tool_choice=choice, strict=strict)
    message = asked.invoke(QUESTION)
    (call,) = message.tool_calls
    assert call["name"] == "feed" and set(call["args"]) == {"animal", "twice"} and not message.invalid_tool_calls
    chunks = list(asked.stream(QUESTION))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert [(made["name"], made["args"]) for made in total.tool_calls] == [(call["name"], call["args"])]


def test_the_result_of_a_tool_goes_back(bounded):
    message = bounded.bind_tools([feed], tool_choice="feed", strict=True).invoke(QUESTION)
    result = feed.invoke(message.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert bounded.bind_tools([feed], tool_choice="none").invoke([HumanMessage(QUESTION), message, result]).content

"""Answers of a given form and calls of tools through the OpenAI client.

Every field of the schemas is bounded: a small model ends its strings or not, the grammar has to. Tools are described in the prompt, which
takes more than the demo model's context."""

import json
from enum import StrEnum
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel, ConfigDict, Field

MESSAGES = [{"role": "user", "content": "Tell me about a pet."}]


class Colour(StrEnum):
    red = "red"
    green = "green"
    blue = "blue"


class Toy(BaseModel):
    kind: Literal["ball", "rope", "mouse"]
    colour: Colour


class Pet(BaseModel):
    """A pet."""

    model_config = ConfigDict(extra="forbid")
    animal: Literal["cat", "dog", "fox"]
    tame: bool
    colour: Colour
    toys: list[Toy] = Field(max_length=2)
    nickname: Literal["Tim", "Tom"] | None


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Rome", "Oslo"]
    unit: Literal["celsius", "fahrenheit"]


class Feed(BaseModel):
    """Feeds an animal."""

    animal: Literal["cat", "dog"]
    twice: bool


TOOLS = [pydantic_function_tool(Weather, name="weather"), pydantic_function_tool(Feed, name="feed")]
MODELS = {"weather": Weather, "feed": Feed}
NAMED = {"type": "function", "function": {"name": "feed"}}
LENGTH = 160


@pytest.fixture(scope="module")
def model():
    return "openelm-wide"


@pytest.fixture(scope="module")
def client(wide):
    with OpenAI(base_url=wide.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(wide):
    async with AsyncOpenAI(base_url=wide.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def format_of(schema, **extra):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **extra}}


def check_calls(calls):
    """Each call has an id of its own, a tool that was offered and arguments of the tool's schema."""
    assert calls and len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function" and call.id
        MODELS[call.function.name].model_validate_json(call.function.arguments)


@pytest.mark.parametrize("extra", [{"temperature": 0}, {"temperature": 1.3, "seed": 5}], ids=["greedy", "sampled"])
def test_parse_gives_the_object(client, model, extra):
    answer = client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Pet, max_tokens=LENGTH, **extra)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Pet) and choice.message.refusal is None
    assert Pet.model_validate_json(choice.message.content) == choice.message.parsed


async def test_parse_gives_the_object_asynchronously(async_client, client, model):
    request = {"model": model, "messages": MESSAGES, "response_format": Pet, "max_tokens": LENGTH, "seed": 8}
    there = await async_client.chat.completions.parse(**request)
    assert there.choices[0].message.parsed == client.chat.completions.parse(**request).choices[0].message.parsed


def test_many_seeds_all_fit_the_schema(client, model):
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Pet, max_tokens=LENGTH, n=16, temperature=2, top_p=1, seed=0
    )
    assert all(choice.message.parsed for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) > 4


def test_the_helper_for_streams_parses_on_the_way(client, model):
    request = {"model": model, "messages": MESSAGES, "response_format": Pet, "max_tokens": LENGTH, "temperature": 0}
    with client.chat.completions.stream(**request) as stream:
        partial = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(partial) > 3, "the object comes in pieces"
    whole = client.chat.completions.parse(**request)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_a_schema_of_ones_own(client, model):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "ages": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}},
        "required": ["name", "ages"],
        "additionalProperties": False,
    }
    for strict in ({}, {"strict": True}, {"strict": False}, {"strict": None}):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, response_format=format_of(schema, **strict), max_tokens=LENGTH, temperature=0
        )
        made = json.loads(answer.choices[0].message.content)
        assert set(made) == {"name", "ages"} and len(made["name"]) <= 8 and set(made["ages"]) <= {1, 2}


def test_any_json_object(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=LENGTH, temperature=0
    )
    (choice,) = answer.choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


def test_the_format_text_changes_nothing(client, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    plain = client.chat.completions.create(**request)
    text = client.chat.completions.create(**request, response_format={"type": "text"})
    assert plain.choices[0].message.content == text.choices[0].message.content


def test_an_answer_cut_by_its_length_is_named_so(client, model):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Pet, max_tokens=3)


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "yaml"}, "response_format"),
        ({"type": "json_schema"}, "response_format"),
        (format_of({"type": "notatype"}), "response_format"),
        (format_of({"$ref": "#/$defs/nowhere"}), "response_format"),
        (format_of("not a schema"), "response_format"),
    ],
    ids=["kind", "no schema", "type", "reference", "text"],
)
def test_a_wrong_format_is_refused_by_name(client, model, response_format, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, response_format=response_format, max_tokens=4)
    assert caught.value.param.startswith(param) and caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"choice": ["a small fox", "a big dog"]}, lambda text: text in ("a small fox", "a big dog")),
        (
            {"regex": r"[a-c]{3}-\d{2}"},
            lambda text: len(text) == 6 and text[3] == "-" and set(text[:3]) <= set("abc") and text[4:].isdigit(),
        ),
        ({"json": {"enum": [{"a": 1}, [True]]}}, lambda text: json.loads(text) in ({"a": 1}, [True])),
        ({"grammar": 'start: "yes" | "no" | "may" "be"'}, lambda text: text in ("yes", "no", "maybe")),
    ],
    ids=["choice", "regex", "json", "grammar"],
)
def test_forms_of_vllm_on_both_endpoints(client, model, endpoint, wanted, fits):
    extra = {"structured_outputs": wanted}
    for seed in range(3):
        request = {"model": model, "max_tokens": 60, "temperature": 1.5, "seed": seed, "extra_body": extra}
        if endpoint == "chat":
            choice = client.chat.completions.create(**request, messages=MESSAGES).choices[0]
            text = choice.message.content
        else:
            choice = client.completions.create(**request, prompt="The answer is").choices[0]
            text = choice.text
        assert fits(text) and choice.finish_reason == "stop", text


def test_a_required_tool_is_called_once_or_more(client, model):
    for seed in range(4):
        request = {"model": model, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "temperature": 1, "seed": seed}
        (choice,) = client.chat.completions.create(**request, max_tokens=600).choices
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        check_calls(choice.message.tool_calls)
        (choice,) = client.chat.completions.create(**request, max_tokens=LENGTH, parallel_tool_calls=False).choices
        assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1
        check_calls(choice.message.tool_calls)


def test_a_named_tool_is_called(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, max_tokens=LENGTH, temperature=0
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.function.name == "feed"
    check_calls([call])


def test_tools_are_parsed_to_objects(client, model):
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=LENGTH, temperature=0
    )
    for call in answer.choices[0].message.tool_calls:
        assert isinstance(call.function.parsed_arguments, MODELS[call.function.name])


def test_auto_calls_or_talks(client, model):
    for seed in range(4):
        answer = client.chat.completions.create(model=model, messages=MESSAGES, tools=TOOLS, max_tokens=24, temperature=1, seed=seed)
        (choice,) = answer.choices
        if choice.message.tool_calls:
            assert choice.finish_reason in ("tool_calls", "length")
        else:
            assert choice.message.content and choice.finish_reason in ("stop", "length")


def test_none_talks(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, tools=TOOLS, tool_choice="none", max_tokens=12, temperature=0)
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_streamed_deltas_add_up_to_the_calls(client, model, choice):
    request = {"model": model, "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice, "max_tokens": LENGTH, "temperature": 0}
    whole = client.chat.completions.create(**request)
    calls, reasons = {}, []
    for chunk in client.chat.completions.create(**request, stream=True):
        delta = chunk.choices[0].delta
        assert not delta.content
        for piece in delta.tool_calls or []:
            if piece.index not in calls:
                assert piece.index == len(calls), "calls come one after another"
                assert piece.id and piece.type == "function" and piece.function.name and piece.function.arguments == ""
                calls[piece.index] = [piece.id, piece.function.name, ""]
            else:
                assert piece.id is None and piece.function.name is None
                assert piece.index == len(calls) - 1
                calls[piece.index][2] += piece.function.arguments
        if chunk.choices[0].finish_reason:
            reasons.append(chunk.choices[0].finish_reason)
    assert reasons == [whole.choices[0].finish_reason]
    told = [(call.function.name, call.function.arguments) for call in whole.choices[0].message.tool_calls]
    assert [(name, arguments) for _, name, arguments in calls.values()] == told
    assert len({identity for identity, _, _ in calls.values()}) == len(calls)


def test_events_of_tools_in_the_helper(client, model):
    request = {"model": model, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": LENGTH, "temperature": 0}
    with client.chat.completions.stream(**request) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    calls = final.choices[0].message.tool_calls
    assert [event.arguments for event in done] == [call.function.arguments for call in calls]
    for event, call in zip(done, calls, strict=True):
        assert "".join(piece.arguments_delta for piece in pieces if piece.index == event.index) == event.arguments
        assert event.parsed_arguments == call.function.parsed_arguments
        assert isinstance(event.parsed_arguments, MODELS[event.name])


def test_a_conversation_with_calls_and_their_results_goes_on(client, model):
    request = {"model": model, "tools": TOOLS, "max_tokens": LENGTH, "temperature": 0}
    called = client.chat.completions.create(**request, messages=MESSAGES, tool_choice=NAMED).choices[0].message
    (call,) = called.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "The dog is full."}]
    more = [*MESSAGES, called.model_dump(exclude_none=True), *results]
    assert client.chat.completions.create(**request, messages=more, tool_choice="none").choices[0].message.content
    with_null = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}, *results]
    assert client.chat.completions.create(**request, messages=with_null, tool_choice="none").choices[0].message.content


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nothing"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        (
            {"tools": [{"type": "function", "function": {"name": "bad", "parameters": {"type": "notatype"}}}], "tool_choice": "required"},
            "tools",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
    ids=["no tools", "unknown tool", "unknown choice", "bad schema", "no function"],
)
def test_wrong_tools_are_refused_by_name(client, model, extra, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, **extra)
    assert caught.value.param.startswith(param)

"""instructor: objects by tools, by schema and by the bare JSON mode, whole and in parts."""

from typing import Literal

import instructor
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

MESSAGES = [{"role": "user", "content": "Tell me about a pet."}]
REQUEST = {"model": "openelm-wide", "messages": MESSAGES, "temperature": 0, "max_tokens": 120}
MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]


class Pet(BaseModel, extra="forbid"):
    """A pet."""

    animal: Literal["cat", "dog", "fox"]
    tame: bool
    colours: list[Literal["red", "grey"]] = Field(max_length=2)


class Toy(BaseModel):
    """A toy, whose schema says nothing of further keys, as most models do. A small model must not invent some for ever."""

    kind: Literal["ball", "rope"]
    red: bool


@pytest.fixture
def asked(wide):
    """instructor writes the schema into the prompt, which may be longer than the demo model's context. It tries once: an answer that
    does not fit the schema is an error here."""

    def make(mode, kind=OpenAI):
        return instructor.from_openai(kind(base_url=wide.url + "/v1", api_key="unused", max_retries=0), mode=mode)

    return make


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_an_object(asked, mode):
    pet, raw = asked(mode).chat.completions.create_with_completion(response_model=Pet, max_retries=0, **REQUEST)
    assert isinstance(pet, Pet) and raw.usage.completion_tokens > 0


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_an_object_of_an_open_schema(asked, mode):
    assert isinstance(asked(mode).chat.completions.create(response_model=Toy, max_retries=0, **REQUEST), Toy)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
async def test_an_object_asynchronously(asked, mode):
    pet = await asked(mode, AsyncOpenAI).chat.completions.create(response_model=Pet, max_retries=0, **REQUEST)
    assert pet.model_dump() == asked(mode).chat.completions.create(response_model=Pet, max_retries=0, **REQUEST).model_dump()


def test_an_object_in_parts(asked):
    tools = asked(instructor.Mode.TOOLS)
    parts = list(tools.chat.completions.create_partial(response_model=Pet, max_retries=0, **REQUEST))
    assert len(parts) > 2
    whole = tools.chat.completions.create(response_model=Pet, max_retries=0, **REQUEST)
    assert parts[-1].model_dump() == whole.model_dump()


def test_the_bare_json_mode_writes_json_that_need_not_fit(asked):
    """The grammar of `json_object` knows no schema: what comes is JSON, and instructor says where it differs."""
    request = REQUEST | {"max_tokens": 300}
    raw = asked(instructor.Mode.JSON).chat.completions.create(response_model=None, response_format={"type": "json_object"}, **request)
    assert raw.choices[0].message.content.startswith("{")

"""pydantic-ai: texts, streams, objects by tools, by the native format and by prompt, and tools on the way."""

from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

QUESTION = "Tell me about a pet."
SETTINGS = ModelSettings(temperature=0, max_tokens=100)


class Pet(BaseModel):
    """A pet."""

    animal: Literal["cat", "dog", "fox"]
    tame: bool


@pytest.fixture
def wide_model(wide):
    """The agent describes its tools in the prompt, which may be longer than the demo model's context."""
    return OpenAIChatModel("openelm-wide", provider=OpenAIProvider(base_url=wide.url + "/v1", api_key="unused"))


async def test_a_text_and_its_usage(wide_model):
    result = await Agent(wide_model, model_settings=SETTINGS, instructions="Be brief.").run(QUESTION)
    assert isinstance(result.output, str) and result.output
    assert result.usage.output_tokens > 0 and result.usage.requests == 1


async def test_a_stream_adds_up_to_the_text(wide_model):
    agent = Agent(wide_model, model_settings=SETTINGS)
    whole = (await agent.run(QUESTION)).output
    async with agent.run_stream(QUESTION) as stream:
        deltas = [delta async for delta in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(deltas) == whole and len(deltas) > 3


async def test_an_error_has_status_and_body(wide_model):
    with pytest.raises(ModelHTTPError) as caught:
        await Agent(wide_model, model_settings=ModelSettings(temperature=3)).run(QUESTION)
    assert caught.value.status_code == 400 and caught.value.body["param"] == "temperature"


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput])
async def test_an_object(wide_model, kind):
    agent = Agent(wide_model, output_type=kind(Pet), model_settings=SETTINGS, retries=0)
    result = await agent.run(QUESTION)
    assert isinstance(result.output, Pet) and result.usage.requests == 1
    async with agent.run_stream(QUESTION) as stream:
        assert await stream.get_output() == result.output


async def test_one_of_several_objects(wide_model):
    class Toy(BaseModel):
        kind: Literal["ball", "rope"]

    result = await Agent(wide_model, output_type=[Pet, Toy], model_settings=SETTINGS, retries=0).run(QUESTION)
    assert isinstance(result.output, Pet | Toy)


async def test_a_tool_is_called_and_its_result_goes_back(wide_model):
    """The model chooses between the tool and the answer. It may feed the animal until its requests are spent: none of them fails."""
    fed = []
    agent = Agent(wide_model, output_type=ToolOutput(Pet, name="answer"), model_settings=SETTINGS, retries=0)

    @agent.tool_plain
    def feed(animal: Literal["cat", "dog"]) -> str:
        """Feeds an animal."""
        fed.append(animal)
        return f"The {animal} is full."

    try:
        result = await agent.run(QUESTION, usage_limits=UsageLimits(request_limit=3))
        assert isinstance(result.output, Pet)
    except UsageLimitExceeded:
        assert len(fed) >= 3
    assert set(fed) <= {"cat", "dog"}

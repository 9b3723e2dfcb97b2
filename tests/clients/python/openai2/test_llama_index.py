"""LlamaIndex's OpenAILike, whole, streamed and asynchronous, for completions and chats."""

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

PROMPT = "Once upon a time, there was a little"
MESSAGES = [ChatMessage(role="system", content="You tell stories."), ChatMessage(role="user", content="Tell me a story about a fox.")]
PLAIN = [{"role": message.role.value, "content": message.content} for message in MESSAGES]


@pytest.fixture(params=[False, True], ids=["completions", "chat"])
def llm(demo, model, request):
    return OpenAILike(
        model=model,
        api_base=demo.url + "/v1",
        api_key="unused",
        is_chat_model=request.param,
        context_window=512,
        max_tokens=24,
        temperature=0,
        max_retries=0,
    )


def direct(client, model, llm, prompt):
    """The answer without LlamaIndex."""
    if llm.is_chat_model:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], max_tokens=24, temperature=0)
        return answer.choices[0].message.content
    return client.completions.create(model=model, prompt=prompt, max_tokens=24, temperature=0).choices[0].text


def test_complete_and_stream_complete(llm, client, model):
    whole = llm.complete(PROMPT)
    assert whole.text == direct(client, model, llm, PROMPT)
    parts = list(llm.stream_complete(PROMPT))
    assert parts[-1].text == "".join(part.delta or "" for part in parts) == whole.text
    assert len(parts) > 10


def test_chat_and_stream_chat(llm, client, model):
    whole = llm.chat(MESSAGES).message
    assert whole.role == "assistant" and whole.content
    parts = list(llm.stream_chat(MESSAGES))
    assert parts[-1].message.content == "".join(part.delta or "" for part in parts) == whole.content
    if llm.is_chat_model:
        expected = client.chat.completions.create(model=model, messages=PLAIN, max_tokens=24, temperature=0)
        assert whole.content == expected.choices[0].message.content


async def test_all_of_it_asynchronously(llm):
    whole = (await llm.acomplete(PROMPT)).text
    parts = [part async for part in await llm.astream_complete(PROMPT)]
    assert whole == parts[-1].text == llm.complete(PROMPT).text
    whole = (await llm.achat(MESSAGES)).message.content
    parts = [part async for part in await llm.astream_chat(MESSAGES)]
    assert whole == parts[-1].message.content == llm.chat(MESSAGES).message.content


def test_log_probabilities_of_a_chat(demo, model):
    llm = OpenAILike(
        model=model,
        api_base=demo.url + "/v1",
        api_key="unused",
        is_chat_model=True,
        context_window=512,
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        max_retries=0,
    )
    entries = llm.chat(MESSAGES).logprobs
    assert [len(alternatives) for alternatives in entries] == [2] * 4

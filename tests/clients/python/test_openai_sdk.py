"""The OpenAI Python SDK against the embedded model."""

import openai
import pytest

PROMPT = "Once upon a time, there was a little"
MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]


def test_models(client, model):
    assert model == "openelm-demo"
    found = client.models.retrieve(model)
    assert (found.id, found.object) == (model, "model")
    assert found.created > 0 and found.owned_by
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("nothing")
    assert error.value.code == "model_not_found"


def test_completion(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0)
    (choice,) = answer.choices
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion" and answer.model == model
    assert answer.system_fingerprint and answer.created > 0
    assert choice.text and choice.index == 0 and choice.logprobs is None
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 1 and 1 <= usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_default_length_of_a_completion_is_16(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=24, temperature=0)
    (choice,) = answer.choices
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert choice.message.role == "assistant" and choice.message.content and choice.message.refusal is None
    assert answer.usage.completion_tokens <= 24


def test_a_chat_ends_by_itself(client, model):
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello!"}], temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert "<|" not in answer.choices[0].message.content and "</s>" not in answer.choices[0].message.content


def test_message_parts_and_names(client, model):
    whole = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Name three fruits."}], temperature=0, max_tokens=16
    )
    parts = [{"type": "text", "text": "Name three"}, {"type": "text", "text": " fruits."}]
    split = client.chat.completions.create(
        model=model, messages=[{"role": "user", "name": "ann", "content": parts}], temperature=0, max_tokens=16
    )
    assert split.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("extra", [{"temperature": 0}, {"temperature": 1.0, "seed": 11, "n": 3}], ids=["greedy", "sampled"])
def test_completion_stream_adds_up_to_the_whole(client, model, extra):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 48, **extra}
    whole = client.completions.create(**request)
    texts, reasons, usages = {}, {}, []
    for chunk in client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            assert chunk.choices == []
            usages.append(chunk.usage)
        for choice in chunk.choices:
            assert choice.index not in reasons, "a chunk after the last one of its choice"
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    (usage,) = usages
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)


def test_chat_stream_adds_up_to_the_whole(client, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 48, "temperature": 0}
    whole = client.chat.completions.create(**request)
    text = ""
    for number, chunk in enumerate(client.chat.completions.create(**request, stream=True)):
        assert chunk.usage is None and len(chunk.choices) == 1
        delta = chunk.choices[0].delta
        assert (delta.role == "assistant") == (number == 0)
        text += delta.content or ""
    assert text == whole.choices[0].message.content


def test_the_helper_for_streams(client, model):
    # It raises where an answer is cut by its length, so this one must end by itself.
    with client.chat.completions.stream(model=model, messages=[{"role": "user", "content": "Hello!"}], temperature=0) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == deltas


def test_a_seed_repeats_and_choices_differ(client, model):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 32, "temperature": 1.2, "top_p": 1, "n": 4}
    first = client.completions.create(**request, seed=5)
    again = client.completions.create(**request, seed=5)
    other = client.completions.create(**request, seed=6)
    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert texts == [choice.text for choice in again.choices]
    assert texts != [choice.text for choice in other.choices]
    assert len(set(texts)) == 4
    assert first.system_fingerprint == again.system_fingerprint


def test_no_seed_varies(client, model):
    texts = {
        client.completions.create(model=model, prompt=PROMPT, max_tokens=32, temperature=1.2, top_p=1).choices[0].text for _ in range(3)
    }
    assert len(texts) > 1


def test_several_prompts_and_choices_are_ordered(client, model):
    prompts = [PROMPT, "The old man walked to the market", "Hello"]
    request = {"model": model, "max_tokens": 12, "temperature": 1.0, "seed": 3}
    answer = client.completions.create(prompt=prompts, n=2, **request)
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = client.completions.create(prompt=prompts[0], n=2, **request)
    assert [choice.text for choice in answer.choices[:2]] == [choice.text for choice in alone.choices]


def test_prompts_of_token_ids(client, model):
    request = {"model": model, "max_tokens": 12, "temperature": 0, "extra_body": {"return_token_ids": True}}
    text = client.completions.create(prompt=PROMPT, **request)
    ids = text.choices[0].prompt_token_ids
    assert ids[0] == 1 and ids.count(1) == 1 and len(ids) == text.usage.prompt_tokens
    assert len(text.choices[0].token_ids) == text.usage.completion_tokens
    one = client.completions.create(prompt=ids, **request)
    several = client.completions.create(prompt=[ids, ids[:3]], **request)
    assert one.choices[0].text == text.choices[0].text == several.choices[0].text
    assert one.choices[0].token_ids == text.choices[0].token_ids
    without_bos = client.completions.create(prompt=ids[1:], **request)
    assert without_bos.choices[0].prompt_token_ids == ids[1:], "ids are left as they are"


def test_exactly_one_bos(client, model):
    request = {"model": model, "max_tokens": 1, "temperature": 0, "extra_body": {"return_token_ids": True}}
    plain = client.completions.create(prompt="Hello", **request).choices[0].prompt_token_ids
    written = client.completions.create(prompt="<s>Hello", **request).choices[0].prompt_token_ids
    assert plain.count(1) == written.count(1) == 1
    chat = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=1, temperature=0, extra_body={"return_token_ids": True}
    )
    assert chat.prompt_token_ids.count(1) == 1 and chat.prompt_token_ids[0] == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_stop_strings_across_tokens(client, model, stream):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 60, "temperature": 0}
    full = client.completions.create(**request, extra_body={"ignore_eos": True}).choices[0].text
    for start, length in ((7, 5), (20, 9), (33, 3)):
        stop = full[start : start + length]
        expected = full[: full.index(stop)]
        if stream:
            chunks = list(client.completions.create(**request, stop=["never to be seen", stop], stream=True))
            text = "".join(chunk.choices[0].text for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            choice = client.completions.create(**request, stop=["never to be seen", stop]).choices[0]
            text, reason = choice.text, choice.finish_reason
        assert (text, reason) == (expected, "stop"), stop


def test_a_stop_string_that_never_comes_changes_nothing(client, model):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    full = client.completions.create(**request)
    held = client.completions.create(**request, stop=[full.choices[0].text[-4:] + "#"])
    assert held.choices[0].text == full.choices[0].text


def test_completion_logprobs(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0, logprobs=4)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    count = answer.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == count
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert logprob <= 0
        assert 1 <= len(top) <= 5 and top[token] == logprob == max(top.values())
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if token.isascii() and not token.startswith("bytes:") and choice.text[offset:]:
            assert choice.text[offset:].startswith(token) or token == "</s>"


def test_echo_scores_the_prompt(client, model):
    request = {"model": model, "prompt": PROMPT, "temperature": 0, "echo": True, "logprobs": 1}
    answer = client.completions.create(**request, max_tokens=4)
    (choice,) = answer.choices
    assert choice.text.startswith(PROMPT)
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == answer.usage.total_tokens
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    scored = client.completions.create(**request, max_tokens=0)
    assert scored.choices[0].text == PROMPT and scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: scored.usage.prompt_tokens]
    assert scored.choices[0].finish_reason == "length"


def test_chat_logprobs(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16, temperature=0, logprobs=True, top_logprobs=3)
    (choice,) = answer.choices
    entries = choice.logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == entry.logprob
    joined = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert joined.removesuffix("</s>").strip() == choice.message.content.strip()


def test_streamed_logprobs_equal_whole_ones(client, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**request).choices[0].logprobs.content
    streamed = []
    for chunk in client.chat.completions.create(**request, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert streamed == whole


def test_logit_bias_bans_and_forces(client, model):
    request = {"model": model, "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "extra_body": {"return_token_ids": True}}
    first = client.completions.create(**request).choices[0].token_ids[0]
    banned = client.completions.create(**request, logit_bias={str(first): -100}).choices[0].token_ids
    assert first not in banned
    forced = client.completions.create(**request, logit_bias={"300": 100}).choices[0].token_ids
    assert forced == [300] * 3


def test_sampling_parameters_are_accepted(client, model):
    extra = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2, "min_tokens": 6}
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=8, top_p=0.8, presence_penalty=0.5, frequency_penalty=-0.5, user="me", extra_body=extra
    )
    assert answer.usage.completion_tokens >= 6
    top_one = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=1.5, extra_body={"top_k": 1})
    greedy = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    assert top_one.choices[0].text == greedy.choices[0].text


def test_the_prefix_cache_is_counted(client, model):
    prompt = "A long walk through the green forest. " * 12
    client.completions.create(model=model, prompt=prompt, max_tokens=1)
    again = client.completions.create(model=model, prompt=prompt, max_tokens=1)
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.usage.prompt_tokens


def test_raw_response(client, model):
    raw = client.completions.with_raw_response.create(
        model=model, prompt=PROMPT, max_tokens=1, extra_headers={"x-request-id": "from-python"}
    )
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == "from-python"
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].text is not None
    made = client.completions.with_raw_response.create(model=model, prompt=PROMPT, max_tokens=1)
    assert made.headers["x-request-id"] and made.headers["x-request-id"] != "from-python"


def test_an_error_carries_everything(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, temperature=3)
    error = caught.value
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", "temperature")
    assert "temperature" in error.message and error.request_id
    assert error.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt=PROMPT)
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "model_not_found")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt="word " * 2000)
    assert caught.value.code == "context_length_exceeded"
    assert "maximum context length is 512" in caught.value.message


def test_a_context_that_is_almost_full(client, model):
    ids = [1] + [300] * 510
    answer = client.completions.create(model=model, prompt=ids, max_tokens=1, extra_body={"ignore_eos": True})
    assert answer.usage.total_tokens == 512
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt=ids, max_tokens=2)
    message = caught.value.message
    assert all(number in message for number in ("512", "511", "2")), message

"""Texts to tokens and back, as lm-eval and vLLM's users ask for them, and parameters beyond OpenAI's, through the SDK."""

import openai
import pytest

PROMPT = "Once upon a time, there was a little"


def test_a_text_and_its_tokens_complete_alike(demo, client, model):
    tokens = demo.post("/tokenize", {"model": model, "prompt": PROMPT}).json["tokens"]
    by_text, by_tokens = (
        client.completions.create(model=model, prompt=prompt, max_tokens=16, temperature=0) for prompt in (PROMPT, tokens)
    )
    assert by_text.choices[0].text == by_tokens.choices[0].text
    assert by_text.usage.prompt_tokens == by_tokens.usage.prompt_tokens == len(tokens)


def test_tokens_of_a_continuation_are_text_again(demo, client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, temperature=0, extra_body={"return_token_ids": True})
    ids = answer.choices[0].model_extra["prompt_token_ids"] + answer.choices[0].model_extra["token_ids"]
    text = demo.post("/detokenize", {"tokens": ids}).json["prompt"]
    assert (PROMPT + answer.choices[0].text) in text


def test_the_tokenizer_names_its_ends(demo):
    info = demo.get("/tokenizer_info").json
    assert info["eos_token"] == "</s>" and info["bos_token"] == "<s>" and info["model_max_length"] == 512


def test_the_best_of_four(client, model):
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 12, "seed": 3, "temperature": 1.2}
    every = client.completions.create(**asked, n=4, logprobs=0).choices
    means = [sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in every]
    best = client.completions.create(**asked, best_of=4)
    assert [choice.text for choice in best.choices] == [every[means.index(max(means))].text]


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_is_a_504_that_is_not_tried_again(client, model, stream):
    with pytest.raises(openai.APIError) as error:
        answer = client.with_options(max_retries=5).completions.create(
            model=model,
            prompt=PROMPT,
            max_tokens=400,
            stream=stream,
            extra_body={"ignore_eos": True},
            extra_headers={"Request-Timeout-Ms": "1"},
        )
        for _ in answer:
            pass
    assert error.value.code == "deadline_exceeded"


def test_only_allowed_tokens(demo, client, model):
    allowed = demo.post("/tokenize", {"prompt": "yes no", "add_special_tokens": False}).json["tokens"]
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=20, extra_body={"allowed_token_ids": allowed, "return_token_ids": True}
    )
    assert set(answer.choices[0].model_extra["token_ids"]) <= set(allowed)

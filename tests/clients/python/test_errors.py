"""Every refusal: status, type, code and param, in an object of exactly four fields."""

import pytest

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def completion(**fields):
    return COMPLETIONS, {"prompt": "Hello", "max_tokens": 1} | fields


def chat(**fields):
    return CHAT, {"messages": HELLO, "max_tokens": 1} | fields


# name: (path and body, param named by the error; None = any)
REFUSED = {
    "a body that is a list": ((COMPLETIONS, []), None),
    "no prompt": ((COMPLETIONS, {"max_tokens": 1}), "prompt"),
    "no messages": ((CHAT, {"max_tokens": 1}), "messages"),
    "messages empty": (chat(messages=[]), "messages"),
    "role a number": (chat(messages=[{"role": 7, "content": "x"}]), "messages[0].role"),
    "role unknown": (chat(messages=[{"role": "pirate", "content": "x"}]), "messages[0].role"),
    "content missing": (chat(messages=[{"role": "user"}]), "messages[0].content"),
    "an image": (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), None),
    "temperature a word": (completion(temperature="hot"), "temperature"),
    "temperature below": (completion(temperature=-1), "temperature"),
    "temperature above": (completion(temperature=3), "temperature"),
    "top_p above": (completion(top_p=1.5), "top_p"),
    "top_p below": (completion(top_p=-0.1), "top_p"),
    "min_p above": (completion(min_p=2), "min_p"),
    "top_k below": (completion(top_k=-2), "top_k"),
    "n 0": (completion(n=0), "n"),
    "n beyond the limit": (completion(n=1000), "n"),
    "max_tokens below": (completion(max_tokens=-1), "max_tokens"),
    "max_tokens 0": (completion(max_tokens=0), "max_tokens"),
    "max_tokens a fraction": (completion(max_tokens=1.5), "max_tokens"),
    "presence_penalty above": (completion(presence_penalty=3), "presence_penalty"),
    "frequency_penalty below": (completion(frequency_penalty=-3), "frequency_penalty"),
    "repetition_penalty 0": (completion(repetition_penalty=0), "repetition_penalty"),
    "logprobs too many": (completion(logprobs=5000), "logprobs"),
    "top_logprobs without logprobs": (chat(top_logprobs=2), "top_logprobs"),
    "top_logprobs too many": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "stream_options without stream": (completion(stream_options={"include_usage": True}), "stream_options"),
    "a token id beyond the vocabulary": (completion(prompt=[1, 99999]), "prompt"),
    "a token id below 0": (completion(prompt=[1, -1]), "prompt"),
    "prompt empty list": (completion(prompt=[]), "prompt"),
    "prompt empty": (completion(prompt=""), "prompt"),
    "prompt mixed": (completion(prompt=["a", 1]), "prompt"),
    "logit_bias key": (completion(logit_bias={"x": 1}), "logit_bias"),
    "logit_bias value": (completion(logit_bias={"1": 101}), "logit_bias"),
    "stop a number": (completion(stop=5), "stop"),
    "stop too many": (completion(stop=["x"] * 65), "stop"),
    "seed a word": (completion(seed="x"), "seed"),
    "suffix": (completion(suffix="end"), "suffix"),
    "best_of with stream": (completion(best_of=2, stream=True), "best_of"),
    "response_format unknown": (chat(response_format={"type": "yaml"}), "response_format"),
    "json_schema missing": (chat(response_format={"type": "json_schema"}), "response_format"),
    "tool_choice without tools": (chat(tool_choice="required"), "tool_choice"),
    "an unknown key": (completion(temprature=1), "temprature"),
    "stream a number": (completion(stream=1), "stream"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(demo, name):
    (path, body), param = REFUSED[name]
    reply = demo.post(path, body)
    assert reply.status == 400, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] == "false"
    assert reply.error["type"] == "invalid_request_error"
    if param is not None:
        assert (reply.error["param"] or "").startswith(param), reply.error
        assert param.split("[")[0] in reply.error["message"]


def test_invalid_json(demo):
    for body in (b"{", b"", b'{"prompt": "a"} x', b'{"prompt": \xff}'):
        reply = demo.post(COMPLETIONS, body, headers={"content-type": "application/json"})
        assert reply.status == 400 and reply.error["type"] == "invalid_request_error", reply.text


def test_context_errors_name_the_numbers(demo):
    path, body = completion(prompt=[1] + [300] * 511, max_tokens=1)
    reply = demo.post(path, body)
    assert reply.status == 400 and reply.error["code"] == "context_length_exceeded"
    path, body = completion(max_tokens=5000)
    reply = demo.post(path, body)
    assert reply.status == 400 and reply.error["code"] == "context_length_exceeded"
    assert "512" in reply.error["message"] and "5000" in reply.error["message"]


def test_unknown_model(demo):
    path, body = completion(model="nothing")
    reply = demo.post(path, body)
    assert reply.status == 404 and reply.error["code"] == "model_not_found"
    reply = demo.get("/v1/models/nothing")
    assert reply.status == 404 and reply.error["code"] == "model_not_found"


ACCEPTED = {
    "no model": completion(),
    "top_p 0": completion(top_p=0),
    "echo of nothing more": completion(echo=True, max_tokens=0),
    "hints": chat(store=True, metadata={"a": "b"}, service_tier="auto", prompt_cache_key="k", safety_identifier="s", user="u"),
    "parallel_tool_calls": chat(parallel_tool_calls=True),
    "both lengths": (CHAT, {"messages": HELLO, "max_completion_tokens": 1}),
    "developer": chat(messages=[{"role": "developer", "content": "Be brief."}, *HELLO]),
    "64 stop strings": completion(stop=[f"stop {number}" for number in range(64)]),
    "a charset": completion(),
    "null everywhere": completion(
        **dict.fromkeys(
            "model temperature top_p top_k min_p n stop seed stream stream_options echo logprobs presence_penalty frequency_penalty "
            "repetition_penalty logit_bias ignore_eos min_tokens return_token_ids user suffix best_of".split()
        )
    ),
    "null everywhere in a chat": chat(
        **dict.fromkeys(
            "model temperature top_p n stop seed stream stream_options logprobs top_logprobs presence_penalty frequency_penalty "
            "logit_bias max_completion_tokens user response_format tools tool_choice".split()
        )
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(demo, name):
    path, body = ACCEPTED[name]
    headers = {"content-type": "application/json; charset=utf-8"}
    reply = demo.post(path, body, headers=headers)
    assert reply.status == 200, reply.text


def test_a_stream_that_cannot_start_is_an_ordinary_error(demo):
    path, body = completion(temperature=9, stream=True)
    reply = demo.post(path, body)
    assert reply.status == 400 and reply.error["param"] == "temperature"

"""Requests made from openapi.yaml, right ones and wrong ones: the server fails at none and answers as the document says.

Schemathesis goes through the limits of every field and then tries at random, from a fixed seed. What JSON Schema cannot say (a prompt that
is too long, two fields that do not go together) may be refused, but only with a 400 that names the parameter."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import schemathesis
import yaml
from harness import ROOT, Server, sse_events
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text())
STREAM = "text/event-stream"
VOCABULARY = 3072
LEFT_OUT = {
    "model",
    "best_of",
    "timeout_ms",
    "max_completion_tokens",
    "min_tokens",
    "truncate_prompt_tokens",
    "truncation_side",
    "add_generation_prompt",
}
LEFT_OUT |= {"continue_final_message", "chat_template_kwargs", "response_format", "structured_outputs", "tools", "tool_choice"}


def without_events():
    """The document without the schemas of streams, which `check_stream` reads: Schemathesis takes them for those of whole events, `data:`
    and all, and not for those of what the data hold. The content types stay. Streams are described by operation. Headers of requests are
    left out, too: one of them ends requests early."""
    document, events = json.loads(json.dumps(DOCUMENT)), {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["parameters"] = [known for known in operation.get("parameters", []) if known["in"] != "header"]
            for response in operation["responses"].values():
                if STREAM in response.get("content", {}):
                    events[f"{method.upper()} {path}"] = response["content"][STREAM].pop("schema")
    return document, events


def validator(schema):
    return Draft202012Validator(schema | {"components": DOCUMENT["components"]})


def fields(operation):
    """The names of a request's fields."""
    (content,) = operation["requestBody"]["content"].values()
    return DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["properties"]


# Hypothesis tries the constants that it finds in the sources of all loaded modules: with them requests depend on which tests run beside.
providers._get_local_constants = Constants

DESCRIBED, EVENTS = without_events()
DESCRIBED["paths"]["/v1/models/{id}"]["get"]["parameters"][0]["example"] = "openelm-demo"
FIELDS = {f"POST {path}": fields(methods["post"]) for path, methods in DOCUMENT["paths"].items() if "post" in methods}
CHUNKS = {operation: validator(schema) for operation, schema in EVENTS.items()}
ERROR = validator({"$ref": "#/components/schemas/ErrorBody"})


def described(phases):
    """The document to make requests from, always the same ones."""
    config = SchemathesisConfig(seed=1)
    config.projects.default.generation.update(deterministic=True)
    # Streams are read to their end.
    config.projects.default.max_stream_events = 100_000
    config.projects.default.phases.update(phases=phases)
    # What was answered before, ids for example, has no say in what is asked next.
    config.projects.default.phases.fuzzing.extra_data_sources.responses = False
    config.projects.default.phases.fuzzing.error_feedback.is_enabled = False
    return schemathesis.openapi.from_dict(DESCRIBED, config=config)


def tries(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


everything = described(["examples", "coverage", "fuzzing"])
generation = described(["fuzzing"]).include(tag="generation")
generation.config.generation.update(modes=[GenerationMode.POSITIVE])


def check_stream(response, operation):
    """Chunks as described, after them an error at most, and the end."""
    *events, end = sse_events(response.content)
    assert end == "[DONE]"
    for number, event in enumerate(map(json.loads, events)):
        if "error" in event:
            assert number == len(events) - 1
            ERROR.validate(event)
        else:
            CHUNKS[operation].validate(event)


def fails_only_at_its_deadline(_, response, case):
    """No 5xx, but for a request that asked for one."""
    if response.status_code >= 500:
        assert response.status_code == 504 and isinstance(case.body, dict) and case.body.get("timeout_ms"), response.text


def a_refusal_names_the_parameter(_, response, case):
    """A request that fits the schema and is refused all the same learns which field is at fault."""
    if response.status_code == 400 and case.meta.generation.mode.is_positive:
        error = response.json()["error"]
        assert error["param"], error
        # Of `messages[0].role` the first name.
        assert error["param"].split("[")[0].split(".")[0] in FIELDS[case.operation.label], error


@pytest.fixture(scope="module")
def fuzzed():
    """A server with a short context: answers that nobody bounds end soon. Every operation that was tried must have succeeded at times."""
    statuses = {}
    with Server("--max-model-len", 96, "--max-choices", 8) as server:
        yield SimpleNamespace(url=server.url, statuses=statuses)
        assert server.process.poll() is None, server.log
        server.wait_idle()
    for operation, counted in statuses.items():
        assert counted[200], (operation, counted)
        assert counted[400] or operation not in FIELDS, (operation, counted)


@everything.parametrize()
@tries(250)
def test_every_answer_is_as_described(case, fuzzed):
    response = case.call_and_validate(
        base_url=fuzzed.url,
        excluded_checks=[not_a_server_error, positive_data_acceptance],
        additional_checks=[fails_only_at_its_deadline, a_refusal_names_the_parameter],
    )
    operation = case.operation.label
    counted = fuzzed.statuses.setdefault(operation, Counter())
    counted[response.status_code] += 1
    if response.headers.get("content-type", [""])[0].startswith(STREAM):
        check_stream(response, operation)


def fitting(body):
    """The request with what no schema can demand: fields that go together, tokens of the vocabulary, texts that fit the context."""
    body = {key: value for key, value in body.items() if value is not None and key not in LEFT_OUT}
    body["max_tokens"] = body.get("max_tokens", 0) % 8 + 1
    body["n"] = body.get("n", 0) % 3 + 1
    for key in ("allowed_token_ids", "stop_token_ids", "logprob_token_ids"):
        if key in body:
            body[key] = [known(token) for token in body[key]]
    if "bad_words" in body:
        body["bad_words"] = [word if word.strip() else "a" for word in body["bad_words"]]
    if "logit_bias" in body:
        body["logit_bias"] = {str(known(int(token))): value for token, value in body["logit_bias"].items()}
    if "prompt" in body:
        body["prompt"] = short(body["prompt"])
    else:
        body["messages"] = [
            {"role": "user" if message["role"] == "tool" else message["role"], "content": short(message["content"] or "")}
            for message in body["messages"][:3]
        ]
        if not body.get("logprobs"):
            body.pop("top_logprobs", None)
    for key in ("prompt_logprobs",) if body.get("stream") else ("stream_options", "stream_interval", "return_progress"):
        body.pop(key, None)
    if body.get("logprobs") in (None, False):
        body.pop("logprob_token_ids", None)
    return body


def known(token):
    """A token of the vocabulary, as the wrong one if it is wrong in a way that a schema can say."""
    return min(token, VOCABULARY - 1)


def short(content):
    """A prompt or a message's content that fits the context: a text, tokens, parts, or lists of them."""
    if isinstance(content, str):
        return content[:9]
    if isinstance(content, dict):
        return content | {"text": content["text"][:9]}
    if isinstance(content, list):
        return [short(one) for one in content[:2]]
    return known(content)


@generation.parametrize()
@tries(200)
def test_a_request_that_fits_is_answered(case, fuzzed):
    """Whatever fields it has, whole or as a stream."""
    case.body = fitting(case.body)
    response = case.call_and_validate(base_url=fuzzed.url)
    assert response.status_code == 200, response.text
    kind = response.headers["content-type"][0]
    assert kind.startswith(STREAM) == bool(case.body.get("stream"))
    if kind.startswith(STREAM):
        check_stream(response, case.operation.label)

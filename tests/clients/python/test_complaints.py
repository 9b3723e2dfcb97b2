"""What users of other servers complain of, each by its number in `docs/api.md`."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from harness import GOLDEN, ROOT, Server, chunks_of, run_binary, sse_events, wait_until

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
PROMPT = "Once upon a time, there was a little"
MESSAGES = [{"role": "user", "content": "Hello!"}]
# Some seconds of work for one sequence at a time, and none of it ends by itself.
LONG = {"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "n": 16}


def begin(server, body):
    """A connection on which `body` was sent and nothing was read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", COMPLETIONS, json.dumps(body), {"content-type": "application/json"})
    return connection


def until_running(server):
    wait_until(lambda: server.metric("vllm:num_requests_running") > 0, 20, "running")


def stream(server, path, body):
    return chunks_of(server.post(path, body | {"stream": True}).body)


def says(server, text, **fields):
    """A body whose answer is `text`, in as many tokens as the model spells it with; and the texts of its stream."""
    body = {"prompt": PROMPT, "max_tokens": 120, "seed": 1, "structured_outputs": {"choice": [text]}} | fields
    pieces = [choice["text"] for chunk in stream(server, COMPLETIONS, body) for choice in chunk["choices"]]
    return body, pieces


def test_complaint_1_a_prompt_is_scored_in_the_legacy_shape(demo):
    """The request of lm-eval: a continuation that was generated scores as it did when it was."""
    ids = {"return_token_ids": True, "temperature": 0, "logprobs": 1}
    (written,) = demo.complete(prompt=PROMPT, max_tokens=12, ignore_eos=True, **ids)["choices"]
    context, continuation = written["prompt_token_ids"], written["token_ids"]
    body = {"prompt": [context + continuation, context], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    scored, bare = (choice["logprobs"] for choice in demo.complete(**body)["choices"])
    assert len(scored["token_logprobs"]) == len(context) + len(continuation) + 1
    assert scored["token_logprobs"][0] is None and scored["top_logprobs"][0] is None
    assert scored["token_logprobs"][len(context) : -1] == written["logprobs"]["token_logprobs"]
    tops = scored["top_logprobs"][len(context) : -1]
    greedy = zip(scored["token_logprobs"][len(context) : -1], tops, strict=True)
    assert all(logprob == max(top.values()) for logprob, top in greedy), "exactly the float of the best"
    assert bare["token_logprobs"][:-1] == scored["token_logprobs"][: len(context)]
    assert set(scored) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}


@pytest.mark.parametrize("text", ["A fox 🦊 & a naïve 日本 cat", "🦊🦊", "𝄞"])
def test_complaint_2_characters_cut_by_tokens_stay_whole(demo, text):
    body, pieces = says(demo, text)
    (whole,) = demo.complete(**body, return_token_ids=True)["choices"]
    assert whole["text"] == "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(whole["token_ids"]) > len(text), "some characters take several tokens"
    for length in range(1, len(whole["token_ids"])):
        cut = body | {"max_tokens": length}
        streamed = "".join(choice["text"] for chunk in stream(demo, COMPLETIONS, cut) for choice in chunk["choices"])
        assert streamed == demo.complete(**cut)["choices"][0]["text"], length


@pytest.mark.parametrize("stop", ["two END", "wo E", " END", "END three", "e two"])
def test_complaint_3_a_stop_string_across_tokens_neither_leaks_nor_doubles(demo, stop):
    text = "one two EN two END three four"
    body, pieces = says(demo, text, stop=[stop, "never"])
    (whole,) = demo.complete(**body)["choices"]
    assert whole["finish_reason"] == "stop"
    assert whole["text"] == "".join(pieces) == text[: text.index(stop)]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_complaint_4_a_client_that_goes_ends_the_generation(streamed):
    with Server("--max-num-seqs", "1", "--no-enable-prefix-caching") as server:
        connection = begin(server, LONG | {"stream": streamed})
        until_running(server)
        connection.close()
        wait_until(lambda: server.metric("vllm:request_success_total", finished_reason="abort") > 0, 20, "counted as aborted")
        server.wait_idle()
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        aborted = server.metric("vllm:request_success_total", finished_reason="abort")
        assert aborted + server.metric("vllm:request_success_total", finished_reason="length") == LONG["n"]


def test_complaint_5_a_full_queue_refuses_and_says_when_to_come_again():
    with Server("--max-num-seqs", "1", "--max-num-queued-reqs", "16") as server:
        first = begin(server, LONG)
        until_running(server)
        assert server.metric("vllm:num_requests_waiting") > 0
        refused = server.post(COMPLETIONS, LONG | {"max_tokens": 1})
        assert refused.status == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert (refused.error["type"], refused.error["code"]) == ("overloaded_error", "server_overloaded")
        assert "x-should-retry" not in refused.headers
        assert server.metric("vllm:admission_rejections_total", reason="max_num_queued_reqs") > 0
        first.close()
        server.wait_idle()
        assert server.post(COMPLETIONS, LONG | {"max_tokens": 1}).status == 200


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, {"prompt": PROMPT}), (CHAT, {"messages": MESSAGES})], ids=["completions", "chat"])
def test_complaint_6_usage_comes_once_and_only_when_asked_for(demo, path, body):
    body = body | {"max_tokens": 6, "temperature": 0}
    whole = demo.post(path, body).json["usage"]
    for options in (None, {}, {"include_usage": False}):
        assert all("usage" not in chunk for chunk in stream(demo, path, body | {"stream_options": options}))
    *deltas, last = stream(demo, path, body | {"stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in deltas)
    assert last["choices"] == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert last["usage"][count] == whole[count]


WRONG = {
    "a value": ("POST", CHAT, {"messages": MESSAGES, "temperature": 3}, 400, "invalid_value", "temperature"),
    "a type": ("POST", CHAT, {"messages": [{"role": 7}]}, 400, "invalid_type", "messages[0].role"),
    "a missing parameter": ("POST", COMPLETIONS, {}, 400, "missing_required_parameter", "prompt"),
    "an unknown parameter": ("POST", COMPLETIONS, {"prompt": "a", "temprature": 1}, 400, "unknown_parameter", "temprature"),
    "one that is not implemented": ("POST", COMPLETIONS, {"prompt": "a", "suffix": "b"}, 400, "unsupported_parameter", "suffix"),
    "too long": ("POST", COMPLETIONS, {"prompt": "a", "max_tokens": 5000}, 400, "context_length_exceeded", "max_tokens"),
    "a model": ("POST", COMPLETIONS, {"prompt": "a", "model": "b"}, 404, "model_not_found", "model"),
    "no JSON": ("POST", COMPLETIONS, "{", 400, "invalid_json", None),
    "a list": ("POST", COMPLETIONS, [], 400, "invalid_type", "body"),
    "a route": ("GET", "/v1/nothing", None, 404, "unknown_url", None),
    "a method": ("GET", COMPLETIONS, None, 405, "method_not_allowed", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_complaint_7_every_error_has_four_fields_and_a_code(demo, name):
    method, path, body, status, code, param = WRONG[name]
    reply = demo.request(method, path, body=body, headers={"content-type": "application/json"})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param)
    assert reply.error["type"] == "invalid_request_error" and reply.headers["x-should-retry"] == "false"


def test_complaint_7_the_sdk_gets_code_and_param(client, model):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=model, prompt=PROMPT, top_p=2)
    assert (caught.value.code, caught.value.param, caught.value.type) == ("invalid_value", "top_p", "invalid_request_error")


def test_complaint_8_a_form_that_cannot_be_followed_is_refused_and_nothing_breaks(demo):
    body = {"prompt": PROMPT, "max_tokens": 40, "structured_outputs": {"regex": "((a{1,1000}){1,1000}){1,1000}"}}
    refused = demo.post(COMPLETIONS, body)
    assert (refused.status, refused.error["code"]) == (400, "form_too_complex")
    assert demo.complete(prompt=PROMPT, max_tokens=1)["choices"]


def test_complaint_10_a_base_model_without_a_template_chats_with_a_plain_one(tmp_path):
    directory = tmp_path / "base"
    shutil.copytree(GOLDEN / "tiny-hd64-gqa4", directory)
    subprocess.run([sys.executable, ROOT / "tests/tools/make_tokenizer.py", directory], check=True, timeout=60)
    with Server("--model", directory) as server:
        messages = [{"role": "user", "content": "hello the"}, {"role": "assistant", "content": "world"}]
        reply = server.post(CHAT, {"messages": messages, "max_tokens": 2, "return_token_ids": True})
        assert reply.status == 200 and reply.json["usage"]["completion_tokens"] > 0, reply.text
        read = server.post("/detokenize", {"tokens": reply.json["prompt_token_ids"]}).json["prompt"]
        assert "hello the" in read and "world" in read
        assert server.get("/v1/models").json["data"][0]["chat_template"] == "plain"
        assert "chat template  plain" in server.log


def test_complaint_11_a_prompt_too_long_is_refused_with_numbers_and_cut_on_request_alone(demo):
    ids = [1] + [300 + number % 700 for number in range(599)]
    refused = demo.post(COMPLETIONS, {"prompt": ids, "max_tokens": 4})
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "context_length_exceeded", "prompt")
    assert all(number in refused.error["message"] for number in ("512", "604", "600", "4"))
    asked = {"max_tokens": 4, "ignore_eos": True, "return_token_ids": True}
    for cut, kept in (({"truncate_prompt_tokens": 5}, ids[-5:]), ({"truncate_prompt_tokens": -1}, ids[-508:])):
        answer = demo.complete(prompt=ids, **asked, **cut)
        assert answer["choices"][0]["prompt_token_ids"] == kept and answer["usage"]["prompt_tokens"] == len(kept)
    long = [{"role": "user", "content": "word " * 2000}]
    refused = demo.post(CHAT, {"messages": long})
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "context_length_exceeded", "messages")


def test_complaint_12_temperature_0_gives_the_same_answer_under_load(demo):
    bodies = [
        {"prompt": f"{number} {PROMPT * (number % 5 + 1)}", "max_tokens": 40, "temperature": 0, "logprobs": 2, "ignore_eos": True}
        for number in range(24)
    ]
    alone = [demo.complete(**body)["choices"] for body in bodies]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda body: demo.complete(**body)["choices"], bodies))
    assert together == alone, "text and log-probabilities, to the last digit"


def test_complaint_13_a_stream_that_waits_gets_comments():
    assert 'sse-keep-alive = "15s"' in run_binary("serve", "--check-config").stdout
    with Server("--max-num-seqs", "1", "--sse-keep-alive", "20ms") as server:
        first = begin(server, LONG)
        until_running(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as waiting:
            payload = json.dumps({"prompt": PROMPT, "max_tokens": 2, "stream": True})
            head = f"POST {COMPLETIONS} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
            waiting.sendall((head + payload).encode())
            received = b""
            while b": ping\n\n: ping\n\n" not in received:
                piece = waiting.recv(65536)
                assert piece and b"data:" not in received, received
                received += piece
            first.close()
            while piece := waiting.recv(65536):
                received += piece
    assert sse_events(received.partition(b"\r\n\r\n")[2])[-1] == "[DONE]"


def test_complaint_14_probes_tell_ready_from_alive_and_sigterm_drains():
    with Server("--shutdown-timeout", "100s") as server:
        assert [server.get(path).status for path in ("/startupz", "/readyz", "/livez")] == [200] * 3
        assert server.complete(prompt=PROMPT, max_tokens=1)["choices"], "ready means that a model answers"
        running = begin(server, LONG | {"stream": True, "n": 32})
        response = running.getresponse()
        server.terminate()
        wait_until(lambda: server.get("/readyz").status == 503, 10, "unready")
        assert server.get("/livez").status == 200
        assert server.post(COMPLETIONS, LONG).status == 503
        assert sse_events(response.read())[-1] == "[DONE]", "what runs is finished"
        assert server.wait_exit(100) == 0


def test_complaint_15_latencies_have_histograms_finer_than_vllms(demo):
    demo.complete(prompt=PROMPT, max_tokens=4)
    samples = demo.metrics()
    for name in (
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
        "vllm:e2e_request_latency_seconds",
    ):
        buckets = [(float(labels["le"]), value) for labels, value in samples[name + "_bucket"]]
        edges, counts = zip(*buckets, strict=True)
        assert list(edges) == sorted(set(edges)) and edges[-1] == float("inf")
        assert list(counts) == sorted(counts) and counts[-1] == samples[name + "_count"][0][1] > 0
        assert edges[0] < 0.01, "a small model is not in the first bucket"


def test_complaint_17_a_start_says_what_it_took_and_a_later_one_packs_nothing(tmp_path):
    arguments = ["--model", GOLDEN / "tiny-hd64-gqa4", "--skip-tokenizer-init", "--weight-cache", tmp_path / "cache"]
    with Server(*arguments) as server:
        assert server.metric("startup_seconds") > 0 and "ready after" in server.log
        wait_until(lambda: "packed weights written" in server.log, 30, "kept for the next start")
    with Server(*arguments) as server:
        wait_until(lambda: "packed weights mapped" in server.log, 30, "mapped")
        assert "packed weights written" not in server.log


@pytest.mark.parametrize("by", ["field", "header"])
def test_complaint_19_a_request_past_its_deadline_ends_and_frees_its_memory(by):
    body, headers = dict(LONG), {}
    if by == "field":
        body["timeout_ms"] = 1
    else:
        headers["Request-Timeout-Ms"] = "1"
    with Server("--no-enable-prefix-caching") as server:
        reply = server.post(COMPLETIONS, body, headers=headers)
        assert (reply.status, reply.error["type"], reply.error["code"]) == (504, "timeout_error", "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"
        server.wait_idle()
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        assert server.metric("vllm:request_success_total", finished_reason="length") == 0, "it did not run to its end"


@pytest.mark.parametrize("interval", [1, 4, 7])
def test_complaint_20_streamed_log_probabilities_are_one_for_each_token(demo, interval):
    body = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0, "logprobs": 2, "return_token_ids": True, "ignore_eos": True}
    (whole,) = demo.complete(**body)["choices"]
    choices = [chunk["choices"][0] for chunk in stream(demo, COMPLETIONS, body | {"stream_interval": interval})]
    for choice in choices:
        assert len((choice["logprobs"] or {"tokens": []})["tokens"]) == len(choice["token_ids"])
    assert max(len(choice["token_ids"]) for choice in choices) == interval
    for key, entries in whole["logprobs"].items():
        assert [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"][key]] == entries
    chat = {"messages": MESSAGES, "max_tokens": 30, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    entries = demo.post(CHAT, chat).json["choices"][0]["logprobs"]["content"]
    deltas = [chunk["choices"][0] for chunk in stream(demo, CHAT, chat | {"stream_interval": interval})]
    assert [entry for delta in deltas if delta["logprobs"] for entry in delta["logprobs"]["content"]] == entries


def test_complaint_21_openelm_says_what_the_reference_says():
    for name in ("tiny-hd64-gqa4", "tiny-hd32-gqa2"):
        cases = json.loads((GOLDEN / name / "golden.json").read_text())["cases"]
        with Server("--model", GOLDEN / name, "--skip-tokenizer-init", "--dtype", "float32") as server:
            answer = server.complete(prompt=[case["input_ids"] for case in cases], max_tokens=32, temperature=0, ignore_eos=True)
        assert [choice["token_ids"] for choice in answer["choices"]] == [case["greedy_new_tokens"] for case in cases]

"""Checkpoint directories: the golden ones without and with a tokenizer, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest
from harness import GOLDEN, ROOT, Server, chunks_of, run_binary

F32 = ["tiny-hd64-gqa4", "tiny-hd32-gqa2"]
ALL = [*F32, "tiny-hd64-gqa4-bf16"]


def cases(name):
    return json.loads((GOLDEN / name / "golden.json").read_text())["cases"]


@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens_through_http(name):
    exact = name in F32
    with Server("--model", GOLDEN / name, "--skip-tokenizer-init", "--dtype", "float32" if exact else "auto") as server:
        assert server.get("/v1/models").json["data"][0]["id"] == name
        for case in cases(name):
            body = {"prompt": case["input_ids"], "max_tokens": 32, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
            choice = server.complete(**body)["choices"][0]
            assert choice["prompt_token_ids"] == case["input_ids"]
            assert len(choice["token_ids"]) == 32 and choice["finish_reason"] == "length"
            if exact:
                assert choice["token_ids"] == case["greedy_new_tokens"], case["length"]
            chunks = chunks_of(server.post("/v1/completions", body | {"stream": True}).body)
            streamed = [token for chunk in chunks for one in chunk["choices"] for token in one.get("token_ids") or []]
            assert streamed == choice["token_ids"]


@pytest.mark.parametrize("name", ALL)
def test_all_cases_in_one_request(name):
    with Server("--model", GOLDEN / name, "--skip-tokenizer-init", "--dtype", "float32") as server:
        body = {"max_tokens": 32, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        together = server.complete(prompt=[case["input_ids"] for case in cases(name)], **body)["choices"]
        for case, choice in zip(cases(name), together, strict=True):
            if name in F32:
                assert choice["token_ids"] == case["greedy_new_tokens"], case["length"]
            alone = server.complete(prompt=case["input_ids"], **body)["choices"][0]
            assert alone["token_ids"] == choice["token_ids"], case["length"]


def test_text_without_a_tokenizer_is_refused():
    with Server("--model", GOLDEN / F32[0], "--skip-tokenizer-init") as server:
        reply = server.post("/v1/completions", {"prompt": "Hello"})
        assert reply.status == 400 and reply.error["param"] == "prompt"
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})
        assert reply.status == 400
        choice = server.complete(prompt=[1, 5], max_tokens=3, ignore_eos=True)["choices"][0]
        assert choice["text"] == "" and len(choice["token_ids"]) == 3, "ids are all there is to an answer"
        reply = server.post("/v1/completions", {"prompt": [1, 5], "stop": "x"})
        assert reply.status == 400 and reply.error["param"] == "stop"


@pytest.fixture
def with_tokenizer(tmp_path):
    """Copies a golden directory and gives it a synthetic tokenizer."""

    def make(name):
        directory = tmp_path / name
        shutil.copytree(GOLDEN / name, directory)
        subprocess.run([sys.executable, ROOT / "tests/tools/make_tokenizer.py", directory], check=True, timeout=60)
        return directory

    return make


@pytest.mark.parametrize("name", ALL)
def test_text_with_a_tokenizer(name, with_tokenizer):
    with Server("--model", with_tokenizer(name)) as server:
        answer = server.complete(prompt="hello the world", max_tokens=16, temperature=0, return_token_ids=True, ignore_eos=True)
        assert answer["choices"][0]["prompt_token_ids"][0] == 1
        assert answer["usage"]["completion_tokens"] == 16
        chat = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
        assert chat.status == 200, chat.text
        assert server.get("/v1/models").json["data"][0]["chat_template"] == "plain"


@pytest.mark.parametrize("template", ["plain", "zephyr"])
def test_built_in_templates(template, with_tokenizer):
    with Server("--model", with_tokenizer(F32[0]), "--chat-template", template) as server:
        assert server.get("/v1/models").json["data"][0]["chat_template"] == template
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "return_token_ids": True}
        ids = server.post("/v1/chat/completions", chat).json["prompt_token_ids"]
        assert ids[0] == 1 and ids.count(1) == 1


def test_a_broken_tail_of_utf8_streams_as_it_is_whole(with_tokenizer):
    """Random weights write byte pieces; the parts of a stream add up to the whole text all the same."""
    with Server("--model", with_tokenizer(F32[1])) as server:
        for seed in range(20):
            body = {"prompt": "hello", "max_tokens": 40, "temperature": 1.5, "top_p": 1, "seed": seed, "ignore_eos": True}
            whole = server.complete(**body)["choices"][0]["text"]
            chunks = chunks_of(server.post("/v1/completions", body | {"stream": True}).body)
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


def refused(directory, *args):
    done = run_binary("serve", "--port", "0", "--model", directory, *args)
    assert done.returncode not in (0, 101), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_no_tokenizer_says_what_to_do():
    message = refused(GOLDEN / F32[0])
    assert "--tokenizer" in message and "--skip-tokenizer-init" in message


def test_refusals_name_file_and_key(tmp_path, with_tokenizer):
    assert "nowhere" in refused(tmp_path / "nowhere")
    directory = with_tokenizer("tiny-hd64-gqa4")
    config = json.loads((directory / "config.json").read_text())

    def with_config(**change):
        (directory / "config.json").write_text(json.dumps(config | change))
        return refused(directory)

    message = with_config(activation_fn_name="tanh")
    assert "activation_fn_name" in message and "tanh" in message
    assert "LlamaForCausalLM" in with_config(architectures=["LlamaForCausalLM"])
    message = with_config(model_dim=96)
    assert "128" in message and "96" in message
    message = with_config(vocab_size=300)
    assert "384" in message
    (directory / "config.json").write_text(json.dumps(config))
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096])
    assert "model.safetensors" in refused(directory)


def test_a_missing_shard_is_named(with_tokenizer):
    directory = with_tokenizer("tiny-hd64-gqa4-bf16")
    (directory / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(directory)

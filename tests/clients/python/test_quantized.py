"""Weights in 8 and 4 bits: quantised at load, written as GGUF by `quantize`, and both the same; what is refused."""

import shutil

import pytest
from harness import GOLDEN, ROOT, Server, run_binary

PROMPT = {"prompt": [1, 5, 9, 200], "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True, "logprobs": 2}
NAME = "tiny-hd64-gqa4"


def answer(*flags):
    with Server(*flags, "--skip-tokenizer-init") as server:
        choice = server.complete(**PROMPT)["choices"][0]
        return choice["token_ids"], choice["logprobs"]["token_logprobs"], server.log


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_a_quantised_file_answers_as_the_checkpoint_quantised_at_load(kind, tmp_path):
    file = tmp_path / "small.gguf"
    scales = ["--scales", "plain"] if kind == "q4_0" else []
    done = run_binary("quantize", GOLDEN / NAME, file, "--type", kind, *scales)
    assert done.returncode == 0 and "relative error" in done.stdout and kind in done.stdout, done.stderr
    from_file = answer("--model", file)
    at_load = answer("--model", GOLDEN / NAME, "--quantization", kind)
    assert from_file[:2] == at_load[:2]
    assert kind in at_load[2], "the log names the type"
    plain = answer("--model", GOLDEN / NAME, "--dtype", "float32")
    assert plain[1] != at_load[1], "quantised weights give other numbers"


def test_searched_scales_keep_the_size_and_lose_less(tmp_path):
    sizes, errors = [], []
    for scales in ("plain", "search"):
        file = tmp_path / f"{scales}.gguf"
        done = run_binary("quantize", GOLDEN / NAME, file, "--type", "q4_0", "--scales", scales)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("blk.ffn_down.weight")]
        sizes.append(file.stat().st_size)
        errors.append(float(line.split()[-1].rstrip("%")))
    assert sizes[0] == sizes[1] and errors[1] < errors[0]


def test_the_summary_tells_types_of_one_kind_apart(tmp_path):
    """Blocks of 32 do not divide the rows of two of its five matrices."""
    done = run_binary("quantize", GOLDEN / "tiny-hd32-gqa2", tmp_path / "mixed.gguf", "--type", "q4_0")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("blk.ffn_down.weight")]
    assert sorted((line[2], line[1]) for line in lines) == [("bfloat16", "2"), ("q4_0", "3")]
    mean, largest = ({line[2]: float(line[column].rstrip("%")) for line in lines} for column in (4, 5))
    assert 0 < mean["bfloat16"] < 0.5 < mean["q4_0"], "bfloat16 rounds to 8 bits"
    assert all(mean[kind] <= largest[kind] for kind in mean)


def test_the_demo_model_as_a_file_of_its_own_speaks_the_same(tmp_path):
    """With its tokenizer inside."""
    file = tmp_path / "demo.gguf"
    done = run_binary("quantize", "embedded", file, "--type", "bf16")
    assert done.returncode == 0, done.stderr
    body = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    with Server("--model", file, "--dtype", "bfloat16") as server:
        text = server.complete(**body)["choices"][0]["text"]
    with Server("--model", ROOT / "models" / "demo", "--dtype", "bfloat16") as server:
        assert server.complete(**body)["choices"][0]["text"] == text


def test_a_file_with_a_tokenizer_of_another_kind_serves_token_ids(tmp_path):
    file = tmp_path / "demo.gguf"
    assert run_binary("quantize", ROOT / "models" / "demo", file, "--type", "q8_0").returncode == 0
    key = b"tokenizer.ggml.model" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
    file.write_bytes(file.read_bytes().replace(key + b"llama", key + b"other"))
    done = run_binary("serve", "--model", file)
    assert done.returncode == 1 and "tokenizer.ggml.model" in done.stderr, done.stderr
    with Server("--model", file, "--skip-tokenizer-init") as server:
        assert len(server.complete(**PROMPT)["choices"][0]["token_ids"]) == PROMPT["max_tokens"]


def test_an_eight_bit_kv_cache_takes_half_the_memory_and_answers_alike():
    flags = ["--model", GOLDEN / NAME, "--dtype", "bfloat16", "--skip-tokenizer-init", "--kv-cache-memory-bytes", "4MiB"]
    tokens, fingerprints = [], []
    for kind in ("bfloat16", "int8"):
        with Server(*flags, "--kv-cache-dtype", kind) as server:
            alone = server.complete(**PROMPT)
            together = server.complete(**(PROMPT | {"prompt": [[7] * 40, PROMPT["prompt"], [3, 4]]}))
            assert together["choices"][1]["token_ids"] == alone["choices"][0]["token_ids"]
            assert together["choices"][1]["logprobs"] == alone["choices"][0]["logprobs"]
            fingerprints.append(alone["system_fingerprint"])
            (line,) = [line for line in server.log.splitlines() if "kv cache allocated" in line]
            assert f"dtype={kind}" in line
            tokens.append(int(line.split("tokens=")[1].split()[0]))
    # A head of 64 keeps 68 bytes instead of 128; whole blocks are counted.
    assert abs(tokens[1] / tokens[0] - 128 / 68) < 0.05
    assert fingerprints[0] != fingerprints[1]


def test_what_cannot_be_quantised_says_why(tmp_path):
    done = run_binary("quantize", tmp_path / "none", tmp_path / "out.gguf")
    assert done.returncode == 1 and "none" in done.stderr and not (tmp_path / "out.gguf").exists()
    done = run_binary("quantize", GOLDEN / NAME, tmp_path)
    assert done.returncode == 1 and "is a directory" in done.stderr
    done = run_binary("quantize", GOLDEN / NAME, "/dev/null")
    assert done.returncode == 1 and "device" in done.stderr
    copy = tmp_path / "model"
    shutil.copytree(GOLDEN / NAME, copy)
    before = (copy / "model.safetensors").read_bytes()
    done = run_binary("quantize", copy, copy / "model.safetensors")
    assert done.returncode == 1 and "belongs to the model" in done.stderr and (copy / "model.safetensors").read_bytes() == before
    done = run_binary("quantize", GOLDEN / NAME, tmp_path / "out.bin")
    assert done.returncode == 1 and ".gguf" in done.stderr and not (tmp_path / "out.bin").exists()
    done = run_binary("quantize", GOLDEN / NAME, tmp_path / "none" / "out.gguf")
    assert done.returncode == 1 and "a directory that is there" in done.stderr
    done = run_binary("quantize", GOLDEN / NAME, tmp_path / "out.gguf", "--type", "bf16", "--scales", "plain")
    assert done.returncode == 1 and "--scales" in done.stderr
    done = run_binary("quantize", GOLDEN / NAME, tmp_path / "out.gguf", "--type", "q3")
    assert done.returncode == 2 and "q8_0" in done.stderr
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    done = run_binary("serve", "--model", tmp_path / "broken.gguf")
    assert done.returncode == 1 and "broken.gguf" in done.stderr
    file = tmp_path / "small.gguf"
    assert run_binary("quantize", GOLDEN / NAME, file, "--type", "q8_0").returncode == 0
    with (
        Server("--model", file, "--skip-tokenizer-init") as plain,
        Server("--model", file, "--skip-tokenizer-init", "--quantization", "q4_0") as asked,
    ):
        assert "changes nothing" in asked.log and "changes nothing" not in plain.log
        assert plain.complete(**PROMPT)["system_fingerprint"] == asked.complete(**PROMPT)["system_fingerprint"]
    done = run_binary("serve", "--quantization", "q5_0")
    assert done.returncode == 2 and "quantization" in done.stderr and "q8_0" in done.stderr

"""Flags, environment, configuration file, and that the README says the same."""

import re
import subprocess
import time

import pytest
from harness import ROOT, Server, clean_environment, run_binary

FLAG = re.compile(r"--[a-z][a-z0-9-]*")


def flags_of_help():
    text = run_binary("serve", "--help").stdout
    return set(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z0-9-]*)", text, re.MULTILINE)) - {"--help", "--version"}


def flags_of_readme():
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- flags -->")[1].split("<!-- /flags -->")[0]
    return {flag for line in table.splitlines() if line.startswith("| `--") for flag in FLAG.findall(line.split("|")[1])}


def test_the_readme_lists_exactly_the_flags():
    assert flags_of_readme() == flags_of_help()


def test_version():
    manifest = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'^version = "(.+)"', manifest, re.MULTILINE).group(1)
    assert version in run_binary("--version").stdout


def test_the_printed_curl_line_works(demo):
    (line,) = [line.strip() for line in demo.log.splitlines() if line.strip().startswith("curl ")]
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60, check=False, text=True)
    assert done.returncode == 0 and '"choices"' in done.stdout, line + done.stderr


def test_the_banner_says_what_is_served(demo):
    for word in ("openelm-demo", "KV", "cpu"):
        assert word.lower() in demo.log.lower(), word


def test_serve_is_the_default():
    done = run_binary("--check-config")
    assert done.returncode == 0 and "8000" in done.stdout, done.stderr


def test_order_of_sources(tmp_path):
    file = tmp_path / "openelm.toml"
    file.write_text('port = 1111\nmax-num-seqs = 3\nlog-level = "warn"\n')
    args = ["--check-config", "--config", file, "--port", "3333"]
    done = run_binary("serve", *args, env={"OPENELM_PORT": "2222", "OPENELM_MAX_NUM_SEQS": "5"})
    assert done.returncode == 0, done.stderr
    assert re.search(r"port\W+3333", done.stdout)
    assert re.search(r"max.num.seqs\W+5\b", done.stdout)
    assert re.search(r"log.level\W+warn", done.stdout)


def test_all_mistakes_at_once(tmp_path):
    file = tmp_path / "openelm.toml"
    file.write_text('max_num_sequences = 3\nkv-cache-dtype = "int3"\n')
    done = run_binary("serve", "--config", file, "--port", "99999", "--dtype", "double", env={"OPENELM_THREADS": "many"})
    assert done.returncode != 0
    for word in ("max_num_sequences", "max-num-seqs", "kv-cache-dtype", "99999", "double", "OPENELM_THREADS"):
        assert word in done.stderr, word


def test_an_unknown_flag():
    done = run_binary("serve", "--max-num-seq", "3")
    assert done.returncode == 2 and "--max-num-seqs" in done.stderr


def test_the_example_configuration_is_valid():
    for example in (ROOT / "config").glob("*.toml"):
        done = run_binary("serve", "--check-config", "--config", example)
        assert done.returncode == 0, done.stderr


def test_a_port_in_use_is_named(demo):
    done = run_binary("serve", "--port", demo.port)
    assert done.returncode not in (0, 101) and str(demo.port) in done.stderr + done.stdout


def test_a_pool_too_small_is_refused_with_numbers():
    done = run_binary("serve", "--port", "0", "--kv-cache-memory-bytes", "1000")
    assert done.returncode not in (0, 101)
    assert re.search(r"\d{3,}", done.stderr) and "kv-cache-memory-bytes" in done.stderr


def test_shorter_contexts():
    with Server("--max-model-len", "64") as server:
        assert server.get("/v1/models").json["data"][0]["max_model_len"] == 64
        reply = server.post("/v1/completions", {"prompt": [1] + [300] * 63, "max_tokens": 2})
        assert reply.status == 400 and reply.error["code"] == "context_length_exceeded"


def test_a_default_seed():
    body = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 1.2, "top_p": 1}
    with Server("--seed", "5") as server:
        assert server.complete(**body)["choices"] == server.complete(**body)["choices"]


def test_ready_within_seconds():
    started = time.monotonic()
    with Server() as server:
        elapsed = time.monotonic() - started
        assert elapsed < 10, server.log


@pytest.mark.parametrize("command", ["healthcheck"])
def test_healthcheck(demo, command):
    environment = {"OPENELM_PORT": str(demo.port)}
    assert run_binary(command, env=environment).returncode == 0
    assert run_binary(command, env={"OPENELM_PORT": "1"}).returncode == 1


def test_no_secret_is_shown():
    done = run_binary("serve", "--check-config", env={"OPENELM_API_KEY": "very-secret"})
    assert done.returncode == 0 and "very-secret" not in done.stdout + done.stderr
    assert "OPENELM_API_KEY" not in clean_environment()

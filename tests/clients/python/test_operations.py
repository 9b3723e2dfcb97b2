"""Probes, metrics, version, the OpenAPI document."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from harness import ROOT, Server

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
REQUIRED = """
vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:cache_config_info
vllm:prompt_tokens_total vllm:generation_tokens_total vllm:prompt_tokens_cached_total vllm:prefix_cache_queries_total
vllm:prefix_cache_hits_total vllm:num_preemptions_total vllm:request_success_total vllm:admission_rejections_total
vllm:time_to_first_token_seconds vllm:inter_token_latency_seconds vllm:request_time_per_output_token_seconds
vllm:e2e_request_latency_seconds vllm:request_queue_time_seconds vllm:request_inference_time_seconds
vllm:request_prefill_time_seconds vllm:request_decode_time_seconds vllm:request_prompt_tokens
vllm:request_generation_tokens vllm:request_params_max_tokens vllm:request_params_n vllm:iteration_tokens_total
http_requests_total http_request_duration_seconds startup_seconds openelm:generation_tokens_per_second
process_resident_memory_bytes process_cpu_seconds_total
""".split()


def test_probes(demo):
    for path in ("/health", "/livez", "/readyz", "/startupz"):
        assert demo.get(path).status == 200, path


def test_version(demo):
    manifest = (ROOT / "Cargo.toml").read_text()
    version = demo.get("/version").json["version"]
    assert f'version = "{version}"' in manifest.splitlines()


def test_models_describe_what_is_served(demo):
    (entry,) = demo.get("/v1/models").json["data"]
    assert entry["max_model_len"] == 512
    assert entry["chat_template"]


def test_several_names():
    with Server("--served-model-name", "first", "--served-model-name", "second") as server:
        assert [entry["id"] for entry in server.get("/v1/models").json["data"]] == ["first", "second"]
        for name in ("first", "second"):
            assert server.complete(model=name, prompt="Hello", max_tokens=1)["model"] in ("first", "second")
        assert server.post("/v1/completions", {"model": "openelm-demo", "prompt": "Hello"}).status == 404


def test_openapi_names_what_is_served(demo):
    document = demo.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"} <= set(paths)
    for path, operations in paths.items():
        if "get" in operations and "{" not in path:
            assert demo.get(path).status == 200, path


def test_metrics_have_the_expected_names(demo):
    demo.complete(prompt="Hello", max_tokens=4)
    reply = demo.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    described = {line.split()[2] for line in reply.text.splitlines() if line.startswith("# TYPE ")}
    known = described | {name + "_total" for name in described}
    assert not set(REQUIRED) - known


def test_promtool_accepts_the_metrics(demo):
    assert PROMTOOL, "promtool is not installed (tests/install.sh does)"
    demo.complete(prompt="Hello", max_tokens=4)
    page = demo.get("/metrics").body
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
    complaints = done.stderr.decode().splitlines() + done.stdout.decode().splitlines()
    # promtool's lint reserves ":" for recording rules, which vLLM's names carry, and "_total" for counters, where vLLM has a histogram of
    # that name. Nothing else is excused.
    excused = ("should not contain ':'", 'vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix')
    others = [line for line in complaints if line and not any(excuse in line for excuse in excused)]
    assert done.returncode in (0, 3) and not others, others


def test_counters_add_up():
    with Server() as server:
        answer = server.complete(prompt="Once upon a time", max_tokens=10, ignore_eos=True, n=3)
        usage = answer["usage"]
        assert usage["completion_tokens"] == 30
        assert server.metric("vllm:generation_tokens_total") == 30
        assert server.metric("vllm:prompt_tokens_total") == 3 * usage["prompt_tokens"], "each choice reads the prompt"
        assert server.metric("vllm:request_success_total", finished_reason="length") == 3
        assert server.metric("vllm:time_to_first_token_seconds_count") == 3
        assert server.metric("vllm:request_generation_tokens_sum") == 30
        assert 0 < server.metric("startup_seconds") < 60
        server.post("/v1/completions", {"prompt": "x", "temperature": 9})
        assert server.metric("http_requests_total", status="400") == 1


def test_the_log_has_a_line_per_request_and_no_text():
    with Server() as server:
        server.post("/v1/completions", {"prompt": "xylophone orchestra", "max_tokens": 2}, headers={"x-request-id": "look-for-me"})
        server.post("/v1/completions", {"prompt": "x", "temperature": "zither"}, headers={"x-request-id": "and-for-me"})
        server.terminate()
        server.wait_exit(20)
        assert "look-for-me" in server.log and "and-for-me" in server.log
        assert "xylophone" not in server.log


def test_json_logs_are_json():
    with Server("--log-format", "json") as server:
        server.complete(prompt="Hello", max_tokens=2)
        server.terminate()
        server.wait_exit(20)
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert lines


def test_memory_is_bounded(demo):
    """Weights and KV cache of the demo model are small; the default budget must not fill the machine."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert demo.metric("process_resident_memory_bytes") < total / 2

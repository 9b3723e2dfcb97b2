"""A client that openapi-python-client writes from openapi.yaml: it is complete, and talks with the server."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

PROMPT = "Once upon a time, there was a little"
PACKAGE = "generated_openelm_client"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Imports a part of the client, which is written anew for each run. A warning, of a part that was left out for example, fails."""
    folder = tmp_path_factory.mktemp("generated")
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = [tools / "openapi-python-client", "generate", "--path", ROOT / "openapi.yaml", "--meta", "none", "--fail-on-warning"]
    done = subprocess.run(
        [*map(str, command), "--output-path", str(folder / PACKAGE)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def connection(generated, demo):
    with generated("client").Client(base_url=demo.url, raise_on_unexpected_status=True) as connection:
        yield connection


def test_every_operation_is_a_function(generated):
    operations = {path.stem for path in Path(generated("api").__file__).parent.glob("*/*.py")} - {"__init__"}
    assert operations == {
        *("create_completion", "create_chat_completion", "list_models", "retrieve_model", "tokenize", "detokenize", "tokenizer_info"),
        *("render_completion", "render_chat_completion"),
        *("health", "livez", "readyz", "startupz", "metrics", "openapi", "version"),
    }


def test_a_completion(generated, connection, client, model):
    request = generated("models").CompletionRequest(prompt=PROMPT, max_tokens=12, temperature=0.0, logprobs=2)
    answer = generated("api.generation.create_completion").sync(client=connection, body=request)
    direct = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0, logprobs=2)
    (choice,) = answer.choices
    assert choice.text == direct.choices[0].text and choice.finish_reason.value == direct.choices[0].finish_reason
    assert choice.logprobs.token_logprobs == direct.choices[0].logprobs.token_logprobs
    assert answer.usage.total_tokens == direct.usage.total_tokens


async def test_a_chat(generated, connection, client, model):
    models = generated("models")
    message = models.ChatMessage(role=models.Role.USER, content="Tell me a story about a fox.")
    request = models.ChatRequest(messages=[message], max_tokens=12, temperature=0.0)
    answer = await generated("api.generation.create_chat_completion").asyncio(client=connection, body=request)
    direct = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Tell me a story about a fox."}], max_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content == direct.choices[0].message.content
    assert answer.choices[0].message.role is models.Role.ASSISTANT


def test_tokens_there_and_back(generated, connection):
    models = generated("models")
    request = models.TokenizeRequest(prompt=PROMPT, add_special_tokens=False)
    tokens = generated("api.tokens.tokenize").sync(client=connection, body=request).tokens
    back = generated("api.tokens.detokenize").sync(client=connection, body=models.DetokenizeRequest(tokens=tokens))
    assert back.prompt.strip() == PROMPT


def test_what_is_served(generated, connection, model):
    (found,) = generated("api.models.list_models").sync(client=connection).data
    assert found.id == model and found.max_model_len == 512
    assert generated("api.models.retrieve_model").sync(model, client=connection).id == model
    assert generated("api.operations.version").sync(client=connection).version
    assert generated("api.operations.health").sync(client=connection).status == "ok"
    assert "vllm:num_requests_running" in generated("api.operations.metrics").sync(client=connection)


def test_an_error_is_an_object(generated, connection):
    request = generated("models").CompletionRequest(prompt=PROMPT, temperature=3.0)
    answer = generated("api.generation.create_completion").sync_detailed(client=connection, body=request)
    assert answer.status_code == 400
    assert answer.parsed.error.param == "temperature" and answer.parsed.error.type_.value == "invalid_request_error"

"""Servers shared by the tests."""

import json
import shutil

import pytest
from harness import BINARY, ROOT, Server
from openai import AsyncOpenAI, OpenAI


def pytest_sessionstart(session):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} does not exist: run `cargo build --release` first", returncode=2)


@pytest.fixture(scope="session")
def demo():
    """The embedded model with default settings, shared by all tests that leave no trace."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def client(demo):
    with OpenAI(base_url=demo.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(demo):
    async with AsyncOpenAI(base_url=demo.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    """The name under which the demo model is served."""
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """The demo model's weights with a context of 4,096 tokens, for clients whose prompts are long. It was trained on 512 and knows nothing
    of places beyond them: what it writes there is as good as random."""
    source, directory = ROOT / "models" / "demo", tmp_path_factory.mktemp("wide")
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        shutil.copy(source / name, directory)
    changes = {
        "config.json": {"max_context_length": 4096, "rope_max_length": 8192},
        "tokenizer_config.json": {"model_max_length": 4096},
    }
    for name, change in changes.items():
        (directory / name).write_text(json.dumps(json.loads((source / name).read_text()) | change))
    with Server("--model", directory, "--served-model-name", "openelm-wide") as server:
        yield server

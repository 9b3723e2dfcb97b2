"""Servers shared by the tests."""

import pytest
from harness import BINARY, Server
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

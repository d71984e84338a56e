"""A hub on loopback, and clients for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtool.server.embedded import EmbeddedHub
from tests.server.clients import Client, Http


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def hub(root: Path) -> Iterator[EmbeddedHub]:
    """An open hub for one person."""
    with EmbeddedHub(root) as running:
        yield running


@pytest.fixture
def http_(hub: EmbeddedHub) -> Http:
    return Http(hub.url)


@pytest.fixture
def client(hub: EmbeddedHub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home")

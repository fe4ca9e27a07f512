"""A process that runs commands, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.t5 import server


@pytest.fixture(scope="module")
def hmoe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    running = server.Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()

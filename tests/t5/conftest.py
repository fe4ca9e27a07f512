"""What tests of commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.t5 import commands


@pytest.fixture(scope="module")
def hmoe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[commands.Server]:
    server = commands.Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()

from __future__ import annotations

import gin
import pytest


@pytest.fixture
def gin_config():
    """Gin with nothing bound before and after the test."""
    gin.clear_config()
    with gin.unlock_config():
        yield gin
    gin.clear_config()

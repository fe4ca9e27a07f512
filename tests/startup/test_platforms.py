"""What a step is counted for, by default."""

from __future__ import annotations

import pytest

from hmoe.startup import platforms


@pytest.mark.parametrize(
    ("asked", "devices", "platform"),
    [
        (None, None, "tpu"),
        (None, ["", ""], "cpu"),
        (None, ["gpu:0", "gpu:1"], "cpu"),
        ("tpu", ["", ""], "tpu"),
        ("gpu", None, "gpu"),
        ("cpu", None, "cpu"),
    ],
)
def test_platform_follows_the_layout_unless_a_flag_chooses(
    asked: str | None, devices: list[str] | None, platform: str
) -> None:
    assert platforms.platform_of(asked, devices) == platform

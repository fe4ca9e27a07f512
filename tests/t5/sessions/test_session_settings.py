"""Session settings that raise an error."""

from __future__ import annotations

import pytest

from hmoe.t5.sessions import session_settings


def test_reports_at_least_every_step() -> None:
    with pytest.raises(ValueError) as error:
        session_settings.SessionSettings(log_every_steps=0)
    first_line = str(error.value).splitlines()[0]  # gin adds where it was called
    assert first_line == "hmoe.Session: log_every_steps is 0; it must be an integer of at least 1"


def test_activations_are_of_one_of_two_types() -> None:
    with pytest.raises(ValueError) as error:
        session_settings.SessionSettings(activation_dtype="float16")
    first_line = str(error.value).splitlines()[0]
    assert first_line == (
        "hmoe.Session: activation_dtype is 'float16'; it must be one of float32, bfloat16"
    )

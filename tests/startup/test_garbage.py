"""The collector is stopped, and goes on as it was."""

from __future__ import annotations

import gc

import pytest

from hmoe.startup import garbage


def test_stops_and_goes_on() -> None:
    with garbage.uncollected():
        assert not gc.isenabled()
        with garbage.uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_goes_on_after_an_error() -> None:
    with pytest.raises(KeyError), garbage.uncollected():
        raise KeyError
    assert gc.isenabled()


def test_stays_off_where_it_was() -> None:
    gc.disable()
    try:
        with garbage.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_keeps_what_is_there() -> None:
    before = gc.get_freeze_count()
    garbage.keep()
    try:
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()

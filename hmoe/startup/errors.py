"""Errors that a command ends with, apart from bad input (`ValueError`)."""

from __future__ import annotations

# What the user named is not there, is of another kind, or must not be touched: bad input as well.
_BAD_NAMES = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


class RunFailedError(ValueError):
    """A command was asked for the right thing and failed while it ran, as by a loss of NaN."""


class ProcessLostError(RunFailedError):
    """Another process of the run ended, hangs or cannot be reached."""


def is_bad_input(error: Exception) -> bool:
    """Returns whether an error is one of the command line, of gin, or of files that it names."""
    if isinstance(error, RunFailedError):
        return False
    if isinstance(error, RuntimeError):
        return is_unbound(error)
    return isinstance(error, (ValueError, *_BAD_NAMES))


def is_unbound(error: Exception) -> bool:
    """Returns whether an error is gin's about an argument that nothing binds."""
    return str(error).strip().startswith("Required bindings for")

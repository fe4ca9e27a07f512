"""Finds an address of a session's master that nobody answers; TensorFlow would wait for it."""

from __future__ import annotations

import re
import socket

from hmoe.startup.gin_reading import Reading

ADDRESS = "hmoe.Session.master"
# What connects to it. An export does not: a model that servers trained is exported without them.
COMMANDS = ("train", "eval", "predict", "score")
_SECONDS = 5.0


def check(reading: Reading) -> None:
    """Raises ValueError if the configuration names an address that nobody answers."""
    binding = reading.bound(ADDRESS)
    value = reading.literal(ADDRESS, "")
    if binding is None or value == "":
        return
    place = reading.resolve(binding).place
    address = re.fullmatch(r"(?:grpc://)?\[?([^/\]]+?)\]?:(\d+)", str(value))
    if not isinstance(value, str) or address is None or int(address[2]) > 65535:
        raise ValueError(
            f"{place}: {ADDRESS} is {value!r}; it must be an address such as 'grpc://host:2222', "
            "or '' for this process"
        )
    try:
        socket.create_connection((address[1], int(address[2])), timeout=_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"{place}: {ADDRESS} is {value!r}, where nobody answers ({error.strerror or error}); "
            "start a tf.train.Server there, or use '' for this process"
        ) from None

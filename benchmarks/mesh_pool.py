"""Processes that share a mesh, on this machine or on hosts of `namespaces`: the driver's end.

One process imports TensorFlow and forks all others, since importing takes seconds and hundreds of
megabytes each. It talks with the driver in lines of JSON: what all processes are to do, and what
each of them answers.
"""

from __future__ import annotations

import json
import os
import pathlib
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.namespaces import Host
from benchmarks.workers import ROOT, SideError

# Inside a namespace every port is free; more processes than this on a host are not meant.
_FIRST_PORT = 2222


class MeshPool:
    """Processes of which each has a slice of a mesh; a context that ends them.

    Args:
      log: file for what the processes print.
      limit: seconds in which they must have answered.
    """

    def __init__(self, log: pathlib.Path, limit: float = 900.0):
        """Starts the process that forks the others."""
        self._log, self._limit = log, limit
        environment = dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="-1")
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with open(log, "w") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.mesh_process"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                text=True,
            )

    def start(self, hosts: Sequence[Host | None]) -> None:
        """Starts processes, in the place of those before; they wait for what to build.

        Args:
          hosts: the host of each process, by its number; None for this machine itself.

        Raises:
          SideError: they cannot be started.
        """
        places = [None if host is None else host.pid for host in hosts]
        self._ask({"addresses": _addresses(hosts), "namespaces": places})

    def ask(self, word: str, **arguments: Any) -> list[Any]:
        """Has all processes do something, and returns what each answers, by its number.

        Args:
          word: a method of `mesh_process.Process`.
          **arguments: of the method.

        Raises:
          SideError: one of them could not.
        """
        return self._ask({"do": word, "arguments": arguments})

    def _ask(self, request: dict) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"the processes ended; see {self._log}") from None
        # A collective whose peer never comes waits for ever.
        if not select.select([self._process.stdout], [], [], self._limit)[0]:
            raise SideError(f"no answer within {self._limit:g} seconds; see {self._log}")
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"the processes ended; see {self._log}")
        answers = json.loads(line)
        for number, answer in enumerate(answers):
            if "error" in answer:
                raise SideError(f"process {number}: {answer['error']}; see {self._log}")
        return [answer["value"] for answer in answers]

    def close(self) -> None:
        """Ends the processes, which end with the one that forked them."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> MeshPool:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _addresses(hosts: Sequence[Host | None]) -> list[str]:
    """Returns an address for each process."""
    if None in hosts:
        return _free_addresses(len(hosts))
    found = []
    for number, host in enumerate(hosts):
        assert host is not None
        found.append(f"{host.address}:{_FIRST_PORT + number}")
    return found


def _free_addresses(number: int) -> list[str]:
    """Returns loopback addresses that nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]
    for each in taken:
        each.close()
    return addresses

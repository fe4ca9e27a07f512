"""What the configuration of a trained model runs and reaches, as a notice before it does."""

from __future__ import annotations

from hmoe.startup import run_sources, saved_flags
from hmoe.startup.gin_checks import imports, master
from hmoe.startup.gin_reading import Reading
from hmoe.startup.request import Request


def announcement(request: Request) -> str | None:
    """Returns a line that names what a saved model imports and connects to; None if nothing.

    It names modules that belong neither to hmoe nor to T5, and only if the saved configuration is
    used. A folder on another machine gets no line.
    """
    sources = run_sources.of(request)
    if sources is None or not sources.saved:
        return None
    filled = saved_flags.fill_in(request)
    reading = run_sources.read(filled)
    modules = [] if request.module_import else list(filled.module_import or ())
    address = None
    if reading is not None:
        modules += [each.module for each in reading.imports if not each.place.own]
        if request.command in master.COMMANDS:
            address = _saved_address(reading)
    foreign = sorted({each for each in modules if not imports.is_known(each)})
    deeds = [f"imports {', '.join(foreign)}"] if foreign else []
    deeds += [f"connects to {address!r}"] if address else []
    return f"The configuration in {request.model_dir} {' and '.join(deeds)}" if deeds else None


def _saved_address(reading: Reading) -> object:
    """Returns the address of a server that the saved configuration itself names, if it does."""
    binding = reading.bound(master.ADDRESS)
    if binding is None or reading.resolve(binding).place.own:
        return None
    return reading.literal(master.ADDRESS)

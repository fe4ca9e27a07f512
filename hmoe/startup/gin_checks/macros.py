"""Finds macros that nothing defines, and macros that nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hmoe.startup.gin_reading import Reading, is_argument, parts
from hmoe.startup.gin_statements import Binding, Macro
from hmoe.startup.suggestions import is_slip, nearest

_RUN = "mesh_tensorflow.transformer.utils.run"
# Arguments without which neither training nor evaluation begins.
_TASK = (
    "t5.models.mesh_transformer.get_vocabulary.mixture_or_task_name",
    "t5.models.mesh_transformer.mesh_train_dataset_fn.mixture_or_task_name",
)

# The macro of the task. T5 asks gin for it by name, where it makes the vocabulary.
TASK = "MIXTURE_NAME"
_ALWAYS_READ = frozenset({TASK})

# Macros that shipped files leave to the user, and that a plan does without.
NOT_PLANNED = (TASK, "init_checkpoint")


def check_defined(reading: Reading, *, is_given: Callable[[str], object], needs_task: bool) -> None:
    """Raises ValueError for a macro that the command is sure to read and that nothing defines.

    Args:
      reading: the configuration.
      is_given: whether the command or a module defines a macro.
      needs_task: whether the command reads the name of a task.
    """
    for binding in reading.effective:
        is_read = (
            binding.place.own
            or f".{_RUN}".endswith(f".{binding.selector}")
            or (needs_task and any(is_argument(binding, each) for each in _TASK))
        )
        if is_read:
            for where, macro in _undefined(reading, binding, set()):
                if not is_given(macro.name):
                    _raise_undefined(reading, where, macro)


def _undefined(
    reading: Reading, binding: Binding, seen: set[str]
) -> Iterator[tuple[Binding, Macro]]:
    """Yields the undefined macros that a binding leads to, each with the binding that reads it."""
    for each in parts(binding.value):
        # A name with a period is a constant that a module defines; so may be others.
        if not isinstance(each, Macro) or "." in each.name or each.name in seen:
            continue
        seen.add(each.name)
        definitions = [reading.macros[name] for name in _names(each) if name in reading.macros]
        if not definitions:
            yield binding, each
        for definition in definitions[:1]:
            yield from _undefined(reading, definition, seen)


def _names(macro: Macro) -> list[str]:
    """Returns the names under which gin looks for a macro: `a/b`, then `a`."""
    scopes = macro.name.split("/")
    return ["/".join(scopes[:count]) for count in range(len(scopes), 0, -1)]


def _raise_undefined(reading: Reading, binding: Binding, macro: Macro) -> None:
    known = sorted(reading.macros)
    raise ValueError(
        f"{binding.place}: {binding.name} is {binding.value!r}, but nothing defines the macro "
        f"{macro.name}; define it in a gin file or with --gin_param '{macro.name} = ...'"
        f"{nearest(macro.name, known)}"
    )


def unread(reading: Reading, own_code: str | None = None) -> list[str]:
    """Returns a sentence for each macro of the user's own that nothing reads.

    Args:
      reading: the configuration.
      own_code: the text of the user's own modules, which may read macros as gin cannot show; only
        slips are reported then. None without such modules.
    """
    # A binding that a later one replaces reads its macro too: no mistake made that macro.
    read = {
        name
        for binding in reading.bindings
        for each in parts(binding.value)
        if isinstance(each, Macro)
        for name in _names(each)
    }
    return [
        f"{each.place}: nothing reads the macro {each.name}{nearest(each.name, sorted(read))}"
        for each in reading.macros.values()
        if each.place.own and each.name not in read | _ALWAYS_READ
        if own_code is None or is_slip(each.name, sorted(read), own_code)
    ]

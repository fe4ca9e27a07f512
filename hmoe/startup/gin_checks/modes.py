"""Modes of `utils.run` that belong to other commands, and what a run cannot begin without."""

from __future__ import annotations

from hmoe.startup.gin_reading import Reading, is_symbolic
from hmoe.startup.gin_statements import Reference
from hmoe.startup.suggestions import nearest

_RUN = "mesh_tensorflow.transformer.utils.run"
_TOPOLOGY = "mesh_tensorflow.transformer.utils.tpu_mesh_shape.tpu_topology"

# The modes of `utils.run` that gin may choose for a command; the first is the default.
MODES = {
    "train": ("train",),
    "plan": ("train",),
    "eval": ("eval", "score_eval", "perplexity_eval"),
    "trace": ("eval",),
    "ablate": ("eval",),
    "predict": ("infer",),
    "score": ("score_from_strings", "score_from_dataset"),
    "export": ("export_infer", "export_score", "export"),
}


def check_mode(reading: Reading, command: str) -> None:
    """Raises ValueError if gin chooses a mode that is none, or is of another command."""
    binding = reading.bound(f"{_RUN}.mode")
    if binding is not None:
        found = reading.resolve(binding)
        if not is_symbolic(found.value):
            refuse_mode(command, found.value, f"{found.place}: {found.name}")


def refuse_mode(command: str, mode: object, shown: str) -> None:
    """Raises ValueError for a mode that is none, or is of another command.

    Configurations of training runs bind the mode "train", and other commands read them.

    Args:
      command: the command.
      mode: the mode that gin chooses, if any.
      shown: how messages name the binding.
    """
    known = list(dict.fromkeys(each for modes in MODES.values() for each in modes))
    if mode is not None and mode not in known:
        raise ValueError(
            f"{shown} is {mode!r}, which is no mode; the modes are "
            f"{', '.join(known)}{nearest(str(mode), known)}"
        )
    if mode in (None, "train", *MODES.get(command, known)):
        return
    other = next(name for name, modes in MODES.items() if mode in modes)
    raise ValueError(
        f"{shown} is {mode!r}, which belongs to hmoe {other}, not to hmoe {command}; run hmoe "
        f"{other}, or remove the binding"
    )


def check_score(reading: Reading, input_file: str | None, target_file: str | None) -> None:
    """Raises ValueError if there is nothing to score, or nothing to score it by.

    Args:
      reading: the configuration.
      input_file: the file of `--input_file`.
      target_file: the file of `--target_file`.
    """
    strings = "mesh_tensorflow.transformer.utils.score_from_strings"
    by_gin = reading.bound(f"{strings}.targets") is not None
    if reading.literal(f"{_RUN}.mode") == "score_from_dataset" or (by_gin and not target_file):
        return
    if not target_file:
        raise ValueError("hmoe score needs targets; name their file with --target_file")
    has_inputs = reading.literal(f"{_RUN}.model_type", "bitransformer") == "bitransformer"
    if has_inputs and not input_file and reading.bound(f"{strings}.inputs") is None:
        raise ValueError(
            "the model writes a target for an input, so --target_file alone cannot be scored; name "
            "the file of the inputs with --input_file"
        )


def check_parts(reading: Reading, command: str, *, on_tpu: bool) -> None:
    """Raises ValueError if a configuration lacks a mesh, or data to train on."""
    shape = reading.bound(f"{_RUN}.mesh_shape")
    value = reading.resolve(shape).value if shape else None
    is_default = isinstance(value, Reference) and value.selector.endswith("tpu_mesh_shape")
    if is_default and not on_tpu and reading.bound(_TOPOLOGY) is None:
        raise ValueError(
            "the configuration has no mesh: utils.run.mesh_shape is T5's default, which is for "
            "TPUs; add a layout, such as --gin_file=layouts/one_device.gin"
        )
    has_data = reading.bound(f"{_RUN}.train_dataset_fn") or reading.bound(f"{_RUN}.train_model_fn")
    if command == "train" and not has_data:
        raise ValueError(
            "the configuration has no data to train on: nothing binds utils.run.train_dataset_fn; "
            "add a task, such as --gin_file=tasks/cldr_formats.gin, or your own file with --data"
        )

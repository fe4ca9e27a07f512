"""Arguments of `utils.run` whose values have several forms: batch size, lengths, schedules."""

from __future__ import annotations

from hmoe import checks
from hmoe.startup.gin_checks.arguments import apply
from hmoe.startup.gin_reading import Reading, is_argument, is_symbolic
from hmoe.startup.gin_statements import Binding, Macro, Reference

_RUN = "mesh_tensorflow.transformer.utils.run"
_METHODS = (
    "sequences_per_batch",
    "tokens_per_batch",
    "sequences_per_replica",
    "tokens_per_replica",
)
# What takes a function or a class, and an example.
_FUNCTIONS = {
    "optimizer": "@optimize.AdafactorOptimizer",
    "train_dataset_fn": "@t5.models.mesh_transformer.mesh_train_dataset_fn",
    "eval_dataset_fn": "@t5.models.mesh_transformer.mesh_eval_dataset_fn",
    "predict_fn": "@my_module.predict_fn",
    "train_model_fn": "@mesh_tensorflow.transformer.utils.train_model",
}


# What the command gives `utils.run` from its flags, whatever gin binds.
_FLAGS = ("model_dir", "tpu", "tpu_job_name", "tpu_zone", "gcp_project")


def replaced(reading: Reading) -> list[str]:
    """Returns a sentence for each binding of the user's own in whose place a flag stands."""
    return [
        f"{each.place}: {each.name} has no effect; use --{flag}"
        for each in reading.effective
        for flag in _FLAGS
        if each.place.own and is_argument(each, f"{_RUN}.{flag}")
    ]


def check(reading: Reading) -> None:
    """Raises ValueError for an argument of `utils.run` that has none of its forms."""
    model_type = reading.literal(f"{_RUN}.model_type", "bitransformer")
    needs_inputs = model_type in ("bitransformer", "bi_student_teacher")
    rules = {
        "batch_size": _batch_size,
        "sequence_length": _lengths(needs_inputs),
        "eval_checkpoint_step": _steps,
    }
    for argument, rule in rules.items():
        binding = reading.bound(f"{_RUN}.{argument}")
        if binding is not None:
            apply(rule, reading.resolve(binding))
    for argument, example in _FUNCTIONS.items():
        binding = reading.bound(f"{_RUN}.{argument}")
        if binding is not None:
            _check_function(reading, binding, example)
    schedule = reading.bound(f"{_RUN}.learning_rate_schedule")
    if schedule is not None:
        _check_schedule(reading, schedule)


def _batch_size(where: str, field: str, value: object) -> object:
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or value[0] not in _METHODS:
            raise ValueError(
                f"{where}: {field} is {value!r}; it must be an integer, or a pair of a method "
                f"({', '.join(_METHODS)}) and an integer"
            )
        checks.positive_int(where, f"{field}, second part,", value[1])
        return value
    return checks.positive_int(where, field, value)


def _lengths(needs_inputs: bool) -> checks.Check:
    names = ("inputs", "targets") if needs_inputs else ("targets",)

    def check_lengths(where: str, field: str, value: object) -> object:
        if value is None or not isinstance(value, dict):
            return None if value is None else checks.positive_int(where, field, value)
        missing = [name for name in names if name not in value]
        if missing:
            raise ValueError(
                f"{where}: {field} is {value!r}, without {missing[0]!r}; it must have a length for "
                f"each feature, such as {{'inputs': 96, 'targets': 64}}"
            )
        for name, length in value.items():
            checks.positive_int(where, f"{field}[{name!r}]", length)
        return value

    return check_lengths


def _steps(where: str, field: str, value: object) -> object:
    for each in value if isinstance(value, (list, tuple)) else [value]:
        is_step = isinstance(each, int) and not isinstance(each, bool) and each >= -1
        if not is_step and each is not None and each != "all":
            raise ValueError(
                f"{where}: {field} is {value!r}; it must be a step, a list of steps, 'all', or -1 "
                "for the newest checkpoint"
            )
    return value


def _check_function(reading: Reading, binding: Binding, example: str) -> None:
    found = reading.resolve(binding)
    if found.value is not None and not isinstance(found.value, (Macro, Reference)):
        raise ValueError(
            f"{found.place}: {found.name} is {found.value!r}; it must be a reference, such as "
            f"{example}"
        )


def _check_schedule(reading: Reading, binding: Binding) -> None:
    """Checks the factors of the learning rate: numbers, and functions of the step."""
    found = reading.resolve(binding)
    if isinstance(found.value, tuple):
        raise ValueError(
            f"{found.place}: {found.name} is {found.value!r}; it must be a list, with square "
            "brackets"
        )
    factors = found.value if isinstance(found.value, list) else [found.value]
    for factor in factors:
        each = reading.resolve(binding, factor) if is_symbolic(factor) else found
        if isinstance(factor, Macro):
            apply(checks.non_negative_number, each)
        elif not isinstance(factor, Reference) and factor is not None:
            checks.non_negative_number(str(found.place), found.name, factor)

"""Finds what a resume changes of a run's configuration, and what becomes of its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hmoe.startup.bindings import BindingName, Bindings

_NOT_SET = "not set"
# What becomes of a run whose tokens follow another trace, or none.
_OF_REPLAY = "tokens will go to other experts"
# Longest value that is shown in full, in characters.
_MAX_SHOWN = 70


class Kind(NamedTuple):
    """A kind of settings.

    Attributes:
      name: the kind, for people.
      pattern: matches the names of its bindings, such as "outer/Level.num_experts".
      is_another_run: whether the result of a run resumed with another value is not the run's own.
      effect: what becomes of the run's numbers.
    """

    name: str
    pattern: str
    is_another_run: bool
    effect: str


# A binding is of the first kind that matches.
KINDS = (
    Kind(
        "steps",
        r"run\.train_steps",
        False,
        "a schedule that decays follows the new number from here on",
    ),
    Kind(
        "saving and reports",
        r"run\.(save_checkpoints_steps|keep_checkpoint_max|iterations_per_loop|model_info_file"
        r"|tpu_summaries)|tpu_estimator_model_fn\.(tpu_summaries|model_info_file)"
        r"|Session\.(log_every_steps|graph_optimizer|reuse_graph|master|largest_weight|say|live)"
        r"|Session\.alarm_\w+"
        r"|(.*/)?HierarchicalMoE\.(metrics|exact_groups)",
        False,
        "no weight will differ",
    ),
    Kind(
        "evaluation and answers",
        r"run\.(mode|eval_\w+|perplexity_\w+|output_eval_examples|export_\w+|predict_fn"
        r"|score_in_predict_mode|dataset_split)|mesh_eval_dataset_fn\..*|(.*/)?\w+\.decode\..*"
        r"|(.*/)?decode\..*|decode_from_file\..*|infer_model\..*|eval_model\..*|score_\w+\..*"
        r"|(.*/)?Level\.capacity_factor_eval|(.*/)?Level\.min_capacity_eval",
        False,
        "training does not differ",
    ),
    Kind(
        "mesh and layout",
        r"run\.(mesh_shape|layout_rules|mesh_devices|autostack|hierarchical_tiling_spec)"
        r"|tpu_mesh_shape\..*|tpu_estimator_model_fn\.(outer_batch_size|hierarchical_tiling_spec)"
        r"|(.*/)?HierarchicalMoE\.(inserted_outer_batch|engine)",
        False,
        "sums are added in another order, so numbers will differ in their last digits; and by more "
        "where the mesh makes other groups of tokens, of which the layer warns",
    ),
    Kind(
        "batch size",
        r"run\.(batch_size|ensemble_inputs)|serialize_num_microbatches\..*",
        True,
        "batches will differ, and seen data is skipped in batches of the new size",
    ),
    Kind(
        "data",
        r"run\.(sequence_length|train_dataset_fn|vocabulary|skip_seen_data|seen_data_init_step)"
        r"|mesh_train_dataset_fn\..*|get_vocabulary\..*|get_sentencepiece_model_path\..*"
        r"|TrainingData\..*|(Format|Name)Settings\..*",
        True,
        "the model will learn other examples",
    ),
    Kind(
        "learning rate",
        r"run\.learning_rate_schedule"
        r"|(product_learning_rate|linear_\w+|truncated_rsqrt|constant\w*|slanted_triangular"
        r"|learning_rate_schedule\w*)\..*",
        True,
        "the steps will have other sizes",
    ),
    Kind("optimizer", r"run\.optimizer|\w*Optimizer\..*", True, "the updates will differ"),
    Kind("seed", r"Session\.seed", True, "dropout and other random numbers will differ"),
    Kind(
        "precision",
        r"Session\.activation_dtype|get_variable_dtype\..*",
        True,
        "numbers will be rounded otherwise",
    ),
    Kind(
        "model",
        r".*",
        True,
        "the model will differ; weights of other shapes are refused whatever is forced",
    ),
)


class Change(NamedTuple):
    """One difference between a run's configuration and that of its resume.

    Attributes:
      name: a macro, a binding or a flag.
      old: the run's value as text.
      new: the value of the resume.
      kind: the kind of settings.
    """

    name: str
    old: str
    new: str
    kind: Kind

    def __str__(self) -> str:
        values = f"{_shortened(self.old)} -> {_shortened(self.new)}"
        return f"{self.name}: {values} ({self.kind.name}: {self.kind.effect})"


def changes(old: Bindings, new: Bindings, *, old_is_whole: bool = True) -> list[Change]:
    """Compares the configuration of a run with that of its resume.

    Args:
      old: the run's.
      new: the resume's.
      old_is_whole: whether the run's has all bindings, and no others. Otherwise it is T5's, which
        lists the arguments that were used, defaults among them, and only what both have is
        compared.

    Returns:
      What changed, under the names of macros where these are what changed; the most serious first.
    """
    found: dict[str, Change] = {}
    for name in sorted({*old.values, *new.values}):
        if not old_is_whole and not (name in old.values and name in new.values):
            continue
        for change in _changes_of(name, old, new):
            known = found.get(change.name)
            if known is None or _order(change) < _order(known):
                found[change.name] = change
    return sorted(found.values(), key=_order)


def of_flags(old: dict[str, object], new: dict[str, object]) -> list[Change]:
    """Compares flags that name files, by their names without dashes."""
    data = next(kind for kind in KINDS if kind.name == "data")
    return [
        Change(
            f"--{name}",
            _flag_text(old.get(name)),
            _flag_text(value),
            data._replace(name="routing", effect=_OF_REPLAY) if name == "replay" else data,
        )
        for name, value in new.items()
        if (old.get(name) or None) != (value or None)
    ]


def serious(found: Iterable[Change]) -> list[Change]:
    """Returns the changes with which the result would not be the run's own."""
    return [change for change in found if change.kind.is_another_run]


def listed(found: Sequence[Change]) -> str:
    """Returns the changes as indented lines."""
    return "\n".join(f"  {change}" for change in found)


def _changes_of(name: BindingName, old: Bindings, new: Bindings) -> Iterator[Change]:
    before, after = old.values.get(name), new.values.get(name)
    old_value = _NOT_SET if before is None else old.resolved(before)
    new_value = _NOT_SET if after is None else new.resolved(after)
    if old_value == new_value:
        return
    kind = _kind_of(name, old_value, new_value)
    if before is None or after is None or before != after:
        yield Change(str(name), old_value, new_value, kind)
        return
    for macro in dict.fromkeys([*old.macros_in(before), *new.macros_in(after)]):
        old_value = old.resolved(old.macros.get(macro, _NOT_SET))
        new_value = new.resolved(new.macros.get(macro, _NOT_SET))
        if old_value != new_value:
            yield Change(macro, old_value, new_value, kind)


def _kind_of(name: BindingName, old: str, new: str) -> Kind:
    scope = f"{name.scope}/" if name.scope else ""
    text = f"{scope}{name.configurable}.{name.argument}"
    kind = next(kind for kind in KINDS if re.fullmatch(kind.pattern, text))
    if text == "run.skip_seen_data" and new == "True":
        effect = "seen data is skipped from here on"
        return kind._replace(is_another_run=False, effect=effect)
    if text == "mesh_train_dataset_fn.seed" and old in (_NOT_SET, "None"):
        # Without a seed no start repeats the order of another, so no run is made another one.
        effect = "the data comes in another order from here on"
        return kind._replace(is_another_run=False, effect=effect)
    return kind


def _order(change: Change) -> tuple[bool, int, str]:
    return not change.kind.is_another_run, _rank(change.kind), change.name


def _rank(kind: Kind) -> int:
    """Returns a rank by which what is known of a kind comes before the rest."""
    return [*(each.name for each in KINDS), "routing"].index(kind.name)


def _flag_text(value: object) -> str:
    return _NOT_SET if not value else repr(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 4]} ..."

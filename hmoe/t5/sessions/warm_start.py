"""Starts a new model from the variables of another one's checkpoint (`init_checkpoint`)."""

from __future__ import annotations

import re

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import slice_variables
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.sessions.architecture_check import graph_shapes, listed, shape_differences
from hmoe.t5.sessions.checkpoints import Shapes, saved_shapes
from hmoe.t5.sessions.plain_paths import readable

# A run counts its own steps. With those of the other model, one that is taken up again would skip
# as many batches too many.
GLOBAL_STEP = "global_step"


def initialize(settings: ModelSettings) -> str | None:
    """Initializes variables of the default graph from `init_checkpoint`, if one is set.

    Upstream's `init_variable_filter`, `should_load_variable` and `init_checkpoint_variable_mapping`
    select the variables; all others keep their own initial values, as the count of steps does.

    Args:
      settings: the model's settings.

    Returns:
      A line for the user with the number of variables that are initialized so, or None.

    Raises:
      ValueError: a variable has another shape in the checkpoint, or the checkpoint has none of the
        model's variables.
    """
    path = settings.init_checkpoint
    if not path:
        return None
    saved, built = saved_shapes(path), graph_shapes()
    saved_names = _saved_names(settings, saved, built)
    built_as = {slice_variables.part_of(v).name: _assigned(v) for v in tf.global_variables()}
    _check(path, {name: saved[there] for name, there in saved_names.items()}, saved, built)
    with mtf.utils.outside_all_rewrites():
        tf.train.init_from_checkpoint(
            readable(path), {there: built_as[name] for name, there in saved_names.items()}
        )
    others = ", ".join(sorted(set(built) - set(saved_names)))
    tf.logging.info("Variables with their own initial values: %s", others)
    return (
        f"{len(saved_names)} of {len(built)} variables are initialized from {path}; the others "
        "keep their own initial values"
    )


def _assigned(variable: tf.Variable) -> tf.Variable | list[tf.Variable]:
    """Returns a variable as `init_from_checkpoint` takes it: in a list, if it is a part of one."""
    return [variable] if slice_variables.part_of(variable).spec else variable


def _saved_names(settings: ModelSettings, saved: Shapes, built: Shapes) -> dict[str, str]:
    """Maps each variable of the model that is to be loaded to its name in the checkpoint."""
    pattern = re.compile(settings.init_variable_filter or "")
    names = {
        name: utils.init_checkpoint_variable_mapping(name)
        for name in built
        if utils.should_load_variable(name)
    }
    return {
        name: there
        for name, there in names.items()
        if there in saved and pattern.search(there) and name != GLOBAL_STEP
    }


def _check(path: str, loaded: Shapes, saved: Shapes, built: Shapes) -> None:
    """Raises ValueError if nothing is loaded, or something in another shape than the model's."""
    if not loaded:
        raise ValueError(
            f"utils.run.init_checkpoint = {path!r} has none of the model's {len(built)} variables. "
            f"It has, for example, {sorted(saved)[0]}; the model has {sorted(built)[0]}. "
            "Map the names with init_checkpoint_variable_mapping.mapping_fn"
        )
    differences = shape_differences(loaded, built)
    if differences:
        raise ValueError(
            f"utils.run.init_checkpoint = {path!r} does not match the model: "
            f"{len(differences)} variables differ in shape.\n{listed(differences)}\n"
            "Change the model, or leave these variables out with utils.run.init_variable_filter or "
            "should_load_variable.filter_fn"
        )

"""Plans the steps of one training on many meshes, with as few and as shallow graphs as that takes.

A graph of named dimensions is that of every mesh which divides the batch into the same parts and
the tokens into the same groups. And the blocks of a stack cost the same, but for the first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from mesh_tensorflow.transformer import transformer, utils

from hmoe.compat.stack import mtf
from hmoe.layer import groups
from hmoe.layer.moe import HierarchicalMoE
from hmoe.mesh.layout import MeshLayout
from hmoe.plan import blocks
from hmoe.plan.costs import Plan
from hmoe.plan.search import Candidate
from hmoe.t5.graphs import batch_features, step_plan
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.named_step import NamedStep, named_step
from hmoe.t5.layers import layout_check
from hmoe.t5.layers.metric_collection import LayerCall

# How T5 calls the layers of a stack of blocks.
_OF_BLOCK = re.compile(r"block_(\d+)/")


class OtherMeshes:
    """Plans a training on other meshes than its own.

    Args:
      settings: the settings of the training.
      on_tpu: whether it would run on TPUs.
      packed: whether a sequence may hold several examples.
      change: makes another mixture of that of each expert layer; None to leave them.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        on_tpu: bool,
        packed: bool,
        change: Callable[[HierarchicalMoE], HierarchicalMoE] | None = None,
    ):
        self._settings = settings
        self._on_tpu = on_tpu
        self._packed = packed
        self._change = change
        # By the number of blocks: graphs, with the settings that they were built for.
        self._built: dict[int | None, list[tuple[NamedStep, ModelSettings]]] = {}

    def plan(self, candidate: Candidate) -> Plan:
        """Plans a step on a mesh.

        Args:
          candidate: the mesh and its layout.

        Raises:
          ValueError: mesh, layout and sizes do not suit each other, as training would say.
        """
        settings = self._on(candidate)
        number = _num_blocks(settings.transformer_model)
        if number is None or number < 3:
            return self._plan(candidate, settings, None)
        one, two = (self._plan(candidate, settings, depth) for depth in (1, 2))
        return blocks.extrapolated(one, two, number)

    def _on(self, candidate: Candidate) -> ModelSettings:
        """Returns the settings on a mesh, with a model for it."""
        mesh_shape = mtf.convert_to_shape(candidate.mesh_shape)
        layout_rules = mtf.convert_to_layout_rules(candidate.layout_rules)
        vocabulary = self._settings.vocabulary
        model = utils.build_model(
            model_type=self._settings.model_type,
            input_vocab_size=utils.inputs_vocabulary(vocabulary).vocab_size,
            output_vocab_size=utils.targets_vocabulary(vocabulary).vocab_size,
            layout_rules=layout_rules,
            mesh_shape=mesh_shape,
        )
        if self._change is not None:
            for layer in layout_check.expert_layers(model):
                layer.replace_moe(self._change(layer.moe))
        layout_check.check(model, mesh_shape, layout_rules, closed=False)
        return dataclasses.replace(
            self._settings,
            transformer_model=model,
            mesh_shape=mesh_shape,
            layout_rules=layout_rules,
            outer_batch_size=candidate.outer_batch,
        )

    def _plan(self, candidate: Candidate, settings: ModelSettings, depth: int | None) -> Plan:
        """Plans a model cut to some blocks; None for all."""
        step = self._step(candidate, settings, depth)
        return step_plan.plan_of(step, settings, on_tpu=self._on_tpu)

    def _step(self, candidate: Candidate, settings: ModelSettings, depth: int | None) -> NamedStep:
        known = self._built.setdefault(depth, [])
        for step, of in known:
            if _is_same_graph(step, of, settings):
                return step
        cut = self._on(candidate)  # another model, of which some blocks are left
        if depth is not None:
            _cut(cut.transformer_model, depth)
        step = named_step(cut, on_tpu=self._on_tpu, packed=self._packed)
        known.append((step, cut))
        return step


def _is_same_graph(step: NamedStep, built: ModelSettings, settings: ModelSettings) -> bool:
    """Returns whether the graph that was built for one mesh is that of another."""
    if built.outer_batch_size != settings.outer_batch_size:
        return False
    batch = batch_features.batch_dims(settings, with_outer_batch=True)[-1]
    microbatches = utils.serialize_num_microbatches(
        batch, settings.sequence_length, settings.mesh_shape, settings.layout_rules
    )
    layout = MeshLayout(settings.mesh_shape, settings.layout_rules)
    return microbatches == step.num_microbatches and all(
        _has_same_groups(record.call, layout) for record in step.records if record.call is not None
    )


def _has_same_groups(call: LayerCall, layout: MeshLayout) -> bool:
    """Returns whether a layer would divide its tokens into the same groups on a mesh."""
    for level, shape in zip(call.moe.levels, call.shapes):
        if level.examples_per_group is not None:
            return False  # its size in tokens is not known here
        num_tokens = shape.exchange.group.size * shape.tokens_dim.size
        splits = layout.num_splits(shape.exchange.group.name)
        if groups.largest_group_size(num_tokens, level.group_size, splits) != shape.tokens_dim.size:
            return False
    return True


def _stacks(model: object) -> list[transformer.LayerStack]:
    return [part.layer_stack for part in layout_check.transformers(model)]


def _num_blocks(model: object) -> int | None:
    """Returns the number of blocks of each stack; None if they are not alike or have no blocks."""
    numbers = {_blocks_of(stack) for stack in _stacks(model)}
    return numbers.pop() if len(numbers) == 1 else None


def _blocks_of(stack: transformer.LayerStack) -> int | None:
    """Returns the number of equal blocks of a stack; None if its layers do not show it."""
    by_block: dict[str, list[tuple[type, str]]] = {}
    for layer in stack.layers:
        found = _OF_BLOCK.match(layer.name or "")
        if found is None:
            return None
        kind = (type(layer), layer.name[found.end() :])
        by_block.setdefault(found.group(1), []).append(kind)
    alike = {tuple(kinds) for kinds in by_block.values()}
    return len(by_block) if len(alike) == 1 else None


def _cut(model: object, depth: int) -> None:
    """Leaves a model that was just built some of the blocks of each stack."""
    for stack in _stacks(model):
        size = len(stack.layers) // (_blocks_of(stack) or 1)
        del stack.layers[size * depth :]  # the list that the stack goes by

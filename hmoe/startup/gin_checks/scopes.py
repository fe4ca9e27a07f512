"""Finds bindings that no object of the run is built with: wrong scopes, and objects it lacks.

Gin calls `@outer/hmoe.Level()` in the scope "outer", and `@hmoe.Level()` in the scope around it. A
binding of scope "outer" holds in "outer" and in all scopes within. Scopes come from references, and
from Mesh TensorFlow, which builds each half of a model in a scope of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from hmoe.startup.gin_reading import Reading, parts
from hmoe.startup.gin_statements import Binding, Macro, Reference
from hmoe.startup.suggestions import is_slip, nearest

Scope = tuple[str, ...]

# The scopes in which Mesh TensorFlow builds stacks of layers, by the model's type.
_STACKS: dict[object, set[Scope]] = {
    "bitransformer": {("encoder",), ("decoder",)},
    "bi_student_teacher": {
        (model, stack) for model in ("student", "teacher") for stack in ("encoder", "decoder")
    },
    "lm": {()},
    "delimited_lm": {()},
    "aligned": {()},
}
_CODE: set[Scope] = {scope[:n] for stacks in _STACKS.values() for scope in stacks for n in range(3)}
_MODEL_TYPE = "mesh_tensorflow.transformer.utils.run.model_type"

# Arguments without which an object cannot be made.
REQUIRED = {
    "Level": ("name", "num_experts", "router"),
    "HierarchicalMoE": ("levels", "experts"),
    "FeedForwardExperts": ("hidden_size",),
    "SharedExpert": ("hidden_size",),
    "MoELayer": ("moe",),
    "ExpertsSelfAttention": ("moe",),
    "ExpertsEncDecAttention": ("moe",),
}
# Classes of hmoe that are built only where a reference asks for them.
CLASSES = (
    *REQUIRED,
    *("Gate", "TopKRouter", "SwitchRouter", "UniformRouter", "ExpertChoiceRouter"),
)
_LAYERS = ("MoELayer", "ExpertsSelfAttention", "ExpertsEncDecAttention")
# Those that the program itself builds, outside of scopes.
_SETTINGS = ("Session", "TrainingData", "FormatSettings", "NameSettings")


class Built:
    """The objects of hmoe that a configuration builds, each with the scopes it is built in."""

    def __init__(self, reading: Reading):
        """Follows all references from what Mesh TensorFlow calls."""
        self._reading = reading
        self._named = [
            (each, tuple(each.scope.split("/")) if each.scope else ()) for each in reading.effective
        ]
        self.scopes: dict[str, set[Scope]] = {name: set() for name in CLASSES}
        self.incomplete: list[str] = []
        for name in _SETTINGS:
            self.scopes[name] = {()}
        self._everywhere = self._scopes_of_code()
        stacks = _STACKS.get(reading.literal(_MODEL_TYPE, "bitransformer"), _CODE)
        for binding, _ in self._named:
            if class_of(binding.selector) is None and self._leads_to_ours(binding):
                is_stack = binding.selector.split(".")[-1] == "make_layer_stack"
                for scope in stacks if is_stack else self._everywhere:
                    if self._holding(binding, scope):
                        self._visit(binding, scope)

    def _scopes_of_code(self) -> set[Scope]:
        """Returns every scope that something outside of hmoe may be called in."""
        values = [part for each in self._reading.statements for part in _parts_of(each)]
        named = {
            tuple(each.scope.split("/"))
            for each in values
            if isinstance(each, Reference) and each.scope
        }
        named |= {tuple(each.name.split("/")) for each in values if isinstance(each, Macro)}
        return _CODE | {(*scope, *code) for scope in named for code in _CODE}

    @functools.cached_property
    def _of_argument(self) -> dict[tuple[str, str], list[tuple[Binding, Scope]]]:
        """The bindings of each argument, those of inner scopes last."""
        found: dict[tuple[str, str], list[tuple[Binding, Scope]]] = {}
        for binding, scope in sorted(self._named, key=lambda each: len(each[1])):
            found.setdefault(_key(binding), []).append((binding, scope))
        return found

    def _holding(self, binding: Binding, scope: Scope) -> bool:
        """Returns whether a binding holds in a scope: none of an inner scope replaces it."""
        holding = [
            each for each, own in self._of_argument[_key(binding)] if scope[: len(own)] == own
        ]
        return bool(holding) and holding[-1] is binding

    def _leads_to_ours(self, binding: Binding) -> bool:
        return any(class_of(each.selector) for _, each, _ in self._references(binding, (), 0))

    def _visit(self, binding: Binding, scope: Scope) -> None:
        """Records the objects that a value refers to, and goes on with their arguments."""
        for source, reference, around in self._references(binding, scope, 0):
            name = class_of(reference.selector)
            inner = tuple(reference.scope.split("/")) if reference.scope else around
            if name is None or name in _SETTINGS or inner in self.scopes[name]:
                continue
            self.scopes[name].add(inner)
            if reference.scope:
                self._note_missing(name, inner, source, reference)
            for each, _ in self._named:
                if class_of(each.selector) == name and self._holding(each, inner):
                    self._visit(each, inner)

    def _references(
        self, binding: Binding, scope: Scope, depth: int
    ) -> Iterator[tuple[Binding, Reference, Scope]]:
        """Yields the references of a value and of its macros, which gin evaluates by their name."""
        for each in parts(binding.value):
            if isinstance(each, Reference):
                yield binding, each, scope
            elif isinstance(each, Macro) and each.name in self._reading.macros and depth < 20:
                definition = self._reading.macros[each.name]
                for found in self._references(definition, scope, depth + 1):
                    by_name = tuple(each.name.split("/"))
                    yield found[0], found[1], by_name if found[1].evaluate else scope

    def _note_missing(
        self, name: str, scope: Scope, binding: Binding, reference: Reference
    ) -> None:
        """Notes an object that is asked for in a scope in which it lacks an argument."""
        own = [(each, of) for each, of in self._named if class_of(each.selector) == name]
        bound = {each.argument for each, of in own if scope[: len(of)] == of}
        missing = [each for each in REQUIRED.get(name, ()) if each not in bound]
        if missing:
            others = sorted(
                {f"@{each.scope}/{reference.selector}()" for each, _ in own if each.scope}
            )
            self.incomplete.append(
                f"{binding.place}: {reference!r} has no {missing[0]}: nothing binds "
                f"{reference.scope}/hmoe.{name}.{missing[0]}{nearest(repr(reference), others)}"
            )

    @property
    def has_layers(self) -> bool:
        """Whether a layer of the model has experts."""
        return any(self.scopes[name] for name in _LAYERS)

    def unused(self, own_code: str | None = None) -> list[str]:
        """Returns a sentence for each binding of the user's own that nothing is built with.

        Args:
          own_code: the text of the user's own modules, which may open scopes and build objects as
            gin cannot show; only slips in scopes are reported then. None without such modules.
        """
        return [
            f"{binding.place}: {problem}"
            for binding, scope in self._named
            if binding.place.own and (problem := self._problem(binding, scope, own_code))
        ]

    def _problem(self, binding: Binding, scope: Scope, own_code: str | None) -> str | None:
        name = class_of(binding.selector)
        built = self.scopes[name] if name else self._everywhere | set().union(*self.scopes.values())
        if any(each[: len(scope)] == scope for each in built):
            return None
        known = {"/".join(each[:n]) for each in built for n in range(1, len(each) + 1)}
        if own_code is not None and not (
            (name or self._is_of_packages(binding))
            and is_slip(binding.scope, sorted(known), own_code)
        ):
            return None
        if not built:
            return f"nothing in this run uses hmoe.{name}, so {binding.name} has no effect"
        what = f"hmoe.{name}" if name else binding.selector
        return (
            f"no {what} of this run is built in the scope {binding.scope!r}, so {binding.name} has "
            f"no effect{nearest(binding.scope, sorted(known))}"
        )

    def _is_of_packages(self, binding: Binding) -> bool:
        """Returns whether gin files that come with packages bind the same function."""
        name = binding.selector.split(".")[-1]
        others = (each for each in self._reading.bindings if not each.place.own)
        return any(each.selector.split(".")[-1] == name for each in others)


def class_of(selector: str) -> str | None:
    """Returns the name of the class of hmoe that a selector means, or None for anything else."""
    name = selector.split(".")[-1]
    is_ours = name in CLASSES or name in _SETTINGS
    return name if is_ours and selector in (name, f"hmoe.{name}") else None


def _key(binding: Binding) -> tuple[str, str]:
    name = class_of(binding.selector)
    return name or binding.selector.split(".")[-1], binding.argument


def _parts_of(statement: object) -> Iterator[object]:
    return parts(statement.value) if isinstance(statement, Binding) else iter(())

"""What is measured: the sides of each case, which of them must agree, and what is aimed at."""

from __future__ import annotations

import dataclasses
from typing import Any

# Largest difference over the largest number, of outputs, loss and each gradient. Rounding of
# float32 in sums of some thousand products stays below it; a token sent elsewhere does not.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Side:
    """One process.

    Attributes:
      name: in tables.
      module, kind: where its class is, below `benchmarks.sides`.
      settings: arguments of the class.
      environment: "own", or "peers" for what has an environment of its own.
      timed: False for one that is only compared with.
    """

    name: str
    module: str
    kind: str
    settings: dict[str, Any]
    environment: str = "own"
    timed: bool = True


@dataclasses.dataclass(frozen=True)
class Same:
    """Two sides that must give the same numbers."""

    first: str
    second: str
    # None: the difference is told and may be any.
    tolerance: float | None = TOLERANCE


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a ratio of two sides should be: `of` over `to`; of several sides the largest.

    Attributes:
      text: what is aimed at.
      quantity: "seconds", "memory", "efficiency", or further seconds that a side tells.
      at_most, at_least: one of them is the aim; without, the ratio is only told.
    """

    text: str
    of: tuple[str, ...]
    to: tuple[str, ...]
    quantity: str = "seconds"
    at_most: float | None = None
    at_least: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """Rounds of sides: those of one round are alive together and are run in turns."""

    name: str
    title: str
    rounds: tuple[tuple[Side, ...], ...]
    same: tuple[Same, ...] = ()
    aims: tuple[Aim, ...] = ()

    @property
    def sides(self) -> list[Side]:
        return [side for sides in self.rounds for side in sides]


ONE_LEVEL = {"experts": (16,), "capacity_factors": (1.25,), "splits": (1,)}


def ours(name: str = "hmoe", **settings: Any) -> Side:
    return Side(name, "layers", "Ours", settings)


def upstream(name: str = "upstream", timed: bool = True, **settings: Any) -> Side:
    return Side(name, "layers", "Upstream", settings, timed=timed)


def bare(name: str = "bare multiplies", **settings: Any) -> Side:
    return Side(name, "multiplies", "Bare", settings)


def faster(times: float, than: str, hmoe: str = "hmoe") -> Aim:
    return Aim(f"{times:g} times as fast as {than}", (than,), (hmoe,), at_least=times)


def near(percent: float, to: str, hmoe: str = "hmoe") -> Aim:
    return Aim(f"{hmoe} within {percent:g} % of {to}", (hmoe,), (to,), at_most=1 + percent / 100)


def no_more_memory(than: str, hmoe: str = "hmoe") -> Aim:
    return Aim(f"peak memory no more than that of {than}", (hmoe,), (than,), "memory", at_most=1.0)


def two_levels(group: int, times: float, **size: Any) -> Case:
    settings = dict(size, group=group)
    aims = [faster(times, "upstream v2"), no_more_memory("upstream v2")]
    if group == 1024:
        aims.insert(0, near(15, "bare multiplies"))
    return Case(
        f"two_levels_{group}",
        f"Two levels of 4 x 4 experts, 4,096 tokens, d_model 512, hidden 2048, group {group}",
        ((bare(**settings), ours(**settings), upstream("upstream v2", **settings)),),
        (Same("hmoe", "upstream v2"),),
        tuple(aims),
    )


def one_level(**size: Any) -> Case:
    settings = dict(ONE_LEVEL, **size)
    return Case(
        "one_level_1024",
        "One level of 16 experts, 4,096 tokens, d_model 512, hidden 2048, group 1024",
        ((bare(**settings), ours(**settings), upstream("upstream v1", **settings)),),
        (Same("hmoe", "upstream v1"),),
        (faster(1.7, "upstream v1"), no_more_memory("upstream v1")),
    )


def more_experts(numbers: tuple[int, ...] = (4, 8, 16), **size: Any) -> Case:
    rounds, same, aims = [], [], []
    for number in numbers:
        count, settings = number**2, dict(size, experts=(number, number))
        names = [f"{kind}, {count} experts" for kind in ("bare multiplies", "hmoe", "upstream v2")]
        # Of the largest, upstream's numbers are compared, and then its memory is given back.
        rounds.append(
            (
                upstream(names[2], timed=number < 16, **settings),
                bare(names[0], **settings),
                ours(names[1], **settings),
            )
        )
        same.append(Same(names[1], names[2]))
        aims += [near(15, names[0], names[1]), no_more_memory(names[2], names[1])]
    return Case(
        "more_experts",
        "16, 64 and 256 experts at two levels, at equal slots",
        tuple(rounds),
        tuple(same),
        tuple(aims),
    )


def groups(sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096), **size: Any) -> Case:
    rounds = tuple(
        tuple(make(f"{name}, group {group}", **dict(size, group=group)) for group in sizes)
        for name, make in (("hmoe", ours), ("upstream v2", upstream))
    )
    first, *others = (f"hmoe, group {group}" for group in sizes)
    growth = Aim(
        f"grows by less than 10 % from group {sizes[0]}", tuple(others), (first,), at_most=1.1
    )
    return Case(
        "groups",
        "The same two levels by group size",
        rounds,
        tuple(Same(f"hmoe, group {group}", f"upstream v2, group {group}") for group in sizes),
        (growth,),
    )


def mesh_of_8(**size: Any) -> Case:
    settings = dict({"outer_batch": 2, "batch": 32, "group": 512}, **size, splits=(4, 2))
    eight, one = "hmoe, 8 devices", "hmoe, 1 device"
    return Case(
        "mesh_8",
        "A simulated mesh of 2 x 4 devices against one device, the same groups",
        (
            (
                ours(one, **settings),
                ours(eight, mesh_shape="rows:2;cols:4", **settings),
                upstream("upstream v2, 8 devices", mesh_shape="rows:2;cols:4", **settings),
            ),
        ),
        (Same(one, eight), Same(one, "upstream v2, 8 devices")),
        (near(15, one, eight), no_more_memory("upstream v2, 8 devices", eight)),
    )


def t5(**size: Any) -> Case:
    names = {
        "dense": "dense twin",
        "two_levels": "hmoe, 4 x 4",
        "one_level": "hmoe, 16",
        "MoE1D": "upstream MoE1D, 16",
    }
    hmoe, flat, upstreams = (names[key] for key in ("two_levels", "one_level", "MoE1D"))
    return Case(
        "t5",
        "A T5 of 2 + 2 layers, d_model 256, d_ff 1024, 64 x (64 + 32) tokens, experts in every"
        " layer, 1.0 slots a token",
        (tuple(Side(name, "t5", "T5", dict(size, layers=key)) for key, name in names.items()),),
        (Same(flat, upstreams),),
        (
            Aim(
                "1.25 times the dense twin, without the optimizer's update",
                (hmoe,),
                ("dense twin",),
                at_most=1.25,
            ),
            Aim("the same with the update", (hmoe,), ("dense twin",), "with update"),
            Aim(
                "upstream MoE1D over the dense twin, without the update",
                (upstreams,),
                ("dense twin",),
            ),
            no_more_memory(upstreams, hmoe),
        ),
    )


def start(
    hmoe: str = "runs/default.gin",
    dense: str = "runs/default_dense.gin",
    bindings: tuple[str, ...] = (),
) -> Case:
    sides = tuple(
        Side(name, "start", "Train", {"gin_files": [file], "bindings": bindings})
        for name, file in (("dense twin", dense), ("hmoe", hmoe))
    )
    return Case(
        "start",
        "From `hmoe train` to the first step of the default job on a 2 x 2 mesh",
        (sides,),
        (),
        tuple(
            Aim(text, ("hmoe",), ("dense twin",), quantity, at_most=1.5)
            for text, quantity in (
                ("until the first step is done", "seconds"),
                ("building the graph", "graph"),
                ("first run of the graph", "first run"),
            )
        ),
    )


def peers(**size: Any) -> Case:
    flat = dict(ONE_LEVEL, **size)
    ours_of = {
        "two levels": "hmoe, 4 x 4",
        "one level": "hmoe, 16",
        "experts choose": "hmoe, 16 that choose",
    }
    others = (
        upstream("upstream v2, 4 x 4", **size),
        upstream("upstream v1, 16", **flat),
        Side("Model Garden, 16 that choose", "model_garden", "ExpertChoice", flat, "peers"),
        Side(
            "Mixtral eager, 16", "mixtral", "Mixtral", dict(flat, implementation="eager"), "peers"
        ),
        Side(
            "Mixtral grouped_mm, 16",
            "mixtral",
            "Mixtral",
            dict(flat, implementation="grouped_mm"),
            "peers",
        ),
    )
    mine = (
        ours(ours_of["two levels"], **size),
        ours(ours_of["one level"], **flat),
        ours(ours_of["experts choose"], router="expert_choice", **flat),
    )
    names = tuple(side.name for side in others)
    return Case(
        "peers",
        "All peers: 4,096 tokens, d_model 512, hidden 2048, 16 experts, group 1024",
        ((*mine, *others),),
        (
            Same(mine[0].name, names[0]),
            Same(mine[1].name, names[1]),
            Same(mine[2].name, names[2]),
            Same(names[3], names[4]),
        ),
        tuple(
            Aim(
                f"efficiency of {side.name} over the best of the others",
                (side.name,),
                names,
                "efficiency",
                at_least=1.0,
            )
            for side in mine
        ),
    )


def bfloat16(**size: Any) -> Case:
    rounds = tuple(
        make(f"{name}, {dtype}", **dict(size, dtype=dtype))
        for name, make in (("bare multiplies", bare), ("hmoe", ours))
        for dtype in ("float32", "bfloat16")
    )
    return Case(
        "bfloat16",
        "Activations and multiplies of the experts in bfloat16, weights in float32",
        (rounds,),
        (Same("hmoe, float32", "hmoe, bfloat16", None),),
        tuple(
            Aim(
                f"{quantity} of {name} in bfloat16 over float32",
                (f"{name}, bfloat16",),
                (f"{name}, float32",),
                quantity,
            )
            for name, quantity in (
                ("bare multiplies", "seconds"),
                ("hmoe", "seconds"),
                ("hmoe", "memory"),
            )
        ),
    )


def all_cases() -> dict[str, Case]:
    """By name, in the order in which they are run."""
    cases = [
        two_levels(1024, 2.2),
        two_levels(4096, 3.2),
        one_level(),
        more_experts(),
        groups(),
        mesh_of_8(),
        t5(),
        start(),
        peers(),
        bfloat16(),
    ]
    return {case.name: case for case in cases}

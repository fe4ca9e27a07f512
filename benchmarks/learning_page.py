"""The tables and the picture of `learning_study`, and the file of its numbers."""

from __future__ import annotations

import json

import numpy as np

from benchmarks import learning_picture
from benchmarks.equivalence import equivalence, interval
from benchmarks.learning_twins import DENSE, FLAT, LONG_DENSE, TREE, TWINS

NAME = "learning"
# A difference of the loss that counts as none, fixed before the first run: 1 % of the flat one's.
MARGIN = 0.01
_BEGIN, _END = "<!-- {}: begin -->", "<!-- {}: end -->"


def write(folder, results, plans, run):
    """Writes the numbers, the picture, and the tables into the places of a page that has them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"run": run, "results": results, "plans": plans}
    (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{NAME}.svg").write_text(learning_picture.picture(results, MARGIN))
    tables = {
        "where": [_where(run)],
        "losses": losses(results),
        "differences": [*differences(results), "", *dense_steps(results)],
        "costs": costs(plans),
        "information": known(results),
        "retention": retained(results),
    }
    page = folder / f"{NAME}.md"
    text = page.read_text() if page.exists() else _empty(tables)
    for name, lines in tables.items():
        before, begin, rest = text.partition(_BEGIN.format(name))
        _, end, after = rest.partition(_END.format(name))
        text = "".join([before, begin, "\n", "\n".join(lines), "\n", end, after])
    page.write_text(text)


def _empty(tables):
    return "".join(f"{_BEGIN.format(name)}\n{_END.format(name)}\n\n" for name in tables)


def _where(run):
    return (
        f"{run['date']}, {run['processor']}, {run['memory_gb']:.0f} GB, {run['platform']}; commit"
        f" {run['commit']}; `{run['command']}`"
    )


def _tasks(results):
    return list(dict.fromkeys(each["task"] for each in results))


def of(results, task, twin):
    """The results of a twin of a task, by seed."""
    own = [each for each in results if (each["task"], each["twin"]) == (task, twin)]
    return {each["seed"]: each for each in own}


def _by_twin(results):
    """Each task and twin, with its results by seed."""
    return [(task, twin, of(results, task, twin)) for task in _tasks(results) for twin in TWINS]


def _table(heads, rows):
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *map(_row, rows)]


def _row(cells):
    return f"| {' | '.join(cells)} |"


def losses(results):
    """A row for each twin of each task."""
    heads = ["task", "twin", "seeds", "cross entropy held out, nats", "exact match, %"]
    heads += ["dropped in training, %"]
    rows = []
    for task, twin, by_seed in _by_twin(results):
        own = list(by_seed.values())
        if len(own) < 2:
            continue
        rows.append(
            [
                *(task, twin, str(len(own))),
                _interval([each["cross_entropy"] for each in own], 4),
                _interval([each["exact_match"] for each in own], 1),
                _mean_drops([each["dropped"]["training"] for each in own]),
            ]
        )
    return _table(heads, rows)


def _interval(values, digits):
    found = interval(values)
    return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _mean_drops(drops):
    means = {level: 100 * np.mean([each[level] for each in drops]) for level in drops[0]}
    return ", ".join(f"{level} {mean:.1f}" for level, mean in means.items()) or "-"


def differences(results):
    """A row for each twin but the flat one: its loss minus that, paired by seed."""
    heads = ["task", "twin", "seeds", "minus 16 flat, nats (90 %)", "in % of its loss", "p"]
    heads += ["within 1 %"]
    rows = []
    for task, twin, own in _by_twin(results):
        flat = of(results, task, FLAT)
        seeds = sorted(set(own) & set(flat))
        if twin == FLAT or len(seeds) < 2:
            continue
        reference = [flat[seed]["cross_entropy"] for seed in seeds]
        values = [own[seed]["cross_entropy"] for seed in seeds]
        scale = float(np.mean(reference))
        found = equivalence(values, reference, MARGIN * scale)
        difference = found.difference
        low, mean, high = (
            100 * bound / scale for bound in (difference.low, difference.mean, difference.high)
        )
        rows.append(
            [
                *(task, f"**{twin}**" if twin == TREE else twin, str(len(seeds))),
                f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})",
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{found.p_value:.2g}",
                "equivalent" if found.holds else "not shown",
            ]
        )
    return _table(heads, rows)


def dense_steps(results):
    """How many steps a dense twin needs for the loss of others, between its two lengths."""
    heads = ["task", "for the loss of", "steps of the dense twin", "times those of the other"]
    rows = []
    for task in _tasks(results):
        short, long = of(results, task, DENSE), of(results, task, LONG_DENSE)
        for twin in (FLAT, TREE):
            own = of(results, task, twin)
            seeds = sorted(set(short) & set(long) & set(own))
            if len(seeds) < 2:
                continue
            factors = [
                _factor(
                    short[s]["cross_entropy"], long[s]["cross_entropy"], own[s]["cross_entropy"]
                )
                for s in seeds
            ]
            steps = own[seeds[0]]["steps"]
            rows.append(
                [
                    *(task, twin),
                    _interval([steps * factor for factor in factors], 0),
                    _interval(factors, 2),
                ]
            )
    return _table(heads, rows)


def _factor(short, long, wanted):
    """The steps for a loss, in those of `short`: a power law through both (`long` has twice)."""
    exponent = np.log(short / long) / np.log(2)
    return float((short / wanted) ** (1 / exponent))


def costs(plans):
    """What a device of a mesh of 2 x 2 computes, keeps and sends in a step of training."""
    heads = ["task", "twin", "M multiplications", "of experts", "MB of weights"]
    heads += ["MB sent: all-to-all over rows", "over cols", "all-reduces"]
    rows = []
    for task, by_twin in plans.items():
        for twin, plan in by_twin.items():
            if plan is None:
                rows.append([task, twin, *["-"] * (len(heads) - 2)])
                continue
            work = plan["multiplications"]
            sent = [
                _sent(plan, "all-to-all", "rows"),
                _sent(plan, "all-to-all", "cols"),
                _sent(plan, "all-reduce"),
            ]
            rows.append(
                [
                    *(task, twin),
                    f"{sum(each['multiplications'] for each in work) / 1e6:.0f}",
                    _of_experts(work, twin),
                    f"{plan['memory']['parameters'] / 1e6:.2f}",
                    *[f"{size / 1e6:.2f}" for size in sent],
                ]
            )
    return _table(heads, rows)


def _of_experts(work, twin):
    if not TWINS[twin].has_experts:
        return "-"
    experts = sum(each["multiplications"] for each in work if each["part"] == "experts")
    return f"{experts / 1e6:.0f}"


def _sent(plan, kind, axis=None):
    return sum(
        each["size"]
        for each in plan["exchanges"]
        if each["kind"] == kind and axis in (None, *each["axes"])
    )


def known(results):
    """The shares of the label's entropy that the levels know, mean over seeds, with the least z."""
    heads = ["task", "twin", "layer", "level by level, % of H(language)", "least z"]
    heads += ["leaf given the token, %", "least z"]
    rows = []
    for task, twin, by_seed in _by_twin(results):
        own = [each["information"] for each in by_seed.values() if "information" in each]
        for layer in own[0] if own else ():
            found = [each[layer] for each in own]
            shares = [
                100 * np.mean([each["levels"][level]["share"] for each in found])
                for level in range(len(found[0]["levels"]))
            ]
            token = [each["given token"] for each in found]
            rows.append(
                [
                    *(task, twin, layer.partition("/")[0]),
                    " + ".join(f"{share:.2f}" for share in shares),
                    f"{_least([level for each in found for level in each['levels']]):.0f}",
                    f"{100 * np.mean([each['share'] for each in token]):.2f}",
                    f"{_least(token):.0f}",
                ]
            )
    return _table(heads, rows)


def _least(found):
    """The least z of those that are numbers: a level of one expert knows nothing, and has none."""
    return min((each["z"] for each in found if each["share"]), default=0.0)


def retained(results):
    """What leaving experts out costs, mean over languages and seeds."""
    heads = ["task", "twin", "kept", "most used leaves", "most used groups"]
    heads += ["random leaves", "random groups"]
    rows = []
    for task, twin, by_seed in _by_twin(results):
        own = [each["retention"] for each in by_seed.values() if "retention" in each]
        for share in own[0]["excess"] if own else ():
            ways = own[0]["excess"][share]
            means = [np.mean([each["excess"][share][way] for each in own]) for way in ways]
            rows.append([task, twin, f"{float(share):.0%}", *[f"{mean:+.3f}" for mean in means]])
    return _table(heads, rows)

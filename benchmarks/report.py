"""The page, with its tables, of what was measured."""

from __future__ import annotations

import pathlib
from typing import Any

from benchmarks.cases import Aim, Case

HEAD = pathlib.Path(__file__).with_name("page.md").read_text()


def page(results: dict[str, Any]) -> str:
    """The whole page in Markdown.

    Args:
      results: by name of the case, what `measure.run_case` returned, with "aims" and "run".
    """
    lines = [
        HEAD,
        *_where(results),
        *_aims(results),
        "![Time of a step](benchmarks.svg)",
        "",
        "## All cases",
        "",
    ]
    for result in results.values():
        lines += case_lines(result)
    return "\n".join(lines).rstrip() + "\n"


def _where(results: dict[str, Any]) -> list[str]:
    """Machines, versions and commands."""
    runs: dict[str, list[str]] = {}
    versions: dict[str, set] = {}
    for name, result in results.items():
        run = result["run"]
        text = (
            f"{run['date']}, {run['processor']}, {run['memory_gb']:.0f} GB, {run['platform']};"
            f" commit {run['commit']}; {run['turns']} turns; `{run['command']}`"
        )
        runs.setdefault(text, []).append(name)
        for side in result["sides"].values():
            for package, version in side.get("packages", {}).items():
                versions.setdefault(package, set()).add(version)
    lines = ["## Where and when", ""]
    for text, names in runs.items():
        of = f" ({', '.join(names)})" if len(runs) > 1 else ""
        lines.append(f"- {text}{of}")
    told = ", ".join(
        f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items())
    )
    return [*lines, f"- {told}", ""]


def _aims(results: dict[str, Any]) -> list[str]:
    lines = ["## Aims", "", "| case | aim | measured | |", "|---|---|---|---|"]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"| {name} | | error: {result['error']} | |")
        for aim in result["aims"]:
            lines.append(
                f"| {name} | {aim['text']}{_limit(aim)} | {_ratio(aim)} | {_verdict(aim)} |"
            )
    return [*lines, ""]


def case_lines(result: dict[str, Any]) -> list[str]:
    """A case in Markdown."""
    lines = [f"### {result['name']}", "", result["title"] + ".", ""]
    if "error" in result:
        lines += [f"**Error: {result['error']}**", ""]
    also = any(side.get("more") for side in result["sides"].values())
    columns = ["side", "work", "seconds", "quartiles", "GFLOP/s", "of peak", "peak memory, MB"]
    columns += ["also timed, seconds"] * also
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, side in result["sides"].items():
        cells = _cells(side) + [_more(side)] * also
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    for peak in sorted({_peak(side) for side in result["sides"].values() if "peak" in side}):
        lines.append(f"- {peak}")
    for same in result["comparisons"]:
        lines.append(f"- {_comparison(same)}")
    for aim in result.get("aims", []):
        lines.append(f"- {aim['text']}{_limit(aim)}: {_ratio(aim)} {_verdict(aim)}".rstrip() + ".")
    return [*lines, ""]


def _cells(side: dict[str, Any]) -> list[str]:
    if "error" in side:
        return [f"error: {side['error']}", *[""] * 5]
    work = f"{side['slots']:,} x {side['matrices']}" if side.get("slots") else ""
    memory = side["memory"]
    held = f"{memory['net'] / 1e6:,.0f} ({memory['peak'] / 1e6:,.0f})"
    if "seconds" not in side:
        return [work, "not timed", "", "", "", held]
    seconds = side["seconds"]
    low, high = seconds["quartiles"]
    rate = f"{side['flops'] / seconds['median'] / 1e9:.0f}" if side.get("flops") else ""
    share = f"{100 * side['efficiency']:.0f} %" if "efficiency" in side else ""
    return [work, f"{seconds['median']:.3f}", f"{low:.3f} to {high:.3f}", rate, share, held]


def _more(side: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {timed['median']:.3f}" for name, timed in side.get("more", {}).items()
    )


def _peak(side: dict[str, Any]) -> str:
    peak = side["peak"]
    return (
        f"Peak of {side['library']} in {side['dtype']}: {peak['median'] / 1e9:.0f} GFLOP/s"
        f" (best {peak['best'] / 1e9:.0f})."
    )


def _comparison(same: dict[str, Any]) -> str:
    text = (
        f"{same['first']} and {same['second']}: outputs, loss and gradients differ by at most"
        f" {same['largest']:.1e} of the largest number of an array"
    )
    if same["tolerance"] is None:
        return f"{text}, and by {same['rms']:.1e} in the root of the mean square."
    return f"{text} ({same['tolerance']:g} would be an error)."


def aim_value(aim: Aim, sides: dict[str, Any]) -> float | None:
    """The ratio that an aim is about; None if a side of it was not measured."""
    values = [
        [quantity(sides.get(name, {}), aim.quantity) for name in names]
        for names in (aim.of, aim.to)
    ]
    if any(value is None for each in values for value in each):
        return None
    return max(values[0]) / max(values[1])


def quantity(side: dict[str, Any], name: str) -> float | None:
    """Median seconds, net bytes, efficiency, or the median of further seconds."""
    if name == "memory":
        return side.get("memory", {}).get("net")
    if name == "efficiency":
        return side.get("efficiency")
    timed = side.get("seconds") if name == "seconds" else side.get("more", {}).get(name)
    return timed and timed["median"]


def judged(case: Case, sides: dict[str, Any]) -> list[dict[str, Any]]:
    """Each aim of a case: text, ratio, what it should be, and whether it is."""
    told = []
    for aim in case.aims:
        value = aim_value(aim, sides)
        reached = None
        if value is not None and aim.at_most is not None:
            reached = value <= aim.at_most
        elif value is not None and aim.at_least is not None:
            reached = value >= aim.at_least
        told.append(
            {
                "text": aim.text,
                "quantity": aim.quantity,
                "ratio": value,
                "at_most": aim.at_most,
                "at_least": aim.at_least,
                "reached": reached,
            }
        )
    return told


def _limit(aim: dict[str, Any]) -> str:
    for word in ("at_most", "at_least"):
        if aim[word] is not None:
            return f" ({word.replace('_', ' ')} {aim[word]:g})"
    return ""


def _ratio(aim: dict[str, Any]) -> str:
    return "not measured" if aim["ratio"] is None else f"{aim['ratio']:.2f}"


def _verdict(aim: dict[str, Any]) -> str:
    return {None: "", True: "reached", False: "**not reached**"}[aim["reached"]]

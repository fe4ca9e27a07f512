"""Tables, JSON and a picture of what was measured."""
from __future__ import annotations

from typing import Any, Dict, List, Optional

from benchmarks.cases import Aim, Case


def aim_value(aim: Aim, sides: Dict[str, Any]) -> Optional[float]:
    """The ratio that an aim is about; None if a side of it was not measured."""
    values = [[quantity(sides.get(name, {}), aim.quantity) for name in names]
              for names in (aim.of, aim.to)]
    if any(value is None for each in values for value in each):
        return None
    return max(values[0]) / max(values[1])


def quantity(side: Dict[str, Any], name: str) -> Optional[float]:
    """Median seconds, net bytes, efficiency, or the median of further seconds."""
    if name == "memory":
        return side.get("memory", {}).get("net")
    if name == "efficiency":
        return side.get("efficiency")
    timed = side.get("seconds") if name == "seconds" else side.get("more", {}).get(name)
    return timed and timed["median"]


def aim_lines(case: Case, result: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Each aim of a case: text, ratio, what it should be, and whether it is."""
    told = []
    for aim in case.aims:
        value = aim_value(aim, result["sides"])
        reached = None
        if value is not None:
            reached = value <= aim.at_most if aim.at_most is not None else value >= aim.at_least
        told.append({"text": aim.text, "quantity": aim.quantity, "ratio": value,
                     "at_most": aim.at_most, "at_least": aim.at_least, "reached": reached})
    return told


def case_lines(result: Dict[str, Any]) -> List[str]:
    """A case in Markdown."""
    lines = [f"### {result['title']}", ""]
    if "error" in result:
        lines += [f"**Error: {result['error']}**", ""]
    lines += ["| side | work | seconds | quartiles | GFLOP/s | of peak | peak memory, MB |",
              "|---|---|---|---|---|---|---|"]
    for name, side in result["sides"].items():
        lines.append(f"| {name} | " + " | ".join(_cells(side)) + " |")
    lines.append("")
    for aim in result.get("aims", []):
        lines.append(f"- {_aim_text(aim)}")
    for same in result["comparisons"]:
        limit = "" if same["tolerance"] is None else f" (at most {same['tolerance']:g} is let pass)"
        lines.append(f"- {same['first']} and {same['second']}: outputs, loss and all gradients"
                     f" differ by at most {same['largest']:.1e} of the largest number{limit}.")
    return [*lines, ""]


def _cells(side: Dict[str, Any]) -> List[str]:
    if "error" in side:
        return [f"error: {side['error']}", *[""] * 5]
    work = ""
    if side.get("slots"):
        work = f"{side['slots']:,} slots x {side['matrices']}"
    memory = side.get("memory")
    held = f"{memory['net'] / 1e6:,.0f} (whole process {memory['peak'] / 1e6:,.0f})" if memory else ""
    if "seconds" not in side:
        return [work, "not timed", "", "", "", held]
    seconds = side["seconds"]
    low, high = seconds["quartiles"]
    rate = f"{side['flops'] / seconds['median'] / 1e9:.0f}" if side.get("flops") else ""
    share = f"{100 * side['efficiency']:.0f} %" if "efficiency" in side else ""
    return [work, f"{seconds['median']:.3f}", f"{low:.3f} to {high:.3f}", rate, share, held]


def _aim_text(aim: Dict[str, Any]) -> str:
    if aim["ratio"] is None:
        return f"{aim['text']}: not measured."
    limit = (f"at most {aim['at_most']:g}" if aim["at_most"] is not None
             else f"at least {aim['at_least']:g}")
    said = "reached" if aim["reached"] else "**not reached**"
    return f"{aim['text']}: {aim['ratio']:.2f} ({limit}), {said}."

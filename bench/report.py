"""The results as text: Markdown, so that they can be read and committed."""

from __future__ import annotations

from bench.aims import Judge, Verdict
from bench.results import Results, machine


def report(results: Results) -> str:
    """Machine, measurements, aims, and what went wrong."""
    described = ", ".join(f"{name} {value}" for name, value in machine().items())
    parts = [f"Machine: {described}", measurements(results), aims(Judge(results).all())]
    if results.errors:
        parts.append("Errors:\n" + "\n".join(f"- {error}" for error in results.errors))
    return "\n\n".join(parts)


def measurements(results: Results) -> str:
    """Medians, with the least and the greatest where there were several rounds."""
    columns = list(results.values)
    names = list(dict.fromkeys(name for values in results.values.values() for name in values))
    rows = [["gateway, client", *(f"{candidate}, {client}" for candidate, client in columns)]]
    rows += [[name, *(cell(results.all(*column, name)) for column in columns)] for name in names]
    return table(rows)


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    middle = (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2
    spread = f" ({number(ordered[0])}-{number(ordered[-1])})" if len(ordered) > 1 else ""
    return number(middle) + spread


def number(value: float) -> str:
    """Three or more digits, and no more than tell something."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def aims(verdicts: list[Verdict]) -> str:
    """Each aim beside what was measured."""
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = [["aim", "bound", "measured", "met"]]
    for verdict in verdicts:
        sign = "≥" if verdict.at_least else "≤"
        measured = "-" if verdict.measured is None else number(verdict.measured)
        rows.append([verdict.aim, f"{sign} {number(verdict.bound)}", measured, words[verdict.met]])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)

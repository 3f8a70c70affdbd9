"""The goals of measures, and the Markdown table of whether they were reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a measure must reach; share: the mean over objects counts instead of the median."""

    measure: str
    bound: float
    at_least: bool
    share: bool = False

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def columns(self, value: float, form: str = "{:.4g}") -> str:
        """The last three columns of a table's row: the value, the bound, and the verdict. form: of both numbers."""
        sign, verdict = ">=" if self.at_least else "<=", "pass" if self.reached(value) else "MISS"
        return f"{form.format(value)} | {sign} {form.format(self.bound)} | {verdict} |"


def goal_table(
    title: str,
    measured: Mapping[str, Sequence[float]],
    goals: Sequence[Goal],
    over_objects: Callable[[str, Sequence[float]], tuple[str, float]],
) -> list[str]:
    """A row for each measure.

    Args:
        title: of the column of values. measured: a measure's values, nan where there was nothing to measure.
        over_objects: (measure, its values that are numbers) -> its name in the table, the value that counts.
    """
    bounds = {goal.measure: goal for goal in goals}
    lines = [f"| measure | {title} | goal | |", "|---|---|---|---|"]
    for measure, values in measured.items():
        name, value = over_objects(measure, [each for each in values if each == each])
        goal = bounds.get(measure)
        lines.append(f"| {name} | " + (goal.columns(value) if goal else f"{value:.4g} |  |  |"))
    return lines

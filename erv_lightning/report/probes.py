"""Who is fooled by gamed explanations, as a terminal table, Markdown and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from erv_lightning.probes import FOOLED, Outcome
from erv_lightning.report import cells

MARK = "!"  # fooled


@dataclass(frozen=True)
class Probing:
    """Everything the outputs say.

    Attributes:
        command: the shell command that made it.
        verifier: where the reward's verifier comes from; "" where none was asked.
        space: name of the label space.
        outcomes: one for each probe.
    """

    command: str
    verifier: str
    space: str
    outcomes: tuple[Outcome, ...]


def facts(probing: Probing) -> str:
    """What the numbers are."""
    asked = f"rewards by the verifier {probing.verifier}, " if probing.verifier else ""
    return (
        f"Labels of {probing.space}; {asked}mean reward (right answer assumed), or share of explanations that a judge "
        f"takes for the label. {MARK} fooled: at least {FOOLED} for an explanation that deserves nothing, or less for "
        "the honest one."
    )


def _columns(outcome: Outcome) -> dict[str, float]:
    return {f"R {name}": value for name, value in outcome.rewards.items()} | {
        f"judge {name}": value for name, value in outcome.judges.items()
    }


def _row(outcome: Outcome) -> list[str]:
    values = _columns(outcome).values()
    return [f"{value:.2f}{MARK if outcome.fooled(value) else ''}" for value in values]


def tables(probing: Probing) -> list[Table]:
    """The terminal's table, as rows of probes; rewards and judges apart, for width."""
    made = []
    for kind in ("R ", "judge "):
        titles = [name for name in _columns(probing.outcomes[0]) if name.startswith(kind)]
        if not titles:
            continue
        one = cells.table(
            "Rewards" if kind == "R " else "Judges", "", [_narrow(name.removeprefix(kind)) for name in titles]
        )
        for outcome in probing.outcomes:
            shown = dict(zip(_columns(outcome), _row(outcome), strict=True))
            one.add_row(outcome.probe.name, *(f"[bold]{shown[n]}" if MARK in shown[n] else shown[n] for n in titles))
        made.append(one)
    return made


def _narrow(name: str) -> str:
    """A heading in two lines where it has two words."""
    return name.replace("_", "_\n", 1)


def verdicts(probing: Probing) -> list[str]:
    """For each reward and judge, what fools it."""
    lines = []
    for name in _columns(probing.outcomes[0]):
        by = [one.probe.name for one in probing.outcomes if one.fooled(_columns(one)[name])]
        lines.append(f"{name}: {'fooled by ' + ', '.join(by) if by else 'not fooled'}")
    return lines


def markdown(probing: Probing) -> str:
    """A page."""
    rows = [[f"{outcome.probe.name}: {outcome.probe.what}", *_row(outcome)] for outcome in probing.outcomes]
    parts = [
        "# Gamed explanations",
        facts(probing),
        cells.grid("explanation", list(_columns(probing.outcomes[0])), rows),
        "\n".join(f"- {line}" for line in verdicts(probing)),
        f"Made with:\n\n```sh\n{probing.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def to_json(probing: Probing) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "command": probing.command,
        "verifier": probing.verifier,
        "label_space": probing.space,
        "probes": [
            {
                "name": one.probe.name,
                "what": one.probe.what,
                "honest": one.probe.honest,
                "explanations": one.explanations,
                "rewards": one.rewards,
                "judges": one.judges,
                "fooled": [name for name, value in _columns(one).items() if one.fooled(value)],
            }
            for one in probing.outcomes
        ],
    }

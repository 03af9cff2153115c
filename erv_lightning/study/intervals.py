"""A number with its interval, and what the draws behind it take together. Knows no question of the study."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from erv_lightning.stats.resampling import Floats, interval


@dataclass(frozen=True)
class Number:
    """A number with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Floats) -> Number:
        """A value with the percentiles of bootstrap draws (draws,); undefined draws are left out."""
        return cls(float(value), *interval(drawn))


def clip_units(frame: pd.DataFrame) -> list[str]:
    """What is drawn together: the source of each answer's clip where it is named, else the clip."""
    source = frame["source"] if "source" in frame else pd.Series("", index=frame.index)
    named: pd.Series[str] = frame["dataset"] + "/source/" + source
    return named.where(source != "", frame["dataset"] + "/clip/" + frame["id"]).tolist()

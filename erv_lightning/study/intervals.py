"""A number with its interval. Knows no question of the study."""

from __future__ import annotations

from dataclasses import dataclass

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

"""What is wrong with a data set before a run finds out."""

from erv_lightning.data.check.findings import check
from erv_lightning.data.check.probe import Probe, Prober

__all__ = ["Probe", "Prober", "check"]

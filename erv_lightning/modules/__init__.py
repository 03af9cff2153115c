"""The three stages as LightningModules. They wire parts together; the parts compute."""

from erv_lightning.modules.grpo import GRPOModule
from erv_lightning.modules.sft import SFTModule
from erv_lightning.modules.verifier import VerifierModule

__all__ = ["GRPOModule", "SFTModule", "VerifierModule"]

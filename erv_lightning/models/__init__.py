"""Policies (multimodal language models behind one protocol) and the verifier."""

from erv_lightning.models.backbone import Backbone
from erv_lightning.models.qwen_omni import QwenOmniBackbone
from erv_lightning.models.verifier import EmotionVerifier

__all__ = ["Backbone", "EmotionVerifier", "QwenOmniBackbone"]

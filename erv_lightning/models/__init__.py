"""Policies (multimodal language models behind one protocol) and the verifier."""

from erv_lightning.models.backbone import Backbone
from erv_lightning.models.hugging_face import HuggingFaceBackbone, Layout
from erv_lightning.models.humanomni.backbone import HumanOmniBackbone
from erv_lightning.models.qwen3_omni import Qwen3OmniBackbone
from erv_lightning.models.qwen_omni import QwenOmniBackbone
from erv_lightning.models.verifier import EmotionVerifier

__all__ = [
    "Backbone",
    "EmotionVerifier",
    "HuggingFaceBackbone",
    "HumanOmniBackbone",
    "Layout",
    "Qwen3OmniBackbone",
    "QwenOmniBackbone",
]

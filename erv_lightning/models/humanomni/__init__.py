"""HumanOmni, the paper's backbone, in the layout of transformers; importing this registers it with the auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from erv_lightning.models.humanomni.configuration import HumanOmniConfig
from erv_lightning.models.humanomni.model import HumanOmniModel
from erv_lightning.models.humanomni.modeling import HumanOmniForConditionalGeneration
from erv_lightning.models.humanomni.processing import HumanOmniProcessor

AutoConfig.register(HumanOmniConfig.model_type, HumanOmniConfig, exist_ok=True)
AutoModel.register(HumanOmniConfig, HumanOmniModel, exist_ok=True)
AutoModelForMultimodalLM.register(HumanOmniConfig, HumanOmniForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(HumanOmniConfig, HumanOmniForConditionalGeneration, exist_ok=True)
AutoProcessor.register(HumanOmniConfig, HumanOmniProcessor, exist_ok=True)

__all__ = ["HumanOmniConfig", "HumanOmniForConditionalGeneration", "HumanOmniModel", "HumanOmniProcessor"]

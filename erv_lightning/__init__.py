"""Emotion-coherent reasoning for multimodal LLMs, on PyTorch Lightning.

Three stages: supervised fine-tuning (the cold start), the emotional rationale verifier, and GRPO with the
verifier's explanation reward. `python -m erv_lightning --help` is the way in; docs/architecture.md the map.
"""

__version__ = "0.1.0"

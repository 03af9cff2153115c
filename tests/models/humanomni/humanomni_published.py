"""Published HumanOmni checkpoints of random tensors: every name and shape written out from the description of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import BertTokenizer, Qwen2Tokenizer

from erv_lightning.models.humanomni import HumanOmniConfig

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layers:
    """A transformer: its width, the inner width of its MLPs, its layers, their heads."""

    width: int
    inner: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Sizes:
    """Of a whole checkpoint."""

    text: Layers
    vision: Layers
    audio: Layers
    bert: Layers
    key_heads: int
    words: int
    image: int
    patch: int
    mels: int
    positions: int
    bert_words: int
    bert_positions: int
    projector: str
    gate: int
    frames: int
    tied: bool

    @property
    def depth(self) -> int:
        return {"all_in_one_small": 2, "all_in_one": 4}[self.projector]


WHISPER, BERT = Layers(1280, 5120, 32, 20), Layers(768, 3072, 12, 12)
REAL = {
    "0.5B": Sizes(
        Layers(896, 4864, 24, 14), Layers(768, 3072, 12, 12), WHISPER, BERT,
        2, 151936, 224, 16, 128, 1500, 30522, 512, "all_in_one_small", 3584, 8, True,
    ),
    "7B": Sizes(
        Layers(3584, 18944, 28, 28), Layers(1152, 4304, 27, 16), WHISPER, BERT,
        4, 152064, 384, 14, 128, 1500, 30522, 512, "all_in_one", 3584, 8, False,
    ),
}  # fmt: skip
SMALL_PARTS = (Layers(32, 48, 2, 4), Layers(20, 36, 3, 2), Layers(16, 24, 2, 2), Layers(12, 28, 2, 2))
TINY = {
    "0.5B": Sizes(*SMALL_PARTS, 2, 300, 32, 8, 8, 50, 40, 64, "all_in_one_small", 10, 3, True),
    "7B": Sizes(*SMALL_PARTS, 2, 300, 24, 8, 8, 50, 40, 64, "all_in_one", 10, 3, False),
}


# -- names and shapes ------------------------------------------------------------------------------------------------


def linear(name: str, out: int, width: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, width)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def published_shapes(sizes: Sizes) -> Shapes:
    """Name → shape of every tensor, the unused ones of Whisper's classifier too."""
    h, v, a, b = sizes.text.width, sizes.vision.width, sizes.audio.width, sizes.bert.width
    made = qwen2_shapes(sizes) | siglip_shapes(sizes) | whisper_shapes(sizes) | bert_shapes(sizes)
    made |= linear("model.audio_projector.0", h, a) | linear("model.audio_projector.2", h, h)
    made |= linear("model.bert_gate.0", sizes.gate, b) | linear("model.bert_gate.2", 3, sizes.gate)
    made |= linear("model.mm_projector.mlp_2xgelu_face.0", h, v) | linear("model.mm_projector.mlp_2xgelu_face.2", h, h)
    for branch in ("video", "body"):
        stages = {"s1": (v, h), "s2": (h, h)}
        for stage, (width, out) in stages.items():
            for block in range(1, sizes.depth + 1):
                name = f"model.mm_projector.{stage}_{branch}.b{block}"
                made |= block_shapes(name, width if block == 1 else out, out)
        made[f"model.mm_projector.sampler_{branch}.0.weight"] = (h, h, 2, 2, 2)
        made[f"model.mm_projector.sampler_{branch}.0.bias"] = (h,)
        made |= linear(f"model.mm_projector.readout_{branch}.0", h, h)
        made |= linear(f"model.mm_projector.readout_{branch}.2", h, h)
    return made


def block_shapes(name: str, width: int, out: int) -> Shapes:
    """A RegNet block; the one that changes the width has a convolution on its shortcut."""
    squeezed = round(width / 4)
    made: Shapes = {
        f"{name}.conv1.conv.weight": (out, width, 1, 1),
        f"{name}.conv2.conv.weight": (out, 1, 3, 3),
        f"{name}.conv3.conv.weight": (out, out, 1, 1),
        f"{name}.se.fc1.weight": (squeezed, out, 1, 1),
        f"{name}.se.fc1.bias": (squeezed,),
        f"{name}.se.fc2.weight": (out, squeezed, 1, 1),
        f"{name}.se.fc2.bias": (out,),
    }
    for conv in ("conv1", "conv2", "conv3"):
        made |= norm(f"{name}.{conv}.bn", out)
    if width != out:
        made[f"{name}.downsample.conv.weight"] = (out, width, 1, 1)
        made |= norm(f"{name}.downsample.bn", out)
    return made


def qwen2_shapes(sizes: Sizes) -> Shapes:
    h, inner = sizes.text.width, sizes.text.inner
    keys = h // sizes.text.heads * sizes.key_heads
    made: Shapes = {"model.embed_tokens.weight": (sizes.words, h), "model.norm.weight": (h,)}
    if not sizes.tied:
        made["lm_head.weight"] = (sizes.words, h)
    for layer in range(sizes.text.layers):
        name = f"model.layers.{layer}"
        made |= linear(f"{name}.self_attn.q_proj", h, h) | linear(f"{name}.self_attn.o_proj", h, h, bias=False)
        made |= linear(f"{name}.self_attn.k_proj", keys, h) | linear(f"{name}.self_attn.v_proj", keys, h)
        made |= linear(f"{name}.mlp.gate_proj", inner, h, bias=False) | linear(f"{name}.mlp.up_proj", inner, h, False)
        made |= linear(f"{name}.mlp.down_proj", h, inner, bias=False)
        made |= {f"{name}.{place}_layernorm.weight": (h,) for place in ("input", "post_attention")}
    return made


def siglip_shapes(sizes: Sizes) -> Shapes:
    root, w, inner = "model.vision_tower.vision_tower.vision_model", sizes.vision.width, sizes.vision.inner
    made: Shapes = {
        f"{root}.embeddings.patch_embedding.weight": (w, 3, sizes.patch, sizes.patch),
        f"{root}.embeddings.patch_embedding.bias": (w,),
        f"{root}.embeddings.position_embedding.weight": ((sizes.image // sizes.patch) ** 2, w),
        f"{root}.head.probe": (1, 1, w),
        f"{root}.head.attention.in_proj_weight": (3 * w, w),
        f"{root}.head.attention.in_proj_bias": (3 * w,),
    }
    made |= norm(f"{root}.post_layernorm", w) | norm(f"{root}.head.layernorm", w)
    made |= linear(f"{root}.head.attention.out_proj", w, w)
    made |= linear(f"{root}.head.mlp.fc1", inner, w) | linear(f"{root}.head.mlp.fc2", w, inner)
    for layer in range(sizes.vision.layers):
        name = f"{root}.encoder.layers.{layer}"
        made |= norm(f"{name}.layer_norm1", w) | norm(f"{name}.layer_norm2", w)
        made |= linear(f"{name}.mlp.fc1", inner, w) | linear(f"{name}.mlp.fc2", w, inner)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= linear(f"{name}.self_attn.{part}", w, w)
    return made


def whisper_shapes(sizes: Sizes) -> Shapes:
    root, w, inner = "model.audio_tower.audio_tower", sizes.audio.width, sizes.audio.inner
    made: Shapes = {
        f"{root}.encoder.conv1.weight": (w, sizes.mels, 3),
        f"{root}.encoder.conv1.bias": (w,),
        f"{root}.encoder.conv2.weight": (w, w, 3),
        f"{root}.encoder.conv2.bias": (w,),
        f"{root}.encoder.embed_positions.weight": (sizes.positions, w),
    }
    made |= norm(f"{root}.encoder.layer_norm", w)
    made |= linear(f"{root}.projector", 256, w) | linear(f"{root}.classifier", 2, 256)
    for layer in range(sizes.audio.layers):
        name = f"{root}.encoder.layers.{layer}"
        made |= norm(f"{name}.self_attn_layer_norm", w) | norm(f"{name}.final_layer_norm", w)
        made |= linear(f"{name}.fc1", inner, w) | linear(f"{name}.fc2", w, inner)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= linear(f"{name}.self_attn.{part}", w, w, bias=part != "k_proj")
    return made


def bert_shapes(sizes: Sizes) -> Shapes:
    root, w, inner = "model.bert_model", sizes.bert.width, sizes.bert.inner
    rows = {"word": sizes.bert_words, "position": sizes.bert_positions, "token_type": 2}
    made: Shapes = {f"{root}.embeddings.{kind}_embeddings.weight": (count, w) for kind, count in rows.items()}
    made |= norm(f"{root}.embeddings.LayerNorm", w) | linear(f"{root}.pooler.dense", w, w)
    for layer in range(sizes.bert.layers):
        name = f"{root}.encoder.layer.{layer}"
        made |= linear(f"{name}.intermediate.dense", inner, w) | linear(f"{name}.output.dense", w, inner)
        made |= norm(f"{name}.attention.output.LayerNorm", w) | norm(f"{name}.output.LayerNorm", w)
        made |= linear(f"{name}.attention.output.dense", w, w)
        for part in ("query", "key", "value"):
            made |= linear(f"{name}.attention.self.{part}", w, w)
    return made


def random_tensors(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Values that keep every part of the network at work: weights of unit gain, norms and biases off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in published_shapes(sizes).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            one = name.endswith("weight")
            made[name] = one + 0.3 * values
        else:
            made[name] = values / (torch.tensor(shape[1:]).prod() ** 0.5 if "embed" not in name else 1.0)
    return made


# -- folders ---------------------------------------------------------------------------------------------------------


def config_dicts(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """The published configuration (``main``) and those of the towers (``vision``, ``audio``, ``question``)."""
    text, vision, audio, bert = sizes.text, sizes.vision, sizes.audio, sizes.bert
    main = {
        "architectures": ["HumanOmniQwen2ForCausalLM"],
        "model_type": "HumanOmni_qwen2",
        "hidden_size": text.width,
        "intermediate_size": text.inner,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": sizes.key_heads,
        "vocab_size": sizes.words,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": sizes.tied,
        "torch_dtype": "float32",
        "transformers_version": "4.42.3",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mm_vision_tower": "google/siglip-base-patch16-224",
        "mm_audio_tower": "openai/whisper-large-v3",
        "mm_projector_type": sizes.projector,
        "mm_hidden_size": vision.width,
        "mm_vision_select_layer": -2,
        "mm_use_x_start_end": True,
        "num_frames": sizes.frames,
        "tune_mm_mlp_adapter": False,
    }
    siglip = {
        "hidden_size": vision.width,
        "intermediate_size": vision.inner,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
    }
    whisper = {
        "model_type": "whisper",
        "torch_dtype": "float16",
        "d_model": audio.width,
        "encoder_ffn_dim": audio.inner,
        "encoder_layers": audio.layers,
        "encoder_attention_heads": audio.heads,
        "num_mel_bins": sizes.mels,
        "max_source_positions": sizes.positions,
    }
    question = {
        "model_type": "bert",
        "hidden_size": bert.width,
        "intermediate_size": bert.inner,
        "num_hidden_layers": bert.layers,
        "num_attention_heads": bert.heads,
        "vocab_size": sizes.bert_words,
        "max_position_embeddings": sizes.bert_positions,
    }
    return {
        "main": main,
        "vision": {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model", **siglip}},
        "audio": whisper,
        "question": question,
    }


def our_config(sizes: Sizes, **changes: Any) -> HumanOmniConfig:
    """The same in our layout; the placeholders lie beyond the vocabulary, and nothing is dropped out."""
    dicts = config_dicts(sizes)
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    skip = ("mm_", "architectures", "model_type", "num_frames", "torch_dtype", "tune", "transformers")
    return HumanOmniConfig(
        vision_config=dicts["vision"]["vision_config"],
        audio_config={**dicts["audio"], "torch_dtype": None},
        question_config=dicts["question"] | quiet,
        text_config={key: value for key, value in dicts["main"].items() if not key.startswith(skip)},
        projector_type=sizes.projector,
        gate_width=sizes.gate,
        num_frames=sizes.frames,
        video_token_id=sizes.words,
        audio_token_id=sizes.words + 1,
        **changes,
    )


def write_towers(root: Path, sizes: Sizes) -> dict[str, Path]:
    """Folders with the configurations of the towers, by ``vision``, ``audio`` and ``question``."""
    dicts = config_dicts(sizes)
    folders = {name: root / name for name in ("vision", "audio", "question")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dicts[name]))
    return folders


def write_checkpoint(folder: Path, sizes: Sizes, tensors: dict[str, Tensor], form: str = "safetensors") -> Path:
    """A published folder. `form` is ``safetensors`` or ``bin``, or ``sharded-…``, in three files of any order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_dicts(sizes)["main"]))
    kind = form.removeprefix("sharded-")
    stem, end = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]

    def write(values: dict[str, Tensor], path: Path) -> None:
        save_file(values, path) if kind == "safetensors" else torch.save(values, path)

    if form == kind:
        write(tensors, folder / f"{stem}.{end}")
        return folder
    names = sorted(tensors, key=lambda name: name[::-1])
    index = {}
    for shard in range(3):
        file = f"{stem}-{shard + 1:05}-of-00003.{end}"
        write({name: tensors[name] for name in names[shard::3]}, folder / file)
        index |= dict.fromkeys(names[shard::3], file)
    content = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps(content))
    return folder


def qwen2_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's, one token a byte, 259 of them: text is anything below 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={letter: token for token, letter in enumerate(alphabet)}, merges=[])
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return tokenizer


def bert_tokenizer() -> BertTokenizer:
    """BERT's, of a few words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "which", "emotion", "do", "you", "hear", "?"]
    return BertTokenizer(vocab={word: token for token, word in enumerate(words)})

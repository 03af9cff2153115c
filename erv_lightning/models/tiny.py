"""The built-in small models: random weights, real classes, tokenizers trained on the built-in explanations.

They run the code path of the 3B and 7B models in minutes on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    RobertaConfig,
    RobertaForSequenceClassification,
    WhisperFeatureExtractor,
)

from erv_lightning.data import grammar
from erv_lightning.data.sample import QUESTION
from erv_lightning.labels import DFEW, MAFW

TINY = "tiny"  # the name that configs use for the built-in models
FRAME_SIZE = 56  # pixels: 4 × 4 patches of 14, merged 2 × 2 to 4 tokens a frame pair
AUDIO_SECONDS = 2  # the Whisper front end pads to this length; the mask cuts the padding off again
MEL_BINS = 40
INITIALIZER_RANGE = 0.06  # transformers' 0.02 is made for widths of thousands; here it costs hundreds of steps
POLICY_VOCABULARY = 1400  # nearly one token a word on the built-in explanations

# Qwen2.5-Omni's own special tokens, so that its processor and chat format work unchanged.
SPECIAL_TOKENS = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
CHAT_START = "<|im_start|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

CHAT_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>\
{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\
{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _corpus() -> Iterable[str]:
    yield from grammar.corpus()
    yield from (f"<answer>{name}</answer>" for name in (*DFEW.names, *MAFW.names) for _ in range(20))
    yield from [QUESTION, "user\nassistant\n"] * 20


def policy_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the built-in explanations: any text can be written and read back."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=POLICY_VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS.values(), CHAT_START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    bpe.add_tokens(list(TAGS))
    named = {"pad_token", "eos_token"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL_TOKENS["pad_token"],
        eos_token=SPECIAL_TOKENS["eos_token"],
        extra_special_tokens={k: v for k, v in SPECIAL_TOKENS.items() if k not in named}
        | {"chat_start_token": CHAT_START},
        padding_side="left",
    )


def tiny_processor() -> Qwen2_5OmniProcessor:
    """The real `Qwen2_5OmniProcessor`, with a small picture and a short audio window."""
    pixels = {"shortest_edge": FRAME_SIZE**2, "longest_edge": FRAME_SIZE**2}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        video_processor=Qwen2VLVideoProcessor(size=pixels, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=AUDIO_SECONDS),
        tokenizer=policy_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_policy(seed: int = 0) -> tuple[Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniProcessor]:
    """A Qwen2.5-Omni thinker with about two million random parameters, and its processor.

    Args:
        seed: of the weights; the global random state is left as it was.
    """
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]},
            "initializer_range": INITIALIZER_RANGE,
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["eos_token"],
        },
        vision_config={
            "depth": 2,
            "initializer_range": INITIALIZER_RANGE,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "encoder_layers": 2,
            "initializer_range": INITIALIZER_RANGE,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "d_model": 128,
            "output_dim": 128,
            "max_source_positions": 400,
        },
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_token_index=ids["audio_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        pad_token_id=ids["pad_token"],
        eos_token_id=ids["eos_token"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return model, processor


def verifier_tokenizer(sentences: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the given sentences; unseen words become ``<unk>``."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words.train_from_iterator(sentences, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
    )


def tiny_verifier(
    sentences: Iterable[str], labels: Sequence[str], seed: int = 0
) -> tuple[RobertaForSequenceClassification, PreTrainedTokenizerFast]:
    """A two-layer RoBERTa with one sigmoid output a label, and a tokenizer made from the training sentences."""
    tokenizer = verifier_tokenizer(sentences)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=130,  # RoBERTa counts from 2
        type_vocab_size=1,
        initializer_range=0.1,  # see INITIALIZER_RANGE
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobertaForSequenceClassification(config)
    return model, tokenizer

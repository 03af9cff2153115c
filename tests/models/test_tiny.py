from __future__ import annotations

import torch

from erv_lightning.data.readers import SyntheticClips
from erv_lightning.labels import DFEW, MAFW
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.tiny import tiny_policy, tiny_verifier
from erv_lightning.modules.sft import target_response

SENTENCES = ["A bright smile.", "A dull voice."]


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_weights_are_the_seeds_alone_and_the_global_random_state_stays() -> None:
    state = torch.get_rng_state()
    policies = [tiny_policy(seed)[0] for seed in (3, 3, 4)]
    verifiers = [tiny_verifier(SENTENCES, DFEW.names, seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    for first, same, other in (policies, verifiers):
        assert equal(first, same)
        assert not equal(first, other)


def test_the_tokenizer_is_the_same_every_time() -> None:
    one, other = (tiny_policy()[1].tokenizer for _ in range(2))
    assert one.get_vocab() == other.get_vocab()


def test_a_prompt_is_one_turn_of_the_user_and_the_assistants_opening(backbone: QwenOmniBackbone) -> None:
    content = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": "Why?"}]
    written = backbone.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert written == (
        "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>Why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_tags_are_one_token_each(backbone: QwenOmniBackbone) -> None:
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(backbone.tokenize(tag)) == 1
    for name in (*DFEW.names, *MAFW.names):
        ids = backbone.tokenize(f"<answer>{name}</answer>")
        assert backbone.decode(ids) == f"<answer>{name}</answer>"
        assert len(ids) <= 4


def test_every_taught_response_fits_the_shipped_length(backbone: QwenOmniBackbone) -> None:
    # configs/*.yaml set max_new_tokens to 80
    source = SyntheticClips(train=700, test=700)
    for split in ("train", "test"):
        for sample in source.samples(split):
            assert len(backbone.tokenize(target_response(sample))) + 1 <= 80


def test_words_the_verifier_never_saw_are_unknown_to_it() -> None:
    _, tokenizer = tiny_verifier(SENTENCES, DFEW.names)
    unknown = tokenizer.unk_token_id
    assert unknown not in tokenizer("a DULL smile.")["input_ids"]
    assert tokenizer("a dull grin.")["input_ids"].count(unknown) == 1

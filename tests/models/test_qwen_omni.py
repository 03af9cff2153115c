"""The backbone is Hugging Face's own model, whatever road its inputs take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from erv_lightning.data.encode import write_mp4
from erv_lightning.data.media import Clip, MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.sample import Sample
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.rl.logprobs import attention_mask

QUESTIONS = ["Which emotion?", "Which emotion is the most obvious to you in this clip, and why?", "What?"]


def decode(sample: Sample) -> Clip:
    return load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56)))


def hugging_face(backbone: QwenOmniBackbone, question: str, clip: Clip) -> Tensor:
    """Logits (1, T, V) of the model's own forward on the processor's own output."""
    content = [{"type": "video"}, {"type": "audio"}, {"type": "text", "text": question}]
    processor = backbone.processor
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    size = {"do_sample_frames": False, "fps": clip.fps, "size": dict(processor.video_processor.size)}
    encoded = processor(
        text=text, videos=[clip.frames], audio=[clip.audio.numpy()], videos_kwargs=size, return_tensors="pt"
    )
    logits: Tensor = backbone.model(**encoded).logits
    return logits


def own(backbone: QwenOmniBackbone, batch: PromptBatch) -> Tensor:
    """Logits (P, T, V) through `embed`, `hidden` and `logits`."""
    states = backbone.hidden(backbone.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return backbone.logits(states)


def stir(backbone: QwenOmniBackbone) -> QwenOmniBackbone:
    """Gives trainable weights other values, as training would; fresh adapters change nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.trainable():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone


@pytest.fixture
def adapted() -> QwenOmniBackbone:
    return stir(QwenOmniBackbone("tiny", lora=LoraSpec(rank=4, alpha=8))).eval()


# -- the same numbers as Hugging Face -----------------------------------------------------------------------------


@torch.no_grad()
def test_embed_hidden_and_logits_are_the_models_own_forward(backbone: QwenOmniBackbone, clips: SyntheticClips) -> None:
    for sample, question in zip(clips.samples("val"), QUESTIONS, strict=False):
        clip = decode(sample)
        logits = own(backbone, backbone.collate([sample.id], [backbone.encode_prompt(question, clip)]))
        assert_close(logits, hugging_face(backbone, question, clip), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sight_and_sound_both_reach_the_logits(backbone: QwenOmniBackbone, clips: SyntheticClips) -> None:
    one, other = map(decode, clips.samples("val")[:2])

    def last(clip: Clip) -> Tensor:
        return own(backbone, backbone.collate(["a"], [backbone.encode_prompt("What?", clip)]))[0, -1]

    assert (last(one) - last(dataclasses.replace(one, frames=other.frames))).abs().max() > 1e-3
    assert (last(one) - last(dataclasses.replace(one, audio=other.audio))).abs().max() > 1e-3


@torch.no_grad()
def test_padding_changes_no_logits(backbone: QwenOmniBackbone, clips: SyntheticClips, tmp_path: Path) -> None:
    short = np.random.default_rng(0)
    pictures = short.integers(0, 255, (6, 56, 56, 3)).astype(np.uint8)
    write_mp4(tmp_path / "short.mp4", pictures, short.normal(0, 0.1, 8000).astype(np.float32), 12, 16000)
    media = [
        decode(clips.samples("val")[0]),
        load_clip(tmp_path / "short.mp4", MediaSettings(num_frames=8)),
        decode(clips.samples("val")[1]),
    ]
    prompts = [backbone.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, media, strict=True)]
    assert len({len(prompt.input_ids) for prompt in prompts}) == 3
    assert len({prompt.media["input_features"].shape[-1] for prompt in prompts}) == 2
    together = own(backbone, backbone.collate(["a", "b", "c"], prompts))
    for row, prompt in enumerate(prompts):
        alone = own(backbone, backbone.collate(["x"], [prompt]))[0]
        assert_close(together[row, -len(prompt.input_ids) :], alone, atol=1e-5, rtol=1e-5)


def test_bfloat16_weights_read_clips_too(taught: Any, prompts: PromptBatch) -> None:
    backbone = QwenOmniBackbone(str(taught.folder), dtype="bfloat16")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = own(backbone, prompts)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_dtype_holds_for_the_built_in_model_too() -> None:
    backbone = QwenOmniBackbone("tiny", dtype="bfloat16")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}


# -- files --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_saved_backbone_comes_back_equal(backbone: QwenOmniBackbone, prompts: PromptBatch, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    again = QwenOmniBackbone(str(tmp_path)).eval()
    assert_close(own(again, prompts), own(backbone, prompts))
    for name, value in again.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name])
    assert torch.equal(again.unsayable_ids, backbone.unsayable_ids)
    assert (again.eos_token_id, again.pad_token_id) == (backbone.eos_token_id, backbone.pad_token_id)


@torch.no_grad()
def test_hugging_face_reads_the_export(backbone: QwenOmniBackbone, clips: SyntheticClips, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    clip = decode(clips.samples("val")[0])
    theirs = QwenOmniBackbone("tiny", seed=1)
    theirs.model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path)
    theirs.processor = AutoProcessor.from_pretrained(tmp_path)
    assert_close(hugging_face(theirs, "Why?", clip), hugging_face(backbone, "Why?", clip))


@pytest.mark.parametrize("path", ["runs/sft/default/export", "nowhere", "/no/such/folder", "./a"])
def test_a_folder_that_is_not_there_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"no exported model in '{path}'.*Train the stage"):
        QwenOmniBackbone(path)


# -- LoRA ---------------------------------------------------------------------------------------------------------


def test_with_lora_only_the_decoders_adapters_train(adapted: QwenOmniBackbone) -> None:
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("language_model.layers" in name and "lora_" in name for name in trained)
    assert len(trained) == 4 * 7 * 2  # layers × projections × (A, B)
    assert sum(1 for _ in adapted.trainable()) == len(trained)


@torch.no_grad()
def test_fresh_adapters_change_nothing(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    fresh = QwenOmniBackbone("tiny", lora=LoraSpec(rank=4, alpha=8)).eval()
    assert_close(own(fresh, prompts), own(backbone, prompts))


@torch.no_grad()
def test_the_reference_is_the_base_model_and_the_policy_comes_back(
    adapted: QwenOmniBackbone, backbone: QwenOmniBackbone, prompts: PromptBatch
) -> None:
    before = own(adapted, prompts)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    with adapted.reference() as reference:
        assert_close(own(reference, prompts), own(backbone, prompts))
    assert torch.equal(own(adapted, prompts), before)
    assert (before - own(backbone, prompts)).abs().max() > 0.1
    with pytest.raises(RuntimeError, match="on purpose"), adapted.reference():
        raise RuntimeError("on purpose")
    assert torch.equal(own(adapted, prompts), before)
    assert [name for name, parameter in adapted.named_parameters() if parameter.requires_grad] == trained


def test_gradients_survive_a_visit_to_the_reference(adapted: QwenOmniBackbone, prompts: PromptBatch) -> None:
    def gradients(visit: bool) -> list[Tensor]:
        loss = own(adapted, prompts).logsumexp(-1).mean()
        if visit:
            with torch.no_grad(), adapted.reference() as reference:
                own(reference, prompts)
        return list(torch.autograd.grad(loss, list(adapted.trainable())))

    for undisturbed, visited in zip(gradients(False), gradients(True), strict=True):
        assert undisturbed.any()
        assert torch.equal(undisturbed, visited)


def test_a_policy_without_adapters_has_no_reference_in_itself(backbone: QwenOmniBackbone) -> None:
    with pytest.raises(ValueError, match="keep a frozen copy"), backbone.reference():
        pass


@torch.no_grad()
def test_an_export_holds_the_merged_adapters_and_the_live_model_stays(
    adapted: QwenOmniBackbone, prompts: PromptBatch, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    adapted.save(tmp_path)
    exported = QwenOmniBackbone(str(tmp_path)).eval()
    assert not any("lora" in name for name, _ in exported.named_parameters())
    assert_close(own(exported, prompts), own(adapted, prompts), atol=1e-4, rtol=1e-5)
    after = adapted.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert adapted.has_lora


# -- what trains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ([], set()),
        (["vision"], {"visual"}),
        (["audio"], {"audio_tower"}),
        (["vision", "audio"], {"visual", "audio_tower"}),
        (["language"], {"language_model"}),
    ],
)
def test_frozen_parts_get_no_gradient_and_all_others_do(
    freeze: list[Any], frozen: set[str], prompts: PromptBatch
) -> None:
    backbone = QwenOmniBackbone("tiny", freeze=freeze)
    own(backbone, prompts).logsumexp(-1).mean().backward()
    parts = {name: name.split(".")[2] for name, _ in backbone.named_parameters()}  # model.model.<part>
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert {parts[name] for name in trained} == set(parts.values()) - frozen
    assert len(trained) == sum(1 for _ in backbone.trainable())
    # DDP stops at a parameter that trains and takes no part in the loss
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(prompts: PromptBatch) -> None:
    found: list[tuple[int, list[Tensor]]] = []
    for checkpointing in (False, True):
        backbone = QwenOmniBackbone("tiny", gradient_checkpointing=checkpointing)
        runs: list[int] = []
        layer = backbone.model.model.language_model.layers[0].input_layernorm
        layer.register_forward_hook(lambda *args, runs=runs: runs.append(1))
        own(backbone, prompts).logsumexp(-1).mean().backward()
        found.append((len(runs), [parameter.grad for parameter in backbone.trainable()]))
    (once, plain), (twice, recomputed) = found
    assert (once, twice) == (1, 2)
    for one, other in zip(plain, recomputed, strict=True):
        assert_close(one, other)


# -- tokens -------------------------------------------------------------------------------------------------------


def test_no_special_token_but_the_end_can_be_said(backbone: QwenOmniBackbone) -> None:
    unsayable = set(backbone.unsayable_ids.tolist())
    names = ["<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", "<|endoftext|>", "<|im_start|>", "<|vision_bos|>", "<|audio_eos|>"]
    assert set(backbone.tokenizer.convert_tokens_to_ids(names)) <= unsayable
    config = backbone.model.config
    assert {config.image_token_id, config.audio_token_id, config.video_token_id} <= unsayable
    assert backbone.eos_token_id not in unsayable
    every_word = backbone.tokenize("<think>In the video, a smile.</think>\n<answer>happy</answer>")
    assert not unsayable & set(every_word)


def test_rows_of_the_vocabulary_without_a_token_cannot_be_said(tmp_path: Path) -> None:
    padded = QwenOmniBackbone("tiny")
    size = len(padded.tokenizer)
    padded.model.resize_token_embeddings(size + 8)
    padded.save(tmp_path)
    assert set(range(size, size + 8)) <= set(QwenOmniBackbone(str(tmp_path)).unsayable_ids.tolist())


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("<think>In the video, a smile .</think>\n<answer>happy</answer>")
@example(" two  spaces , \t tabs\r\nand n't \u00e9 e\u0301 \U0001f600 ")
def test_any_text_can_be_written_and_read_back(backbone: QwenOmniBackbone, text: str) -> None:
    assume(not any(token in text for token in backbone.tokenizer.all_special_tokens))
    assert backbone.decode(backbone.tokenize(text)) == text


def test_special_tokens_are_dropped_from_decoded_text(backbone: QwenOmniBackbone) -> None:
    ids = [*backbone.tokenize("<answer>sad</answer>"), backbone.eos_token_id, backbone.pad_token_id]
    assert backbone.decode(ids) == "<answer>sad</answer>"


# -- media tokens that do not fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "word"), [("video_token_id", "video"), ("audio_token_id", "audio")])
def test_media_tokens_that_differ_from_the_features_name_the_sample(
    backbone: QwenOmniBackbone, prompts: PromptBatch, token: str, word: str
) -> None:
    media = getattr(backbone.model.config, token)
    cut = prompts.input_ids.clone()
    place = (cut[1] == media).nonzero()[0]
    cut[1, place] = backbone.pad_token_id
    have = int((cut[1] == media).sum())
    with pytest.raises(ValueError, match=f"sample 'second': {have} {word} tokens .*{have + 1} features") as caught:
        backbone.embed(dataclasses.replace(prompts, input_ids=cut))
    assert "first" not in str(caught.value)
    assert "third" not in str(caught.value)


def test_every_sample_with_a_problem_is_named_at_once(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    added = prompts.input_ids.clone()
    added[:, -1] = backbone.model.config.video_token_id
    with pytest.raises(ValueError, match=r"'first'.*'second'.*'third'"):
        backbone.embed(dataclasses.replace(prompts, input_ids=added))


def test_a_batch_moves_whole(prompts: PromptBatch) -> None:
    moved = prompts.to("meta")
    tensors: list[Tensor] = [moved.input_ids, moved.attention_mask, moved.position_ids, *moved.media.values()]
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.ids == prompts.ids


def test_completions_go_on_one_past_the_prompts_last_position(prompts: PromptBatch) -> None:
    for row, position in enumerate(prompts.next_position.tolist()):
        seen = [
            int(prompts.position_ids[axis, row, column])
            for axis in range(3)
            for column in range(prompts.input_ids.shape[1])
            if prompts.attention_mask[row, column]
        ]
        assert position == max(seen) + 1

"""Qwen3-Omni through our roads is Hugging Face's own model: prompts, logits, sampling, training, files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_claims import GROUP, draw, lively, logps
from qwen3_miniature import FURTHER, LAYERS, WIDTH, own, plain, write
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

from erv_lightning.data.media import Clip, MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.doctor.sizes import sizes_of
from erv_lightning.models import Qwen3OmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.rl.rollout import Sampling, rollout

SWITCHES = {"both": (True, True), "video": (True, False), "audio": (False, True), "text": (False, False)}
QUESTIONS = ["Why do you think so?", "Which emotion is the most obvious to you in this clip, and why?", "What?"]

shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "copied"])


def make_clip(frames: int = 4, samples: int = 16000, height: int = 56, width: int = 56) -> Clip:
    generator = torch.Generator().manual_seed(frames)
    pictures = torch.randint(0, 256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)
    wave = 0.1 * torch.randn(samples, generator=generator)
    return Clip(pictures, wave, 16000, frames / (samples / 16000), True, samples / 16000, (height, width))


def switched(clip: Clip, which: str) -> Clip:
    video, audio = SWITCHES[which]
    return dataclasses.replace(clip, frames=clip.frames if video else None, audio=clip.audio if audio else None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def policy(folder: str) -> Qwen3OmniBackbone:
    """For tests that do not change it."""
    return Qwen3OmniBackbone(folder).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def real(clips: SyntheticClips) -> list[Clip]:
    """Three mp4 files, decoded."""
    settings = MediaSettings(num_frames=4, frame_size=(56, 56))
    return [load_clip(sample.clip, settings) for sample in clips.samples("val")[:3]]


@pytest.fixture(scope="module")
def batch(policy: Qwen3OmniBackbone, real: list[Clip]) -> PromptBatch:
    """Three prompts of different length, so that two are padded."""
    prompts = [policy.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, real, strict=True)]
    assert len({len(prompt.input_ids) for prompt in prompts}) == 3
    return policy.collate(["first", "second", "third"], prompts)


def adapted(folder: str, **settings: Any) -> Qwen3OmniBackbone:
    """With adapters that change something: fresh ones do not."""
    return lively(Qwen3OmniBackbone(folder, lora=LoraSpec(rank=4, alpha=8), **settings))


# -- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 16000), (7, 24000), (1, 47999), (3, 401), (2, 500_000)])
@pytest.mark.parametrize("which", SWITCHES)
def test_any_part_of_any_clip_gives_the_processors_prompt(
    policy: Qwen3OmniBackbone, shape: tuple[int, int], which: str
) -> None:
    clip = switched(make_clip(*shape, height=90, width=60), which)
    prompt, expected = policy.encode_prompt(QUESTIONS[1], clip), plain(policy.processor, QUESTIONS[1], clip)
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert prompt.media.keys() == expected.keys() - {"input_ids", "attention_mask", "video_second_per_grid"}
    assert all(torch.equal(value, expected[name]) for name, value in prompt.media.items())


def test_sound_is_counted_as_the_audio_tower_counts(policy: Qwen3OmniBackbone) -> None:
    frames = torch.arange(1, 1001)
    counted = policy.prompts.audio_tokens(frames)
    assert torch.equal(counted, _get_feat_extract_output_lengths(frames))
    assert [int(counted[n - 1]) for n in (1, 8, 9, 99, 100, 101, 800)] == [1, 1, 2, 13, 13, 14, 104]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(4, 16000), (8, 30000), (3, 40000), (1, 4000)])
def test_sound_and_picture_sorted_by_time_are_the_models_own(folder: str, shape: tuple[int, int]) -> None:
    mixed = Qwen3OmniBackbone(folder, use_audio_in_video=True).eval()
    prompt = mixed.encode_prompt("Why?", make_clip(*shape))
    expected = plain(mixed.processor, "Why?", make_clip(*shape), mixed=True)
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    theirs = mixed.model(**expected, use_audio_in_video=True).logits
    batch = mixed.collate(["a"], [prompt])
    assert_close(own(mixed, batch), theirs, atol=1e-5, rtol=1e-5)
    assert_close(batch.next_position, (len(prompt.input_ids) + mixed.model.model.rope_deltas)[:, 0])


def test_positions_of_pictures_are_fractions_and_text_goes_on_after_them(policy: Qwen3OmniBackbone) -> None:
    prompt = policy.encode_prompt("Why?", switched(make_clip(4, 11200), "video"))  # 4 frames in 0.7 s
    start = prompt.input_ids.tolist().index(policy.prompts.media_tokens["video"])
    times = prompt.position_ids[0, start : start + 8] - start
    assert_close(times, torch.tensor([0.0] * 4 + [0.35 * 13] * 4))
    height, width = (prompt.position_ids[axis, start : start + 8] - start for axis in (1, 2))
    assert height.tolist() == [0, 0, 1, 1] * 2
    assert width.tolist() == [0, 1] * 4
    assert float(prompt.position_ids[0, start + 8]) == pytest.approx(start + 0.35 * 13 + 1)


def test_prompts_need_no_weights_and_their_mistakes_are_named(policy: Qwen3OmniBackbone, folder: str) -> None:
    prompts = Qwen3OmniBackbone.prompt_encoder(pretrained=folder, lora=None, dtype="bfloat16")
    one, other = (maker.encode_prompt("Why?", make_clip()) for maker in (prompts, policy))
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.position_ids, other.position_ids)
    with pytest.raises(ValueError, match="holds a media token"):
        prompts.encode_prompt("What is <|VIDEO|>?", make_clip())
    with pytest.raises(ValueError, match="300 samples of audio are too few"):
        prompts.encode_prompt("Why?", make_clip(samples=300))
    with pytest.raises(ValueError, match="no exported model in 'tiny'"):
        Qwen3OmniBackbone("tiny")


# -- the same numbers as Hugging Face -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
def test_logits_of_any_part_of_a_clip_are_the_models_own(
    policy: Qwen3OmniBackbone, real: list[Clip], which: str
) -> None:
    parts = [switched(clip, which) for clip in real]
    prompts = [policy.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, parts, strict=True)]
    together = own(policy, policy.collate(["a", "b", "c"], prompts))  # padded on the left
    for row, (question, clip, prompt) in enumerate(zip(QUESTIONS, parts, prompts, strict=True)):
        theirs = policy.model(**plain(policy.processor, question, clip)).logits[0]
        assert_close(together[row, -len(prompt.input_ids) :], theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_further_features_of_pictures_reach_the_decoder(policy: Qwen3OmniBackbone, batch: PromptBatch) -> None:
    embeds = policy.embed(batch)
    assert embeds.shape[-1] == WIDTH * (1 + FURTHER)
    video = batch.input_ids == policy.prompts.media_tokens["video"]
    for layer in range(1, 1 + FURTHER):
        columns = slice(layer * WIDTH, (layer + 1) * WIDTH)
        assert embeds[..., columns].ne(0).any(-1).equal(video)
        blind = embeds.clone()
        blind[..., columns] = 0
        policy.embed = lambda _, blind=blind: blind  # type: ignore[method-assign]
        changed = own(policy, batch)
        del policy.embed
        assert (changed[:, -1] - own(policy, batch)[:, -1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["video", "audio"])
def test_sight_and_sound_both_reach_the_logits(policy: Qwen3OmniBackbone, real: list[Clip], kind: str) -> None:
    name = {"video": "frames", "audio": "audio"}[kind]
    clips = [real[0], dataclasses.replace(real[0], **{name: getattr(real[1], name)})]
    one, other = (own(policy, policy.collate(["a"], [policy.encode_prompt("?", clip)]))[0, -1] for clip in clips)
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
def test_split_undoes_collate_before_and_after_the_towers(policy: Qwen3OmniBackbone, which: str) -> None:
    clips = [switched(make_clip(4, 16000), which), switched(make_clip(3, 12000), which)]
    batch = policy.collate(["a", "b"], [policy.encode_prompt("Why?", clip) for clip in clips])
    expected = policy.embed(batch)
    for whole in (batch, policy.read_media(batch)):
        again = policy.collate(["a", "b"], policy.split(whole))
        assert torch.equal(policy.embed(again), expected)
        assert torch.equal(again.position_ids, batch.position_ids)


@torch.no_grad()
def test_experts_in_one_product_are_experts_one_by_one(
    policy: Qwen3OmniBackbone, folder: str, batch: PromptBatch
) -> None:
    eager = Qwen3OmniBackbone(folder).eval()
    eager.model.set_experts_implementation("eager")
    assert_close(own(policy, batch), own(eager, batch), atol=1e-5, rtol=1e-5)
    assert torch.equal(own(policy, batch), own(policy, batch))


# -- sampling and training agree ----------------------------------------------------------------------------------


@torch.no_grad()
@shared_or_not
def test_greedy_is_hugging_faces_generate_token_for_token(
    policy: Qwen3OmniBackbone, real: list[Clip], batch: PromptBatch, shared: bool
) -> None:
    drawn = rollout(policy, policy.embed(batch), batch, 1, Sampling(16, temperature=0.0), prefix_sharing=shared)
    for row, (question, clip) in enumerate(zip(QUESTIONS, real, strict=True)):
        given = plain(policy.processor, question, clip)
        generated = policy.model.generate(
            **given,
            do_sample=False,
            max_new_tokens=16,
            suppress_tokens=policy.unsayable_ids.tolist(),
            eos_token_id=policy.eos_token_id,
            pad_token_id=policy.pad_token_id,
        )[0, given["input_ids"].shape[1] :]
        assert drawn.token_ids[row][drawn.mask[row]].tolist() == generated.tolist()


@torch.no_grad()
@shared_or_not
def test_what_sampling_saw_is_what_training_sees(policy: Qwen3OmniBackbone, batch: PromptBatch, shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = rollout(policy, policy.embed(batch), batch, GROUP, Sampling(12), generator, prefix_sharing=shared)
    for packed in (True, False):
        assert_close(drawn.logp, logps(policy, batch, drawn, packed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_packed_log_probabilities_and_gradients_are_the_naive_ones(
    folder: str, batch: PromptBatch, lora: bool, checkpointing: bool
) -> None:
    """In float64, but for the norms, which transformers computes in float32 always."""
    settings: dict[str, Any] = {"dtype": "float64", "gradient_checkpointing": checkpointing}
    backbone = adapted(folder, **settings) if lora else Qwen3OmniBackbone(folder, **settings)
    assert backbone.decoder.config._experts_implementation == "eager"
    media = {name: value.double() if value.is_floating_point() else value for name, value in batch.media.items()}
    batch = dataclasses.replace(batch, media=media)
    drawn = draw(backbone.eval(), batch)
    assert len(drawn.mask.sum(1).unique()) > 3
    backbone.train(checkpointing)  # else nothing is recomputed
    weights = torch.randn(drawn.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, gradients = [], []
    for packed in (True, False):
        logp = logps(backbone, batch, drawn, packed)
        values.append(logp.detach())
        gradients.append(torch.autograd.grad((logp * weights).sum(), list(backbone.trainable())))
    assert_close(*values, atol=1e-5, rtol=0)
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.norm() > 0
        # softmax takes no notice of a bias of all keys, which the towers have: nothing is left of those gradients
        assert (ours - theirs).norm() < 1e-4 * theirs.norm() + 1e-12


def test_bfloat16_samples_and_learns(folder: str, batch: PromptBatch) -> None:
    backbone = adapted(folder, dtype="bfloat16")
    drawn = draw(backbone, batch)
    packed, naive = (logps(backbone, batch, drawn, each) for each in (True, False))
    assert (packed - naive).abs().mean() < 0.1
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(packed.sum(), list(backbone.trainable())))


# -- what trains --------------------------------------------------------------------------------------------------


def test_with_lora_only_the_attentions_adapters_train(folder: str) -> None:
    trained = [name for name, parameter in adapted(folder).named_parameters() if parameter.requires_grad]
    assert len(trained) == LAYERS * 4 * 2  # projections × (A, B)
    assert all("language_model.layers" in name and "self_attn" in name and "lora_" in name for name in trained)


@pytest.mark.parametrize(("freeze", "frozen"), [((), set()), (("vision", "audio"), {"visual", "audio_tower"})])
def test_without_it_everything_trains_but_frozen_parts_and_routers(
    folder: str, batch: PromptBatch, freeze: Any, frozen: set[str]
) -> None:
    backbone = Qwen3OmniBackbone(folder, freeze=freeze)
    own(backbone, batch).logsumexp(-1).mean().backward()
    still = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    routers = {name for name in still if name.endswith("mlp.gate.weight")}
    assert len(routers) == LAYERS
    assert {name.split(".")[2] for name in still - routers} == frozen
    # DDP stops at a parameter that trains and takes no part in the loss
    assert not [n for n, parameter in backbone.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert backbone.trains_media == (not freeze)


@torch.no_grad()
def test_the_reference_is_the_base_model_and_the_policy_comes_back(
    policy: Qwen3OmniBackbone, folder: str, batch: PromptBatch
) -> None:
    backbone = adapted(folder)
    before = own(backbone, batch)
    with backbone.reference() as reference:
        assert_close(own(reference, batch), own(policy, batch))
    assert torch.equal(own(backbone, batch), before)
    assert (before - own(policy, batch)).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_an_export_comes_back_equal_and_hugging_face_reads_it(
    policy: Qwen3OmniBackbone, folder: str, batch: PromptBatch, lora: bool, tmp_path: Path, real: list[Clip]
) -> None:
    backbone = adapted(folder) if lora else policy
    backbone.save(tmp_path)
    again = Qwen3OmniBackbone(str(tmp_path)).eval()
    assert not any("lora" in name for name, _ in again.named_parameters())
    assert_close(own(again, batch), own(backbone, batch), atol=1e-4, rtol=1e-4)
    assert torch.equal(again.unsayable_ids, backbone.unsayable_ids)
    theirs = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(tmp_path)
    logits = theirs(**plain(again.processor, QUESTIONS[0], real[0])).logits
    prompt = again.encode_prompt(QUESTIONS[0], real[0])
    assert_close(own(again, again.collate(["a"], [prompt])), logits, atol=1e-5, rtol=1e-5)


def test_the_thinker_of_a_whole_release_is_read(policy: Qwen3OmniBackbone, folder: str, tmp_path: Path) -> None:
    """As on the hub: the thinker's configuration and weights within those of thinker, talker and voice."""
    source = Path(folder)
    for file in source.iterdir():
        shutil.copy(file, tmp_path)
    thinker = json.loads((source / "config.json").read_text())
    Qwen3OmniMoeConfig(thinker_config=thinker).save_pretrained(tmp_path)
    weights = {f"thinker.{name}": value for name, value in load_file(source / "model.safetensors").items()}
    weights["talker.codec_head.weight"] = torch.ones(2, 2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = Qwen3OmniBackbone(str(tmp_path)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in policy.state_dict().items())
    assert Qwen3OmniBackbone.prompt_encoder(pretrained=str(tmp_path)).config.position_id_per_seconds == 13


def test_fsdp2_gathers_layers_with_their_adapters_apart_and_frozen_towers_whole(folder: str) -> None:
    backbone = adapted(folder)
    towers, decoder = backbone.units()[:2], backbone.units()[2:]
    assert towers == backbone.towers
    assert decoder[1::2] == list(backbone.decoder.layers)
    assert [len(adapters) for adapters in decoder[::2]] == [4 * 2] * LAYERS  # type: ignore[arg-type]


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4)])
def test_doctor_counts_its_parameters(folder: str, lora: LoraSpec | None) -> None:
    backbone = Qwen3OmniBackbone(folder, lora, ("audio",))
    sizes = sizes_of(folder, lora, ("audio",))
    assert sizes.parameters == sum(one.numel() for one in backbone.parameters())
    assert sizes.trained == sum(one.numel() for one in backbone.trainable())
    assert (sizes.ffn, sizes.audio.trains, sizes.vision.trains) == (2 * 32, False, lora is None)
    assert sizes.layer - sizes.layer_active == (6 - 2) * 3 * WIDTH * 32


def test_four_bits_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"experts are no linear layers.*trainer/fsdp\.yaml"):
        Qwen3OmniBackbone("anything", lora=LoraSpec(), quantize="4bit")

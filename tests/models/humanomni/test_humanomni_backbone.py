"""HumanOmni behind our protocol is the model itself: prompts, logits, sampling, training, files, stages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_claims import GROUP, draw, lively, logps
from cli_fixtures import Checkout, losses, read_jsonl
from humanomni_miniature import FRAMES, write
from torch import Tensor
from torch.testing import assert_close
from transformers.quantizers.quantizers_utils import should_convert_module

from erv_lightning.answering import answers, read_policy
from erv_lightning.data.media import Clip, MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.readers.found import found_clips
from erv_lightning.models import HumanOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch
from erv_lightning.models.choosing import backbone_class
from erv_lightning.models.humanomni import HumanOmniForConditionalGeneration
from erv_lightning.rl.logprobs import attention_mask
from erv_lightning.rl.rollout import Sampling, rollout

pytest_plugins = ("cli_fixtures",)

SWITCHES = {"both": (True, True), "video": (True, False), "audio": (False, True), "text": (False, False)}
QUESTIONS = ["Why do you think so?", "Which emotion is the most obvious to you in this clip, and why?", "What?"]
TOWERS = {"vision_tower", "audio_tower"}

shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "copied"])


def switched(clip: Clip, which: str) -> Clip:
    video, audio = SWITCHES[which]
    return dataclasses.replace(clip, frames=clip.frames if video else None, audio=clip.audio if audio else None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("humanomni")))


@pytest.fixture(scope="module")
def policy(folder: str) -> HumanOmniBackbone:
    """For tests that do not change it."""
    return HumanOmniBackbone(folder).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def real(clips: SyntheticClips) -> list[Clip]:
    """Three mp4 files, decoded."""
    settings = MediaSettings(num_frames=FRAMES, frame_size=(40, 30))
    return [load_clip(sample.clip, settings) for sample in clips.samples("val")[:3]]


@pytest.fixture(scope="module")
def batch(policy: HumanOmniBackbone, real: list[Clip]) -> PromptBatch:
    """Three prompts of different length, so that two are padded."""
    prompts = [policy.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, real, strict=True)]
    assert len({len(prompt.input_ids) for prompt in prompts}) == 3
    return policy.collate(["first", "second", "third"], prompts)


def plain(backbone: HumanOmniBackbone, question: str, clip: Clip) -> dict[str, Tensor]:
    """The processor's own call."""
    media: dict[str, Any] = {}
    if clip.frames is not None:
        media["videos"] = [clip.frames]
    if clip.audio is not None:
        media |= {"audio": [clip.audio.numpy()], "sampling_rate": clip.sample_rate}
    given = dict(backbone.processor(text=question, **media))
    if clip.frames is None:  # the gate has nothing to mix
        given = {name: value for name, value in given.items() if not name.startswith("question_")}
    return given


def own(backbone: HumanOmniBackbone, batch: PromptBatch) -> Tensor:
    states = backbone.hidden(backbone.embed(batch), batch.position_ids, attention_mask(batch.attention_mask))
    return backbone.logits(states)


def adapted(folder: str, **settings: Any) -> HumanOmniBackbone:
    """With adapters that change something: fresh ones do not."""
    return lively(HumanOmniBackbone(folder, lora=LoraSpec(rank=4, alpha=8), **settings))


# -- the same numbers as the model's own ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
def test_logits_of_any_part_of_a_clip_are_the_models_own(
    policy: HumanOmniBackbone, real: list[Clip], which: str
) -> None:
    parts = [switched(clip, which) for clip in real]
    prompts = [policy.encode_prompt(question, clip) for question, clip in zip(QUESTIONS, parts, strict=True)]
    together = own(policy, policy.collate(["a", "b", "c"], prompts))  # padded on the left
    for row, (question, clip, prompt) in enumerate(zip(QUESTIONS, parts, prompts, strict=True)):
        given = plain(policy, question, clip)
        assert prompt.input_ids.tolist() == given["input_ids"][0].tolist()
        assert_close(together[row, -len(prompt.input_ids) :], policy.model(**given).logits[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["video", "audio", "question"])
def test_sight_sound_and_the_question_reach_the_features(
    policy: HumanOmniBackbone, real: list[Clip], kind: str
) -> None:
    other = {"video": {"frames": real[1].frames}, "audio": {"audio": real[1].audio}, "question": {}}[kind]
    asked = QUESTIONS[1] if kind == "question" else QUESTIONS[0]
    prompts = [
        policy.encode_prompt(question, clip)
        for question, clip in ((QUESTIONS[0], real[0]), (asked, dataclasses.replace(real[0], **other)))
    ]
    one, two = (policy.read_media(policy.collate(["a"], [prompt])).features for prompt in prompts)
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {{"question": "video"}.get(kind, kind)}  # the gate mixes pictures alone


@torch.no_grad()
@pytest.mark.parametrize("which", SWITCHES)
def test_split_undoes_collate_before_and_after_the_towers(
    policy: HumanOmniBackbone, real: list[Clip], which: str
) -> None:
    clips = [switched(clip, which) for clip in real[:2]]
    batch = policy.collate(["a", "b"], [policy.encode_prompt(*one) for one in zip(QUESTIONS, clips, strict=False)])
    expected = policy.embed(batch)
    for whole in (batch, policy.read_media(batch)):
        again = policy.collate(["a", "b"], policy.split(whole))
        assert_close(policy.embed(again), expected)
        assert torch.equal(again.position_ids, batch.position_ids)
    alone = policy.collate(["b"], policy.split(batch)[1:])
    assert_close(own(policy, alone)[0, -1], own(policy, batch)[1, -1], atol=1e-5, rtol=1e-5)


def test_prompts_need_no_weights_and_their_mistakes_are_named(
    policy: HumanOmniBackbone, folder: str, real: list[Clip]
) -> None:
    prompts = HumanOmniBackbone.prompt_encoder(pretrained=folder, lora=None)
    one, other = (maker.encode_prompt("Why?", real[0]) for maker in (prompts, policy))
    assert torch.equal(one.input_ids, other.input_ids)
    assert policy.max_audio_seconds == 2
    with pytest.raises(ValueError, match=r"holds <\|video_pad\|>"):
        prompts.encode_prompt("What is <|video_pad|>?", real[0])
    with pytest.raises(ValueError, match="no exported model in 'nowhere'"):
        HumanOmniBackbone("nowhere")
    batch = policy.collate(["cut"], [one])
    cut = dataclasses.replace(batch, input_ids=batch.input_ids[:, 40:])
    with pytest.raises(ValueError, match=r"sample 'cut': \d+ (video|audio) tokens in the prompt"):
        policy.read_media(cut)
    with pytest.raises(ValueError, match="freeze knows vision, audio, projectors, language, not 'visual'"):
        HumanOmniBackbone(folder, freeze=["visual"])  # type: ignore[list-item]


# -- sampling and training agree ----------------------------------------------------------------------------------


@torch.no_grad()
@shared_or_not
def test_greedy_is_generate_token_for_token(
    policy: HumanOmniBackbone, real: list[Clip], batch: PromptBatch, shared: bool
) -> None:
    drawn = rollout(policy, policy.embed(batch), batch, 1, Sampling(16, temperature=0.0), prefix_sharing=shared)
    for row, (question, clip) in enumerate(zip(QUESTIONS, real, strict=True)):
        given = plain(policy, question, clip)
        vocabulary = policy.model.config.text_config.vocab_size
        generated = policy.model.generate(
            **given,
            do_sample=False,
            max_new_tokens=16,
            suppress_tokens=[token for token in policy.unsayable_ids.tolist() if token < vocabulary],
            eos_token_id=policy.eos_token_id,
            pad_token_id=policy.pad_token_id,
        )[0, given["input_ids"].shape[1] :]
        assert drawn.token_ids[row][drawn.mask[row]].tolist() == generated.tolist()


@torch.no_grad()
@shared_or_not
def test_what_sampling_saw_is_what_training_sees(policy: HumanOmniBackbone, batch: PromptBatch, shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = rollout(policy, policy.embed(batch), batch, GROUP, Sampling(12), generator, prefix_sharing=shared)
    for packed in (True, False):
        assert_close(drawn.logp, logps(policy, batch, drawn, packed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_packed_log_probabilities_and_gradients_are_the_naive_ones(
    folder: str, batch: PromptBatch, lora: bool, checkpointing: bool
) -> None:
    settings: dict[str, Any] = {"dtype": "float64", "gradient_checkpointing": checkpointing}
    backbone = adapted(folder, **settings) if lora else HumanOmniBackbone(folder, **settings)
    drawn = draw(backbone.eval(), batch)
    backbone.train()  # BERT's dropout would make two passes differ
    assert len(drawn.mask.sum(1).unique()) > 3
    weights = torch.randn(drawn.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, gradients = [], []
    for packed in (True, False):
        logp = logps(backbone, batch, drawn, packed)
        values.append(logp.detach())
        gradients.append(torch.autograd.grad((logp * weights).sum(), list(backbone.trainable())))
    assert_close(*values, atol=1e-5, rtol=0)
    for ours, theirs in zip(*gradients, strict=True):
        # the biases of keys have none: they add the same to all scores of a query
        assert (ours - theirs).norm() < 1e-4 * theirs.norm() + 1e-12
    assert sum(float(gradient.norm()) > 1e-9 for gradient in gradients[0]) > 0.8 * len(gradients[0])


def test_bfloat16_samples_and_learns(folder: str, batch: PromptBatch) -> None:
    backbone = adapted(folder, dtype="bfloat16")
    drawn = draw(backbone, batch)
    packed, naive = (logps(backbone, batch, drawn, each) for each in (True, False))
    assert (packed - naive).abs().mean() < 0.1
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(packed.sum(), list(backbone.trainable())))


# -- what trains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "frozen", "media"),
    [
        ((), set(), True),
        (("audio",), {"audio_tower"}, True),
        (("vision", "audio", "projectors"), {*TOWERS, "visual_projector", "audio_projector"}, False),
    ],
)  # fmt: skip
def test_everything_trains_but_frozen_parts_and_the_reader_of_the_question(
    folder: str, batch: PromptBatch, freeze: Any, frozen: set[str], media: bool
) -> None:
    backbone = HumanOmniBackbone(folder, freeze=freeze)
    own(backbone, batch).logsumexp(-1).mean().backward()
    unread = {id(parameter) for parameter in backbone.model.model.unused_parameters()}
    still = [
        name
        for name, parameter in backbone.named_parameters()
        if not parameter.requires_grad and id(parameter) not in unread
    ]
    assert {name.split(".")[2] for name in still} == frozen | {"question_encoder"}
    # DDP stops at a parameter that trains and takes no part in the loss
    assert not [n for n, parameter in backbone.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert backbone.trains_media == media


def test_with_lora_only_adapters_of_the_decoder_train(folder: str) -> None:
    trained = [name for name, parameter in adapted(folder).named_parameters() if parameter.requires_grad]
    assert len(trained) == 3 * 7 * 2  # layers × projections × (A, B)
    assert all("language_model.layers" in name and "lora_" in name for name in trained)


@torch.no_grad()
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_an_export_comes_back_equal_and_the_auto_class_reads_it(
    policy: HumanOmniBackbone, folder: str, batch: PromptBatch, lora: bool, tmp_path: Path
) -> None:
    backbone = adapted(folder) if lora else policy
    if lora:
        with backbone.reference() as reference:
            assert_close(own(reference, batch), own(policy, batch))
        assert (own(backbone, batch) - own(policy, batch)).abs().max() > 0.01
    backbone.save(tmp_path)
    again = HumanOmniBackbone(str(tmp_path)).eval()
    assert_close(own(again, batch), own(backbone, batch), atol=1e-4, rtol=1e-4)
    assert torch.equal(again.unsayable_ids, backbone.unsayable_ids)
    assert backbone_class(str(tmp_path)) is HumanOmniBackbone
    assert isinstance(again.model, HumanOmniForConditionalGeneration)


def test_four_bits_would_leave_everything_but_the_decoder_alone(
    policy: HumanOmniBackbone, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def options(quantize: Any, lora: bool, pretrained: str, kept: Any) -> dict[str, Any]:
        asked.append(kept)
        return {}

    monkeypatch.setattr("erv_lightning.models.humanomni.backbone.reading_options", options)
    HumanOmniBackbone(folder, lora=LoraSpec(), quantize="4bit")
    spared = [
        name
        for name, module in policy.model.named_modules()
        if isinstance(module, torch.nn.Linear) and not should_convert_module(name, list(asked[0]))
    ]
    assert not [name for name in spared if ".language_model." in name]
    left = [name for name, module in policy.model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(spared) == sorted(name for name in left if ".language_model." not in name)


# -- the three stages ---------------------------------------------------------------------------------------------

STAGE = """\
model:
  init_args:
    backbone:
      class_path: erv_lightning.models.HumanOmniBackbone
      init_args: {{pretrained: {pretrained}, freeze: {freeze}}}
data:
  num_frames: {frames}
  num_workers: 0
trainer: {{max_steps: 2, val_check_interval: 2}}
"""
# An untrained policy earns nothing that teaches: every completion its share of vowels instead.
VOWELS = """\
def vowels(completions):
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions.texts]
"""
REWARDS = "{vowels: 1.0, format: 1.0, explanation: 1.0}"
REWARD = ("--model.init_args.rewards", REWARDS, "--model.init_args.reward_functions")


def test_sft_and_grpo_train_validate_and_export_it(trained: Checkout, folder: str, clips: SyntheticClips) -> None:
    def overlay(name: str, pretrained: str, freeze: str) -> str:
        path = trained.folder / "tiny" / f"{name}.yaml"
        path.write_text(STAGE.format(pretrained=pretrained, freeze=freeze, frames=FRAMES))
        return f"tiny/{name}.yaml"

    shipped = ("-c", "configs/model/humanomni_0.5b.yaml", "-c", "tiny/data/few.yaml", "-c", "tiny/trainer/short.yaml")
    tiny = (*shipped, "--name", "humanomni", "--accumulate", "1")
    words = ("-c", overlay("sft_humanomni", folder, "[audio]"))
    sft = trained.run("fit", "-c", "configs/sft.yaml", *tiny, *words)
    assert sft.status == 0, sft.err
    exported = "runs/sft/humanomni/export"
    words = ("-c", overlay("grpo_humanomni", exported, "[vision, audio, projectors]"))
    (trained.folder / "tiny" / "vowels.py").write_text(VOWELS)
    words += (*REWARD, f"{{vowels: {trained.folder}/tiny/vowels.py:vowels}}", "--from_verifier", "default")
    grpo = trained.run("fit", "-c", "configs/grpo.yaml", *tiny, *words)
    assert grpo.status == 0, grpo.err
    run = trained.folder / "runs" / "grpo" / "humanomni"
    assert len(losses(run)) == 2
    assert {row["step"] for row in read_jsonl(run / "rollouts.jsonl")} == {0, 1}
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert json.loads((run / "export" / "config.json").read_text())["model_type"] == "humanomni"
    before, after = (HumanOmniBackbone(str(trained.folder / path)) for path in (exported, run / "export"))
    moved = {
        name.split(".")[2]
        for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert moved == {"language_model"}

    chosen = read_policy(str(run / "export"), "cpu", {"max_new_tokens": 8})
    (said,) = answers(chosen, found_clips([Path(clips.samples("test")[0].clip)]))
    assert len(said.rows) == 1

"""Short cuts that change no number: a shared prefix, chunks of the vocabulary, checkpoints, micro-batches.

The oracle is the naive path, one padded row per completion; `test_logprobs.py` shows that it is Hugging Face's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniRMSNorm

from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import LoraSpec, PromptBatch, PromptFeatures
from erv_lightning.rl.decoding import RepeatedPromptDecoder, SharedPrefixDecoder
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.objectives import KL_ESTIMATORS, LOSS_TYPES, policy_loss
from erv_lightning.rl.rollout import Rollout, Sampling, rollout

GROUP, WIDTH = 4, 9
# Question, frames and samples of audio of each prompt, and the lengths of its completions.
PROMPTS = [
    ("Which emotion?", 4, 16000, [9, 1, 4, 6]),
    ("Which emotion is the most obvious to you in this clip, and why?", 2, 12000, [7, 2, 1, 9]),
    ("What?", 4, 7000, [3, 3, 8, 5]),
    ("Why do you think so?", 4, 16000, [1, 1, 2, 6]),
]
LENGTHS = torch.tensor([length for *_, group in PROMPTS for length in group])

# float64 all through: what is left is the order of sums, and where transformers rounds to float32 on the way
# (the picture tower's rotation) a last bit that falls the other way.
LOGP, GRADIENT = 1e-12, 1e-8

lora_or_not = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
packed_or_not = pytest.mark.parametrize("packed", [False, True], ids=["naive", "packed"])


# -- models -------------------------------------------------------------------------------------------------------


def wide_norm(norm: Qwen2_5OmniRMSNorm, hidden: Tensor) -> Tensor:
    scaled: Tensor = norm.weight * hidden * (hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return scaled


def in_float64(backbone: QwenOmniBackbone) -> QwenOmniBackbone:
    """The same model in float64, its norms too: transformers computes those in float32, whatever the weights are."""
    for module in backbone.double().modules():
        if isinstance(module, Qwen2_5OmniRMSNorm):
            module.forward = partial(wide_norm, module)
    return backbone


def policy(lora: bool = False, **settings: Any) -> QwenOmniBackbone:
    """The small policy in float64; adapters are given values, as fresh ones change nothing."""
    backbone = QwenOmniBackbone("tiny", lora=LoraSpec(4, 8) if lora else None, **settings)
    if lora:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in backbone.trainable():
                parameter.normal_(std=0.1, generator=generator)
    return in_float64(backbone).eval()


# -- prompts and completions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(backbone: QwenOmniBackbone, clips: SyntheticClips) -> list[PromptFeatures]:
    """Four clips and questions in three lengths: the parts of a row that are of one length go together."""
    prompts = []
    for sample, (question, frames, heard, _) in zip(clips.samples("val"), PROMPTS, strict=False):
        clip = load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56)))
        cut = dataclasses.replace(clip, frames=clip.frames[:frames], audio=clip.audio[:heard])
        prompts.append(backbone.encode_prompt(question, cut))
    assert len({len(prompt.input_ids) for prompt in prompts}) == 3
    return prompts


@dataclasses.dataclass
class Completed:
    """Prompts, their completions and what a trainer has beside them."""

    batch: PromptBatch
    token_ids: Tensor  # (N, C)
    mask: Tensor
    advantages: Tensor  # (N,)
    noise: Tensor  # (2, N, C), how far the old and the reference log-probabilities are off


@pytest.fixture
def whole(backbone: QwenOmniBackbone, encoded: list[PromptFeatures]) -> Completed:
    """All prompts, G completions each, of tokens that may be said."""
    generator = torch.Generator().manual_seed(0)
    batch = backbone.collate([f"clip {number}" for number in range(len(encoded))], encoded)
    batch.media = {name: value.double() if value.is_floating_point() else value for name, value in batch.media.items()}
    sayable = torch.tensor(backbone.tokenize("In the video a bright smile, and a warm voice in the audio."))
    shape = (len(LENGTHS), WIDTH)
    return Completed(
        batch,
        sayable[torch.randint(len(sayable), shape, generator=generator)],
        torch.arange(WIDTH) < LENGTHS[:, None],
        torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64),
        0.3 * torch.randn(2, *shape, generator=generator, dtype=torch.float64),
    )


def logps(backbone: QwenOmniBackbone, data: Completed, packed: bool, temperature: float = 0.8) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, the media towers included."""
    return completion_logps(
        backbone,
        backbone.embed(data.batch),
        data.batch,
        data.token_ids,
        data.mask,
        temperature=temperature,
        unsayable_ids=backbone.unsayable_ids,
        entropy=True,
        prefix_sharing=packed,
    )


def off_policy(backbone: QwenOmniBackbone, data: Completed) -> dict[str, Tensor]:
    """Old and reference log-probabilities that are some way off, so that some ratios are clipped."""
    with torch.no_grad():
        now, _ = logps(backbone, data, packed=False)
    return {"old_logp": now + data.noise[0], "ref_logp": now + data.noise[1]}


# -- gradients ----------------------------------------------------------------------------------------------------

Gradients = dict[str, Tensor]


def gradients(backbone: QwenOmniBackbone, loss: Tensor) -> Gradients:
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def furthest(found: Gradients, expected: Gradients) -> float:
    """The largest |difference| / |expected| of any parameter; every parameter must have a gradient."""
    assert found.keys() == expected.keys()
    assert all(gradient.norm() > 0 for gradient in expected.values())
    return max(float((found[name] - theirs).norm() / theirs.norm()) for name, theirs in expected.items())


def some_loss(logp: Tensor, data: Completed) -> Tensor:
    """A loss that weighs every token otherwise."""
    return (logp * data.noise[0]).sum()


# -- a shared prefix ----------------------------------------------------------------------------------------------


@torch.no_grad()
@lora_or_not
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_log_probabilities_and_entropies_are_the_naive_ones(
    whole: Completed, lora: bool, temperature: float
) -> None:
    backbone = policy(lora)
    packed, naive = (logps(backbone, whole, each, temperature) for each in (True, False))
    for ours, theirs in zip(packed, naive, strict=True):
        assert ours.dtype == torch.float64
        assert (ours[whole.mask] != 0).all()
        assert not ours[~whole.mask].any()
        assert_close(ours, theirs, atol=LOGP, rtol=0)


@lora_or_not
@pytest.mark.parametrize(
    ("loss_type", "kl"), [*((name, "k3") for name in LOSS_TYPES), *(("grpo", name) for name in KL_ESTIMATORS[:2])]
)
def test_every_parameters_gradient_is_the_naive_one(whole: Completed, lora: bool, loss_type: str, kl: str) -> None:
    backbone = policy(lora)
    others = off_policy(backbone, whole)
    losses, found = [], []
    for packed in (True, False):
        logp, _ = logps(backbone, whole, packed)
        loss, stats = policy_loss(
            logp, advantages=whole.advantages, mask=whole.mask, loss_type=loss_type, beta=0.04, kl=kl, **others
        )
        losses.append(loss.item())
        found.append(gradients(backbone, loss))
        assert loss_type == "gspo" or 0 < stats["clip_ratio/region_mean"] < 1
    assert losses[0] == pytest.approx(losses[1], abs=LOGP)
    towers = {name.split(".")[2] for name in found[0]}
    assert towers == ({"language_model"} if lora else {"visual", "audio_tower", "language_model"})
    assert furthest(*found) < GRADIENT


@pytest.mark.parametrize("group", [1, 2, 3])
def test_groups_of_any_size_share_their_prompt(whole: Completed, group: int) -> None:
    backbone = policy()
    rows = [GROUP * prompt + which for prompt in range(len(PROMPTS)) for which in range(group)]
    part = Completed(whole.batch, whole.token_ids[rows], whole.mask[rows], whole.advantages[rows], whole.noise[:, rows])
    (packed, _), (naive, _) = (logps(backbone, part, each) for each in (True, False))
    assert_close(packed, naive, atol=LOGP, rtol=0)
    found = [gradients(backbone, some_loss(logp, part)) for logp in (packed, naive)]
    assert furthest(*found) < GRADIENT


@torch.no_grad()
def test_completions_do_not_see_each_other(whole: Completed) -> None:
    backbone = policy()
    before, _ = logps(backbone, whole, packed=True)
    last = GROUP * len(PROMPTS) - GROUP + 3  # six tokens
    for row in (0, last):
        changed = dataclasses.replace(whole, token_ids=whole.token_ids.clone())
        changed.token_ids[row] = changed.token_ids[row].flip(0)
        after, _ = logps(backbone, changed, packed=True)
        others = torch.arange(len(before)) != row
        assert torch.equal(after[others], before[others])
        assert not torch.equal(after[row], before[row])


@torch.no_grad()
def test_the_reference_is_read_in_a_packed_row_too(whole: Completed) -> None:
    backbone = policy(lora=True)
    own, _ = logps(backbone, whole, packed=True)
    with backbone.reference() as reference:
        (packed, _), (naive, _) = (logps(reference, whole, each) for each in (True, False))
    assert_close(packed, naive, atol=LOGP, rtol=0)
    assert_close(packed, logps(policy(), whole, packed=False)[0], atol=LOGP, rtol=0)
    assert (packed - own).abs().max() > 0.1


def test_in_bfloat16_the_paths_are_as_near_as_the_type_allows(whole: Completed) -> None:
    backbone = QwenOmniBackbone("tiny", dtype="bfloat16")
    found = []
    for packed in (True, False):
        logp, _ = logps(backbone, whole, packed)
        assert logp.dtype == torch.float32
        assert all(gradient.isfinite().all() for gradient in gradients(backbone, some_loss(logp, whole)).values())
        found.append(logp.detach()[whole.mask])
    assert (found[0] - found[1]).abs().mean() < 0.05
    exact = logps(policy(), whole, packed=False)[0].detach()[whole.mask]
    for logp in found:
        assert (logp - exact).abs().mean() < 0.05


@packed_or_not
def test_mixed_precision_trains_on_either_path(whole: Completed, packed: bool) -> None:
    backbone = QwenOmniBackbone("tiny")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = rollout(backbone, backbone.embed(whole.batch), whole.batch, GROUP, Sampling(6), prefix_sharing=packed)
        logp, _ = logps(backbone, dataclasses.replace(whole, token_ids=drawn.token_ids, mask=drawn.mask), packed, 1.0)
    assert (logp.detach() - drawn.logp).abs().mean() < 0.05
    assert all(gradient.isfinite().all() for gradient in gradients(backbone, logp.sum()).values())


# -- memory saved -------------------------------------------------------------------------------------------------


@lora_or_not
@packed_or_not
def test_checkpoints_and_chunks_of_the_vocabulary_change_no_number(
    whole: Completed, lora: bool, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, saving = policy(lora), policy(lora, gradient_checkpointing=True).train()
    heads: list[int] = []
    saving.model.lm_head.register_forward_hook(lambda module, args, scores: heads.append(len(scores)))
    logp, entropy = logps(plain, whole, packed)
    expected = gradients(plain, some_loss(logp, whole))
    monkeypatch.setattr("erv_lightning.rl.logprobs.CHUNK_SCORES", 10 * plain.model.lm_head.weight.shape[0])
    chunked, spread = logps(saving, whole, packed)
    tokens = int(whole.mask.sum())
    chunks = [10] * (tokens // 10) + [tokens % 10]
    assert heads == chunks
    assert len(chunks) > 2
    found = gradients(saving, some_loss(chunked, whole))
    assert sorted(heads) == sorted(2 * chunks)  # each was worked out again
    assert_close(chunked, logp, atol=LOGP, rtol=0)
    assert_close(spread, entropy, atol=LOGP, rtol=0)
    assert furthest(found, expected) < GRADIENT


# -- micro-batches ------------------------------------------------------------------------------------------------


def micro_batch(backbone: QwenOmniBackbone, encoded: list[PromptFeatures], whole: Completed, at: slice) -> Completed:
    """Some of the prompts, padded anew: their rows are no longer than they need to be."""
    batch = backbone.collate([f"clip {number}" for number in range(len(PROMPTS))[at]], encoded[at])
    batch.media = {name: value.double() if value.is_floating_point() else value for name, value in batch.media.items()}
    rows = slice(at.start * GROUP, at.stop * GROUP)
    longest = int(whole.mask[rows].sum(1).max())
    return Completed(
        batch,
        whole.token_ids[rows, :longest],
        whole.mask[rows, :longest],
        whole.advantages[rows],
        whole.noise[:, rows, :longest],
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(
    whole: Completed, encoded: list[PromptFeatures], loss_type: str, size: int
) -> None:
    backbone = policy()
    settings: dict[str, Any] = {"loss_type": loss_type, "beta": 0.04}
    logp, _ = logps(backbone, whole, packed=True)
    others = off_policy(backbone, whole)
    loss, _ = policy_loss(logp, advantages=whole.advantages, mask=whole.mask, **others, **settings)
    counts = {"num_completions": len(whole.mask), "num_tokens": whole.mask.sum(), "width": WIDTH}
    total, added = 0.0, {}
    for start in range(0, len(PROMPTS), size):
        part = micro_batch(backbone, encoded, whole, slice(start, start + size))
        rows, columns = slice(start * GROUP, (start + size) * GROUP), slice(part.mask.shape[1])
        piece, _ = policy_loss(
            logps(backbone, part, packed=True)[0],
            advantages=part.advantages,
            mask=part.mask,
            **{name: value[rows, columns] for name, value in others.items()},
            **counts,
            **settings,
        )
        total += piece.item()
        for name, gradient in gradients(backbone, piece).items():
            added[name] = added.get(name, 0.0) + gradient
    assert total == pytest.approx(loss.item(), abs=1e-10)
    assert furthest(added, gradients(backbone, loss)) < GRADIENT


# -- sampling and training agree ----------------------------------------------------------------------------------


@contextmanager
def ending(backbone: QwenOmniBackbone, by: float) -> Iterator[None]:
    """Raises the logit of the end-of-response token."""
    bias = torch.zeros(backbone.model.config.text_config.vocab_size)
    bias[backbone.eos_token_id] = by
    hook = backbone.model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias.to(logits))
    yield
    hook.remove()


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many prompts and rows went on, each time that some left."""
    moves: list[tuple[int, int]] = []
    for decoder in (SharedPrefixDecoder, RepeatedPromptDecoder):

        def noted(self: Any, prompts: Tensor, rows: Tensor, keep: Any = decoder.keep) -> None:
            moves.append((len(prompts), len(rows)))
            keep(self, prompts, rows)

        monkeypatch.setattr(decoder, "keep", noted)
    return moves


def draw(backbone: QwenOmniBackbone, batch: PromptBatch, shared: bool, **sampling: Any) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    embeds = backbone.embed(batch)
    return rollout(backbone, embeds, batch, GROUP, Sampling(**sampling), generator, prefix_sharing=shared)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shared", [False, True])
def test_what_sampling_saw_is_what_training_sees_although_rows_left(
    backbone: QwenOmniBackbone, whole: Completed, temperature: float, shared: bool, left: list[tuple[int, int]]
) -> None:
    with ending(backbone, 5.0 * temperature):
        drawn = draw(backbone, whole.batch, shared, temperature=temperature, max_new_tokens=24)
        data = dataclasses.replace(whole, token_ids=drawn.token_ids, mask=drawn.mask)
        for packed in (True, False):
            logp, _ = logps(backbone, data, packed, temperature)
            assert_close(drawn.logp, logp, atol=1e-5, rtol=0)
    assert len(drawn.mask.sum(1).unique()) > 4  # they ended at different times
    assert len(left) > 2
    assert left[-1][0] < len(PROMPTS)  # whole prompts left, and rows within prompts
    assert any(rows < GROUP * prompts for prompts, rows in left)


@torch.no_grad()
def test_a_completion_is_the_same_whoever_left_and_however_its_prompt_is_kept(
    whole: Completed, left: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = policy()
    drawn = []
    with ending(backbone, 5.0):
        for shared, below in ((True, 0.85), (True, 0.0), (False, 0.85), (False, 0.0)):
            monkeypatch.setattr("erv_lightning.rl.rollout._MOVE_BELOW", {"cpu": below})
            drawn.append(draw(backbone, whole.batch, shared, max_new_tokens=24))
    assert left[: len(left) // 2] == left[len(left) // 2 :] != []  # of the first and the third
    for other in drawn[1:]:
        assert torch.equal(other.token_ids, drawn[0].token_ids)
        assert_close(other.logp, drawn[0].logp, atol=LOGP, rtol=0)


@torch.no_grad()
def test_greedy_says_the_same_with_and_without_a_shared_prefix(
    backbone: QwenOmniBackbone, whole: Completed, left: list[tuple[int, int]]
) -> None:
    with ending(backbone, 1.5):
        shared, copied = (
            draw(backbone, whole.batch, each, temperature=0.0, max_new_tokens=16) for each in (True, False)
        )
    assert torch.equal(shared.token_ids, copied.token_ids)
    assert_close(shared.logp, copied.logp, atol=1e-5, rtol=0)
    assert len(shared.mask.sum(1).unique()) == len(PROMPTS)
    assert left == [(3, 12), (2, 8), (1, 4)] * 2  # one prompt after the other was done

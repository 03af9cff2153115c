from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Rollout, Sampling, _invert, _nucleus, keyed_uniforms, rollout

QUESTIONS = ["Which emotion is the most obvious?", "What?", "Which emotion, and why do you think so?"]


@pytest.fixture(scope="module")
def policy(taught: Any) -> QwenOmniBackbone:
    """Writes whole responses and ends them."""
    return QwenOmniBackbone(str(taught.folder)).requires_grad_(False).eval()


@contextmanager
def favoured(backbone: QwenOmniBackbone, ids: Tensor | list[int], by: float) -> Iterator[None]:
    """Raises the logits of some tokens."""
    bias = torch.zeros(backbone.model.config.text_config.vocab_size)
    bias[ids] = by
    hook = backbone.model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    yield
    hook.remove()


def draw(backbone: QwenOmniBackbone, batch: PromptBatch, group: int, seed: int = 0, **sampling: Any) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    return rollout(backbone, backbone.embed(batch), batch, group, Sampling(**sampling), generator)


def logps(backbone: QwenOmniBackbone, batch: PromptBatch, drawn: Rollout, temperature: float) -> Tensor:
    logp, _ = completion_logps(
        backbone,
        backbone.embed(batch),
        batch,
        drawn.token_ids,
        drawn.mask,
        temperature=temperature,
        unsayable_ids=backbone.unsayable_ids,
    )
    return logp


# -- against Hugging Face -----------------------------------------------------------------------------------------


def test_greedy_is_hugging_faces_generate_token_for_token(policy: QwenOmniBackbone, clips: SyntheticClips) -> None:
    ended = 0
    for sample, question in zip(clips.samples("val"), QUESTIONS, strict=False):
        clip = load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56)))
        batch = policy.collate([sample.id], [policy.encode_prompt(question, clip)])
        drawn = draw(policy, batch, 1, temperature=0.0, max_new_tokens=70)
        generated = policy.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            video_second_per_grid=torch.tensor([2 / clip.fps]),
            **batch.media,
            do_sample=False,
            max_new_tokens=70,
            suppress_tokens=policy.unsayable_ids.tolist(),
            eos_token_id=policy.eos_token_id,
            pad_token_id=policy.pad_token_id,
        )[:, batch.input_ids.shape[1] :]
        assert drawn.token_ids.tolist() == generated.tolist()
        ended += int(generated[0, -1] == policy.eos_token_id)
    assert ended  # the whole response was compared, its end included


# -- log-probabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_sampled_log_probabilities_are_those_of_a_forward_over_the_whole(
    policy: QwenOmniBackbone, prompts: PromptBatch, temperature: float
) -> None:
    drawn = draw(policy, prompts, 3, temperature=temperature, max_new_tokens=40)
    assert drawn.logp.dtype == torch.float32
    assert_close(drawn.logp, logps(policy, prompts, drawn, temperature), atol=1e-5, rtol=1e-5)


def test_a_nucleus_narrows_the_choice_and_not_the_reported_probability(
    policy: QwenOmniBackbone, prompts: PromptBatch
) -> None:
    drawn = draw(policy, prompts, 3, top_p=0.5, max_new_tokens=20)
    assert_close(drawn.logp, logps(policy, prompts, drawn, 1.0), atol=1e-5, rtol=1e-5)


# -- what may be said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_media_tokens_are_never_said_even_when_the_policy_wants_nothing_else(
    backbone: QwenOmniBackbone, prompts: PromptBatch, temperature: float
) -> None:
    with favoured(backbone, backbone.unsayable_ids, 1e4):
        drawn = draw(backbone, prompts, 4, temperature=temperature, max_new_tokens=20)
    assert drawn.mask.sum() > 100
    assert not torch.isin(drawn.token_ids[drawn.mask], backbone.unsayable_ids).any()
    assert drawn.logp.isfinite().all()


# -- where a completion ends --------------------------------------------------------------------------------------


def test_a_completion_ends_with_its_first_end_token_or_is_truncated(
    backbone: QwenOmniBackbone, prompts: PromptBatch
) -> None:
    end, length = backbone.eos_token_id, 12
    with favoured(backbone, [end], 4.0):
        drawn = draw(backbone, prompts, 8, max_new_tokens=length)
    assert 0 < drawn.truncated.sum() < 24  # both kinds are here
    lengths = []
    for ids, mask, logp, truncated in zip(drawn.token_ids, drawn.mask, drawn.logp, drawn.truncated, strict=True):
        row = ids.tolist()
        real = row.index(end) + 1 if end in row else length
        lengths.append(real)
        assert bool(truncated) == (end not in row)
        assert mask.tolist() == [True] * real + [False] * (len(row) - real)
        assert row[real:] == [backbone.pad_token_id] * (len(row) - real)
        assert logp[real:].tolist() == [0.0] * (len(row) - real)
        assert (logp[:real] < 0).all()
    assert drawn.token_ids.shape == drawn.mask.shape == drawn.logp.shape == (24, max(lengths))


def test_rows_end_as_soon_as_the_longest_has(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    with favoured(backbone, [backbone.eos_token_id], 1e4):
        drawn = draw(backbone, prompts, 2, max_new_tokens=50)
    assert drawn.token_ids.tolist() == [[backbone.eos_token_id]] * 6
    assert not drawn.truncated.any()


def test_one_token_is_the_least(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    drawn = draw(backbone, prompts, 1, temperature=0.0, max_new_tokens=1)
    assert drawn.token_ids.shape == (3, 1)
    assert drawn.truncated.all()


# -- which row belongs to whom ------------------------------------------------------------------------------------


def test_prompts_of_different_length_answer_as_each_alone_and_a_groups_rows_stand_together(
    policy: QwenOmniBackbone, clips: SyntheticClips
) -> None:
    encoded = []
    for sample, question in zip(clips.samples("test"), QUESTIONS, strict=False):
        encoded.append(
            policy.encode_prompt(question, load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56))))
        )
    assert len({len(prompt.input_ids) for prompt in encoded}) == 3
    sampling: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 60}
    together = draw(policy, policy.collate(["a", "b", "c"], encoded), 2, **sampling)
    said = [ids[mask].tolist() for ids, mask in zip(together.token_ids, together.mask, strict=True)]
    for index, prompt in enumerate(encoded):
        alone = draw(policy, policy.collate(["x"], [prompt]), 1, **sampling)
        assert said[2 * index] == said[2 * index + 1] == alone.token_ids[0].tolist()


# -- randomness ---------------------------------------------------------------------------------------------------


def test_the_generator_alone_decides_what_is_drawn(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    state = torch.get_rng_state()
    one, same, other = (draw(backbone, prompts, 4, seed, max_new_tokens=8).token_ids for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    rows = one.tolist()
    assert len({tuple(row) for row in rows}) == len(rows)  # the rows of a group differ


def test_without_a_generator_torchs_own_random_state_decides(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(rollout(backbone, backbone.embed(prompts), prompts, 2, Sampling(max_new_tokens=6)).token_ids)
    assert torch.equal(*drawn)


def by_loop(probs: list[float], top_p: float) -> list[float]:
    kept, mass = [0.0] * len(probs), 0.0
    for index in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if mass >= top_p:
            break
        kept[index] = probs[index]
        mass += probs[index]
    return kept


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_nucleus_is_the_smallest_set_of_the_likeliest_that_reaches_its_mass(top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    probs = (3 * torch.randn(30, 40, generator=generator, dtype=torch.float64)).softmax(-1)
    kept = _nucleus(probs, top_p)
    assert kept.tolist() == [by_loop(row, top_p) for row in probs.tolist()]
    assert (kept > 0).any(-1).all()


def test_nothing_outside_the_nucleus_is_drawn(backbone: QwenOmniBackbone, prompts: PromptBatch) -> None:
    # a nucleus of almost nothing is the likeliest token
    narrow = draw(backbone, prompts, 2, top_p=1e-6, max_new_tokens=10)
    greedy = draw(backbone, prompts, 2, temperature=0.0, max_new_tokens=10)
    assert torch.equal(narrow.token_ids, greedy.token_ids)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_sampling_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are needed, got"):
        Sampling(**wrong)


# -- numbers given from outside -----------------------------------------------------------------------------------


def test_the_numbers_of_a_key_are_a_pure_function_of_it() -> None:
    state = torch.get_rng_state()
    together = keyed_uniforms(["0/a", "0/b", "1/a"], 4, 50)
    assert together.shape == (12, 50)
    assert ((together >= 0) & (together < 1)).all()
    assert torch.equal(keyed_uniforms(["0/b"], 4, 50), together[4:8])
    assert len({tuple(row) for row in together.tolist()}) == 12
    assert torch.equal(torch.get_rng_state(), state)


def test_a_completion_depends_on_its_own_numbers_whatever_else_is_in_the_batch(
    policy: QwenOmniBackbone, clips: SyntheticClips
) -> None:
    encoded = []
    for sample, question in zip(clips.samples("test"), QUESTIONS, strict=False):
        encoded.append(
            policy.encode_prompt(question, load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56))))
        )
    sampling, names = Sampling(max_new_tokens=60, temperature=1.3), ["a", "b", "c"]

    def said(which: list[int], group: int = 4) -> list[list[int]]:
        batch = policy.collate([names[i] for i in which], [encoded[i] for i in which])
        uniforms = keyed_uniforms([names[i] for i in which], 4, 60).view(-1, 4, 60)[:, :group].flatten(0, 1)
        drawn = rollout(policy, policy.embed(batch), batch, group, sampling, uniforms=uniforms)
        return [ids[mask].tolist() for ids, mask in zip(drawn.token_ids, drawn.mask, strict=True)]

    together = said([0, 1, 2])
    assert len({len(row) for row in together}) > 3  # rows end, and leave the batch, at different times
    assert said([2, 0]) == together[8:] + together[:4]
    assert said([1]) == together[4:8]
    assert said([1], group=1) == together[4:5]


def first_beyond(probs: list[float], number: float) -> int:
    reach, mass = number * sum(probs), 0.0
    for token, probability in enumerate(probs):
        mass += probability
        if mass > reach:
            return token
    raise AssertionError("no token is reached")


def test_a_token_is_the_first_whose_cumulated_probability_passes_its_number() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(500, 30, generator=generator, dtype=torch.float64)).softmax(-1)
    probs = probs.where(torch.rand(500, 30, generator=generator) < 0.5, 0.0)  # a nucleus, not renormalised
    probs[:, -1] += 0.01
    numbers = torch.rand(500, generator=generator)
    numbers[:2] = torch.tensor([0.0, 1 - 2**-24])  # the least and the greatest in float32
    tokens = _invert(probs, numbers).tolist()
    assert tokens == [first_beyond(*row) for row in zip(probs.tolist(), numbers.double().tolist(), strict=True)]
    assert all(probs[row, token] > 0 for row, token in enumerate(tokens))

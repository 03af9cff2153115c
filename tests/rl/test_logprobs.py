from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.backbone import PromptBatch
from erv_lightning.rl.logprobs import attention_mask, completion_logps, log_distribution

GROUP, WIDTH = 2, 7


@pytest.fixture
def completions(backbone: QwenOmniBackbone) -> tuple[Tensor, Tensor]:
    """Six rows of different length for three prompts, of tokens that may be said."""
    generator = torch.Generator().manual_seed(0)
    sayable = torch.tensor(backbone.tokenize("In the video a bright smile, and a warm voice in the audio."))
    ids = sayable[torch.randint(len(sayable), (3 * GROUP, WIDTH), generator=generator)]
    lengths = torch.tensor([7, 1, 4, 6, 7, 2])
    return ids, torch.arange(WIDTH) < lengths[:, None]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("suppress", [False, True])
def test_log_probabilities_and_entropies_are_those_of_each_row_alone_in_hugging_faces_forward(
    backbone: QwenOmniBackbone,
    clips: SyntheticClips,
    completions: tuple[Tensor, Tensor],
    temperature: float,
    suppress: bool,
) -> None:
    ids, mask = completions
    loaded = [
        load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(56, 56))) for sample in clips.samples("val")[:3]
    ]
    encoded = [
        backbone.encode_prompt("What is it?" * count, clip) for count, clip in zip((1, 3, 2), loaded, strict=True)
    ]
    batch = backbone.collate(["a", "b", "c"], encoded)
    unsayable = backbone.unsayable_ids if suppress else None
    logp, entropy = completion_logps(
        backbone,
        backbone.embed(batch),
        batch,
        ids,
        mask,
        temperature=temperature,
        unsayable_ids=unsayable,
        entropy=True,
    )
    for row in range(len(ids)):
        prompt, clip = encoded[row // GROUP], loaded[row // GROUP]
        tokens = ids[row][mask[row]].tolist()
        whole = torch.cat([prompt.input_ids, torch.tensor(tokens)])[None]
        logits = backbone.model(
            input_ids=whole,
            attention_mask=torch.ones_like(whole),
            video_second_per_grid=torch.tensor([2 / clip.fps]),
            **prompt.media,
        ).logits[0]
        for step, token in enumerate(tokens):
            scores = logits[len(prompt.input_ids) - 1 + step].double() / temperature
            if suppress:
                scores[backbone.unsayable_ids] = -math.inf
            probs = (scores - scores.max()).exp()
            probs = probs / probs.sum()
            assert float(logp[row, step]) == pytest.approx(math.log(probs[token]), abs=2e-5)
            by_hand = -sum(p * math.log(p) for p in probs.tolist() if p > 0)
            assert float(entropy[row, step]) == pytest.approx(by_hand, abs=2e-5)
        assert not logp[row, len(tokens) :].any()
        assert not entropy[row, len(tokens) :].any()


def test_gradients_are_finite_and_reach_the_decoder_and_both_towers(
    clips: SyntheticClips, prompts: PromptBatch, completions: tuple[Tensor, Tensor]
) -> None:
    backbone = QwenOmniBackbone("tiny")
    ids, mask = completions
    embeds = backbone.embed(prompts)
    logp, entropy = completion_logps(
        backbone, embeds, prompts, ids, mask, unsayable_ids=backbone.unsayable_ids, entropy=True
    )
    assert not entropy.requires_grad
    logp.sum().backward()
    reached = {name.split(".")[2] for name, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"visual", "audio_tower", "language_model"}
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


@torch.no_grad()
def test_what_stands_on_padding_does_not_matter(
    backbone: QwenOmniBackbone, prompts: PromptBatch, completions: tuple[Tensor, Tensor]
) -> None:
    ids, mask = completions
    embeds = backbone.embed(prompts)
    other = torch.where(mask, ids, backbone.pad_token_id)
    one, two = (completion_logps(backbone, embeds, prompts, each, mask)[0] for each in (ids, other))
    assert torch.equal(one, two)


@torch.no_grad()
def test_entropy_is_left_out_unless_asked_for(
    backbone: QwenOmniBackbone, prompts: PromptBatch, completions: tuple[Tensor, Tensor]
) -> None:
    _, entropy = completion_logps(backbone, backbone.embed(prompts), prompts, *completions)
    assert entropy.shape == (6, WIDTH)
    assert not entropy.any()


# -- the parts ----------------------------------------------------------------------------------------------------


def test_a_token_sees_the_real_tokens_before_it_and_padding_sees_itself() -> None:
    keys = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
    mask = attention_mask(keys)
    assert mask.shape == (3, 1, 5, 5)
    for row in range(3):
        for query in range(5):
            for key in range(5):
                may = (key <= query and bool(keys[row, key])) or key == query
                assert bool(mask[row, 0, query, key]) == may


def test_suppressed_tokens_have_no_probability_and_the_rest_adds_up_to_one() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    logp = log_distribution(logits, 0.5, torch.tensor([1, 3]))
    first, third = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))  # (3 − 1) / 0.5 = 4
    assert logp.exp().tolist()[0] == pytest.approx([first, 0.0, third, 0.0])
    logp[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == logits.grad[0, 3] == 0


def test_half_precision_is_widened_and_double_kept() -> None:
    for given, kept in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert log_distribution(torch.zeros(2, 3, dtype=given), 1.0, None).dtype == kept

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from erv_lightning.rl.objectives import KL_ESTIMATORS, LOSS_TYPES, policy_loss, token_kl

every_loss = pytest.mark.parametrize("loss_type", LOSS_TYPES)


def batch(completions=3, tokens=5, seed=0, spread=0.6):
    """logp (with gradient), old_logp, ref_logp, advantages and a mask with gaps, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logp = -noise(completions, tokens).abs() - 0.1
    old_logp, ref_logp = (logp + spread * noise(completions, tokens) for _ in range(2))
    mask = torch.rand(completions, tokens, generator=generator) < 0.7
    return logp.requires_grad_(), old_logp, ref_logp, noise(completions), mask


def by_loop(logp, old, ref, advantages, mask, o):
    """The loss as the module's docstring has it, one token at a time, on floats."""
    per_completion, total, valid = [], 0.0, 0
    for g, advantage in enumerate(advantages):
        tokens = [t for t, counts in enumerate(mask[g]) if counts]
        mean_log_ratio = sum(logp[g][t] - old[g][t] for t in tokens) / max(1, len(tokens))
        losses = []
        for t in tokens:
            r = math.exp(mean_log_ratio if o["loss_type"] == "gspo" else logp[g][t] - old[g][t])
            if o["loss_type"] == "cispo":
                loss = -min(r, 1 + o["epsilon_high"]) * advantage * logp[g][t]
            else:
                clipped = max(min(r, 1 + o["epsilon_high"]), 1 - o["epsilon_low"])
                unclipped = r if o["delta"] is None else min(r, o["delta"])
                loss = -min(unclipped * advantage, clipped * advantage)
            d = ref[g][t] - logp[g][t]
            losses.append(loss + o["beta"] * {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[o["kl"]])
        per_completion.append(sum(losses) / max(1, len(losses)))
        total += sum(losses)
        valid += len(losses)
    completions = o["num_completions"] or len(mask)
    if o["loss_type"] in ("grpo", "gspo"):
        return sum(per_completion) / completions
    if o["loss_type"] == "dr_grpo":
        return total / (completions * (o["width"] or len(mask[0])))
    return total / (o["num_tokens"] or max(1, valid))


@every_loss
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 10_000),
    beta=st.sampled_from([0.0, 0.04, 0.5]),
    kl=st.sampled_from(KL_ESTIMATORS),
    epsilons=st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.0, 0.1)]),
    delta=st.sampled_from([None, 1.5]),
    counts=st.sampled_from([(None, None, None), (37, 9, 64)]),
)
def test_the_loss_equals_its_definition_token_by_token(loss_type, shape, seed, beta, kl, epsilons, delta, counts):
    logp, old, ref, advantages, mask = batch(*shape, seed=seed)
    options = {"loss_type": loss_type, "beta": beta, "kl": kl, "delta": delta}
    options |= dict(zip(("num_tokens", "num_completions", "width"), counts, strict=True))
    options |= dict(zip(("epsilon_low", "epsilon_high"), epsilons, strict=True))
    loss, _ = policy_loss(logp, old, advantages, mask, ref_logp=ref, **options)
    expected = by_loop(*(value.tolist() for value in (logp, old, ref, advantages, mask)), options)
    assert loss.item() == pytest.approx(expected, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("kl", KL_ESTIMATORS)
def test_a_kl_estimate_equals_its_definition_token_by_token(kl):
    logp, _, ref, _, _ = batch(completions=6, tokens=9, spread=1.0)
    formula = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(d) - d - 1}[kl]
    deltas = (ref - logp).flatten().tolist()
    expected = [max(-10.0, min(10.0, formula(max(-20.0, min(20.0, delta))))) for delta in deltas]
    assert token_kl(logp, ref, kl).flatten().tolist() == pytest.approx(expected, abs=1e-12, rel=1e-12)


@every_loss
@pytest.mark.parametrize(("name", "value"), [("epsilon_high", 0.6), ("epsilon_low", 0.9), ("delta", 1.4)])
def test_each_bound_is_felt_as_much_as_the_definition_says(loss_type, name, value):
    # few tokens and wide noise, so that ratios of whole completions are beyond the bounds, too
    logp, old, ref, advantages, mask = batch(completions=60, tokens=2, spread=1.0)
    plain = dict.fromkeys(("delta", "num_tokens", "num_completions", "width"))
    plain |= {"loss_type": loss_type, "beta": 0.0, "kl": "k3", "epsilon_low": 0.2, "epsilon_high": 0.2}
    losses = []
    for options in (plain, plain | {name: value}):
        losses.append(policy_loss(logp, old, advantages, mask, ref_logp=ref, **options)[0].item())
        expected = by_loop(*(each.tolist() for each in (logp, old, ref, advantages, mask)), options)
        assert losses[-1] == pytest.approx(expected, abs=1e-12, rel=1e-12)
    assert (losses[0] != losses[1]) == (loss_type != "cispo" or name == "epsilon_high")


@every_loss
def test_the_gradient_is_that_of_the_loss(loss_type):
    logp, old, ref, advantages, mask = batch(spread=0.2)

    def loss(logp):
        return policy_loss(logp, old, advantages, mask, loss_type=loss_type, ref_logp=ref, beta=0.04, epsilon_low=0.1)[
            0
        ]

    if loss_type == "cispo":  # its weight is a constant on purpose, which finite differences do not know
        loss(logp).backward()
        weight = (logp - old).exp().clamp(max=1.2)
        slope = -weight * advantages[:, None] - 0.04 * ((ref - logp).exp() - 1)
        torch.testing.assert_close(logp.grad, torch.where(mask, slope, 0) / mask.sum())
    else:
        assert torch.autograd.gradcheck(loss, (logp,))


@every_loss
def test_on_policy_every_loss_has_the_policy_gradient(loss_type):
    advantages = tensor([2.0, -1.0])
    logp = torch.full((2, 4), -0.5, requires_grad=True)
    policy_loss(logp, logp.detach(), advantages, torch.ones(2, 4), loss_type=loss_type)[0].backward()
    torch.testing.assert_close(logp.grad, (-advantages / 8)[:, None].expand(2, 4))


def test_normalisations_of_a_ragged_batch_by_hand():
    # ratios are 1, so that a token's loss is −A: completion 1 has one token of −1, completion 2 three of +2
    logp, advantages = torch.zeros(2, 5), tensor([1.0, -2.0])
    mask = tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
    losses = {name: policy_loss(logp, logp, advantages, mask, loss_type=name)[0].item() for name in LOSS_TYPES}
    assert losses == pytest.approx(
        {"grpo": 0.5, "gspo": 0.5, "dr_grpo": 5 / 10, "dapo": 5 / 4, "bnpo": 5 / 4, "cispo": 0.0}
    )


# -- a batch in parts ---------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("micro", [1, 2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"beta": 0.04}, {"beta": 0.04, "delta": 1.3, "epsilon_high": 0.28, "kl": "k2"}]
)
def test_micro_batches_add_up_to_the_loss_and_gradient_of_the_whole(loss_type, micro, options):
    logp, old, ref, advantages, mask = batch(completions=8, tokens=6)
    mask[3] = False
    options = options | {"loss_type": loss_type}
    whole, whole_stats = policy_loss(logp, old, advantages, mask, ref_logp=ref, **options)
    (whole_gradient,) = torch.autograd.grad(whole, logp)

    total, stats = 0.0, dict.fromkeys(whole_stats, 0.0)
    for start in range(0, 8, micro):
        part = slice(start, start + micro)
        used = mask[part].any(0).nonzero()
        wide = slice(0, int(used.max()) + 1 if len(used) else 1)  # as narrow as its own longest completion
        loss, part_stats = policy_loss(
            logp[part, wide],
            old[part, wide],
            advantages[part],
            mask[part, wide],
            ref_logp=ref[part, wide],
            num_tokens=mask.sum(),
            num_completions=8,
            width=6,
            **options,
        )
        loss.backward()
        total += loss.item()
        for name, value in part_stats.items():
            stats[name] += value * mask[part].sum() / mask.sum()
    assert total == pytest.approx(whole.item(), abs=1e-12, rel=1e-12)
    torch.testing.assert_close(logp.grad, whole_gradient, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(stats, whole_stats, atol=1e-12, rtol=1e-12)


@every_loss
def test_the_counts_of_the_call_itself_change_nothing(loss_type):
    logp, old, _, advantages, mask = batch()
    plain, _ = policy_loss(logp, old, advantages, mask, loss_type=loss_type)
    for three in (3, tensor(3)):
        counted, _ = policy_loss(
            logp, old, advantages, mask, loss_type=loss_type, num_completions=three, width=5, num_tokens=mask.sum()
        )
        assert counted == plain


def test_the_counts_divide_by_hand():
    # ratios are 1 and A is −2: each of four tokens has the loss 2
    logp, advantages, mask = torch.zeros(2, 3), tensor([-2.0, -2.0]), tensor([[1, 0, 0], [1, 1, 1]])
    counts = {"num_tokens": 16, "num_completions": 8, "width": 10}
    losses = {
        name: policy_loss(logp, logp, advantages, mask, loss_type=name, **counts)[0].item() for name in LOSS_TYPES
    }
    assert losses == pytest.approx(
        {"grpo": 4 / 8, "gspo": 4 / 8, "dr_grpo": 8 / 80, "dapo": 8 / 16, "bnpo": 8 / 16, "cispo": 0.0}
    )


# -- bounds -------------------------------------------------------------------------------------------------------


def one_token(log_ratio, advantage, **options):
    logp = tensor([[log_ratio]], requires_grad=True)
    loss, stats = policy_loss(
        logp, torch.zeros(1, 1), tensor([advantage]), torch.ones(1, 1), loss_type="grpo", **options
    )
    loss.backward()
    return loss.item(), logp.grad.item(), stats


def test_beyond_the_bounds_a_token_pushes_no_further():
    loss, gradient, stats = one_token(math.log(2), 1.0, epsilon_high=0.28)
    assert (loss, gradient) == (pytest.approx(-1.28), 0.0)
    assert (stats["clip_ratio/high_mean"], stats["clip_ratio/low_mean"]) == (1, 0)
    loss, gradient, stats = one_token(math.log(0.5), -1.0)
    assert (loss, gradient) == (pytest.approx(0.8), 0.0)
    assert (stats["clip_ratio/high_mean"], stats["clip_ratio/low_mean"]) == (0, 1)


def test_delta_bounds_what_the_upper_clip_leaves_to_grow():
    assert one_token(math.log(5), -1.0)[:2] == pytest.approx((5.0, 5.0))
    assert one_token(math.log(5), -1.0, delta=3.0)[:2] == pytest.approx((3.0, 0.0))
    assert one_token(math.log(2), -1.0, delta=3.0)[:2] == pytest.approx((2.0, 2.0))
    assert one_token(math.log(5), 1.0, delta=3.0)[:2] == pytest.approx((-1.2, 0.0))


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_a_ratio_past_the_float_range_stays_a_clipped_one(advantage):
    loss, gradient, _ = one_token(500.0, advantage)
    assert (loss, gradient) == (pytest.approx(-1.2 * advantage), 0.0)


@every_loss
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), float("-inf")])
def test_masked_positions_contribute_nothing_whatever_they_hold(loss_type, rubbish):
    logp, old, ref, advantages, mask = batch()
    mask[1] = False  # one completion has no valid token, its advantage means nothing
    options = {"loss_type": loss_type, "beta": 0.1}
    clean, clean_stats = policy_loss(logp, old, advantages, mask, ref_logp=ref, **options)
    (clean_gradient,) = torch.autograd.grad(clean, logp)

    dirty = [torch.where(mask, value.detach(), rubbish) for value in (logp, old, ref)]
    dirty[0].requires_grad_()
    dirty_advantages = advantages.clone()
    dirty_advantages[1] = rubbish
    loss, stats = policy_loss(dirty[0], dirty[1], dirty_advantages, mask, ref_logp=dirty[2], **options)
    loss.backward()
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(dirty[0].grad, clean_gradient)
    torch.testing.assert_close(stats, clean_stats)
    assert bool((dirty[0].grad[~mask] == 0).all())


@every_loss
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_without_a_valid_token_the_loss_is_zero_and_so_are_its_gradients(loss_type, shape):
    logp = torch.full(shape, float("nan"), requires_grad=True)
    loss, stats = policy_loss(
        logp,
        logp.detach(),
        torch.ones(shape[0]),
        torch.zeros(shape, dtype=torch.bool),
        loss_type=loss_type,
        ref_logp=logp.detach(),
        beta=0.1,
        num_tokens=0,
    )
    loss.backward()
    assert loss == 0
    assert torch.equal(logp.grad, torch.zeros(shape))
    assert all(value == 0 for value in stats.values())


def test_a_completion_without_a_valid_token_still_counts_as_one():
    logp, mask = torch.zeros(2, 3), tensor([[1, 1, 1], [0, 0, 0]])
    assert policy_loss(logp, logp, tensor([1.0, 1.0]), mask, loss_type="grpo")[0] == -0.5


def test_statistics_are_means_over_valid_tokens():
    ratios = tensor([[0.5, 1.0, 1.5, 9.0], [0.5, 1.5, 1.1, 1.0]])
    mask, advantages = tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), tensor([1.0, -1.0])
    old, ref = torch.zeros(2, 4), torch.full((2, 4), -1.0)
    _, stats = policy_loss(ratios.log().requires_grad_(), old, advantages, mask, loss_type="dapo", ref_logp=ref)
    deltas = (ref - ratios.log())[mask.bool()]
    assert {name: value.item() for name, value in stats.items()} == pytest.approx(
        {
            "ratio_mean": 7.1 / 7,
            "clip_ratio/low_mean": 1 / 7,
            "clip_ratio/high_mean": 1 / 7,
            "clip_ratio/region_mean": 2 / 7,
            "kl": (deltas.exp() - deltas - 1).mean().item(),
        }
    )
    assert not any(value.requires_grad or value.ndim for value in stats.values())
    # cispo caps the weight whatever the advantage, and has no lower bound
    _, stats = policy_loss(ratios.log(), old, advantages, mask, loss_type="cispo")
    assert (stats["clip_ratio/low_mean"].item(), stats["clip_ratio/high_mean"].item()) == pytest.approx((0, 2 / 7))
    assert "kl" not in stats


def test_gspo_weighs_a_completion_as_one():
    # the log-ratios cancel: the sequence has the ratio 1, though both tokens lie far outside the bounds
    logp = tensor([[1.0, -1.0]], requires_grad=True)
    loss, stats = policy_loss(logp, torch.zeros(1, 2), tensor([1.0]), torch.ones(1, 2), loss_type="gspo")
    loss.backward()
    assert (loss, stats["ratio_mean"], stats["clip_ratio/region_mean"]) == (-1, 1, 0)
    assert logp.grad.tolist() == [[-0.5, -0.5]]


def test_the_kl_estimators_and_their_clamps_by_hand():
    logp, ref = tensor([[-1.0, -100.0, 0.0]]), tensor([[-2.0, 0.0, -100.0]])  # Δ = −1, 100, −100
    assert token_kl(logp, ref, "k1").tolist() == [[1.0, -10.0, 10.0]]
    assert token_kl(logp, ref, "k2").tolist() == [[0.5, 10.0, 10.0]]
    assert token_kl(logp, ref, "k3").tolist() == [[pytest.approx(math.exp(-1)), 10.0, 10.0]]


def test_the_kl_term_is_weighted_by_beta_and_only_logged_without():
    logp, ref, zeros = torch.full((1, 2), -1.0), torch.full((1, 2), -1.5), torch.zeros(1)
    arguments = (logp, logp, zeros, torch.ones(1, 2))
    k3 = math.exp(-0.5) - 0.5
    loss, stats = policy_loss(*arguments, loss_type="grpo", ref_logp=ref, beta=0.04)
    assert (loss.item(), stats["kl"].item()) == pytest.approx((0.04 * k3, k3), abs=1e-6)
    loss, stats = policy_loss(*arguments, loss_type="grpo", ref_logp=ref)
    assert (loss.item(), stats["kl"].item()) == pytest.approx((0.0, k3), abs=1e-6)


@pytest.mark.parametrize("which", ["old_logp", "ref_logp", "advantages"])
def test_nothing_flows_back_but_through_the_policy(which):
    logp, old, ref, advantages, mask = batch()
    arguments = {"old_logp": old, "ref_logp": ref, "advantages": advantages}
    arguments[which].requires_grad_()
    loss, _ = policy_loss(logp, mask=mask, loss_type="grpo", beta=0.1, **arguments)
    loss.backward()
    assert arguments[which].grad is None


def test_every_option_out_of_range_is_named_at_once():
    zeros = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="policy_loss") as error:
        policy_loss(
            zeros, zeros, zeros[0], zeros, loss_type="ppo", kl="k4", beta=0.1, epsilon_low=2.0, delta=1.1, width=0
        )
    for part in (
        "'ppo'; known: grpo, dr_grpo, dapo, bnpo, gspo, cispo",
        "'k4'; known: k1, k2, k3",
        "beta = 0.1 needs ref_logp",
        "epsilon_low <= 1",
        "delta must be at least 1 + epsilon_high = 1.2, got 1.1",
        "width must be at least 1, got 0",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="beta must not be negative"):
        policy_loss(zeros, zeros, zeros[0], zeros, loss_type="grpo", beta=-1.0)


def test_every_shape_that_does_not_fit_is_named_at_once():
    logp = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="policy_loss") as error:
        policy_loss(logp, torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(3), loss_type="grpo")
    for part in (r"old_logp is (2, 4), not (2, 3)", "mask is (3,)", "advantages is (2, 3), not (2,)"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"\(completions, tokens\), got \(3,\)"):
        policy_loss(logp[0], logp[0], logp[0, :1], logp[0], loss_type="grpo")

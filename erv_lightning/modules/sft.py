"""Stage 1: supervised fine-tuning on explanations, the cold start."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from erv_lightning.data.clips import ClipBatch
from erv_lightning.data.sample import Sample
from erv_lightning.judges import Judge
from erv_lightning.models.backbone import Backbone
from erv_lightning.modules.optimisation import Schedule
from erv_lightning.modules.policy import PolicyModule, pad_rows
from erv_lightning.rl.logprobs import completion_logps
from erv_lightning.rl.rollout import Sampling


def target_response(sample: Sample) -> str:
    """What the cold start teaches the policy to say about a sample (method.md, stage 1).

    Raises:
        ValueError: a sample without an explanation.
    """
    if not sample.explanation:
        raise ValueError(
            f"sample {sample.record or sample.id!r} has no explanation to learn from: SFT needs data with "
            "explanations, such as EMER"
        )
    return f"<think>{sample.explanation}</think>\n<answer>{sample.label}</answer>"


class SFTModule(PolicyModule):
    """Next-token loss on the response `<think>explanation</think>\\n<answer>label</answer>`.

    The defaults are the paper's; see `PolicyModule` for the arguments.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        judge: Judge,
        evaluation: Sampling = Sampling(temperature=0.3, top_p=0.9),  # noqa: B008  # frozen
        lr: float = 2e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: float = 0.03,
        schedule: Schedule = "cosine",
        prefix_sharing: bool = True,
    ) -> None:
        super().__init__(backbone, judge, evaluation, lr, betas, weight_decay, warmup, schedule, prefix_sharing)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the response tokens of the batch, that of all processes."""
        self.count_flaws(batch, "train")
        rows = [
            [*self.backbone.tokenize(target_response(sample)), self.backbone.eos_token_id] for sample in batch.samples
        ]
        token_ids, mask = pad_rows(rows, self.backbone.pad_token_id, self.device)
        embeds = self.backbone.embed(batch.prompts)
        logp, _ = completion_logps(
            self.backbone, embeds, batch.prompts, token_ids, mask, prefix_sharing=self.prefix_sharing
        )
        # every token counts the same, whichever process it is on; strategies average gradients over processes
        tokens = cast("Tensor", self.trainer.strategy.reduce(mask.sum(), reduce_op="sum"))
        loss = -logp.sum() * self.trainer.world_size / tokens
        self.log("train/loss", loss, prog_bar=True, batch_size=len(rows), sync_dist=True)
        self.log("train/num_tokens", tokens.float(), batch_size=len(rows))
        return loss

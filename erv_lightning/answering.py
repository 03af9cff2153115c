"""A policy answers clips, outside of any training run: from a model's name to rows of predictions.jsonl."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from erv_lightning.data.clips import BadClip, ClipBatch, ClipDataset, ClipRules
from erv_lightning.data.readers.files import annotations_only
from erv_lightning.data.sample import QUESTION, Sample
from erv_lightning.judges.classifier import default_device
from erv_lightning.models.backbone import Backbone
from erv_lightning.models.choosing import backbone_class
from erv_lightning.predictions import prediction
from erv_lightning.rl.rollout import Sampling, keyed_uniforms, rollout
from erv_lightning.runs import RunFolder

if TYPE_CHECKING:
    from erv_lightning.data.datamodule import ClipDataModule

SAMPLING = Sampling(max_new_tokens=512, temperature=0.3, top_p=0.9)
"""How the paper evaluates."""

_OF_TRAINING = ("lora", "freeze", "gradient_checkpointing")  # what an exported model has behind it


@dataclass(frozen=True)
class Policy:
    """What answers, and what it is used to.

    Attributes:
        backbone: the model, on its device.
        rules: how clips become prompts.
        question: what it was trained to be asked.
        label_space: the emotions that it was trained on.
        sampling: of the responses.
    """

    backbone: Backbone
    rules: ClipRules
    question: str = QUESTION
    label_space: str = "dfew"
    sampling: Sampling = SAMPLING


@dataclass(frozen=True)
class Answers:
    """What came of a batch of clips.

    Attributes:
        rows: of predictions.jsonl, one a clip that could be used.
        silent: ids of those that have no audio track.
        bad: clips that could not be used.
    """

    rows: list[dict[str, Any]]
    silent: list[str]
    bad: list[BadClip]


def answers(
    policy: Policy, samples: Sequence[Sample], *, batch_size: int = 8, workers: int = 0, seed: int = 0
) -> Iterator[Answers]:
    """Answers clips batch by batch, in order.

    What is drawn for a clip depends on the seed and its id alone, up to rounding: neither on the other clips of its
    batch nor on where a run was taken up again.

    Args:
        policy: who answers.
        samples: the clips; their labels are not looked at.
        batch_size: clips at a time.
        workers: processes that decode.
        seed: of the responses.
    """
    backbone = policy.backbone
    rules = replace(policy.rules.read_by(backbone), on_bad_clip="skip")
    clips = ClipDataset(list(samples), backbone, rules, train=False)
    context = "fork" if workers and os.name == "posix" else None  # see ClipDataModule
    loader: DataLoader[Any] = DataLoader(
        clips, batch_size, num_workers=workers, collate_fn=clips.collate, multiprocessing_context=context
    )
    device = next(backbone.parameters()).device
    for batch in loader:
        yield Answers(_rows(policy, batch.to(device), seed), batch.silent, batch.bad)


@torch.inference_mode()
def _rows(policy: Policy, batch: ClipBatch, seed: int) -> list[dict[str, Any]]:
    if not batch.samples:
        return []
    backbone = policy.backbone
    keys = [f"{seed}/{sample.dataset}/{sample.id}" for sample in batch.samples]
    drawn = rollout(
        backbone,
        backbone.embed(batch.prompts),
        batch.prompts,
        1,
        policy.sampling,
        uniforms=keyed_uniforms(keys, 1, policy.sampling.max_new_tokens).to(batch.prompts.input_ids.device),
        prefix_sharing=backbone.shares_prefixes,
    )
    lengths = drawn.mask.sum(1).tolist()
    texts = [backbone.decode(ids[:length]) for ids, length in zip(drawn.token_ids.tolist(), lengths, strict=True)]
    return [prediction(sample, text) for sample, text in zip(batch.samples, texts, strict=True)]


# -- from a name to a policy --------------------------------------------------------------------------------------


def read_policy(name: str, device: str | None = None, overrides: Mapping[str, Any] | None = None) -> Policy:
    """The policy that somebody names.

    A run, or its export, brings its own backbone, question, labels, frames and sampling. Any other model gets the
    paper's.

    Args:
        name: a run folder, an exported model, a hub id, or ``tiny`` for the built-in one, untrained.
        device: where it goes; a GPU where there is one.
        overrides: ``num_frames``, ``modalities``, ``max_new_tokens``, ``temperature``, ``top_p`` in place of its own.

    Raises:
        ValueError: there is no such model, or an override is out of range.
    """
    own = dict(overrides or {})
    run = _run(name)
    policy = _of_run(run) if run is not None else Policy(backbone_class(name)(**_loading(name)), ClipRules())
    modalities = tuple(own.get("modalities", policy.rules.modalities))
    media = replace(
        policy.rules.media,
        num_frames=own.get("num_frames", policy.rules.media.num_frames),
        video="video" in modalities,
        audio="audio" in modalities,
    )
    drawn = {key: own[key] for key in ("max_new_tokens", "temperature", "top_p") if key in own}
    policy.backbone.to(default_device(device)).eval().requires_grad_(False)
    return replace(
        policy,
        rules=replace(policy.rules, media=media, modalities=modalities),
        sampling=replace(policy.sampling, **drawn),
    )


def _run(name: str) -> RunFolder | None:
    """The run that a folder is, or that an exported model lies in, if its config is there."""
    path = Path(name)
    folder = path if (path / "config.yaml").is_file() else path.parent
    if not (folder / "config.yaml").is_file() or (path.name != "export" and folder != path):
        return None
    folder = folder if len(folder.parts) > 2 else folder.resolve()
    return RunFolder(Path(*folder.parts[:-2]), folder.parts[-2], folder.parts[-1])


def _of_run(run: RunFolder) -> Policy:
    from erv_lightning import config_files
    from erv_lightning.configured import backbone_of, read
    from erv_lightning.modules.policy import PolicyModule

    words = ["-c", str(run.config)]
    parts = read(words, config_files.read(config_files.paths_in(words)))
    if not isinstance(parts.module, PolicyModule):
        raise ValueError(f"{run.path} is a run of stage {run.stage}, which answers no clips: name an sft or grpo run")
    if not run.export.is_dir():
        raise ValueError(
            f"{run.export} does not exist: the run has not finished; write what there is with "
            f"`python -m erv_lightning export {run.path} --to DIR`, and name that"
        )
    made, init_args = backbone_of(parts.settings)
    kept = {key: value for key, value in init_args.items() if key not in _OF_TRAINING}
    backbone = made(**{**kept, **_loading(str(run.export))})
    question, space = _asked(parts.data)
    return Policy(backbone, parts.data.rules, question, space, parts.module.evaluation)


def _loading(pretrained: str) -> dict[str, Any]:
    return {"pretrained": pretrained, "dtype": "bfloat16" if torch.cuda.is_available() else "float32"}


def _asked(data: ClipDataModule) -> tuple[str, str]:
    """Question and label space of a run's training clips; the paper's where their annotations are gone."""
    try:
        with annotations_only():
            sample = data.samples("train")[0]
        return sample.question, sample.label_space
    except (ValueError, OSError, IndexError):
        return QUESTION, "dfew"

"""The README.md of an exported model, filled from what its run left: Hugging Face's model card.

Reads the run's config.yaml, predictions.jsonl, summary.json and metrics.csv; knows no model and no tensor.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from erv_lightning.data.sample import QUESTION
from erv_lightning.evaluation import Evaluation, Group, evaluate
from erv_lightning.report.cells import grid, inline
from erv_lightning.report.evaluation import facts
from erv_lightning.results import judges_of, read_predictions
from erv_lightning.runs import RunFolder
from erv_lightning.tallies import DEFINITIONS, METRICS

PAPER = "2510.23506"
_POLICY_IS = (
    "A multimodal language model that watches and hears a clip, explains which emotion it conveys, and names it. "
    "It has been "
)
WHAT = {
    "sft": f"{_POLICY_IS}fine-tuned on annotated explanations: the cold start of",
    "grpo": f"{_POLICY_IS}trained by reinforcement learning, with rewards on its answers and explanations, after",
    "verifier": "A text classifier that tells which emotions a sentence conveys, trained on sentences of explanations: "
    "the rationale verifier of",
}
_SECRET = re.compile(r"(^|_)(api_?key|token|password|secret)$")

# What a reader asks first about the training, as it is called in the config.
_TOLD = {
    "model.init_args": "lr schedule warmup weight_decay betas verifier rewards reward_functions explanation judge "
    "prompts_per_step generations_per_prompt updates_per_rollout sampling objective scale_rewards beta evaluation",
    "model.init_args.backbone.init_args": "lora freeze dtype",
    "data": "batch_size",
    "trainer": "accumulate_grad_batches devices num_nodes strategy precision max_steps max_epochs",
}


@dataclass(frozen=True)
class Weights:
    """Which weights are exported.

    Attributes:
        source: the checkpoint's file name, or words where there is none.
        step: optimiser steps that made them.
        written: when, in seconds since 1970; None: now.
    """

    source: str
    step: int
    written: float | None = None

    @classmethod
    def of(cls, path: Path, checkpoint: Mapping[str, Any]) -> Weights:
        """Those of a checkpoint that `read_checkpoint` has read."""
        return cls(path.name, int(checkpoint.get("global_step", 0)), path.stat().st_mtime)


def model_card(run: RunFolder, weights: Weights) -> str:
    """The card of a run's model; what the run has not left is not claimed.

    What cannot be read of the run's measurements is named in the card: it is no reason to have no model.
    """
    config = _config(run)
    evaluation, problem = _evaluation(run)
    parts = [
        _front_matter(run, config, evaluation),
        f"# {_title(run, config)}",
        f'{WHAT[_stage(run, config)]} "Emotion-Coherent Reasoning for Multimodal LLMs via Emotional Rationale '
        f'Verifier" ([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})). Trained with `erv_lightning`, on PyTorch '
        "Lightning.",
        f"The weights are those of `{weights.source}` after {weights.step:,} optimiser steps"
        f"{', adapters merged' if _lora(config) else ''}.",
        "## Use",
        _use(_stage(run, config), config),
        "## Data",
        _data(config),
        "## Training",
        _training(run, config),
        "## Results",
        problem or _results(run, evaluation, weights),
        "## Licences and limits",
        _licences(run, config),
        "## Resolved config",
        "Every setting of the run; paths are those of the machine that it ran on.",
        f"<details>\n<summary>config.yaml</summary>\n\n```yaml\n{_dump(_hidden(config))}```\n\n</details>",
        "## Citation",
        _citation(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- what the run left --------------------------------------------------------------------------------------------


def _config(run: RunFolder) -> dict[str, Any]:
    """The resolved config; empty for a run outside the command line."""
    if not run.config.is_file():
        return {}
    return dict(yaml.safe_load(run.config.read_text(encoding="utf-8")) or {})


def _evaluation(run: RunFolder) -> tuple[Evaluation | None, str]:
    """What the run's predictions say, if there are any; and why they could not be read, if so."""
    if not run.predictions.is_file():
        return None, ""
    try:
        frame = read_predictions(run.predictions)
        return evaluate(frame, judges_of(frame), evaluated="This model"), ""
    except ValueError as error:
        return None, f"The predictions of the test split could not be read: {error}"


def _at(config: Mapping[str, Any], path: str) -> Any:
    """A nested setting, None where it is not there."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _lora(config: Mapping[str, Any]) -> bool:
    return bool(_at(config, "model.init_args.backbone.init_args.lora"))


def _pretrained(config: Mapping[str, Any]) -> str:
    """What the run started from; "" if unknown."""
    found = _at(config, "model.init_args.backbone.init_args.pretrained") or _at(config, "model.init_args.pretrained")
    return str(found or "")


def _lineage(config: Mapping[str, Any]) -> list[str]:
    """What the run started from, what that had started from, and so on."""
    chain: list[str] = []
    start = _pretrained(config)
    while start and start not in chain:
        chain.append(start)
        earlier = RunFolder.of_export(start)
        start = _pretrained(_config(earlier)) if earlier else ""
    return chain


def _on_the_hub(name: str) -> bool:
    """Whether a name reads as a hub id, and no folder here has it."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and name[0] != "."


def _stage(run: RunFolder, config: Mapping[str, Any]) -> str:
    """As the config says: a run's folder may have been moved elsewhere."""
    return str(config.get("stage") or run.stage)


def _title(run: RunFolder, config: Mapping[str, Any]) -> str:
    return f"erv-{_stage(run, config)}-{run.name}"


# -- front matter -------------------------------------------------------------------------------------------------


def _front_matter(run: RunFolder, config: Mapping[str, Any], evaluation: Evaluation | None) -> str:
    verifier = _stage(run, config) == "verifier"
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if verifier else "any-to-any",
        "tags": [
            "emotion-recognition",
            "erv",
            "erv_lightning",
            _stage(run, config),
            *([] if verifier else ["video", "audio"]),
        ],
    }
    hub = [name for name in _lineage(config) if _on_the_hub(name)]
    if hub:
        head |= {"base_model": hub[-1], "base_model_relation": "finetune"}
    results = list(_verifier_index(run) if verifier else _model_index(config, evaluation))
    if results:
        head["model-index"] = [{"name": _title(run, config), "results": results}]
    note = "# license: yours to choose, within what the data sets and the base model allow; see below"
    return f"---\n{_dump(head)}{note}\n---"


def _model_index(config: Mapping[str, Any], evaluation: Evaluation | None) -> Iterator[dict[str, Any]]:
    for group in evaluation.datasets if evaluation else ():
        assert evaluation is not None
        metrics = [
            {
                "type": key,
                "name": METRICS[key],
                "value": round(estimate.value, 4),
                "args": {"interval_95": [round(estimate.low, 4), round(estimate.high, 4)], "clips": group.clips},
            }
            for key, estimate in group.under(evaluation.judge).items()
            if key in METRICS and not math.isnan(estimate.value)
        ]
        yield {
            "task": {"type": "video-classification", "name": "emotion recognition with explanations"},
            "dataset": {"type": group.name, "name": group.name, "split": str(_at(config, "data.test_split") or "test")},
            "metrics": metrics,
        }


def _verifier_index(run: RunFolder) -> Iterator[dict[str, Any]]:
    measured = _summary(run)
    if measured:
        yield {
            "task": {"type": "text-classification", "name": "emotions of a sentence"},
            "dataset": {"type": "sentences", "name": "sentences of the test split's explanations", "split": "test"},
            "metrics": [
                {"type": name.removeprefix("test/"), "name": name.removeprefix("test/"), "value": round(value, 4)}
                for name, value in measured.items()
            ],
        }


def _summary(run: RunFolder) -> dict[str, float]:
    """The test metrics; none for a run that was not tested, or whose summary is damaged."""
    path = run.path / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): float(value) for name, value in found.items() if str(name).startswith("test/f1")}


# -- sections -----------------------------------------------------------------------------------------------------


def _use(stage: str, config: Mapping[str, Any]) -> str:
    return f"```python\n{_VERIFIER if stage == 'verifier' else _policy(config)}```"


_VERIFIER = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MODEL = "."  # this folder, or the model's id on the hub

model = AutoModelForSequenceClassification.from_pretrained(MODEL).eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)

sentences = ["The corners of his mouth curve up.", "Her voice trembles."]
inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
for sentence, probs in zip(sentences, model(**inputs).logits.sigmoid().tolist()):  # independent: several may hold
    print(sentence, {model.config.id2label[index]: round(prob, 3) for index, prob in enumerate(probs)})
"""

_POLICY = """\
from transformers import AutoModelForMultimodalLM, AutoProcessor

from erv_lightning.data.media import MediaSettings, load_clip  # reads frames and sound as in training
from erv_lightning.text import parse_response

MODEL = "."  # this folder, or the model's id on the hub
CLIP = "clip.mp4"
QUESTION = {question!r}

model = AutoModelForMultimodalLM.from_pretrained(MODEL, dtype="auto").eval()
processor = AutoProcessor.from_pretrained(MODEL)

clip = load_clip(CLIP, MediaSettings({media}))
content = [{content}{{"type": "text", "text": QUESTION}}]
prompt = processor.apply_chat_template([{{"role": "user", "content": content}}], add_generation_prompt=True)
inputs = processor(
    text=prompt,
{arguments}    return_tensors="pt",
).to(model.device, model.dtype)
written = model.generate(**inputs, max_new_tokens={length}, do_sample=False{mixed})[:, inputs["input_ids"].shape[1] :]
response = parse_response(processor.batch_decode(written, skip_special_tokens=True)[0])
print(response.answer, "because:", response.explanation)
"""

_MEDIA = ("num_frames", "fps", "frame_size", "max_pixels", "sample_rate", "max_seconds")
_UNTOLD = {"fps": None, "frame_size": None, "max_pixels": None, "sample_rate": 16000, "max_seconds": 30.0}


def _policy(config: Mapping[str, Any]) -> str:
    data = config.get("data") or {}
    modalities = data.get("modalities") or ["video", "audio"]
    mixed = bool(_at(config, "model.init_args.backbone.init_args.use_audio_in_video")) and {"video", "audio"} <= set(
        modalities
    )
    settings = {name: data[name] for name in _MEDIA if name in data and data[name] != _UNTOLD.get(name, ...)}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    settings |= {name: False for name in ("video", "audio") if name not in modalities}
    lines = {
        "video": "    videos=[clip.frames],\n    videos_kwargs={\n"
        '        "do_sample_frames": False,\n        "fps": clip.fps,\n'
        '        "size": dict(processor.video_processor.size),\n    },\n',
        "audio": "    audio=[clip.audio.numpy()],\n",
    }
    shown = [kind for kind in ("video", "audio") if kind in modalities]
    placed = ["video"] if mixed else shown
    turns = "    load_audio_from_video=True,\n    audio_from_video_indices=[0],\n" if mixed else ""
    text = _POLICY.format(
        question=_question(config),
        media=", ".join(f"{name}={value!r}" for name, value in settings.items()),
        content="".join(f'{{"type": "{kind}"}}, ' for kind in placed),
        arguments="".join(lines[kind] for kind in shown) + turns,
        length=_at(config, "model.init_args.evaluation.max_new_tokens") or 512,
        mixed=", use_audio_in_video=True" if mixed else "",
    )
    if "text" in modalities:
        text = text.replace(
            "QUESTION = ", "# in training the clip's subtitle came first: 'Subtitle: \"…\"\\n'\nQUESTION = "
        )
    return text


def _question(config: Mapping[str, Any]) -> str:
    asked = {
        str(one["init_args"]["question"]) for one in _sources(config) if (one.get("init_args") or {}).get("question")
    }
    return asked.pop() if len(asked) == 1 else QUESTION


def _sources(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The readers of the data, those inside a mixture one by one."""
    waiting = [_at(config, "data.source")]
    while waiting:
        source = waiting.pop(0)
        if not isinstance(source, Mapping) or "class_path" not in source:
            continue
        inner = (source.get("init_args") or {}).get("sources")
        if isinstance(inner, list):
            waiting = [*inner, *waiting]
        else:
            yield source


def _data(config: Mapping[str, Any]) -> str:
    rows = []
    for source in _sources(config):
        name = str(source["class_path"]).rpartition(".")[2]
        rows.append([f"`{name}`", _inline(source.get("init_args") or {})])
    if not rows:
        return "The run left no config: its data are unknown."
    splits = {part: _at(config, f"data.{part}_split") for part in ("train", "val", "test")}
    told = ", ".join(f"{part} on `{name}`" for part, name in splits.items() if name)
    reads = "sentences of explanations" if _at(config, "data.unit") == "sentences" else "clips"
    return f"{reads.capitalize()}, {told}.\n\n{_table('reader', 'settings', rows)}"


def _training(run: RunFolder, config: Mapping[str, Any]) -> str:
    chain = _lineage(config)
    told = [f"Stage `{_stage(run, config)}`, run `{run.name}`."]
    if chain:
        told.append(f"Started from {', which had started from '.join(f'`{name}`' for name in chain)}.")
    if "tiny" in chain:
        told.append("`tiny` is the built-in model of random weights: it shows that the code works, and no more.")
    rows = []
    for path in ["seed_everything", *(f"{place}.{name}" for place, names in _TOLD.items() for name in names.split())]:
        value = _at(config, path)
        if value is not None and value not in ([], -1):
            rows.append([f"`{path}`", _inline(value)])
    return " ".join(told) + (f"\n\n{_table('setting', 'value', rows)}" if rows else "")


def _results(run: RunFolder, evaluation: Evaluation | None, weights: Weights) -> str:
    parts = [_validation(run, weights)]
    if evaluation is not None:
        keys = [key for key in METRICS if key in evaluation.overall.under(evaluation.judge)]
        groups: Sequence[Group] = (
            (evaluation.overall, *evaluation.datasets) if len(evaluation.datasets) > 1 else (evaluation.overall,)
        )
        rows = [
            [f"{group.name} ({group.clips})", *(inline(group.under(evaluation.judge)[key]) for key in keys)]
            for group in groups
        ]
        parts += [
            facts(evaluation),
            grid("clips", [METRICS[key] for key in keys], rows),
            DEFINITIONS.replace("|", "\\|"),
        ]
        if weights.source != run.best.name:
            parts.append(
                f"`test` measures `{run.best.name}` unless it is told otherwise; these weights are `{weights.source}`."
            )
        if weights.written is not None and run.predictions.stat().st_mtime < weights.written:
            parts.append("**The predictions are older than these weights**: test the run again, then export it again.")
    elif measured := _summary(run):
        rows = [[name.removeprefix("test/"), f"{value:.3f}"] for name, value in measured.items()]
        parts += ["On the test split, each sentence counted by itself (no interval):", _table("metric", "value", rows)]
    else:
        parts.append("Not measured on the test split: run `test`, then `export`, and this card has the numbers.")
    return "\n\n".join(part for part in parts if part)


def _validation(run: RunFolder, weights: Weights) -> str:
    """The validation metrics when the weights were saved, as metrics.csv has them."""
    path = run.path / "metrics.csv"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("step") == str(weights.step - 1)]  # it counts from 0
    found = {
        name.removeprefix("val/"): value
        for row in rows
        for name, value in row.items()
        if name
        and name.startswith("val/")
        and value
        and name.removeprefix("val/") in {*METRICS, "f1_macro", "f1_micro"}
    }
    if not found:
        return ""
    values = ", ".join(f"{METRICS.get(name, name)} {float(value):.3f}" for name, value in found.items())
    when = "which chose these weights" if weights.source == run.best.name else "when these weights were saved"
    return f"On the validation split, {when}: {values}."


def _licences(run: RunFolder, config: Mapping[str, Any]) -> str:
    names = sorted({str(one["class_path"]).rpartition(".")[2] for one in _sources(config)})
    data = f"the data ({', '.join(names)})" if names else "the data"
    base = [name for name in _lineage(config) if _on_the_hub(name)]
    model = f"`{base[-1]}`" if base else "what the run started from"
    limits = (
        "It reads emotions out of sentences, and can be fooled by emotion words alone."
        if _stage(run, config) == "verifier"
        else "It names what a clip seems to convey, not what a person feels; its explanation may be wrong where its "
        "answer is right, and the other way round."
    )
    return (
        f"This card sets no licence. Whether and how the weights may be passed on is for you to check: {data} and "
        f"{model} have licences of their own, and data sets of emotions are often for research alone. The paper's own "
        "release is CC BY-NC 4.0; none of its code is in `erv_lightning`, which is Apache 2.0.\n\n"
        f"{limits} Do not decide about people by it."
    )


def _citation() -> str:
    return (
        "```bibtex\n@inproceedings{rha2026erv,\n"
        "  title = {Emotion-Coherent Reasoning for Multimodal LLMs via Emotional Rationale Verifier},\n"
        "  author = {Rha and Yeo and Kim and Ro},\n"
        "  booktitle = {AAAI},\n  year = {2026},\n"
        f"  note = {{arXiv:{PAPER}}}\n}}\n```"
    )


# -- YAML ---------------------------------------------------------------------------------------------------------


def _dump(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def _inline(value: Any) -> str:
    """A setting in one line of a table."""
    if not isinstance(value, Mapping | list):
        return f"`{value}`"
    text = yaml.safe_dump(_hidden(value), sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
    return f"`{text.strip()}`".replace("|", "\\|")


def _hidden(value: Any) -> Any:
    """The same settings without what nobody should publish."""
    if isinstance(value, Mapping):
        return {
            key: "(not published)" if one and isinstance(one, str) and _SECRET.search(str(key)) else _hidden(one)
            for key, one in value.items()
        }
    return [_hidden(one) for one in value] if isinstance(value, list) else value


def _table(first: str, second: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [[first, second], ["---", "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

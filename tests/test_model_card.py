"""The model card says what the run left, its code runs, and what is unknown or private is not in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from erv_lightning.callbacks.export import write_model
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.evaluation import evaluate
from erv_lightning.labels import DFEW
from erv_lightning.model_card import Weights, model_card
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.results import read_predictions
from erv_lightning.rl.rollout import Sampling, rollout
from erv_lightning.runs import RunFolder
from erv_lightning.text import parse_response

QUESTION = "Which emotion is the most obvious to you in this clip, and why?"
BEST = Weights("best.ckpt", 40)


def config(**changes: Any) -> dict[str, Any]:
    backbone = {"pretrained": "tiny", "lora": None, "freeze": ["vision", "audio"], "use_audio_in_video": False}
    source = {"class_path": "erv_lightning.data.readers.Dfew", "init_args": {"root": "data/dfew", "fold": 5}}
    whole: dict[str, Any] = {
        "stage": "grpo",
        "name": "test",
        "seed_everything": 3,
        "model": {
            "class_path": "erv_lightning.modules.GRPOModule",
            "init_args": {
                "backbone": {"class_path": "erv_lightning.models.QwenOmniBackbone", "init_args": backbone},
                "rewards": {"format": 1.0, "explanation": 0.5},
                "evaluation": {"max_new_tokens": 60, "temperature": 0.3},
                "lr": 1e-6,
            },
        },
        "data": {
            "source": source,
            "train_split": "rl",
            "val_split": "val",
            "test_split": "test",
            "modalities": ["video", "audio"],
            "num_frames": 4,
            "fps": None,
            "frame_size": [56, 56],
        },
        "trainer": {"max_steps": -1, "max_epochs": 7, "precision": None},
    }
    backbone.update(changes.pop("backbone", {}))
    for path, value in changes.items():
        *above, last = path.split("__")
        node = whole
        for key in above:
            node = node[key]
        node[last] = value
    return whole


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs", "grpo", "test")
    made.path.mkdir(parents=True)
    return made


def save(run: RunFolder, settings: dict[str, Any]) -> None:
    run.config.write_text(yaml.safe_dump(settings, sort_keys=False))


def predict(run: RunFolder, datasets: tuple[str, ...] = ("dfew",), count: int = 28) -> None:
    """Predictions of which three of four are right, and their explanations in every second."""
    rows = []
    for dataset in datasets:
        for index in range(count):
            label = index % 7
            answer, told = (label if index % 4 else (label + 1) % 7), (label if index % 2 else -1)
            row: dict[str, Any] = {"id": str(index), "dataset": dataset, "clip": f"{index}.mp4", "label_space": "dfew"}
            row |= {"label_id": label, "answer_id": answer, "judges": {"grammar": told}, "well_formed": True}
            rows.append(row)
    run.predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))


def front(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def code_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    return found[1]


def run_code(code: str, folder: Path, clip: str = "") -> str:
    """What the card's code prints in the model's folder."""
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exec(code.replace('"clip.mp4"', repr(clip)), {})
    return said.getvalue()


# -- the code -----------------------------------------------------------------------------------------------------

SWITCHES = {
    "both": (["video", "audio"], False),
    "mixed": (["video", "audio"], True),
    "video": (["video"], False),
    "audio": (["audio"], False),
}


@pytest.mark.parametrize("which", SWITCHES)
@torch.no_grad()
def test_the_code_of_a_policys_card_answers_a_clip_as_the_run_would(
    taught: Any, clips: SyntheticClips, run: RunFolder, tmp_path: Path, which: str
) -> None:
    modalities, mixed = SWITCHES[which]
    backbone = QwenOmniBackbone(str(taught.folder), use_audio_in_video=mixed).eval()
    source = {"class_path": "erv_lightning.data.readers.SyntheticClips", "init_args": {"question": QUESTION}}
    save(run, config(data__modalities=modalities, data__source=source, backbone={"use_audio_in_video": mixed}))
    write_model(backbone.save, model_card(run, BEST), tmp_path / "model")
    sample = clips.samples("test")[3]

    media = MediaSettings(4, frame_size=(56, 56), video="video" in modalities, audio="audio" in modalities)
    prompt = backbone.encode_prompt(QUESTION, load_clip(sample.clip, media))
    batch = backbone.collate([sample.id], [prompt])
    drawn = rollout(backbone, backbone.embed(batch), batch, 1, Sampling(60, temperature=0.0), torch.Generator())
    response = parse_response(backbone.decode(drawn.token_ids[0, : int(drawn.mask.sum())].tolist()))
    code = code_of((tmp_path / "model" / "README.md").read_text())
    assert run_code(code, tmp_path / "model", sample.clip) == f"{response.answer} because: {response.explanation}\n"
    assert which != "both" or response.explanation


def test_the_code_of_a_verifiers_card_gives_probabilities(verifier_folder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "verifier", "test")
    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    write_model(verifier.save, model_card(run, BEST), tmp_path / "model")
    code = code_of((tmp_path / "model" / "README.md").read_text())
    lines = run_code(code, tmp_path / "model").splitlines()
    sentence = "The corners of his mouth curve up."
    probs = dict(zip(DFEW.names, (round(p, 3) for p in verifier.probs([sentence])[0].tolist()), strict=True))
    assert lines[0] == f"{sentence} {probs}"
    assert len(lines) == 2


# -- the numbers --------------------------------------------------------------------------------------------------


def test_the_metrics_are_the_predictions_with_their_intervals(run: RunFolder) -> None:
    save(run, config())
    predict(run)
    card = model_card(run, BEST)
    expected = evaluate(read_predictions(run.predictions), ["grammar"]).overall.under("grammar")

    (result,) = ModelCard(card).data.to_dict()["model-index"][0]["results"]  # type: ignore[no-untyped-call]
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("dfew", "test")
    found = {metric["type"]: metric for metric in result["metrics"]}
    assert set(found) == {"war", "uar", "f1", "eea", "epc", "fcr", "fcr_given_correct"}
    for name, metric in found.items():
        assert metric["value"] == pytest.approx(expected[name].value, abs=1e-4)
        assert metric["args"]["interval_95"] == pytest.approx([expected[name].low, expected[name].high], abs=1e-4)
    assert found["war"]["value"] == 0.75  # three of four
    war = expected["war"]
    assert f"| all (28) | 0.750 [{war.low:.3f}, {war.high:.3f}] |" in card
    assert "95 % intervals" in card


def test_several_data_sets_have_a_row_and_a_result_each(run: RunFolder) -> None:
    save(run, config())
    predict(run, ("dfew", "mafw"))
    card = model_card(run, BEST)
    assert [one["dataset"]["name"] for one in front(card)["model-index"][0]["results"]] == ["dfew", "mafw"]
    assert re.findall(r"^\| (\w+) \((\d+)\) \|", card, re.MULTILINE) == [("all", "56"), ("dfew", "28"), ("mafw", "28")]


def test_an_untested_run_claims_nothing(run: RunFolder) -> None:
    save(run, config())
    card = model_card(run, BEST)
    assert "model-index" not in front(card)
    assert "Not measured on the test split: run `test`, then `export`" in card


def test_predictions_of_other_weights_are_told_apart(run: RunFolder) -> None:
    save(run, config())
    predict(run)
    written = run.predictions.stat().st_mtime
    assert "older than these weights" not in model_card(run, Weights("best.ckpt", 40, written - 10))
    assert "**The predictions are older than these weights**" in model_card(run, Weights("best.ckpt", 40, written + 10))
    assert "`test` measures `best.ckpt` unless" in model_card(run, Weights("last.ckpt", 80, written - 10))


def test_predictions_that_cannot_be_read_are_named_and_stop_nothing(run: RunFolder) -> None:
    save(run, config())
    run.predictions.write_text("{")
    assert f"could not be read: {run.predictions}:1: not a JSON object" in model_card(run, BEST)


def test_validation_metrics_are_those_of_the_exported_step(run: RunFolder) -> None:
    save(run, config())
    (run.path / "metrics.csv").write_text(
        "step,train/loss,val/fcr,val/war\n19,,0.1,0.2\n39,0.5,,\n39,,0.3,0.4\n59,,0.9,0.9\n"
    )
    assert "On the validation split, which chose these weights: FCR 0.300, WAR 0.400." in model_card(run, BEST)


def test_a_verifiers_metrics_come_from_its_summary(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "verifier", "test")
    run.path.mkdir(parents=True)
    (run.path / "summary.json").write_text('{"test/f1_macro": 0.91234, "test/f1_micro": 0.5}')
    card = model_card(run, BEST)
    assert "| f1_macro | 0.912 |" in card
    assert [one["value"] for one in front(card)["model-index"][0]["results"][0]["metrics"]] == [0.9123, 0.5]
    assert front(card)["pipeline_tag"] == "text-classification"


# -- where it comes from ------------------------------------------------------------------------------------------


def test_the_base_model_is_found_behind_the_stages(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sft = RunFolder(Path("runs"), "sft", "first")
    sft.path.mkdir(parents=True)
    save(sft, config(backbone={"pretrained": "Qwen/Qwen2.5-Omni-3B"}))
    save(run, config(backbone={"pretrained": str(sft.export), "lora": {"rank": 16, "alpha": 32}}))
    card = model_card(run, BEST)
    assert front(card)["base_model"] == "Qwen/Qwen2.5-Omni-3B"
    assert "Started from `runs/sft/first/export`, which had started from `Qwen/Qwen2.5-Omni-3B`." in card
    assert "adapters merged" in card
    assert "`Qwen/Qwen2.5-Omni-3B` have licences of their own" in card

    (tmp_path / "Qwen" / "Qwen2.5-Omni-3B").mkdir(parents=True)  # a folder of that name is no hub id
    assert "base_model" not in front(model_card(run, BEST))


def test_data_training_and_config_are_told(run: RunFolder) -> None:
    mixture = {
        "class_path": "erv_lightning.data.readers.MixedClips",
        "init_args": {"sources": [{"class_path": f"x.{name}", "init_args": {"fold": 5}} for name in ("Dfew", "Mafw")]},
    }
    settings = config(data__source=mixture)
    save(run, settings)
    card = model_card(run, BEST)
    assert "Clips, train on `rl`, val on `val`, test on `test`." in card
    assert "| `Dfew` | `{fold: 5}` |" in card
    assert "| `Mafw` | `{fold: 5}` |" in card
    assert "| `model.init_args.rewards` | `{format: 1.0, explanation: 0.5}` |" in card
    assert "| `trainer.max_epochs` | `7` |" in card
    assert "trainer.max_steps` |" not in card  # unlimited
    shown = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1]) == settings
    assert "arxiv.org/abs/2510.23506" in card
    assert "license" not in front(card)
    assert "# license: yours to choose" in card


def test_keys_are_not_published(run: RunFolder) -> None:
    judge = {"class_path": "erv_lightning.judges.ChatJudge", "init_args": {"api_key_env": "MY_KEY", "api_key": "sk-1"}}
    save(run, config(model__init_args__judge=judge))
    card = model_card(run, BEST)
    assert "sk-1" not in card
    assert "MY_KEY" in card  # the variable's name is no secret
    assert "max_new_tokens: 60" in card


def test_a_run_outside_the_command_line_has_a_card_too(run: RunFolder) -> None:
    card = model_card(run, Weights("the end of training", 1))
    assert "its data are unknown" in card
    assert front(card)["library_name"] == "transformers"


# -- all or nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_model_is_written_whole_or_not_at_all(tmp_path: Path, there: bool) -> None:
    def half(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("new")
        raise KeyboardInterrupt

    folder = tmp_path / "deep" / "model"

    def writer(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("old")

    if there:
        write_model(writer, "card", folder)
    with pytest.raises(KeyboardInterrupt):
        write_model(half, "card", folder)
    assert os.listdir(tmp_path / "deep") == ["model"] * there
    write_model(writer, "new card", folder)
    assert sorted(os.listdir(folder)) == ["README.md", "config.json"]
    assert (folder / "README.md").read_text() == "new card"
    assert os.listdir(tmp_path / "deep") == ["model"]

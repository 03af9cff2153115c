"""`predict` on clips that nobody labelled: what it answers, that it goes on, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_fixtures import Checkout, read_jsonl

from erv_lightning.__main__ import main
from erv_lightning.answering import SAMPLING, answers, read_policy
from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.readers.found import found_clips
from erv_lightning.data.sample import QUESTION
from erv_lightning.models import QwenOmniBackbone
from erv_lightning.models.choosing import backbone_class

pytest_plugins = ("cli_fixtures",)

FAST = ("--max-new-tokens", "12", "--num-frames", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    QwenOmniBackbone().save(folder)
    return str(folder)


@pytest.fixture
def folder(clips: SyntheticClips, tmp_path: Path) -> Path:
    """Five clips, two of them further down, beside other files."""
    for place, sample in zip(("a.mp4", "b.MP4", "sub/c.mp4", "sub/d.mp4", "e.mp4"), clips.samples("rl"), strict=False):
        (tmp_path / "clips" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.clip, tmp_path / "clips" / place)
    (tmp_path / "clips" / "notes.txt").write_text("no clip")
    (tmp_path / "clips" / ".hidden.mp4").write_text("no clip")
    return tmp_path / "clips"


def test_every_clip_of_a_folder_is_answered_once(
    folder: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "rows.jsonl"
    words = ["predict", str(folder), str(folder / "a.mp4"), "--model", model, "--out", str(out), *FAST]
    assert main([*words, "--batch-size", "2"]) == 0
    rows = read_jsonl(out)
    assert [Path(row["clip"]).name for row in rows] == ["a.mp4", "b.MP4", "e.mp4", "c.mp4", "d.mp4"]
    wanted = {
        "id",
        "dataset",
        "clip",
        "question",
        "label",
        "response",
        "explanation",
        "answer",
        "answer_id",
        "label_id",
    }
    assert wanted <= rows[0].keys()
    assert {row["label_id"] for row in rows} == {-1}
    assert {row["question"] for row in rows} == {QUESTION}
    shown = capsys.readouterr().out
    assert all(row["clip"] in shown for row in rows)

    # again: nothing is left to do, and nothing is loaded for it
    before = out.read_bytes()
    assert main([*words[:-4], "--model", "nowhere", "--out", str(out)]) == 0
    assert out.read_bytes() == before


def test_a_stopped_prediction_goes_on_and_ends_as_one_that_was_not(folder: Path, model: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    words = ["predict", str(folder), "--model", model, *FAST, "--temperature", "1", "--top-p", "1", "--seed", "3"]
    assert main([*words, "--out", str(whole), "--batch-size", "5"]) == 0
    lines = whole.read_text().splitlines(keepends=True)
    parts.write_text("".join(lines[:2]) + lines[2][:20])  # killed in the middle of a line
    assert main([*words, "--out", str(parts), "--batch-size", "2"]) == 0
    assert read_jsonl(parts) == read_jsonl(whole)
    assert len({row["response"] for row in read_jsonl(whole)}) > 1


def test_a_clip_that_cannot_be_used_is_named_and_the_others_are_answered(
    folder: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.mp4").write_bytes(b"no film")
    out = tmp_path / "rows.jsonl"
    assert main(["predict", str(folder), "--model", model, "--out", str(out), *FAST]) == 1
    assert len(read_jsonl(out)) == 5
    assert "broken.mp4" in capsys.readouterr().err


def test_an_answer_is_what_the_model_itself_would_say(folder: Path, model: str) -> None:
    policy = read_policy(model, "cpu", {"max_new_tokens": 10, "temperature": 0.0, "num_frames": 2})
    samples = found_clips([folder])
    (batch,) = answers(policy, samples, batch_size=5)
    backbone = policy.backbone
    assert isinstance(backbone, QwenOmniBackbone)
    for sample, row in zip(samples, batch.rows, strict=True):
        clip = load_clip(sample.clip, policy.rules.read_by(backbone).media)
        prompts = backbone.collate([sample.id], [backbone.encode_prompt(QUESTION, clip)])
        said = backbone.model.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=backbone.unsayable_ids.tolist(),
            video_second_per_grid=torch.tensor([2 / clip.fps]),
            **prompts.media,
        )[0, prompts.input_ids.shape[1] :]
        assert row["response"] == backbone.decode(said.tolist())


def test_a_run_brings_its_own_question_frames_and_sampling(
    trained: Checkout, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    policy = read_policy("runs/sft/default", "cpu")
    assert policy.question != QUESTION
    assert (policy.rules.media.num_frames, policy.rules.media.frame_size) == (4, (56, 56))
    assert policy.sampling.max_new_tokens == 24
    assert read_policy("runs/sft/default/export", "cpu").question == policy.question
    assert read_policy("runs/sft/default", "cpu", {"num_frames": 2, "top_p": 0.5}).sampling.top_p == 0.5
    exported = dict(policy.backbone.model.named_parameters())
    for name, weight in QwenOmniBackbone("runs/sft/default/export").model.named_parameters():
        assert torch.equal(exported[name].float(), weight)
    with pytest.raises(ValueError, match="answers no clips: name an sft or grpo run"):
        read_policy("runs/verifier/default")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{folder}/nothing.mp4", "--model", "{model}"), "no file or folder"),
        (("{empty}", "--model", "{model}"), "no clip in"),
        (("{folder}", "--model", "{empty}"), "no config.json in"),
        (("{folder}", "--model", "{verifier}"), "is a roberta model; one of these is needed"),
        (("{folder}", "--model", "{model}", "--label-space", "none"), "no label space 'none'"),
        (("{folder}", "--model", "{model}", "--top-p", "2"), "0 < top_p"),
        (("{folder}", "--model", "{model}", "--out", "{other}"), "is no file of predictions"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...],
    said: str,
    folder: Path,
    model: str,
    verifier_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("a diary\n")
    names = {"folder": folder, "model": model, "verifier": verifier_folder}
    names |= {"empty": tmp_path / "empty", "other": tmp_path / "other.txt"}
    argv = [word.format(**names) for word in words]
    if "--out" not in argv:
        argv += ["--out", str(tmp_path / "rows.jsonl")]
    assert main(["predict", *argv]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert said in error
    assert (tmp_path / "other.txt").read_text() == "a diary\n"


def test_a_config_still_predicts_its_test_split_and_help_tells_of_both() -> None:
    command = [sys.executable, "-m", "erv_lightning", "predict", "--help"]
    helped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert helped.returncode == 0
    assert "predict -c configs/grpo.yaml" in " ".join(helped.stdout.split())
    assert main(["predict", "-c", "nowhere.yaml"]) == 2


def test_the_built_in_model_has_a_name() -> None:
    assert backbone_class("tiny") is QwenOmniBackbone
    assert (SAMPLING.temperature, SAMPLING.top_p, SAMPLING.max_new_tokens) == (0.3, 0.9, 512)

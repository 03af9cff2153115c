"""`data check`, `data export` and `data optimize` over a small set of real files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erv_lightning.__main__ import main
from erv_lightning.data.check import Probe, Prober
from erv_lightning.data.check.findings import check, duplicates, histogram
from erv_lightning.data.clips import ClipRules
from erv_lightning.data.encode import write_mp4
from erv_lightning.data.readers import JsonlClips, ShardedClips
from erv_lightning.data.sample import ClipSource, Published, Sample

ROOT = Path(__file__).parents[2]
LABELS = ["happy", "sad", "neutral", "angry"]


def write_clip(path: Path, seed: int, sound: bool = True, seconds: int = 1) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (12 * seconds, 56, 56, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = rng.normal(0, 0.1, 16000 * seconds).astype(np.float32) if sound else None
    write_mp4(path, frames, wave, 12, 16000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight training clips, four for validation and four for the test, all fine."""
    for split, count, start in (("train", 8, 0), ("val", 4, 100), ("test", 4, 200)):
        rows = []
        for index in range(count):
            write_clip(tmp_path / split / f"{index}.mp4", start + index)
            label = LABELS[index % 4]
            rows.append(
                {"clip": f"{split}/{index}.mp4", "label": label, "explanation": "She smiles.", "id": f"{index}"}
            )
        write_rows(tmp_path, split, rows)
    return tmp_path


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def write_rows(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, *words: str, config: str = "sft") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    settings = [
        "-c",
        f"configs/{config}.yaml",
        "-c",
        "configs/data/jsonl.yaml",
        f"--data.source.init_args.root={folder}",
    ]
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["data", words[0], *settings, "--batch_size", "4", *words[1:]])
    return status, out.getvalue(), err.getvalue()


def checked(folder: Path, *words: str, config: str = "sft") -> tuple[int, dict[str, Any]]:
    status, out, err = run(folder, "check", "--json", *words, config=config)
    assert out, err
    return status, json.loads(out)


# -- check --------------------------------------------------------------------------------------------------------


def test_a_set_without_a_flaw_passes_and_its_numbers_are_told(folder: Path) -> None:
    status, report = checked(folder, "--workers", "2")
    assert (status, report["problems"]) == (0, [])
    train = report["splits"]["train"]
    assert train["datasets"][folder.name]["labels"] == {
        **dict.fromkeys(["surprise", "disgust", "fear"], 0), **dict.fromkeys(LABELS, 2)
    }  # fmt: skip
    assert train["clips"]["checked"] == 8
    assert train["clips"]["resolution"] == {"56x56": 8}
    assert train["clips"]["duration"]["total"] == 8.0
    assert sum(train["clips"]["prompt_tokens"]["counts"]) == 8
    assert 0 < train["clips"]["media_tokens"]["max"] < train["clips"]["prompt_tokens"]["min"]
    assert report["duplicates"] == []
    assert f"train: no clip of {folder.name} is surprise, disgust, fear" in report["warnings"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_kind_of_flaw_is_named_with_its_record(folder: Path, workers: str) -> None:
    (folder / "train" / "1.mp4").unlink()
    (folder / "train" / "2.mp4").write_bytes((folder / "train" / "2.mp4").read_bytes()[:3000])
    write_clip(folder / "train" / "3.mp4", 3, sound=False)
    write_clip(folder / "train" / "4.mp4", 4, seconds=3)
    status, report = checked(folder, "--workers", workers, "--data.max_prompt_tokens", "90")
    clips = report["splits"]["train"]["clips"]
    assert status == 1
    assert [one["id"] for one in clips["missing"]] == ["1"]
    assert [one["id"] for one in clips["unreadable"]] == ["2"]
    assert "cannot be decoded" in clips["unreadable"][0]["reason"]
    assert [one["id"] for one in clips["without_audio"]] == ["3"]
    assert {one["id"] for one in clips["over_budget"]} == {"4"}
    place = str(folder / "train.jsonl")
    assert f"train: 1 clips missing: {place}:2" in report["problems"]
    assert f"train: 1 clips cannot be used: {place}:3" in report["problems"]
    assert f"train: 1 clips over data.max_prompt_tokens: {place}:5" in report["problems"]
    assert "train: 1 clips without audio are heard as silence" in report["warnings"]


def test_with_skip_bad_clips_are_warnings(folder: Path) -> None:
    (folder / "train" / "1.mp4").unlink()
    status, report = checked(folder, "--data.on_bad_clip", "skip", "--workers", "1")
    assert (status, report["problems"]) == (0, [])
    assert any("1 clips missing" in line for line in report["warnings"])


def test_a_training_clip_in_the_test_is_found_by_path_and_by_content(folder: Path) -> None:
    own = rows(folder, "test")
    own[1]["clip"] = "train/0.mp4"
    write_rows(folder, "test", own)
    shutil.copy(folder / "train" / "5.mp4", folder / "val" / "2.mp4")
    status, report = checked(folder, "--workers", "1")
    assert status == 1
    name = folder.name
    found = {one["by"]: (one["splits"], one["samples"]) for one in report["duplicates"]}
    assert found == {
        "path": (["test", "train"], [f"train/{name}/0", f"test/{name}/1"]),
        "content": (["train", "val"], [f"train/{name}/5", f"val/{name}/2"]),
    }
    assert len([line for line in report["problems"] if line.startswith("the same clip")]) == 2


def test_what_a_stage_learns_from_must_be_there(folder: Path) -> None:
    own = rows(folder, "train")
    del own[2]["explanation"]
    write_rows(folder, "train", own)
    status, report = checked(folder, "--no-media")
    assert status == 1
    assert "1 samples without an explanation" in report["problems"][0]
    status, report = checked(folder, "--no-media", config="verifier")
    assert report["problems"] == [
        "train: no labelled sentences, which the verifier learns",
        "val: no labelled sentences, which the verifier learns",
    ]
    write_rows(folder, "train", rows(folder, "train")[:3])
    assert any("fewer than one batch of 4" in line for line in checked(folder, "--no-media")[1]["problems"])


def test_grpo_needs_the_prompts_of_a_step(folder: Path) -> None:
    words = ("--no-media", "--prompts_per_step", "16")
    assert checked(folder, *words, config="grpo")[1]["problems"] == ["train: 8 samples, fewer than one batch of 16"]
    assert checked(folder, "--no-media", config="grpo")[1]["problems"] == []


def test_a_set_without_a_test_split_can_be_checked(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    status, report = checked(folder, "--no-media")
    assert (status, list(report["splits"])) == (0, ["train", "val"])
    assert any(line.startswith("no test split: ") for line in report["warnings"])
    (folder / "val.jsonl").unlink()
    assert run(folder, "check", "--no-media")[0] == 2


def test_without_media_no_clip_is_opened_and_with_a_limit_the_first_ones(folder: Path) -> None:
    (folder / "train" / "7.mp4").unlink()
    assert checked(folder, "--no-media")[0] == 0
    status, report = checked(folder, "--limit", "3", "--workers", "1")
    assert (status, report["splits"]["train"]["clips"]["checked"]) == (0, 3)


def test_without_an_exported_policy_clips_are_looked_at_and_prompts_are_not(folder: Path) -> None:
    status, report = checked(folder, "--limit", "1", "--runs", str(folder / "none"), config="grpo")
    assert status == 0, report["problems"]
    assert report["splits"]["train"]["clips"]["prompt_tokens"] is None
    assert any("prompts were not measured" in line for line in report["warnings"])


def test_a_terminal_shows_what_matters(folder: Path) -> None:
    (folder / "train" / "1.mp4").unlink()
    status, out, _ = run(folder, "check", "--workers", "1")
    assert status == 1
    for said in ("8 samples", "happy", "duration, s", "prompt, tokens", "problem: train: 1 clips missing"):
        assert said in out
    assert "nothing here would break a run" in run(folder, "check", "--no-media")[1]


def test_bad_rows_and_bad_settings_are_one_line_as_for_fit(folder: Path) -> None:
    write_rows(folder, "val", [{"clip": "val/0.mp4", "label": "bored"}])
    status, _, err = run(folder, "check")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert "val.jsonl:1: label 'bored'" in err.splitlines()[-1]
    status, _, err = run(folder, "check", "--data.num_frame", "3")
    assert (status, "did you mean 'num_frames'" in err) == (2, True)


class Deadly(Prober):
    """Ends its process at one clip."""

    def __call__(self, sample: Sample) -> Probe:
        if sample.id == "2":
            os._exit(11)
        return Probe(duration=float(sample.id))


def test_a_clip_that_ends_the_process_is_named_and_the_others_are_looked_at(folder: Path) -> None:
    samples = JsonlClips(str(folder)).samples("train")
    probes = list(Deadly(ClipRules(), JsonlClips(str(folder)).media).all(samples, 2))
    assert [probe.duration for probe in probes] == [0, 1, 0, 3, 4, 5, 6, 7]
    assert "ended the process (status 11)" in probes[2].error


# -- findings -----------------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_value_once() -> None:
    found = histogram([1.0, 2.0, 2.5, 11.0])
    assert found is not None
    assert (sum(found["counts"]), found["counts"][0], found["counts"][-1]) == (4, 1, 1)
    assert (found["min"], found["median"], found["max"], found["total"]) == (1.0, 2.25, 11.0, 16.5)
    assert histogram([]) is None


class Reported(ClipSource):
    """Three clips, of which its authors count five in training and validation together."""

    def samples(self, split: str) -> list[Sample]:
        count = {"train": 2, "val": 1, "test": 1}[split]
        return [Sample(f"{split}{i}", "d", f"{split}{i}.mp4", "?", "dfew", "sad", split) for i in range(count)]

    def published(self, splits: Any) -> Published | None:
        return {("train", "val"): Published(5, {"sad": 5}), ("test",): Published(1)}.get(tuple(splits))


def test_published_numbers_stand_beside_those_found() -> None:
    source = Reported()
    samples = {split: source.samples(split) for split in ("train", "val", "test")}
    report = check(source, {"train": "train", "val": "val", "test": "test"}, samples, {}, ClipRules())
    assert report["published"] == [
        {
            "dataset": "d",
            "splits": ["train", "val"],
            "found": 3,
            "published": 5,
            "labels": {"sad": {"found": 3, "published": 5}},
        },
        {"dataset": "d", "splits": ["test"], "found": 1, "published": 1, "labels": {}},
    ]
    assert "d, train and val: 3 clips, 5 published" in report["warnings"]
    assert "d, train and val: 3 sad, 5 published" in report["warnings"]


def test_one_clip_of_a_kind_is_no_duplicate() -> None:
    samples = {"train": Reported().samples("train"), "val": Reported().samples("val")}
    assert duplicates(samples, {"train": [Probe(digest="a"), Probe(digest="b")], "val": [Probe()]}) == []


# -- export and optimize ------------------------------------------------------------------------------------------


def test_a_split_is_exported_and_read_back(folder: Path, tmp_path: Path) -> None:
    status, _, err = run(folder, "export", "--split", "val", "--to", str(tmp_path / "out" / "val.jsonl"))
    assert (status, "wrote 4 samples" in err) == (0, True)
    read = JsonlClips(str(tmp_path / "out")).samples("val")
    written = JsonlClips(str(folder)).samples("val")
    assert [Path(one.clip).resolve() for one in read] == [Path(one.clip).resolve() for one in written]
    assert [(one.id, one.label, one.explanation) for one in read] == [
        (one.id, one.label, one.explanation) for one in written
    ]
    status, _, err = run(folder, "export", "--split", "rl", "--to", str(tmp_path / "rl.jsonl"))
    assert (status, "no file" in err) == (2, True)


def test_shards_are_written_and_a_run_checks_them(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("litdata")
    status, _, err = run(folder, "optimize", "--to", str(tmp_path / "shards"))
    assert (status, "configs/data/shards.yaml" in err) == (0, True)
    assert [one.id for one in ShardedClips(str(tmp_path / "shards")).samples("test")] == ["0", "1", "2", "3"]
    out = io.StringIO()
    words = ["data", "check", "--json", "-c", "configs/sft.yaml", "-c", "configs/data/shards.yaml"]
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out):
        root = f"--data.source.init_args.root={tmp_path / 'shards'}"
        assert main([*words, root, "--batch_size", "4", "--workers", "2"]) == 0
    assert json.loads(out.getvalue())["splits"]["train"]["clips"]["checked"] == 8

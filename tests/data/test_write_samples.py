from __future__ import annotations

import builtins
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from erv_lightning.data.export import write_samples
from erv_lightning.data.readers import JsonlClips, ParquetClips
from erv_lightning.data.sample import ClipSource, Sample

SAMPLES = [
    Sample(
        id="MELD/dia0_utt1",
        dataset="meld",
        clip="/elsewhere/clips/1.mp4",
        question="What is felt?\nSay it.",
        label_space="meld",
        label="joy",
        split="test",
        explanation="She laughs. She is startled. It is late.",
        sentence_labels=(("joy", "surprise"), None, ()),
        sentence_probs=((0.0, 0.75, 0.125, 0.0, 0.0, 0.0, 1.0), None, (0.25,) * 7),
        subtitle='"Oh!\u2028Yes." – 高兴',
        fold=3,
        source="Friends",
        audio="/elsewhere/sound/1.wav",
        weight=0.5,
        record="meld.csv:2",
    ),
    Sample(
        id="2",
        dataset="dfew",
        clip="/elsewhere/2.mp4",
        question="Which?",
        label_space="dfew",
        label="sad",
        split="test",
    ),
]
KINDS: list[tuple[str, Callable[[str], ClipSource]]] = [(".jsonl", JsonlClips), (".parquet", ParquetClips)]


def without_records(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, record="") for sample in samples]


@pytest.mark.parametrize(("suffix", "reader"), KINDS)
def test_samples_read_back_equal_those_written_but_for_where_they_were_read(
    tmp_path: Path, suffix: str, reader: Callable[[str], ClipSource]
) -> None:
    folder = tmp_path / "made [1]" / "fold=4"  # read as a name, not as a pattern or a column
    write_samples(SAMPLES, folder / f"test{suffix}")

    back = reader(str(folder)).samples("test")

    assert without_records(back) == without_records(SAMPLES)
    assert [Path(sample.record).name for sample in back] == [f"test{suffix}:1", f"test{suffix}:2"]
    assert os.listdir(folder) == [f"test{suffix}"]


@pytest.mark.parametrize(("suffix", "reader"), KINDS)
def test_relative_paths_are_written_relative_to_the_file_and_read_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, reader: Callable[[str], ClipSource]
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = replace(SAMPLES[1], clip="out/clips/1.mp4", audio="data/sound/1.wav")
    outside = replace(SAMPLES[1], id="3", clip="data/dfew/clip/1.mp4")
    write_samples([inside, outside], f"out/test{suffix}")

    back = reader("out").samples("test")

    assert [(one.clip, one.audio) for one in back] == [
        ("out/clips/1.mp4", "data/sound/1.wav"),
        ("data/dfew/clip/1.mp4", ""),
    ]


@pytest.mark.parametrize(("suffix", "reader"), KINDS)
def test_probabilities_over_different_labels_share_a_file(
    tmp_path: Path, suffix: str, reader: Callable[[str], ClipSource]
) -> None:
    other = replace(
        SAMPLES[1], explanation="A. B.", sentence_labels=(("sad",), None), sentence_probs=(None, (0.5,) * 7)
    )
    write_samples([SAMPLES[0], other, replace(SAMPLES[1], id="3")], tmp_path / f"test{suffix}")
    assert without_records(reader(str(tmp_path)).samples("test"))[:2] == without_records([SAMPLES[0], other])


def test_every_field_of_a_sample_is_tried() -> None:
    plain = asdict(SAMPLES[1])
    assert [key for key, value in asdict(SAMPLES[0]).items() if value == plain[key] and key != "split"] == []


@pytest.mark.parametrize("weight", [0, -1, "often", None])
def test_a_weight_is_a_number_above_0(tmp_path: Path, weight: object) -> None:
    row = {"clip": "1.mp4", "label": "sad", "weight": weight}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    source = JsonlClips(str(tmp_path))
    if weight is None:  # as left out
        assert source.samples("test")[0].weight == 1
    else:
        with pytest.raises(ValueError, match=r"test\.jsonl:1: .*weight"):
            source.samples("test")


def test_the_folder_can_move_with_the_clips_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_samples([replace(SAMPLES[1], clip="out/clips/1.mp4")], "out/test.jsonl")
    Path("out").rename("moved")
    (sample,) = JsonlClips("moved").samples("test")
    assert sample.clip == "moved/clips/1.mp4"


def test_paths_lead_to_the_clip_from_a_folder_that_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk/far").mkdir(parents=True)
    Path("out").symlink_to("disk/far")
    Path("clip.mp4").touch()
    write_samples([replace(SAMPLES[1], clip="clip.mp4")], "out/test.jsonl")
    (sample,) = JsonlClips("out").samples("test")
    assert Path(sample.clip).samefile("clip.mp4")


def test_a_path_that_leads_through_a_link_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk/far").mkdir(parents=True)
    Path("out").symlink_to("disk/far")
    Path("disk/clip.mp4").touch()
    Path("out/test.jsonl").write_text(json.dumps({"clip": "../clip.mp4", "label": "sad"}))
    (sample,) = JsonlClips("out").samples("test")
    assert Path(sample.clip).samefile("disk/clip.mp4")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_interrupted_write_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"test{suffix}"
    write_samples(SAMPLES, path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_samples(SAMPLES[:1], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("samples", "name", "why"),
    [
        (SAMPLES, "test.csv", r"test\.csv' is neither \.jsonl nor \.parquet"),
        ([], "test.jsonl", "no samples for"),
        ([SAMPLES[0], replace(SAMPLES[1], split="val")], "test.jsonl", "samples of test, val for .* each split"),
        (
            [SAMPLES[0], replace(SAMPLES[1], id=SAMPLES[0].id)],
            "test.jsonl",
            "'MELD/dia0_utt1': write one file for each",
        ),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, samples: list[Sample], name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        write_samples(samples, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_parquet_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(SAMPLES, tmp_path / "test.parquet")

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    message = r"^Parquet needs Hugging Face datasets: pip install 'erv-lightning\[parquet\]'$"
    with pytest.raises(ValueError, match=message):
        write_samples(SAMPLES, tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=message):
        ParquetClips(str(tmp_path)).samples("test")


def test_lines_need_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        assert name.split(".")[0] not in ("datasets", "pyarrow")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", without)
    write_samples(SAMPLES, tmp_path / "test.jsonl")
    assert len(JsonlClips(str(tmp_path)).samples("test")) == 2


def test_a_broken_parquet_file_and_a_bad_row_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"train\.parquet' is not Parquet .* complete"):
        ParquetClips(str(tmp_path)).samples("train")
    write_samples([SAMPLES[0], replace(SAMPLES[1], label="bored")], tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"test\.parquet:2: label 'bored' is not in"):
        ParquetClips(str(tmp_path)).samples("test")
    with pytest.raises(ValueError, match=r"no file .*val\.parquet' for the split 'val'"):
        ParquetClips(str(tmp_path)).samples("val")

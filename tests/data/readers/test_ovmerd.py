"""OV-MERD in miniature, with the file and column names of MER2025's release."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import OvMerd

TRACKS: tuple[Literal["track2"], Literal["track3"]] = ("track2", "track3")


def write(root: Path, words: str, reasons: str | None = None) -> None:
    (root / "track2_train_ovmerd.csv").write_text("name,openset\n" + words)
    if reasons is not None:
        (root / "track3_train_ovmerd.csv").write_text("name,reason\n" + reasons)


def test_the_label_is_the_first_word_that_the_space_knows_and_clips_decode(
    tmp_path: Path, put_clip: Callable[[Path], Path]
) -> None:
    write(tmp_path, 'sample_00000055,"[concerned, worried, sad]"\n', 'sample_00000055,"He frowns, and sighs."\n')
    (tmp_path / "subtitle_chieng.csv").write_text("name,chinese,english\nsample_00000055,心脏,The heart.\n")
    put_clip(tmp_path / "video" / "sample_00000055.mp4")

    (sample,) = OvMerd(str(tmp_path), holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label_space) == ("sample_00000055", "ovmerd", "mer2023")
    assert (sample.label, sample.explanation, sample.subtitle) == ("worried", "He frowns, and sighs.", "The heart.")
    assert load_clip(sample.clip, record=sample.record).has_audio


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("\"['happy', 'excited']\"", "happy"),
        ("sad", "sad"),
        ('"excited,joyful"', "happy"),
        ("开心；angry", None),
        ("[]", None),
        ("", None),
    ],
)
def test_words_stand_in_brackets_in_quotes_or_plain(tmp_path: Path, words: str, label: str | None) -> None:
    write(tmp_path, f"a,{words}\n")
    assert [one.label for one in OvMerd(str(tmp_path), holdout=0).samples("train")] == ([label] if label else [])


def test_another_label_space_finds_other_words(tmp_path: Path) -> None:
    write(tmp_path, 'a,"[disappointment, sad]"\n')
    (sample,) = OvMerd(str(tmp_path), label_space="mafw", holdout=0).samples("train")
    assert (sample.label_space, sample.label) == ("mafw", "disappointment")


def test_clips_without_a_known_word_are_left_out_and_the_log_says_once_how_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 'a,"[happy]"\nb,"[impatient]"\nc,"[relaxed, carefree]"\n')
    source = OvMerd(str(tmp_path), holdout=0)
    with caplog.at_level(logging.INFO):
        assert [sample.id for sample in source.samples("train")] == ["a"]
        source.samples("train")
    assert caplog.text.count("left out 2 clips with no word of the label space 'mer2023', e.g. b") == 1


def test_track_3_takes_only_clips_with_a_description(tmp_path: Path) -> None:
    write(tmp_path, "a,[happy]\nb,[sad]\nc,[angry]\n", "a,She smiles.\nb,\n")
    found = {track: OvMerd(str(tmp_path), track=track, holdout=0).samples("train") for track in TRACKS}
    assert [(one.id, one.explanation) for one in found["track2"]] == [("a", "She smiles."), ("b", ""), ("c", "")]
    assert [(one.id, one.explanation) for one in found["track3"]] == [("a", "She smiles.")]


def test_a_file_that_the_track_needs_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a,[happy]\n")
    with pytest.raises(ValueError, match=r"no file .*track3_train_ovmerd\.csv'"):
        OvMerd(str(tmp_path), track="track3").samples("train")
    (tmp_path / "track2_train_ovmerd.csv").unlink()
    with pytest.raises(ValueError, match=r"no file .*track2_train_ovmerd\.csv'"):
        OvMerd(str(tmp_path)).samples("train")


def test_another_track_or_label_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no track 'track1': set .* to track2 or track3"):
        OvMerd(str(tmp_path), track="track1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no label space 'nowhere'"):
        OvMerd(str(tmp_path), label_space="nowhere")


def test_a_clip_that_stands_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a,[happy]\na,[sad]\n")
    with pytest.raises(ValueError, match=r"ovmerd\.csv:3: the id 'a' stands already"):
        OvMerd(str(tmp_path)).samples("train")

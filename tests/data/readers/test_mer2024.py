"""MER2024 in miniature, with the folder, file and column names of the challenge's release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Mer2024


def test_all_clips_are_for_training_and_decode(tmp_path: Path, put_clip: Callable[[Path], Path]) -> None:
    (tmp_path / "label-disdim.csv").write_text("name,discrete,valence\nsample_00000047,surprise,1.5\n")
    (tmp_path / "label-transcription.csv").write_text("name,chinese,english\nsample_00000047,啊,Ah!\n")
    put_clip(tmp_path / "video-labeled" / "sample_00000047.mp4")

    (sample,) = Mer2024(str(tmp_path), holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label_space) == ("sample_00000047", "mer2024", "mer2023")
    assert (sample.label, sample.subtitle, sample.explanation) == ("surprise", "Ah!", "")
    assert load_clip(sample.clip, record=sample.record).has_audio


def test_validation_clips_are_taken_from_training_and_there_is_no_test(tmp_path: Path) -> None:
    rows = "".join(f"s{number},{('happy', 'sad')[number % 2]},0\n" for number in range(40))
    (tmp_path / "label-disdim.csv").write_text("name,discrete,valence\n" + rows)
    source = Mer2024(str(tmp_path), holdout=0.1)
    assert sorted(sample.label for sample in source.samples("val")) == ["happy"] * 2 + ["sad"] * 2
    with pytest.raises(ValueError, match="no split 'test', only train, val"):
        source.samples("test")


def test_bad_rows_and_a_missing_table_are_named(tmp_path: Path) -> None:
    source = Mer2024(str(tmp_path))
    with pytest.raises(ValueError, match=r"no file .*label-disdim\.csv': check data\.source\.init_args\.root"):
        source.samples("train")
    (tmp_path / "label-disdim.csv").write_text("name,discrete\na,fear\nb,happy\nc,\n")
    with pytest.raises(ValueError, match=r"csv:2: label 'fear' .*csv:4: label ''"):
        source.samples("train")


def test_the_published_count_is_of_all_labelled_clips(tmp_path: Path) -> None:
    published = Mer2024(str(tmp_path)).published(("train", "val"))
    assert published is not None
    assert published.clips == 5030

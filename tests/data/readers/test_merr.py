"""MERR in miniature, with the file and key names of the published files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from erv_lightning.data.media import load_clip
from erv_lightning.data.readers import Merr

FINE = {
    "pseu_emotion": "doubt",
    "AU_list": ["AU04"],
    "peak_index": "17",
    "text": "Really?",
    "smp_reason_caption": "He frowns.",
}
COARSE = {"pseu_emotion": "happy", "AU_list": ["AU12"], "peak_index": "3", "caption": "Lip corner puller."}


def write(root: Path, content: object, name: str = "MERR_fine_grained.json") -> None:
    (root / name).write_text(json.dumps(content))


def test_the_fine_file_gives_pseudo_labels_explanations_and_subtitles_and_its_clips_decode(
    tmp_path: Path, put_clip: Callable[[Path], Path]
) -> None:
    write(tmp_path, {"sample_00000047": FINE})
    put_clip(tmp_path / "video" / "sample_00000047.avi")

    (sample,) = Merr(str(tmp_path), holdout=0).samples("train")

    assert (sample.id, sample.dataset, sample.label_space, sample.label) == ("sample_00000047", "merr", "merr", "doubt")
    assert (sample.explanation, sample.subtitle) == ("He frowns.", "Really?")
    assert sample.record == f"{tmp_path / 'MERR_fine_grained.json'}:sample_00000047"
    assert load_clip(sample.clip, record=sample.record).has_audio


def test_the_coarse_file_is_read_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"samplenew_00004251": COARSE}, "MERR_coarse_grained.json")
    (sample,) = Merr(str(tmp_path), annotations="MERR_coarse_grained.json", holdout=0).samples("train")
    assert (sample.label, sample.explanation, sample.subtitle) == ("happy", "Lip corner puller.", "")


def test_subtitles_may_come_from_a_transcription(tmp_path: Path) -> None:
    write(tmp_path, {"a": {**FINE, "text": ""}})
    (tmp_path / "transcription.csv").write_text("name,sentence\na,Is it so?\n")
    (sample,) = Merr(str(tmp_path), holdout=0).samples("train")
    assert sample.subtitle == "Is it so?"


def test_all_bad_clips_are_named_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a": FINE,
            "b": {"pseu_emotion": "disgust"},
            "c": {"caption": "No."},
            "d": 4,
            "e": {**FINE, "smp_reason_caption": " "},
        },
    )
    with pytest.raises(ValueError, match="'disgust' is not in the label space 'merr'") as caught:
        Merr(str(tmp_path)).samples("train")
    message = str(caught.value)
    assert "grained.json:a:" not in message
    for part in (
        "json:b: label",
        "json:c: no 'pseu_emotion'",
        "json:d: no 'pseu_emotion'",
        "json:e: no text under smp_reason",
    ):
        assert part in message


@pytest.mark.parametrize(("text", "why"), [("[]", "is no JSON object"), ('{"a":', "is not JSON .* complete")])
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "MERR_fine_grained.json").write_text(text)
    with pytest.raises(ValueError, match=rf"MERR_fine_grained\.json' {why}"):
        Merr(str(tmp_path)).samples("train")


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*MERR_fine_grained\.json'"):
        Merr(str(tmp_path)).samples("train")
    (tmp_path / "MERR_fine_grained.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        Merr(str(tmp_path)).samples("train")


def test_published_counts_go_by_the_file(tmp_path: Path) -> None:
    files = ("MERR_fine_grained.json", "MERR_coarse_grained.json", "mine.json")
    found = [Merr(str(tmp_path), annotations=name).published(("train", "val")) for name in files]
    assert [one and one.clips for one in found] == [4487, 28618, None]

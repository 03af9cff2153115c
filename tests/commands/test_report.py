"""`report` on run folders made here: the page it writes, where clips are, who reads sentences, what it refuses."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import numpy as np
import pytest
from run_folders import prediction, rollout, write_run

from erv_lightning.__main__ import main
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.explaining import explain
from erv_lightning.labels import DFEW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.report.page import clips as page_clips
from erv_lightning.rl.reward_terms import ExplanationRule

TEXTS = ("In the video, the face beams. In the audio, the voice trembles in fear.", "The mouth hangs open.")
CURVES = {"val/war": [0.5, 0.7], "val/fcr": [0.2, 0.4], "train/reward": [1.0, 2.0], "train/entropy": [2.0, 1.0],
          "train/rewards/accuracy/mean": [0.4, 0.8]}  # fmt: skip


def predictions(seed: int, right: float) -> list[dict[str, Any]]:
    """35 clips, five of each label."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(35):
        answer, read = (i % 7 if rng.random() < right else -1 for _ in range(2))
        text = TEXTS[i % 2]
        said = {"explanation": text, "response": f"<think>{text}</think>"}
        judged = {"grammar": read}
        rows.append(prediction(f"{i:02}", label_id=i % 7, answer_id=answer, judges=judged, clip="gone.mp4", **said))
    return rows


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """A policy after SFT, and one trained by reward from two seeds."""
    made = [write_run(tmp_path / "runs" / "sft" / "default", predictions=predictions(0, 0.4), curves=CURVES)]
    for seed in (0, 1):
        made.append(
            write_run(
                tmp_path / "runs" / "grpo" / f"erv-seed{seed}",
                rollouts=[rollout(step, completion=place) for step in (0, 5) for place in (0, 1)],
                predictions=predictions(seed + 1, 0.9),
                curves=CURVES,
                config={"stage": "grpo"},
            )
        )
    return [str(run) for run in made]


def report(*words: str, out: Path) -> int:
    return main(["report", *words, "--draws", "100", "--out", str(out)])


def data_of(page: Path) -> Any:
    """What a page was told."""
    packed = re.search(r'id="data">([^<]*)</script>', page.read_text(encoding="utf-8"))
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


# -- sections -----------------------------------------------------------------------------------------------------


def test_the_page_has_curves_comparison_confusions_and_cells(runs: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "pages" / "page.html"
    assert report(*runs, out=out) == 0
    assert f"wrote {out} (" in capsys.readouterr().out.splitlines()[-1]
    page = data_of(out)

    sections = {section["id"]: section for section in page["sections"]}
    assert list(sections) == ["curves", "reward", "length", "comparison", "confusion", "cells"]
    assert page["command"] == f"python -m erv_lightning report {' '.join(runs)} --draws 100 --out {out}"
    assert page["title"] == "Report of sft/default, grpo/erv"
    figures = [figure for section in sections.values() for figure in section["figures"]]
    assert len({figure["id"] for figure in figures}) == len(figures)
    assert all(figure["plotly"]["data"] and figure["alt"] and figure["title"] for figure in figures)
    titles = [figure["title"] for figure in sections["curves"]["figures"]]
    assert titles == ["WAR, grpo", "FCR, grpo", "WAR, sft", "FCR, sft"]
    assert "grpo/erv 2.000" in next(one["alt"] for one in figures if one["title"] == "total reward, grpo")
    assert "reward: accuracy, grpo" in [one["title"] for one in sections["reward"]["figures"]]


def test_the_tables_are_those_of_compare(runs: list[str], tmp_path: Path, capsys: Any) -> None:
    assert report(*runs, out=tmp_path / "page.html") == 0
    tables = next(one for one in data_of(tmp_path / "page.html")["sections"] if one["id"] == "comparison")["tables"]
    assert main(["compare", *runs, "--draws", "100", "--out", str(tmp_path)]) == 0
    saved = (tmp_path / "comparison.md").read_text(encoding="utf-8")

    assert [row["kind"] for row in tables[0]["rows"]] == ["arm", "arm", "seed", "seed", "seed"]
    assert [row["cells"][0] for row in tables[1]["rows"]] == ["grpo/erv − sft/default"]
    for table in tables:
        for row in table["rows"]:
            assert " | ".join(row["cells"][1:]).replace("*", "\\*") in saved


def test_a_run_alone_without_tests_shows_what_there_is_and_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "grpo" / "new", rollouts=[rollout(0)], config={"stage": "grpo"})
    assert report(str(run), out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")

    assert page["sections"] == []
    assert len(page["rows"]["step"]) == 1
    assert [note for note in page["notes"] if "clips" not in note] == [
        f"grpo/new was not tested: `python -m erv_lightning evaluate {run}` tests it.",
        "grpo/new has no metrics.csv, which training writes: there are no curves of it.",
    ]


def test_runs_tested_on_different_clips_are_shown_but_not_compared(runs: list[str], tmp_path: Path) -> None:
    other = write_run(tmp_path / "sft" / "other", predictions=predictions(0, 0.5)[:-1])
    assert report(runs[0], str(other), out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")

    assert [section["id"] for section in page["sections"]] == ["curves", "reward", "length", "confusion", "cells"]
    note = next(note for note in page["notes"] if note.startswith("The tested runs are not compared: "))
    assert "were tested on different clips or labels: 1 differ, e.g. synthetic/34" in note


def test_seeds_tested_on_different_clips_are_shown_but_not_counted_together(tmp_path: Path) -> None:
    rows = predictions(0, 0.5)
    seeds = [write_run(tmp_path / "sft" / f"seed{i}", predictions=rows[i:]) for i in (0, 1)]
    assert report(*map(str, seeds), out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")
    assert [section["id"] for section in page["sections"]] == ["confusion"]
    assert len(page["rows"]["kind"]) == 35 + 34
    assert any(note.startswith("The four cells are not counted: ") for note in page["notes"])


# -- who reads the sentences --------------------------------------------------------------------------------------


def test_sentences_that_nobody_has_read_are_read_by_the_rule_of_training(
    runs: list[str], tmp_path: Path, verifier_folder: Path
) -> None:
    rule = {"threshold": 0.3, "max_labels": 1}
    config = {"stage": "grpo", "model": {"init_args": {"verifier": str(verifier_folder), "explanation": rule}}}
    rows = [rollout(0), rollout(0, completion=1, explanation=TEXTS[0], sentences=None)]
    run = write_run(tmp_path / "grpo" / "own", rollouts=rows, config=config)
    assert report(str(run), runs[0], out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")

    verifier = EmotionVerifier.from_pretrained(str(verifier_folder)).eval()
    read = {one["text"]: one["sentences"] for one in page["explanations"]}
    assert read["He smiles."] == [{"text": "He smiles.", "labels": [0], "p": 0.75}]  # as training wrote it down
    for text in TEXTS:
        expected = explain(text, verifier, DFEW, rule=ExplanationRule(**rule)).sentences
        assert [one["text"] for one in read[text]] == [one.text for one in expected]
        assert [one["labels"] for one in read[text]] == [[DFEW.id(name) for name in one.labels] for one in expected]
        assert [one["p"] for one in read[text]] == pytest.approx(
            [max(one.probs.values()) for one in expected], abs=1e-4
        )
    assert f"Sentences of sft/default were read by the verifier {verifier_folder}." in page["notes"]


def test_a_verifier_can_be_given_and_without_any_the_page_says_so(
    runs: list[str], tmp_path: Path, verifier_folder: Path
) -> None:
    assert report(runs[0], out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")
    assert "No verifier has read the sentences of 2 explanations: name one with `--verifier DIR`." in page["notes"]
    assert {tuple(one["labels"]) for text in page["explanations"] for one in text["sentences"]} == {()}

    assert report(runs[0], "--verifier", str(verifier_folder), out=tmp_path / "page.html") == 0
    page = data_of(tmp_path / "page.html")
    assert all(one["labels"] and one["p"] > 0 for text in page["explanations"] for one in text["sentences"])


def test_a_verifier_that_does_not_know_the_labels_is_a_note(tmp_path: Path, verifier_folder: Path) -> None:
    run = write_run(tmp_path / "sft" / "x", predictions=[prediction(label_space="mafw")])
    assert report(str(run), "--verifier", str(verifier_folder), out=tmp_path / "page.html") == 0
    assert any("cannot read the sentences of mafw" in note for note in data_of(tmp_path / "page.html")["notes"])


# -- clips --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(tmp_path: Path, clips: SyntheticClips, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Clips of every kind by the id of their sample, in a run at ./runs/sft/x."""
    monkeypatch.chdir(tmp_path)
    source = Path(clips.samples("test")[0].clip)
    made = {"plays": Path("data/a clip #1.mp4"), "avi": Path("data/old.avi"), "frames": Path("data/frames")}
    made["frames"].mkdir(parents=True)
    shutil.copy(source, made["plays"])
    pictures = np.random.default_rng(0).integers(0, 255, (12, 57, 56, 3)).astype(np.uint8)
    with av.open(str(made["avi"]), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 56, 57, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    for place, picture in enumerate(pictures):
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(str(made["frames"] / f"{place}.png"))
    made |= {"broken": Path("data/broken.mp4"), "missing": Path("data/gone.mp4")}
    made["broken"].write_bytes(source.read_bytes()[:300])
    rows = [prediction(name, clip=str(path)) for name, path in made.items()]
    write_run(Path("runs/sft/x"), predictions=[*rows, prediction("stored", clip="s3://bucket/a.mp4")])
    return made


def clips_of(page: Path) -> dict[str, dict[str, Any]]:
    """The clips of a page, by the id of their sample."""
    told = data_of(page)
    return {sample["id"]: told["clips"][sample["clip"]] for sample in told["samples"]}


def streams(content: Path) -> list[str]:
    with av.open(str(content)) as container:
        return [stream.codec_context.name for stream in container.streams]


def test_clips_are_linked_where_they_lie(shown: dict[str, Path]) -> None:
    assert report("runs/sft/x", out=Path("pages/new/page.html")) == 0
    found = clips_of(Path("pages/new/page.html"))

    assert found["plays"] == {"path": "data/a clip #1.mp4", "src": "../../data/a%20clip%20%231.mp4", "why": ""}
    assert (Path("pages/new") / unquote(found["plays"]["src"])).samefile(shown["plays"])
    why = {name: clip["why"] for name, clip in found.items() if clip["src"] is None}
    assert why == {
        "avi": "browsers do not play .avi files: --clips copy converts it",
        "frames": "it is a folder of frames, which browsers do not play: --clips copy makes a video of it",
        "missing": "the file is not there: run the report where the run ran, its paths are relative to that folder",
        "stored": "it lies in object storage, s3: fetch it, the page reads files only",
    }
    assert (
        "1 of 6 clips cannot be played: browsers do not play .avi files: --clips copy converts it."
        in data_of(Path("pages/new/page.html"))["notes"]
    )


def test_clips_are_copied_beside_the_page_and_converted_where_browsers_do_not_play_them(shown: dict[str, Path]) -> None:
    page = Path("pages/page.html")
    for _ in range(2):  # the second time nothing is copied again
        assert report("runs/sft/x", "--clips", "copy", out=page) == 0
    found = clips_of(page)

    files = {name: page.parent / clip["src"] for name, clip in found.items() if clip["src"] is not None}
    assert set(files) == {"plays", "avi", "frames"}
    assert sorted(files.values()) == sorted(Path("pages/page_clips").iterdir())
    assert all(re.fullmatch(r"[\w-]+\.mp4", path.name) for path in files.values())
    assert files["plays"].read_bytes() == shown["plays"].read_bytes()
    assert streams(files["avi"]) == streams(files["frames"]) == ["h264"]
    assert found["broken"]["why"].startswith("the file cannot be read (")
    assert "it cannot be converted" in found["broken"]["why"]


def test_clips_are_embedded_up_to_a_limit(shown: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path("page.html")
    assert report("runs/sft/x", "--clips", "embed", out=page) == 0
    found = clips_of(page)
    media = re.findall(r'data-media="(\d+)" data-type="([^"]+)">([^<]+)<', page.read_text(encoding="utf-8"))
    assert [(key, kind) for key, kind, _ in media] == [("0", "video/mp4"), ("1", "video/mp4"), ("2", "video/mp4")]
    assert sorted(clip["src"] for clip in found.values() if clip["src"]) == ["media:0", "media:1", "media:2"]
    contents = {f"media:{key}": base64.b64decode(content) for key, _, content in media}
    assert contents[found["plays"]["src"]] == shown["plays"].read_bytes()

    monkeypatch.setattr(page_clips, "MOST_BYTES", len(contents[found["plays"]["src"]]) - 1)
    assert report("runs/sft/x", "--clips", "embed", out=page) == 0
    assert clips_of(page)["plays"]["why"] == "the page would hold more than 0 MB of clips: take --clips copy"


def test_a_page_may_do_without_clips(shown: dict[str, Path]) -> None:
    assert report("runs/sft/x", "--clips", "none", out=Path("page.html")) == 0
    page = data_of(Path("page.html"))
    assert {(clip["src"], clip["why"]) for clip in page["clips"]} == {(None, "the report was made without clips")}
    assert not any("clips" in note for note in page["notes"])


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "no run folder gone"),
        (["."], "holds nothing to show"),
        (["RUN", "RUN"], "is given twice"),
        (["RUN", "--judge", "gpt"], "no judge 'gpt' has read these runs, only grammar"),
        (["RUN", "--dataset", "dfew"], "has no clip of data set 'dfew', only of synthetic"),
        (["RUN", "--verifier", "gone"], "no folder 'gone': correct --verifier"),
        (["RUN", "--verifier", "."], "the verifier . cannot be loaded: "),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report(*(runs[0] if word == "RUN" else word for word in words), out=tmp_path / "page.html") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("report: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_folder_is_no_page(runs: list[str], tmp_path: Path, capsys: Any) -> None:
    assert report(*runs, out=tmp_path) == 2
    assert f"{tmp_path} is a folder: name the page, e.g. --out {tmp_path}/report.html" in capsys.readouterr().err


def test_many_clips_that_cannot_be_read_make_one_note(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.mp4").write_bytes(b"no clip")
    rows = [prediction(str(i), clip=str(tmp_path / f"{i}.mp4")) for i in range(9)]
    run = write_run(tmp_path / "sft" / "x", predictions=rows)
    assert report(str(run), "--clips", "copy", out=tmp_path / "page.html") == 0
    notes = [note for note in data_of(tmp_path / "page.html")["notes"] if "clips" in note]
    assert notes == ["9 of 9 clips cannot be played: the file cannot be read."]


def test_a_broken_row_is_named(runs: list[str], tmp_path: Path, capsys: Any) -> None:
    with (Path(runs[1]) / "rollouts.jsonl").open("a") as file:
        file.write("{broken\n")
    assert report(*runs, out=tmp_path / "page.html") == 2
    assert "rollouts.jsonl:5: not a JSON object" in capsys.readouterr().err

"""`verifier build-data` from end to end: the built-in clips, EMER, MERR, predictions, training, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from cli_fixtures import Checkout, Outcome, read_jsonl

from erv_lightning.data.datamodule import ClipDataModule
from erv_lightning.data.readers import SentenceFiles
from erv_lightning.labels import DFEW, MAFW
from erv_lightning.models.verifier import EmotionVerifier
from erv_lightning.modules import VerifierModule
from erv_lightning.text import split_sentences

pytest_plugins = ("cli_fixtures",)

BUILT_IN = ("-c", "configs/verifier.yaml", "--data.source.init_args.train", "280", "--data.source.init_args.val", "70")
PARTS = ("train", "val", "test")


def build(checkout: Checkout, to: Path, *words: str | Path) -> Outcome:
    return checkout.run("verifier", "build-data", *words, "--to", to)


def build_in_three_ways(checkout: Checkout, to: Path) -> Outcome:
    clips = ("--data.source.init_args.root", to.parent / "clips")  # no other test makes any there
    teachers = ("--teacher", "grammar", "--teacher", "labels", "--teacher", "clip")
    return build(checkout, to, *BUILT_IN, *clips, *teachers)


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {part: read_jsonl(folder / f"{part}.jsonl") for part in PARTS if (folder / f"{part}.jsonl").is_file()}


def numbers_of(folder: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return numbers


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The built-in clips, labelled by the grammar."""
    folder = tmp_path_factory.mktemp("sentences") / "out"
    outcome = build_in_three_ways(checkout, folder)
    assert outcome.status == 0, outcome.err
    return folder, outcome


# -- the built-in clips --------------------------------------------------------------------------------------------


def test_the_built_in_clips_become_a_data_set_without_being_made(
    checkout: Checkout, built: tuple[Path, Outcome]
) -> None:
    folder, outcome = built
    rows = rows_of(folder)

    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "card.json", "labels", "test.jsonl", "train.jsonl", "val.jsonl"
    ]  # fmt: skip
    assert [path.name for path in (folder / "labels").iterdir()] == ["grammar.jsonl"]
    assert not (folder.parent / "clips").exists()
    every = [row for part in rows.values() for row in part]
    assert all(split_sentences(row["text"]) == [row["text"]] and len(row["labels"]) == 1 for row in every)
    assert len({row["text"] for row in every}) == len(every)
    clips = [{row["clip"] for row in part} for part in rows.values()]
    assert not clips[0] & clips[1] | clips[0] & clips[2] | clips[1] & clips[2]
    assert "grammar and the samples' own labels" in outcome.out
    assert f"configs/data/sentences.yaml --data.source.init_args.root {folder}" in outcome.out


def test_the_card_tells_the_numbers_of_the_files(built: tuple[Path, Outcome]) -> None:
    folder, _ = built
    rows, numbers, card = rows_of(folder), numbers_of(folder), (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])

    assert {part: of["sentences"] for part, of in numbers["splits"].items()} == {
        part: len(those) for part, those in rows.items()
    }
    for part, those in rows.items():
        for label, count in numbers["splits"][part]["labels"].items():
            assert count == sum(label in row["labels"] for row in those)
    assert max(numbers["splits"]["train"]["labels"].values()) == numbers["per_label"]
    assert numbers["teachers"][0]["sentence_labels"]["exact"] == 1  # the grammar reads what it wrote
    assert [one["with"] for one in numbers["agreement"]] == ["labels", "clip"]
    assert numbers["teachers"][0]["clip_label"]["share"] < 0.7  # 40 % of the explanations describe something else
    assert front["configs"][0]["data_files"][1] == {"split": "validation", "path": "val.jsonl"}
    assert "python -m erv_lightning verifier build-data -c configs/verifier.yaml" in card
    assert "| **sentences** | " in card


def test_the_same_command_gives_the_same_bytes(checkout: Checkout, built: tuple[Path, Outcome]) -> None:
    folder, _ = built
    before = content(folder)
    outcome = build_in_three_ways(checkout, folder)
    assert outcome.status == 0, outcome.err
    assert content(folder) == before


def test_a_verifier_learns_from_it(built: tuple[Path, Outcome], make_trainer: Callable[..., L.Trainer]) -> None:
    data = ClipDataModule(SentenceFiles(str(built[0])), unit="sentences", batch_size=64)
    module = VerifierModule("tiny", lr=3e-3, warmup=0.1)
    trainer = make_trainer(max_steps=150, limit_val_batches=1)
    trainer.fit(module, data)

    assert module.verifier is not None
    sentences = data.sentences("train")
    said = module.verifier.eval().probs([one.text for one in sentences]).argmax(1).tolist()
    right = sum(DFEW.names[label] in one.labels for label, one in zip(said, sentences, strict=True))
    assert right / len(sentences) > 0.8


def test_the_splits_and_the_number_of_sentences_can_be_chosen(checkout: Checkout, tmp_path: Path) -> None:
    words = (*BUILT_IN, "--teacher", "labels", "--split", "test", "--fractions", "0.7", "0.3", "0", "--per-label", "0")
    outcome = build(checkout, tmp_path / "out", *words, "--limit", "40")

    assert outcome.status == 0, outcome.err
    rows = rows_of(tmp_path / "out")
    assert {*rows} == {"train", "val"}
    assert {row["id"].split("/")[1].split("-")[0] for part in rows.values() for row in part} == {"test"}
    assert sum(map(len, rows.values())) == 40


def test_a_split_of_an_earlier_call_does_not_stay(checkout: Checkout, tmp_path: Path) -> None:
    words = (*BUILT_IN, "--teacher", "labels")
    assert build(checkout, tmp_path / "out", *words).status == 0
    assert build(checkout, tmp_path / "out", *words, "--fractions", "0.8", "0.2", "0").status == 0
    assert {*rows_of(tmp_path / "out")} == {"train", "val"}


def test_a_classifier_teaches_its_probabilities(checkout: Checkout, tmp_path: Path) -> None:
    words = [str(number) for number in range(20)]
    EmotionVerifier.tiny(words, DFEW.names).save(tmp_path / "tiny")
    outcome = build(checkout, tmp_path / "out", *BUILT_IN, "--teacher", f"classifier:{tmp_path / 'tiny'}")

    assert outcome.status == 0, outcome.err
    for row in read_jsonl(tmp_path / "out" / "train.jsonl"):
        assert list(row["probs"]) == list(DFEW.names)
        assert row["labels"][0] == max(row["probs"], key=row["probs"].get)
    (sample, *_) = SentenceFiles(str(tmp_path / "out")).samples("train")
    assert len(sample.sentence_probs[0] or ()) == 7
    assert "pretrained: " in (tmp_path / "out" / "README.md").read_text()


# -- published data sets and predictions ---------------------------------------------------------------------------


def write_emer(root: Path) -> None:
    root.mkdir()
    texts = [f"He frowns in scene {i}. His voice is loud." for i in range(30)]
    rows = "".join(f'sample_{i:08d},{["angry", "sad"][i % 2]},,"{text}"\n' for i, text in enumerate(texts))
    (root / "gt-eng.csv").write_text(f"names,emotions,subtitles,reasons\n{rows}")


def write_merr(root: Path) -> None:
    root.mkdir()
    said = {
        f"sample_{i}": {"pseu_emotion": "worried", "smp_reason_caption": f"She looks {i} times."} for i in range(30)
    }
    (root / "MERR_fine_grained.json").write_text(json.dumps(said))


def test_emer_without_its_clips_gives_weak_labels(checkout: Checkout, tmp_path: Path) -> None:
    write_emer(tmp_path / "emer")
    words = ("-c", "configs/verifier.yaml", "-c", "configs/data/emer.yaml", "--data.source.init_args.labels", "")
    outcome = build(
        checkout, tmp_path / "out", *words, "--data.source.init_args.root", tmp_path / "emer", "--teacher", "clip"
    )

    assert outcome.status == 0, outcome.err
    numbers = numbers_of(tmp_path / "out")
    assert (numbers["clips"], numbers["sentences"], numbers["distinct"], numbers["conflicts"]) == (30, 60, 31, 1)
    assert {row["dataset"] for row in read_jsonl(tmp_path / "out" / "train.jsonl")} == {"emer"}


def test_merr_in_another_label_space(checkout: Checkout, tmp_path: Path) -> None:
    write_merr(tmp_path / "merr")
    words = ("-c", "configs/verifier.yaml", "-c", "configs/data/merr.yaml", "--teacher", "clip")
    root = ("--data.source.init_args.root", tmp_path / "merr")
    in_dfew = build(checkout, tmp_path / "dfew", *words, *root)
    in_merr = build(checkout, tmp_path / "merr-out", *words, *root, "--label-space", "merr")

    assert (
        "clip gives too few sentences a label: the split 'train' would be empty" in in_dfew.error
    )  # worried: not DFEW's
    assert in_merr.status == 0, in_merr.err
    assert read_jsonl(tmp_path / "merr-out" / "train.jsonl")[0]["labels"] == ["worried"]


def write_predictions(path: Path, clips: int, text: str) -> Path:
    usual = {"dataset": "mafw", "label_space": "mafw", "label_id": MAFW.id("contempt"), "answer_id": -1}
    rows = [{**usual, "id": str(i), "clip": f"{i}.mp4", "explanation": text.format(i)} for i in range(clips)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_predictions_of_several_runs_keep_a_clip_in_one_split(checkout: Checkout, tmp_path: Path) -> None:
    files = [write_predictions(tmp_path / f"{run}.jsonl", 40, f"Run {run} sees {{}}. A sneer.") for run in (1, 2)]
    outcome = build(checkout, tmp_path / "out", "--predictions", *files, "--teacher", "clip", "--label-space", "mafw")

    assert outcome.status == 0, outcome.err
    rows = rows_of(tmp_path / "out")
    clips = {part: {row["id"].split("/")[1] for row in those} for part, those in rows.items()}
    assert sum(map(len, clips.values())) == 40
    assert {row["id"] for part in rows.values() for row in part} >= {"mafw/7/1", "mafw/7/3"}
    assert {tuple(row["labels"]) for part in rows.values() for row in part} == {("contempt",)}


def test_a_config_and_predictions_together(checkout: Checkout, tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "p.jsonl", 10, "In the audio, the voice trembles with terror. Scene {}.")
    outcome = build(checkout, tmp_path / "out", *BUILT_IN, "--predictions", path, "--teacher", "grammar")

    assert outcome.status == 0, outcome.err
    numbers = numbers_of(tmp_path / "out")
    assert numbers["datasets"] == {"synthetic": 1050, "mafw": 20}
    assert numbers["without_label"] == 10  # "Scene 7."


# -- what it refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*BUILT_IN,), "no teacher: name who labels the sentences, --teacher grammar"),
        ((*BUILT_IN, "--teacher", "nobody"), "no teacher 'nobody'; one of these is needed: grammar, verifier:VALUE"),
        (("--teacher", "grammar"), "no explanations: give configs as for fit, -c FILE …, or --predictions FILE"),
        (("--teacher", "grammar", "--tresh", "1"), "unknown word '--tresh': settings need a config"),
        ((*BUILT_IN, "--teacher", "labels", "--split", "rl"), "no explanation to cut into sentences: EMER, MERR"),
        ((*BUILT_IN, "--teacher", "labels", "--split", "dev"), "the built-in clips have no split 'dev'"),
        ((*BUILT_IN, "--teacher", "labels", "--fractions", "1", "1", "1"), "--fractions 1 1 1: shares"),
        ((*BUILT_IN, "--teacher", "labels", "--limit", "2"), "would be empty, of 2 sentences"),
        ((*BUILT_IN, "--teacher", "labels", "--threshold", "2"), "--threshold is 2.0, it must be from 0.0 to 1.0"),
        ((*BUILT_IN, "--teacher", "labels", "--label-space", "moods"), "no label space 'moods'"),
        (("--predictions", "none.jsonl", "--teacher", "grammar"), "no file 'none.jsonl': correct --predictions"),
        (("-c", "configs/data/emer.yaml", "--teacher", "grammar"), "no config names a stage"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    checkout: Checkout, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    assert why in build(checkout, tmp_path / "out", *words).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "train.jsonl"])
def test_a_folder_with_other_things_is_left_alone(checkout: Checkout, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    outcome = build(checkout, tmp_path, *BUILT_IN, "--teacher", "labels")
    assert f"holds other things, e.g. '{name}': name a folder of its own with --to" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_no_folder(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is a file" in build(checkout, tmp_path / "out", *BUILT_IN, "--teacher", "labels").error

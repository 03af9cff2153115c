"""`convert`: a published folder in, a whole model out, or one line and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from models.humanomni.humanomni_published import (
    TINY,
    bert_tokenizer,
    qwen2_tokenizer,
    random_tensors,
    write_checkpoint,
    write_towers,
)
from torch.testing import assert_close
from transformers import AutoModelForMultimodalLM, AutoProcessor

from erv_lightning.commands.convert import main
from erv_lightning.errors import ConfigError

SIZES = TINY["0.5B"]


@pytest.fixture
def published(tmp_path: Path) -> list[str]:
    """A checkpoint; the words of the command that converts it, but for --out."""
    source = write_checkpoint(tmp_path / "R1-Omni", SIZES, random_tensors(SIZES), "sharded-safetensors")
    towers = write_towers(tmp_path / "towers", SIZES)
    words = ["humanomni", str(source)]
    for option, name in (("--vision-tower", "vision"), ("--audio-tower", "audio"), ("--question-encoder", "question")):
        words += [option, str(towers[name])]
    return words


def test_a_checkpoint_becomes_a_folder_that_transformers_reads(
    published: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qwen2_tokenizer().save_pretrained(tmp_path / "R1-Omni")
    bert_tokenizer().save_pretrained(tmp_path / "towers" / "question")
    out = tmp_path / "models" / "r1"
    assert main([*published, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}: 300 tensors of {tmp_path / 'R1-Omni'}" in said
    assert "left behind, unused: model.audio_tower.audio_tower" in said
    assert "no processor" not in said
    model = AutoModelForMultimodalLM.from_pretrained(out)
    wanted = random_tensors(SIZES)["model.bert_gate.0.weight"]
    assert_close(model.model.visual_projector.gate[0].weight.data, wanted, atol=0, rtol=0)
    assert AutoProcessor.from_pretrained(out).video_token_id == model.config.video_token_id
    card = (out / "README.md").read_text()
    assert "R1-Omni" in card
    assert str(tmp_path) not in card
    assert [path.name for path in out.parent.iterdir()] == ["r1"]


def test_what_a_processor_lacks_is_said(
    published: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*published, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"no processor, it lacks a tokenizer in {tmp_path / 'R1-Omni'}" in said
    assert f"no processor, it lacks a tokenizer in {tmp_path / 'towers' / 'question'}" in said


def test_a_folder_that_holds_something_is_replaced_by_force_alone(published: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert main([*published, "--out", str(out)]) == 0  # an empty one is no obstacle
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"out is not empty: add --force"):
        main([*published, "--out", str(out)])
    assert (out / "notes.txt").read_text() == "mine"
    assert main([*published, "--out", str(out), "--force"]) == 0
    assert not (out / "notes.txt").exists()
    assert (out / "config.json").is_file()


def test_a_conversion_that_fails_leaves_everything_as_it_was(published: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    next((tmp_path / "R1-Omni").glob("*-00001-*")).write_bytes(b"cut short")
    with pytest.raises(ValueError, match="cannot be read, it may be incomplete"):
        main([*published, "--out", str(out), "--force"])
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"R1-Omni", "towers", "out"}


@pytest.mark.parametrize("place", ["R1-Omni", "towers/vision", "towers", "."])
def test_what_is_read_is_never_replaced(published: list[str], tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigError, match="would take the place of"):
        main([*published, "--out", str(tmp_path / place), "--force"])
    assert (tmp_path / "R1-Omni" / "config.json").is_file()


def test_the_folder_that_one_stands_in_is_never_replaced(
    published: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    for out in (tmp_path / "work", Path(".")):
        with pytest.raises(ConfigError, match="would take the place of"):
            main([*published, "--out", str(out), "--force"])


def test_paths_that_are_wrong_are_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from erv_lightning.commands.convert import main\n"
        "try: main(sys.argv[1:])\n"
        "except OSError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["humanomni", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "nowhere is no published checkpoint" in done.stdout
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a file"):
        main(["humanomni", str(tmp_path), "--out", str(tmp_path / "file")])


def test_towers_that_are_not_at_hand_name_their_options(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "R1-Omni", SIZES, random_tensors(SIZES))
    with pytest.raises(FileNotFoundError, match=r"--vision-tower DIR.*--audio-tower DIR.*--question-encoder DIR"):
        main(["humanomni", str(source), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("words", [["qwen", "x", "--out", "y"], ["humanomni", "x"], []])
def test_words_that_do_not_parse_end_with_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: python -m erv_lightning convert" in capsys.readouterr().err

"""`compare` on run folders made here: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from erv_lightning.commands.compare import main

CURVE_STEPS = range(0, 40, 10)


def write_run(run: Path, p_right: float, p_faithful: float, seed: int, judge: str = "grammar") -> str:
    rng = np.random.default_rng(seed)
    run.mkdir(parents=True)
    with (run / "predictions.jsonl").open("w") as file:
        for i in range(70):
            label = i % 7
            row = {
                "id": str(i),
                "dataset": "synthetic",
                "clip": f"{i}.mp4",
                "label_space": "dfew",
                "label_id": label,
                "answer_id": label if rng.random() < p_right else -1,
                "judges": {judge: label if rng.random() < p_faithful else -1},
            }
            file.write(json.dumps(row) + "\n")
    lines = ["step,epoch,val/war,val/eea,val/epc,val/fcr,train/loss" + ",train/reward" * (run.parent.name == "grpo")]
    lines += [
        f"{step},0,{p_right},{p_faithful},0.5,{0.3 + step / 100},2.0" + ",1.5" * ("reward" in lines[0])
        for step in CURVE_STEPS
    ]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    return str(run)


@pytest.fixture
def runs(tmp_path) -> list[str]:
    """Three arms of two seeds."""
    arms = {"sft/": (0.6, 0.5), "grpo/accuracy-": (0.9, 0.5), "grpo/erv-": (0.9, 0.9)}
    return [
        write_run(tmp_path / f"{arm}seed{seed}", *chances, seed=seed)
        for arm, chances in arms.items()
        for seed in (0, 1)
    ]


def run_main(argv: list[str], out: Path) -> int:
    return main([*argv, "--draws", "200", "--out", str(out)])


def test_it_prints_and_writes_every_arm_in_the_order_given(runs, tmp_path, capsys):
    assert run_main(runs[2:] + runs[:2], tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert printed.index("grpo/accuracy") < printed.index("grpo/erv") < printed.index(" sft ")
    for word in ("WAR", "UAR", "EEA", "EPC", "FCR", "seed1", "grammar", "70 test clips", "2 seeds"):
        assert word in printed
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [arm["name"] for arm in saved["arms"]] == ["grpo/accuracy", "grpo/erv", "sft"]
    assert (saved["judge"], saved["clips"], saved["draws"]) == ("grammar", 70, 200)


def test_the_json_holds_the_values_of_the_seeds_and_the_interval_around_their_mean(runs, tmp_path):
    run_main(runs, tmp_path)
    saved = json.loads((tmp_path / "comparison.json").read_text())
    for arm in saved["arms"]:
        for metric in arm["metrics"].values():
            assert metric["value"] == pytest.approx(np.mean(metric["seeds"]))
            assert metric["low"] <= metric["value"] <= metric["high"]
    lines = (Path(runs[0]) / "predictions.jsonl").read_text().splitlines()
    right = [json.loads(line)["answer_id"] == json.loads(line)["label_id"] for line in lines]
    assert saved["arms"][0]["metrics"]["war"]["seeds"][0] == pytest.approx(np.mean(right))


def test_the_last_arm_is_compared_with_every_other(runs, tmp_path):
    run_main(runs, tmp_path)
    differences = json.loads((tmp_path / "comparison.json").read_text())["differences"]
    assert [(d["arm"], d["baseline"]) for d in differences] == [
        ("grpo/erv", "sft"),
        ("grpo/erv", "grpo/accuracy"),
    ]
    assert differences[1]["metrics"]["eea"]["low"] > 0.1


def test_every_arm_is_compared_with_the_baseline_named(runs, tmp_path):
    run_main([*runs, "--baseline", "sft"], tmp_path)
    differences = json.loads((tmp_path / "comparison.json").read_text())["differences"]
    assert [(d["arm"], d["baseline"]) for d in differences] == [("grpo/accuracy", "sft"), ("grpo/erv", "sft")]


def test_the_markdown_says_how_it_was_made(runs, tmp_path):
    run_main(runs, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert f"python -m erv_lightning compare {' '.join(runs)} --draws 200 --out {tmp_path}" in text
    for part in ("70 test clips", "2 seeds per arm", "judge grammar", "(comparison.png)", "| **grpo/erv** |"):
        assert part in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {9}
    assert "grpo/erv − sft" in text
    assert "\\* significant at 5 %" in text


def test_the_figure_is_an_image_with_the_colours_of_all_arms(runs, tmp_path):
    run_main(runs, tmp_path)
    image = matplotlib.image.imread(tmp_path / "comparison.png")[..., :3]
    assert image.shape[1] >= 1500
    assert image[0, 0].tolist() == [1, 1, 1]
    colours = {tuple(pixel) for pixel in np.round(image.reshape(-1, 3) * 255).astype(int).tolist()}
    assert {(0x80, 0x80, 0x80), (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)} <= colours


def test_runs_without_curves_still_make_a_figure(runs, tmp_path, capsys):
    for run in runs:
        (Path(run) / "metrics.csv").unlink()
    assert run_main(runs, tmp_path) == 0
    assert "has no metrics.csv" in capsys.readouterr().out
    image = matplotlib.image.imread(tmp_path / "comparison.png")
    assert image.shape[0] < 0.5 * image.shape[1]


def test_one_run_alone_has_no_differences_and_no_seed_rows(runs, tmp_path, capsys):
    assert run_main(runs[:1], tmp_path) == 0
    printed = capsys.readouterr().out
    assert "Paired differences" not in printed
    assert "1 seed per arm" in printed
    assert "## Paired" not in (tmp_path / "comparison.md").read_text()


def test_an_undefined_metric_is_null_in_json_and_a_dash_elsewhere(tmp_path, capsys):
    run = write_run(tmp_path / "sft" / "x", p_right=0.0, p_faithful=0.5, seed=0)
    assert run_main([run], tmp_path / "out") == 0
    assert "–" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["arms"][0]["metrics"]["fcr_given_correct"] == {
        "value": None,
        "low": None,
        "high": None,
        "seeds": [None],
        "std": None,
        "clips": [None, None],
    }


def add_judge(run: str, name: str, p_right: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = Path(run) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["judges"][name] = row["label_id"] if rng.random() < p_right else -1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_significant_after_holm_is_marked(runs, tmp_path, capsys):
    assert run_main(runs, tmp_path) == 0
    printed = capsys.readouterr().out
    over_sft, over_accuracy = json.loads((tmp_path / "comparison.json").read_text())["differences"]
    assert over_sft["metrics"]["eea"]["significant"]
    assert over_sft["metrics"]["eea"]["p"] <= over_sft["metrics"]["eea"]["p_holm"] < 0.05
    assert not over_accuracy["metrics"]["war"]["significant"]  # both answer alike
    assert over_accuracy["metrics"]["war"]["p_holm"] > 0.05
    assert len(over_accuracy["metrics"]["fcr"]["mcnemar"]) == 2  # one for each seed
    assert over_accuracy["metrics"]["uar"]["mcnemar"] == []
    value = f"{over_sft['metrics']['eea']['value']:+.3f}*"
    assert value in printed
    assert "adjusted for the 14 tests" in " ".join(printed.split())
    assert value.replace("*", "\\*") in (tmp_path / "comparison.md").read_text()


def test_a_claim_that_holds_under_one_judge_only_is_seen_as_such(runs, tmp_path, capsys):
    for place, run in enumerate(runs):
        add_judge(run, "second", p_right=0.5, seed=place)
    assert run_main(runs, tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["judge"] == "grammar"
    assert set(saved["other_judges"]) == {"second"}
    assert saved["other_judges"]["second"]["arms"][0]["metrics"]["eea"]["value"] == pytest.approx(0.5, abs=0.15)
    assert any(line.startswith("EEA of grpo/erv − sft depends on the judge") for line in saved["disputed"])
    assert "EEA of grpo/erv − sft depends on the judge" in printed
    assert "Paired differences under the judge second" in printed
    assert set(saved["agreement"]) == {
        "equal: grammar and second",
        "Cohen's κ: grammar and second",
        "Krippendorff's α: all",
    }
    page = (tmp_path / "comparison.md").read_text()
    assert "## Under the judge second" in page
    assert "depends on the judge" in page

    assert run_main([*runs, "--judge", "second"], tmp_path) == 0
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert (saved["judge"], saved["other_judges"], saved["agreement"]) == ("second", {}, {})


def break_line(run: Path) -> None:
    with (run / "predictions.jsonl").open("a") as file:
        file.write("{broken\n")


def change_clips(run: Path) -> None:
    path = run / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("damage", "extra", "message"),
    [
        (lambda run: run.rename(run.with_name("gone")), [], "no run folder"),
        (lambda run: (run / "predictions.jsonl").unlink(), [], "make it with: python -m erv_lightning test"),
        (break_line, [], "predictions.jsonl:71: not a JSON object"),
        (change_clips, [], "tested on different clips"),
        (lambda run: (run / "metrics.csv").write_text("a\n1\n"), [], "no column step"),
        (
            lambda run: (run / "metrics.csv").write_text("step,a\n1,2\n1,2,3\n"),
            [],
            "metrics.csv: Error tokenizing",
        ),
        (lambda run: None, ["--judge", "gpt"], "no judge 'gpt' on every line; it has grammar"),
        (lambda run: None, ["--baseline", "grpo"], "no arm 'grpo' to compare with; the arms are sft, grpo/"),
        (lambda run: None, ["--dataset", "dfew"], "no clip of data set 'dfew', only of synthetic"),
    ],
)
def test_bad_input_ends_in_one_clear_line_and_exit_code_2(runs, tmp_path, capsys, damage, extra, message):
    damage(Path(runs[-1]))
    assert run_main([*runs, *extra], tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("compare: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_given_twice_is_refused(runs, tmp_path, capsys):
    assert run_main([runs[0], runs[0] + "/"], tmp_path) == 2
    assert "is given twice" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["x", "--draws", "0"], ["x", "--draws", "many"], ["x", "--unknown"]])
def test_a_wrong_command_line_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "python -m erv_lightning compare" in capsys.readouterr().err


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "runs/grpo/erv-seed0" in capsys.readouterr().out

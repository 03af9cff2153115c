"""The comparison's numbers: against literals by hand, a brute-force loop, scipy, and simulation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from erv_lightning.analysis import (
    METRICS,
    bootstrap,
    load_arms,
    load_curves,
    load_predictions,
    paired_difference,
)
from erv_lightning.results import choose_judge, split_seed

Row = tuple[int, int, int]  # label, answer, judge's reading


def write_run(run: Path, rows: Sequence[Row], clips: Sequence[str] | None = None, space: str = "dfew") -> Path:
    run.mkdir(parents=True)
    lines = [
        {
            "id": f"{i:05d}",
            "dataset": space,
            "clip": clips[i] if clips else f"clips/{i}.mp4",
            "label_space": space,
            "label_id": label,
            "answer_id": answer,
            "judges": {"grammar": judged},
        }
        for i, (label, answer, judged) in enumerate(rows)
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def random_rows(rng: np.random.Generator, n: int) -> list[Row]:
    """Labels of four of the seven classes; answers and readings include −1."""
    labels = rng.integers(4, size=n)
    answers = np.where(rng.random(n) < 0.6, labels, rng.integers(-1, 7, size=n))
    judged = np.where(rng.random(n) < 0.5, labels, rng.integers(-1, 7, size=n))
    return list(zip(labels.tolist(), answers.tolist(), judged.tolist(), strict=True))


def by_loop(rows: Sequence[Row]) -> dict[str, float]:
    """The definitions, clip by clip."""
    same: Callable[[int, int], bool] = lambda a, b: a == b and a != -1  # noqa: E731
    n = len(rows)
    right = sum(same(a, y) for y, a, _ in rows)
    faithful = sum(same(a, y) and same(e, y) for y, a, e in rows)
    recalls = []
    for label in sorted({y for y, _, _ in rows} - {-1}):
        of_label = [a for y, a, _ in rows if y == label]
        recalls.append(sum(a == label for a in of_label) / len(of_label))
    return {
        "war": right / n,
        "uar": sum(recalls) / len(recalls),
        "eea": sum(same(e, y) for y, _, e in rows) / n,
        "epc": sum(same(e, a) for _, a, e in rows) / n,
        "fcr": faithful / n,
        "fcr_given_correct": faithful / right if right else float("nan"),
    }


# label, answer, reading: all right; right, read otherwise; wrong and consistent; no answer and no reading;
# no answer, right reading; right answer, nothing readable
BY_HAND = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, -1, -1), (1, -1, 1), (1, 1, -1)]


def test_metrics_equal_the_numbers_worked_out_by_hand(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "seed0", BY_HAND)])
    values = {key: one.value for key, one in bootstrap(arms, "grammar", draws=10)["sft"].estimates().items()}
    assert values == pytest.approx(
        {
            "war": 3 / 6,
            "uar": (2 / 3 + 1 / 3) / 2,
            "eea": 2 / 6,
            "epc": 2 / 6,
            "fcr": 1 / 6,
            "fcr_given_correct": 1 / 3,
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_a_loop_over_clips(tmp_path, seed):
    rows = random_rows(np.random.default_rng(seed), 37)
    arms = load_arms([write_run(tmp_path / "sft" / "x", rows)])
    estimates = bootstrap(arms, "grammar", draws=10)["sft/x"].estimates()
    assert {key: one.value for key, one in estimates.items()} == pytest.approx(by_loop(rows))


def test_every_draw_equals_a_loop_over_the_resampled_clips(tmp_path):
    rows = random_rows(np.random.default_rng(3), 12)
    sampling = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows)]), "grammar", draws=50, seed=7)["sft/x"]
    drawn = np.random.default_rng(7).integers(12, size=(50, 12))
    for i, indices in enumerate(drawn):
        expected = by_loop([rows[j] for j in indices])
        assert {key: sampling.draws[key][i] for key in METRICS} == pytest.approx(expected, nan_ok=True)


def test_two_missing_values_do_not_agree(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", [(-1, -1, -1), (0, -1, -1)])])
    estimates = bootstrap(arms, "grammar", draws=10)["sft/x"].estimates()
    assert [estimates[key].value for key in ("war", "uar", "eea", "epc", "fcr")] == [0, 0, 0, 0, 0]
    assert np.isnan(estimates["fcr_given_correct"].value)
    assert np.isnan(estimates["fcr_given_correct"].low)


def test_the_interval_is_scipys_percentile_bootstrap(tmp_path):
    rows = random_rows(np.random.default_rng(1), 150)
    one = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows)]), "grammar")["sft/x"].estimates()["war"]
    right = np.array([answer == label for label, answer, _ in rows])
    oracle = stats.bootstrap((right,), np.mean, method="percentile", rng=np.random.default_rng(5)).confidence_interval
    assert (one.low, one.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)


def test_the_interval_covers_the_truth_about_95_times_in_100(tmp_path):
    covered = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        right, faithful = rng.random(80) < 0.8, rng.random(80) < 0.75  # FCR = 0.8 · 0.75 = 0.6
        rows = [(0, int(not r), 0 if f else 1) for r, f in zip(right, faithful, strict=True)]
        arms = load_arms([write_run(tmp_path / str(i) / "x", rows)])
        one = bootstrap(arms, "grammar", draws=400, seed=i)[f"{i}/x"].estimates()["fcr"]
        covered += one.low <= 0.6 <= one.high
    assert 0.90 <= covered / 200 <= 0.985


def test_rows_of_one_clip_are_drawn_together(tmp_path):
    # twenty questions on each of two clips, one clip all right, one all wrong: a draw is 0, 1/2 or 1
    rows = [(0, i % 2, 0) for i in range(40)]
    clips = [f"clips/{i % 2}.mp4" for i in range(40)]
    sampling = bootstrap(load_arms([write_run(tmp_path / "sft" / "x", rows, clips)]), "grammar", draws=200)["sft/x"]
    assert set(sampling.draws["war"]) == {0.0, 0.5, 1.0}


def test_seeds_are_averaged_over_the_same_resampled_clips(tmp_path):
    rng = np.random.default_rng(0)
    labels = [row[0] for row in random_rows(rng, 30)]
    seeds = [[(y, a, e) for y, (_, a, e) in zip(labels, random_rows(rng, 30), strict=True)] for _ in range(3)]
    runs = [write_run(tmp_path / "grpo" / f"erv-seed{i}", rows) for i, rows in enumerate(seeds)]
    pooled = bootstrap(load_arms(runs), "grammar", draws=60)["grpo/erv"]
    single = [bootstrap(load_arms([run]), "grammar", draws=60)["grpo/erv"] for run in runs]
    estimates = pooled.estimates()
    for key in ("war", "uar", "eea", "epc", "fcr"):
        assert estimates[key].seeds == pytest.approx([by_loop(rows)[key] for rows in seeds])
        assert estimates[key].value == pytest.approx(np.mean(estimates[key].seeds))
        np.testing.assert_allclose(pooled.draws[key], np.mean([one.draws[key] for one in single], axis=0))


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", random_rows(np.random.default_rng(0), 40))])
    first, again, other = (bootstrap(arms, "grammar", draws=100, seed=seed)["sft/x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.draws["fcr"], again.draws["fcr"])
    assert not np.array_equal(first.draws["fcr"], other.draws["fcr"])


def test_a_paired_difference_is_narrower_than_an_unpaired_one(tmp_path):
    rng = np.random.default_rng(2)
    rows = random_rows(rng, 100)
    better = [(y, y if rng.random() < 0.2 else a, e) for y, a, e in rows]
    arms = load_arms([write_run(tmp_path / "grpo" / "a", rows), write_run(tmp_path / "grpo" / "b", better)])
    samplings = bootstrap(arms, "grammar", draws=2000)
    one = paired_difference(samplings["grpo/b"], samplings["grpo/a"])["war"]
    assert one.value == pytest.approx(by_loop(better)["war"] - by_loop(rows)["war"])
    assert one.low <= one.value <= one.high
    a, b = (samplings[name].estimates()["war"] for name in ("grpo/a", "grpo/b"))
    assert one.high - one.low < 0.7 * np.hypot(a.high - a.low, b.high - b.low)


def test_an_arm_minus_itself_is_exactly_zero(tmp_path):
    arms = load_arms([write_run(tmp_path / "sft" / "x", random_rows(np.random.default_rng(0), 40))])
    sampling = bootstrap(arms, "grammar", draws=100)["sft/x"]
    for one in paired_difference(sampling, sampling).values():
        assert (one.value, one.low, one.high, one.seeds) == (0, 0, 0, (0,))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed0", ("", "seed0")),
        ("erv-seed12", ("erv", "seed12")),
        ("erv", ("erv", "")),
        ("a-seed1-b", ("a-seed1-b", "")),
    ],
)
def test_a_run_name_splits_into_arm_and_seed(name, expected):
    assert split_seed(name) == expected


def test_arms_keep_the_order_of_the_runs_and_their_stage(tmp_path):
    names = ["grpo/erv-seed1", "sft/seed0", "grpo/erv-seed0", "grpo/default"]
    arms = load_arms([write_run(tmp_path / name, BY_HAND) for name in names])
    assert [(arm.name, arm.seeds) for arm in arms] == [
        ("grpo/erv", ("seed1", "seed0")),
        ("sft", ("seed0",)),
        ("grpo/default", ("",)),
    ]


def test_the_same_name_in_two_trees_is_two_arms(tmp_path):
    runs = [write_run(tmp_path / tree / "grpo" / "erv-seed0", BY_HAND) for tree in ("old", "new")]
    assert [arm.name for arm in load_arms(runs)] == [str(tmp_path / tree / "grpo" / "erv") for tree in ("old", "new")]


def test_runs_on_different_clips_are_refused(tmp_path):
    runs = [write_run(tmp_path / "a" / "x", BY_HAND), write_run(tmp_path / "b" / "x", BY_HAND[:-1])]
    with pytest.raises(ValueError, match=r"different clips or labels: 1 differ, e\.g\. dfew/00005"):
        bootstrap(load_arms(runs), "grammar", draws=10)


def test_runs_with_different_labels_are_refused(tmp_path):
    runs = [
        write_run(tmp_path / "a" / "x", BY_HAND),
        write_run(tmp_path / "b" / "x", [(2, 0, 0), *BY_HAND[1:]]),
    ]
    with pytest.raises(ValueError, match=r"different clips or labels: 1 differ, e\.g\. dfew/00000"):
        bootstrap(load_arms(runs), "grammar", draws=10)


def test_two_label_spaces_are_told_apart_by_choosing_a_data_set(tmp_path):
    run = write_run(tmp_path / "sft" / "x", BY_HAND)
    other = write_run(tmp_path / "other", [(10, 10, 10)], space="mafw")
    with (run / "predictions.jsonl").open("a") as file:
        file.write((other / "predictions.jsonl").read_text())
    with pytest.raises(ValueError, match="mixes the label spaces dfew, mafw; choose a --dataset of dfew, mafw"):
        bootstrap(load_arms([run]), "grammar", draws=10)
    assert bootstrap(load_arms([run], dataset="mafw"), "grammar", draws=10)["sft/x"].estimates()["fcr"].value == 1
    with pytest.raises(ValueError, match="no clip of data set 'mer', only of dfew, mafw"):
        load_predictions(run, dataset="mer")


def test_missing_predictions_are_named_with_the_command_that_makes_them(tmp_path):
    run = tmp_path / "grpo" / "erv-seed0"
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_predictions(run)
    run.mkdir(parents=True)
    command = r"python -m erv_lightning test -c configs/grpo\.yaml --name erv-seed0"
    with pytest.raises(FileNotFoundError, match=rf"predictions\.jsonl does not exist; make it with: {command}"):
        load_predictions(run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object, but list"),
        ('{"id": "a"}', "no dataset, clip, label_space, label_id, answer_id"),
        ('{"label_id": 7}', "label_id is 7, allowed is -1 to 6 in dfew"),
        ('{"answer_id": -2}', "answer_id is -2"),
        ('{"answer_id": null}', "answer_id is None"),
        ('{"judges": {"grammar": true}}', "grammar is True"),
        ('{"judges": [1]}', "judges is not an object"),
        ('{"label_space": "klingon"}', "klingon"),
        ('{"id": "00000"}', "'00000' was already predicted"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, line, message):
    path = write_run(tmp_path / "sft" / "x", BY_HAND[:2]) / "predictions.jsonl"
    good = path.read_text()
    if message.startswith(("not", "no ")):
        bad = line
    else:
        bad = json.dumps({**json.loads(good.splitlines()[0]), "id": "new", **json.loads(line)})
    path.write_text(f"{good}\n{bad}\n")  # line 3 is empty, which is no fault
    with pytest.raises(ValueError, match=rf"predictions\.jsonl:4: .*{message}"):
        load_predictions(tmp_path / "sft" / "x")


def test_the_only_judge_is_chosen_and_of_several_one_must_be_named(tmp_path):
    run = write_run(tmp_path / "sft" / "x", BY_HAND)
    assert choose_judge(load_arms([run])) == "grammar"
    path = run / "predictions.jsonl"
    path.write_text(path.read_text().replace('"judges": {', '"judges": {"second": 0, '))
    arms = load_arms([run])
    with pytest.raises(ValueError, match="choose the judge: the runs have in common second, grammar"):
        choose_judge(arms)
    assert choose_judge(arms, "second") == "second"
    with pytest.raises(ValueError, match=r"no judge 'third' on every line; it has second, grammar"):
        choose_judge(arms, "third")


def test_curves_leave_out_empty_cells_and_keep_the_last_of_two_values(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,val/fcr,train/loss\n0,0,0.1,\n1,0,,2.5\n5,0,0.4,\n5,0,0.5,\n")
    curves = load_curves(tmp_path)
    fcr = curves[curves["metric"] == "val/fcr"]
    assert fcr[["step", "value"]].to_numpy().tolist() == [[0, 0.1], [5, 0.5]]
    assert curves[curves["metric"] == "train/loss"]["value"].tolist() == [2.5]


def test_unusable_curves_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv does not exist"):
        load_curves(tmp_path)
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        load_curves(tmp_path)
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column step"):
        load_curves(tmp_path)

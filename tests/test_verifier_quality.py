"""The study of verifiers of falling quality: what it runs, what it reads from the runs, and its committed page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import verifier_quality_report as reporting
from benchmarks.verifier_quality import VARIANTS, Job, jobs, run_all
from erv_lightning.runs import RunFolder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def test_each_seed_has_every_variant_with_every_verifier_and_its_own_cold_start() -> None:
    todo = list(jobs(2, Path("runs"), [0, 40], steps=5))
    assert len(todo) == 1 + 2 + 1 + 2 * len(VARIANTS)
    assert len({job.run for job in todo}) == len(todo)
    for job in todo:
        files = [job.words[place + 1] for place, word in enumerate(job.words) if word == "-c"]
        assert all((ROOT / file).is_file() for file in files)
        assert job.run.name.endswith("seed2")
        assert "2" in job.words[job.words.index("--seed_everything") + 1]
        assert {need.stage for need in job.needs} <= {"sft", "verifier"}
    noisy = next(job for job in todo if job.run.name == "half-noise40-seed2")
    assert "configs/reward/half.yaml" in noisy.words
    assert noisy.words[noisy.words.index("--from_verifier") + 1] == "noise40-seed2"
    verifier = next(job for job in todo if job.run.name == "noise40-seed2")
    assert verifier.words[verifier.words.index("--data.source.init_args.misread") + 1] == "0.4"


def pretend(job: Job) -> int:
    """In a worker: writes when it was done, if all that it needs is there."""
    if job.words == ("fails",) or not all((need.path / "summary.json").is_file() for need in job.needs):
        return 1
    job.run.path.mkdir(parents=True)
    (job.run.path / "summary.json").write_text("{}")
    return 0


def test_a_run_waits_for_what_it_starts_from_and_is_not_done_twice(tmp_path: Path) -> None:
    first, second = (RunFolder(tmp_path, "sft", name) for name in ("a", "b"))
    last = RunFolder(tmp_path, "grpo", "c")
    todo = [Job(last, (), (first, second)), Job(first, ()), Job(second, ())]
    run_all(todo, 2, pretend)
    assert all(job.done for job in todo)
    run_all(todo, 2, pretend)  # making a folder again would raise
    with pytest.raises(RuntimeError, match=r"sft/d failed: see .*logs"):
        run_all([Job(RunFolder(tmp_path, "sft", "d"), ("fails",))], 1, pretend)


# -- the report ---------------------------------------------------------------------------------------------------

CLIPS = 20


def write_run(folder: Path, right: int, reward: float | None = None) -> None:
    """A run whose explanations convey the label of so many clips; every answer is right."""
    folder.mkdir(parents=True)
    rows = []
    for clip in range(CLIPS):
        label = clip % 7
        row: dict[str, Any] = {"id": f"{clip}", "dataset": "synthetic", "clip": f"{clip}.mp4", "label_space": "dfew"}
        row |= {
            "label_id": label,
            "answer_id": label,
            "judges": {"grammar": label if clip < right else (label + 1) % 7},
        }
        rows.append(json.dumps(row))
    (folder / "predictions.jsonl").write_text("\n".join(rows))
    if reward is not None:
        lines = [f"{step},{0.0 if step < 10 else reward},1.0" for step in range(20)]
        header = "step,train/rewards/half/mean,train/rewards/accuracy/mean"
        (folder / "metrics.csv").write_text("\n".join([header, *lines]))


def test_the_report_says_what_the_runs_say(tmp_path: Path) -> None:
    settings = {"seeds": 2, "steps": 20, "noise": [0, 40], "variants": ["paper", "half"]}
    eea = {("paper", 0): 16, ("paper", 40): 4, ("half", 0): 14, ("half", 40): 12}
    for seed in range(2):
        write_run(tmp_path / "sft" / f"seed{seed}", 6)
        write_run(tmp_path / "grpo" / f"accuracy-seed{seed}", 5)
        for (variant, noise), right in eea.items():
            write_run(tmp_path / "grpo" / f"{variant}-noise{noise}-seed{seed}", right + 2 * seed, 0.25 + seed / 2)
        for noise in (0, 40):
            verifier = tmp_path / "verifier" / f"noise{noise}-seed{seed}"
            verifier.mkdir(parents=True)
            (verifier / "summary.json").write_text(json.dumps({"test/f1_macro": 1 - noise / 100}))
    paths = reporting.write(tmp_path, tmp_path / "out", settings, "the command")
    report = json.loads(paths[0].read_text())
    for (variant, noise), right in eea.items():
        cell = report["cells"][variant][str(noise)]
        assert cell["metrics"]["eea"]["value"] == pytest.approx((right + 1) / CLIPS)
        assert cell["metrics"]["eea"]["seeds"] == pytest.approx([right / CLIPS, (right + 2) / CLIPS])
        assert cell["metrics"]["war"]["value"] == 1
        assert cell["reward"] == pytest.approx([0.25, 0.75])
    against = report["cells"]["half"]["40"]["against_paper"]["eea"]
    assert against["estimate"]["value"] == pytest.approx(8 / CLIPS)
    assert "against_paper" not in report["cells"]["paper"]["40"]
    assert report["verifiers"] == {"0": [1.0, 1.0], "40": [0.6, 0.6]}
    assert report["baselines"]["SFT"]["eea"]["value"] == pytest.approx(6 / CLIPS)
    assert reporting.ranked(report) == [("half", pytest.approx(13 / CLIPS)), ("paper", pytest.approx(5 / CLIPS))]
    page = paths[1].read_text()
    assert page == reporting.markdown(report)
    assert "Highest: `half` (0.650); lowest: `paper` (0.250)" in page
    assert "`half` loses least, 0.100, the paper's 0.600" in page
    assert paths[2].stat().st_size > 10_000


def test_the_committed_page_is_made_of_the_committed_numbers() -> None:
    report = json.loads((RESULTS / "verifier_quality.json").read_text(encoding="utf-8"))
    assert (RESULTS / "verifier_quality.md").read_text(encoding="utf-8") == reporting.markdown(report)
    assert set(report["cells"]) == set(VARIANTS)
    assert report["settings"]["seeds"] >= 3
    assert {0, 20, 40, 60} <= set(report["settings"]["noise"])
    assert (RESULTS / "verifier_quality.png").is_file()


def test_the_docs_show_the_table_and_the_numbers_of_the_results() -> None:
    page = (ROOT / "docs" / "verifier.md").read_text(encoding="utf-8")
    shown = page.split("<!-- study:begin -->\n")[1].split("\n<!-- study:end -->")[0]
    assert f"## EEA\n\n{shown}\n\n" in (RESULTS / "verifier_quality.md").read_text(encoding="utf-8")
    report = json.loads((RESULTS / "verifier_quality.json").read_text(encoding="utf-8"))
    means = {name: f"{value:.2f}" for name, value in reporting.ranked(report)}
    assert (min(means.values()), means["paper"], max(means.values())) == ("0.64", "0.67", "0.69")
    ends = {at: [f"{of[at]['metrics']['eea']['value']:.2f}" for of in report["cells"].values()] for at in ("0", "60")}
    assert [(min(of), max(of)) for of in ends.values()] == [("0.70", "0.75"), ("0.59", "0.69")]
    verifier = json.loads((RESULTS / "verifier_report.json").read_text(encoding="utf-8"))
    assert f"F1 {verifier['f1']['above 0.5']['macro']:.2f}" in page

"""`sweep --local`: what it refuses before any trial, and how it starts, watches, stops and takes up trials.

The trials here are a stand-in, a script that writes metrics.csv as a run does; `tests/test_sweeps.py` has real ones.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_fixtures import ROOT, Checkout, Process, read_jsonl

from erv_lightning.commands import sweep as command
from erv_lightning.errors import ConfigError
from erv_lightning.sweeping.engine import Engine
from erv_lightning.sweeping.place import Place
from erv_lightning.sweeping.runner import Runner, trial_environment
from erv_lightning.sweeping.spec import SweepFile, read_sweep
from erv_lightning.sweeping.trials import Ledger, Trial, read_values

pytest_plugins = ("cli_fixtures",)

if not os.environ.get("CI"):
    pytest.importorskip("sweeps", reason="W&B's search engine: pip install --no-deps sweeps==0.3.0")

GOOD: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/fcr", "goal": "maximize"},
    "parameters": {"model.init_args.beta": {"values": [0.0, 0.5]}},
    "command": ["python", "-m", "erv_lightning", "fit", "-c", "configs/grpo.yaml", "${args}"],
}
# Writes its parameter `x` as the metric, once every `pause` seconds, and ends when asked to as a run does.
STAND_IN = """\
import os, pathlib, signal, sys, time
words = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--") and "=" in word)
run = pathlib.Path(words["runs"], "grpo", "trial-" + os.environ["WANDB_RUN_ID"])
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
def save(*_):
    (run / "checkpoints" / "last.ckpt").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
if words["x"] == "-1":
    sys.exit("error: minus one is no learning rate")
with (run / "metrics.csv").open("a") as file:
    print("step,val/fcr", file=file)
    for step in range(int(words["steps"])):
        print(f"{step},{words['x']}", file=file, flush=True)
        time.sleep(float(words["pause"]))
with (run / "words.txt").open("w") as file:
    file.write(" ".join(sys.argv[1:]))
(run / "export").mkdir(exist_ok=True)
"""


def stand_in(folder: Path, xs: list[float], steps: int = 2, pause: float = 0.1, **more: Any) -> SweepFile:
    """A grid over `x` whose trials are the stand-in."""
    (folder / "stand_in.py").write_text(STAND_IN)
    fixed = [f"--steps={steps}", f"--pause={pause}"]
    words = [sys.executable, str(folder / "stand_in.py"), "-m", "erv_lightning", "fit", *fixed, "${args}"]
    content = {**GOOD, "parameters": {"x": {"values": xs}}, "command": words, **more}
    (folder / "made.yaml").write_text(yaml.safe_dump(content))
    return read_sweep(folder / "made.yaml")


def runner_of(sweep: SweepFile, folder: Path, parallel: int = 1) -> Runner:
    place = Place(folder / "runs", "grpo", "trial-TRIALID")
    ledger = Ledger(folder / "runs" / "sweeps" / "made", sweep.content)
    return Runner(sweep, Engine(sweep), place, ledger, parallel, folder / "runs", lambda line: None)


def run_all(sweep: SweepFile, folder: Path, parallel: int = 1, limit: int | None = None) -> list[Trial]:
    runner = runner_of(sweep, folder, parallel)
    try:
        runner.run(limit)
    finally:
        runner.ledger.close()
    return runner.trials


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "hillclimb"}, "unknown method 'hillclimb', one of grid, random, bayes is needed"),
        ({"method": None}, "no method"),
        ({"metric": None}, "no metric"),
        ({"metric": {"name": "val/fcr", "goal": "up"}}, "unknown goal 'up'"),
        ({"parameters": {}}, "no parameters"),
        ({"parameters": {"a": 3}}, "parameter a is no mapping"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "write their names with dots"),
        ({"command": None}, "no command"),
        ({"command": ["python", "train.py", "${args}"]}, "does not run -m erv_lightning fit"),
        ({"command": ["python", "-m", "erv_lightning", "fit"]}, "no ${args}"),
        ({"command": [*GOOD["command"], "${args_json}"]}, "${args_json}"),
        ({"parameters": {"a": {"min": 2.0, "max": 1.0}}}, "min 2.0 is not less than max 1.0"),
        ({"parameters": {"a": {"distribution": "zipf"}}}, "zipf"),
        ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "Grid search requires all parameters"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **change}.items() if value is not None}))
    with pytest.raises(ConfigError) as caught:
        command.main(["-c", str(path), "--local"])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("method: hillclimb\n")
    with pytest.raises(ConfigError, match=r"unknown method.*no metric.*no parameters.*no command"):
        read_sweep(path)


def test_a_search_without_end_needs_a_number_of_trials(tmp_path: Path) -> None:
    path = tmp_path / "endless.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "method": "random"}))
    with pytest.raises(ConfigError, match="--trials"):
        command.main(["-c", str(path), "--local"])


def test_without_local_it_says_how_to_use_wandb() -> None:
    with pytest.raises(ConfigError, match=r"--local.*wandb sweep"):
        command.main(["-c", "sweeps/grpo_bayes.yaml"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"parameters": {"model.init_args.betta": {"values": [0.1]}}},
            "unknown key 'model.betta': did you mean 'beta'?",
        ),
        ({}, "add -c configs/logger/sweep.yaml"),
        ({"command": [*GOOD["command"], "--name=${oc.env:WANDB_RUN_ID}"]}, "nowhere/sft/default/export is not there"),
    ],
)
def test_what_the_command_line_would_refuse_is_said_before_any_trial(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    def run_here(words: list[str], env: dict[str, str], **how: Any) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("WANDB_RUN_ID", env["WANDB_RUN_ID"])
        outcome = checkout.run(*words[words.index("erv_lightning") + 1 :])
        return subprocess.CompletedProcess(words, outcome.status, outcome.out, outcome.err)

    monkeypatch.setattr("erv_lightning.sweeping.place.subprocess.run", run_here)  # spares a process's imports
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **change}))
    monkeypatch.chdir(checkout.folder)
    with pytest.raises(ConfigError) as caught:
        command.main(["-c", str(path), "--local", "--runs", "nowhere"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("nowhere").exists()


# -- the search -------------------------------------------------------------------------------------------------------


def search(method: str, seed: int, trials: int = 15) -> float:
    """The best of a smooth function of two parameters, 0 at its top."""
    ranges = {"a": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}}
    engine = Engine(SweepFile(Path("s.yaml"), {**GOOD, "method": method, "parameters": ranges}), seed)
    done: list[Trial] = []
    for number in range(trials):
        params = engine.suggest(done)
        assert params is not None
        value = -((params["a"] ** 0.2 - 0.5) ** 2) - (params["b"] - 0.3) ** 2
        done.append(Trial(str(number), params, "finished", [value]))
    return max(trial.values[0] for trial in done)


def test_bayes_finds_the_top_where_chance_does_not() -> None:
    bayes, chance = ([search(method, seed) for seed in range(3)] for method in ("bayes", "random"))
    assert min(bayes) > -0.01
    assert sum(bayes) > sum(chance)


def test_a_search_that_was_cut_off_draws_what_it_would_have_drawn() -> None:
    sweep = SweepFile(Path("s.yaml"), {**GOOD, "method": "random", "parameters": {"a": {"min": 0.0, "max": 1.0}}})
    done: list[Trial] = []
    for number in range(4):
        params = Engine(sweep, 7).suggest(done)
        assert params is not None
        assert type(params["a"]) is float  # NumPy's would not read as a number on a command line
        done.append(Trial(str(number), params, "finished", [0.0]))
    random.seed(99)
    assert Engine(sweep, 7).suggest(done[:2]) == done[2].params
    assert len({trial.params["a"] for trial in done}) == 4
    assert Engine(sweep, 8).suggest([]) != done[0].params


def test_a_grid_gives_every_point_once() -> None:
    parameters = {"a": {"values": [0.0, 0.1, 1]}, "b": {"values": ["x", "y"]}, "c": {"value": True}}
    engine = Engine(SweepFile(Path("s.yaml"), {**GOOD, "parameters": parameters}))
    done: list[Trial] = []
    while (params := engine.suggest(done)) is not None:
        done.append(Trial(str(len(done)), params, "finished", []))
    points = [(trial.params["a"], trial.params["b"], trial.params["c"]) for trial in done]
    assert sorted(points) == [(a, b, True) for a in (0.0, 0.1, 1) for b in ("x", "y")]


def test_hyperband_stops_the_worse_half_at_each_band() -> None:
    early = {"type": "hyperband", "min_iter": 2, "eta": 2}
    engine = Engine(SweepFile(Path("s.yaml"), {**GOOD, "early_terminate": early}))
    values = {"good": [0.5, 0.6, 0.6], "bad": [0.1, 0.2], "young": [0.0], "done": [0.3, 0.3]}
    trials = [Trial(name, {}, "finished" if name == "done" else "running", seen) for name, seen in values.items()]
    assert engine.fallen_behind(trials) == {"bad"}


# -- trials as processes ----------------------------------------------------------------------------------------------


def test_a_grid_runs_to_its_end_two_at_a_time(tmp_path: Path) -> None:
    started = time.monotonic()
    trials = run_all(stand_in(tmp_path, [1, 2, 3, 4], pause=0.4), tmp_path, parallel=2)
    assert time.monotonic() - started < 4 * 2 * 0.4 + 2
    assert [(trial.params, trial.state, trial.values) for trial in trials] == [
        ({"x": x}, "finished", [x, x]) for x in (1, 2, 3, 4)
    ]
    rows = read_jsonl(tmp_path / "runs" / "sweeps" / "made" / "sweep.jsonl")
    assert {row["id"]: row["state"] for row in rows[1:]} == {f"made-00{n}": "finished" for n in (1, 2, 3, 4)}


def test_a_trial_that_falls_behind_is_stopped_and_its_value_counts(tmp_path: Path) -> None:
    early = {"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2}}
    trials = run_all(stand_in(tmp_path, [5, 1, 6], steps=12, pause=0.3, **early), tmp_path, parallel=3)
    states = {trial.params["x"]: (trial.state, len(trial.values)) for trial in trials}
    assert states[1][0] == "stopped"
    assert 2 <= states[1][1] < 12
    assert states[6] == ("finished", 12)
    assert (
        tmp_path / "runs" / "grpo" / "trial-made-002" / "checkpoints" / "last.ckpt"
    ).exists()  # SIGTERM, not SIGKILL


def test_a_failed_trial_is_passed_over_but_three_at_the_start_end_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    trials = run_all(stand_in(tmp_path / "one", [-1, 2]), tmp_path / "one")
    assert [trial.state for trial in trials] == ["failed", "finished"]

    broken = stand_in(tmp_path, [1, 2, 3, 4], pause=-1)  # sleep refuses
    with pytest.raises(ConfigError, match=r"all of the first 3 trials failed.*made-003.log"):
        run_all(broken, tmp_path)


def test_trials_in_parallel_share_out_the_gpus_and_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = [trial_environment(f"t{slot}", slot, 3, ["4", "5"]) for slot in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in made] == ["4", "5", "4"]
    assert [one["WANDB_RUN_ID"] for one in made] == ["t0", "t1", "t2"]
    assert all("MASTER_PORT" not in one and "SLURM_NTASKS" not in one for one in made)
    assert "CUDA_VISIBLE_DEVICES" not in trial_environment("t", 0, 1, ["4", "5"])  # alone: all of them


def test_half_a_line_is_no_value_and_a_shorter_file_takes_none_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    trial = Trial("t", {})
    path.write_text("step,val/fcr\n1,0.25\n2,\n3,nan\n4,0.5\n5,0.7")
    trial.look(path, "val/fcr")
    assert trial.values == [0.25, 0.5]
    path.write_text("step,val/fcr,more\n")  # the logger writes it anew when there is a new column
    trial.look(path, "val/fcr")
    assert trial.values == [0.25, 0.5]
    assert read_values(tmp_path / "none.csv", "val/fcr") == []


# -- ended and taken up -----------------------------------------------------------------------------------------------

DRIVER = """\
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {commands!r}]
from test_sweep import runner_of
from erv_lightning.commands.sweep import _sigterm_is_ctrl_c
from erv_lightning.sweeping.spec import read_sweep
folder = Path(sys.argv[1])
with _sigterm_is_ctrl_c():
    try:
        runner_of(read_sweep(folder / "made.yaml"), folder, 2).run(None)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[], Process]:
    """Starts the stand-in's sweep in a process of its own."""
    source = DRIVER.format(tests=str(ROOT / "tests"), commands=str(ROOT / "tests" / "commands"))
    (tmp_path / "driver.py").write_text(source)
    return lambda: Process([sys.executable, str(tmp_path / "driver.py"), str(tmp_path)], tmp_path)


def wait_until(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def pids(folder: Path) -> list[int]:
    """Of the trials that run, as remembered."""
    path = folder / "runs" / "sweeps" / "made" / "sweep.jsonl"
    last = {row["id"]: row for row in read_jsonl(path)[1:]} if path.is_file() else {}
    return [row["pid"] for row in last.values() if row["state"] == "running"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_trials_with_checkpoints_and_the_next_call_goes_on(
    tmp_path: Path, driver: Callable[[], Process], number: signal.Signals
) -> None:
    sweep = stand_in(tmp_path, [1, 2, 3], steps=10, pause=0.5)  # long enough for a slow machine to be heard in time
    metrics = [tmp_path / "runs" / "grpo" / f"trial-made-00{n}" / "metrics.csv" for n in (1, 2)]
    with driver() as process:
        wait_until(lambda: all(read_values(path, "val/fcr") for path in metrics))
        os.kill(process.popen.pid, number)
        assert process.wait(20).status == 130
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "runs" / "sweeps" / "made" / "sweep.jsonl")[1:]}
    assert {name: row["state"] for name, row in rows.items()} == {"made-001": "interrupted", "made-002": "interrupted"}
    assert all((path.parent / "checkpoints" / "last.ckpt").is_file() for path in metrics)

    trials = run_all(sweep, tmp_path, parallel=2)
    assert [(trial.id, trial.state) for trial in trials] == [(f"made-00{n}", "finished") for n in (1, 2, 3)]
    words = [(tmp_path / "runs" / "grpo" / f"trial-made-00{n}" / "words.txt").read_text() for n in (1, 2, 3)]
    assert ["--ckpt_path=last" in text for text in words] == [True, True, False]


def test_a_killed_sweep_waits_for_its_orphans_then_goes_on(tmp_path: Path, driver: Callable[[], Process]) -> None:
    sweep = stand_in(tmp_path, [1, 2, 3], steps=4, pause=0.5)
    with driver() as process:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        orphans = pids(tmp_path)
        with pytest.raises(ConfigError, match="another process runs this sweep"):
            runner_of(sweep, tmp_path)
        process.popen.kill()
        process.popen.wait()
    with pytest.raises(ConfigError, match=f"still runs.*kill {orphans[0]}"):
        run_all(sweep, tmp_path)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").is_file() for pid in orphans))
    with (tmp_path / "runs" / "sweeps" / "made" / "sweep.jsonl").open("a") as file:
        file.write('{"id": "made-0')  # killed while writing

    trials = run_all(sweep, tmp_path)
    assert [(trial.id, trial.state) for trial in trials] == [(f"made-00{n}", "finished") for n in (1, 2, 3)]


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    run_all(stand_in(tmp_path, [1]), tmp_path)
    with pytest.raises(ConfigError, match="begun with another sweep file or seed"):
        runner_of(stand_in(tmp_path, [1, 2]), tmp_path)


def test_the_command_of_a_trial_is_what_wandbs_own_functions_assemble() -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    params = {"a.b": 0.25, "c": True, "d": False, "e": "text", "f": 3, "g": None}
    for macro in ("args", "args_no_equals", "args_no_boolean_flags"):
        sweep = SweepFile(Path("s.yaml"), {**GOOD, "command": ["${env}", *GOOD["command"][:-1], f"${{{macro}}}"]})
        theirs = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in params.items()}})
        assert sweep.command(params) == ["/usr/bin/env", *GOOD["command"][:-1], *theirs[macro]]


def test_the_verb_is_there_and_explains_itself(checkout: Checkout) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "erv_lightning", "sweep", "--help"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "--local" in outcome.stdout

"""Every shipped sweep file: W&B's schema, its opening command, names that the command line knows; real trials."""

from __future__ import annotations

import gzip
import http.server
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_fixtures import ROOT, Checkout, Process, read_csv, read_jsonl
from wandb.wandb_agent import Agent

from erv_lightning.cli import BEST_BY
from erv_lightning.commands import sweep as command
from erv_lightning.sweeping.spec import SweepFile, read_sweep

pytest_plugins = ("cli_fixtures",)

if not os.environ.get("CI"):
    pytest.importorskip("sweeps", reason="W&B's search engine: pip install --no-deps sweeps==0.3.0")

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
TWO_STEPS = """\
max_new_tokens: 24
trainer:
  accelerator: cpu
  devices: 1
  strategy: auto
  precision: 32-true
  max_steps: 2
  val_check_interval: 1
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
"""
ENDLESS = TWO_STEPS.replace("max_steps: 2", "max_steps: 100000")


def small(file: Path, folder: Path, trainer: str = TWO_STEPS) -> Path:
    """The sweep file with overlays that make its trials small."""
    content = yaml.safe_load(file.read_text())
    (folder / "small.yaml").write_text(trainer)
    at = content["command"].index("${args}")
    content["command"][at:at] = ["-c", "tiny/data/few.yaml", "-c", str(folder / "small.yaml")]
    (folder / file.name).write_text(yaml.safe_dump(content))
    return folder / file.name


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """Every value of a parameter, or the ends of its range."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


# -- the files --------------------------------------------------------------------------------------------------------


def test_there_is_a_file_of_each_kind() -> None:
    sweeps = [read_sweep(file) for file in FILES]
    assert {sweep.method for sweep in sweeps} == {"grid", "random", "bayes"}
    assert any(sweep.stops_early for sweep in sweeps)
    assert any("torchrun" in sweep.content["command"] for sweep in sweeps)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_passes_wandbs_own_schema_and_opens_with_its_command(file: Path) -> None:
    from sweeps import SweepConfig, next_run

    SweepConfig(yaml.safe_load(file.read_text()))  # raises where the schema is broken
    assert next_run(yaml.safe_load(file.read_text()), []) is not None

    comment = re.match(r"(#.*\n)+", file.read_text())
    assert comment is not None
    name = f"sweeps/{file.name}"
    assert f"python -m erv_lightning sweep -c {name} --local\n" in comment.group()
    assert f"wandb sweep {name} && " in comment.group()
    for script in re.findall(r"sweeps/\w+\.sh", comment.group()):
        assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_value_arrives_in_the_run_and_the_metric_is_its_own(checkout: Checkout, file: Path) -> None:
    sweep = read_sweep(file)
    parameters: dict[str, dict[str, Any]] = sweep.content["parameters"]
    os.environ["WANDB_RUN_ID"] = "abc123"
    for pick in range(max(len(values_of(one)) for one in parameters.values())):
        params = {name: values_of(one)[min(pick, len(values_of(one)) - 1)] for name, one in parameters.items()}
        outcome = checkout.run(*sweep.fit_words(params), "--print_config")
        assert outcome.status == 0, outcome.err
        settings = yaml.safe_load(outcome.out)
        assert settings["name"] == "trial-abc123"  # a run folder of its own
        assert settings["trainer"]["logger"]["init_args"]["offline"] is False  # the agent's runs are W&B's
        for name, value in params.items():
            found = settings
            for key in name.split("."):
                found = found[key]
            assert found == value, name
    assert sweep.metric == BEST_BY[settings["stage"]]


@pytest.mark.parametrize("script", sorted((ROOT / "sweeps").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_bash_and_says_how_it_is_used(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    outcome = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert "usage: " in outcome.stderr


FAKE_WANDB = """\
#!/usr/bin/env bash
trap 'echo "gpu ${CUDA_VISIBLE_DEVICES-none} ended" >> agents.txt; exit 0' TERM
echo "gpu ${CUDA_VISIBLE_DEVICES-none}: $*" >> agents.txt
[ -e wait ] && while true; do sleep 0.05; done
exit 0
"""


def test_agent_per_gpu_starts_an_agent_on_each_gpu_and_hands_sigterm_on(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    script = tmp_path / "sweeps" / "agent_per_gpu.sh"
    script.write_bytes((ROOT / "sweeps" / "agent_per_gpu.sh").read_bytes())
    (tmp_path / "wandb").write_text(FAKE_WANDB)
    (tmp_path / "wandb").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = tmp_path / "agents.txt"

    subprocess.run(["bash", str(script), "me/it/abc", "3"], env=environment, check=True, timeout=20)
    assert said.read_text() == "gpu none: agent --forward-signals --count 3 me/it/abc\n"  # a machine without GPUs

    said.write_text("")
    (tmp_path / "wait").touch()
    environment["CUDA_VISIBLE_DEVICES"] = "0,3"
    with subprocess.Popen(["bash", str(script), "me/it/abc"], env=environment) as process:
        end = time.monotonic() + 20
        while len(said.read_text().splitlines()) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(20) == 0
    lines = sorted(said.read_text().splitlines())
    agent = "agent --forward-signals me/it/abc"
    assert lines == ["gpu 0 ended", f"gpu 0: {agent}", "gpu 3 ended", f"gpu 3: {agent}"]


# -- trials as W&B's agent starts them --------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Answers what `wandb agent` asks of W&B's server, on this machine: who it is, the sweep, and what to do next.

    Args:
        sweep: what it hands out as the sweep's config.
        drawn: parameters of the trials, by run id, in order.
    """

    def __init__(self, sweep: SweepFile, drawn: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.sweep, self.waiting, self.agents = sweep, list(drawn.items()), 0
        self.at_once, self.lock = 0, threading.Lock()
        self.states: dict[str, dict[str, bool]] = {}  # running trials, by agent
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            if "viewer" in query:
                teams: dict[str, Any] = {"edges": []}
                return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": teams}}
            if "sweep(" in query:
                found = {"id": "1", "name": "abcd1234", "state": "RUNNING", "method": self.sweep.method}
                runs: dict[str, Any] = {"runs": {"edges": []}}
                return {"project": {"sweep": {**found, **runs, "config": yaml.safe_dump(self.sweep.content)}}}
            if "createAgent" in query:
                self.agents += 1
                return {"createAgent": {"agent": {"id": f"agent{self.agents}"}}}
            if "agentHeartbeat" in query:
                commands = self.commands(variables["id"], json.loads(variables["runState"]))
                return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
            return {}

    def commands(self, agent: str, running: dict[str, bool]) -> list[dict[str, Any]]:
        self.states[agent] = running
        self.at_once = max(self.at_once, sum(map(len, self.states.values())))
        if running:
            return []
        if not self.waiting:
            return [{"type": "exit"}]
        run_id, params = self.waiting.pop(0)
        args = {name: {"value": value} for name, value in params.items()}
        return [{"type": "run", "run_id": run_id, "args": args, "program": "erv_lightning"}]


class Answer(http.server.BaseHTTPRequestHandler):
    """One request to the server."""

    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        asked = json.loads(body) if self.path == "/graphql" else {"query": ""}
        said = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def in_checkout(trained: Checkout, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with trained SFT and verifier, as an agent on this machine sees it."""
    monkeypatch.chdir(trained.folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return trained.folder


def test_three_trials_of_two_real_wandb_agents_do_not_clash(in_checkout: Path, tmp_path: Path) -> None:
    sweep = read_sweep(small(ROOT / "sweeps" / "grpo_rewards_random.yaml", tmp_path))
    sweep.content["command"].insert(1, "WANDB_MODE=offline")  # the server below takes no runs, only agents
    rewards = "model.init_args.rewards"
    numbers = {"aaa": 1, "bbb": 2, "ccc": 3}
    drawn = {
        name: {f"{rewards}.explanation": 0.25 * n, "model.init_args.beta": 0.01 * n} for name, n in numbers.items()
    }
    before = {path.name for path in (in_checkout / "runs").iterdir()}
    with Server(sweep, drawn) as server:
        os.environ.pop("WANDB_MODE")
        os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}", WANDB_API_KEY="x" * 40)
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        agent = [sys.executable, "-m", "wandb", "agent", "me/erv_lightning/abcd1234"]
        with Process(agent, in_checkout) as first, Process(agent, in_checkout) as second:
            outcomes = [one.wait(150) for one in (first, second)]
        server.shutdown()
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    assert server.at_once == 2
    said = outcomes[0].out + outcomes[0].err + outcomes[1].out + outcomes[1].err
    assert "Traceback" not in said

    for name, params in drawn.items():
        run = in_checkout / "runs" / "grpo" / f"trial-{name}"
        settings = yaml.safe_load((run / "config.yaml").read_text())
        assert settings["model"]["init_args"]["beta"] == params["model.init_args.beta"]
        assert settings["model"]["init_args"]["rewards"]["explanation"] == params[f"{rewards}.explanation"]
        rows = read_csv(run / "metrics.csv")
        assert len([row for row in rows if row["train/loss"]]) == 2
        assert len([row for row in rows if row[sweep.metric]]) == 2
        assert (run / "export" / "config.json").is_file()
        assert len(list((in_checkout / "runs" / "wandb").glob(f"offline-run-*-{name}"))) == 1
    assert not list((in_checkout / "runs" / "grpo").glob("trial-*.1"))  # no trial moved another's folder aside
    assert sorted(path.name for path in (in_checkout / "runs").iterdir()) == sorted({*before, "wandb"})
    assert not list((in_checkout / "runs" / "sft").glob("default.*"))  # and none trained an earlier stage


def test_the_agents_stop_ends_a_trial_with_a_checkpoint(in_checkout: Path, tmp_path: Path) -> None:
    sweep = read_sweep(small(ROOT / "sweeps" / "grpo_bayes.yaml", tmp_path, ENDLESS))
    run = in_checkout / "runs" / "grpo" / "trial-stopped"
    agent = Agent(None, multiprocessing.Queue(), sweep_id="abcd1234")  # its own code; the commands are a server's
    agent._sweep_command = list(sweep.content["command"])
    args = {"model.init_args.beta": {"value": 0.01}}
    agent._process_command({"type": "run", "id": 1, "run_id": "stopped", "args": args, "program": "erv_lightning"})
    trial = agent._run_processes["stopped"]
    try:
        end = time.monotonic() + 90
        while len([row for row in read_csv(run / "metrics.csv") if row.get(sweep.metric)]) < 2:
            assert trial.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        agent._process_command({"type": "stop", "id": 2, "run_id": "stopped"})
        end = time.monotonic() + Agent.KILL_DELAY  # later the agent would kill it
        while trial.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert trial.poll() == 128 + signal.SIGTERM
    finally:
        if trial.poll() is None:
            trial.kill()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert saved == len([row for row in read_csv(run / "metrics.csv") if row["train/loss"]]) >= 2
    assert not (run / "export").exists()


# -- the same file without an account ---------------------------------------------------------------------------------


def test_sweep_local_runs_a_shipped_file_without_an_account(
    in_checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = small(ROOT / "sweeps" / "grpo_bayes.yaml", tmp_path)
    assert command.main(["-c", str(file), "--local", "--trials", "2", "--parallel", "2"]) == 0

    rows = read_jsonl(in_checkout / "runs" / "sweeps" / "grpo_bayes" / "sweep.jsonl")
    last = {row["id"]: row for row in rows[1:]}
    assert {name: row["state"] for name, row in last.items()} == {f"grpo_bayes-00{n}": "finished" for n in (1, 2)}
    for name, row in last.items():
        run = in_checkout / "runs" / "grpo" / f"trial-{name}"
        assert row["values"] == [float(one["val/fcr"]) for one in read_csv(run / "metrics.csv") if one["val/fcr"]]
        assert len(row["values"]) == 2
        settings = yaml.safe_load((run / "config.yaml").read_text())
        assert settings["model"]["init_args"]["lr"] == row["params"]["model.init_args.lr"]
    assert "again: WANDB_MODE=offline python -m erv_lightning fit -c configs/grpo.yaml" in capsys.readouterr().out

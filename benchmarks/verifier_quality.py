"""How good must the verifier be? Verifiers of falling quality as reward, every variant of the explanation reward.

    python -m benchmarks.verifier_quality [--seeds 3] [--steps 60] [--noise 0 20 40 60]        (make study)

A verifier's teacher misreads a share of the built-in phrases (`SyntheticClips.misread`), each always alike. The policy
of one seed is trained from the same cold start with each verifier and each variant, and the grammar, which misreads
nothing, judges its explanations of the test clips. Runs go into `--runs`; those that are done are not done again.
Results: docs/results/verifier_quality.{json,md,png}.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.verifier_quality_report import ACCURACY, write
from erv_lightning.runs import RunFolder

RESULTS = Path("docs/results")

VARIANTS: dict[str, str | None] = {
    "paper": None,
    "paragraph": "paragraph",
    "top1": "top1",
    "half": "half",
    "all_sentences": "all_sentences",
    "gated": "gated",
    "self_consistent": "self_consistent",
    "graded": "graded",
    "calibrated": "calibrated",
}
"""Variant → its overlay of configs/reward/."""


@dataclass(frozen=True)
class Job:
    """One run: trained, then tested.

    Attributes:
        run: its folder.
        words: of the command line, beside the run's name.
        needs: folders of the runs that it starts from.
    """

    run: RunFolder
    words: tuple[str, ...]
    needs: tuple[RunFolder, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it has been tested."""
        return (self.run.path / "summary.json").is_file()


def jobs(seed: int, runs: Path, noise: Sequence[int], steps: int) -> Iterator[Job]:
    """The runs of one seed: the cold start, a verifier for each noise, and what is trained with them."""
    cache, name = str(runs / "clips"), f"seed{seed}"
    seeded = ("--seed_everything", str(seed))
    sft = RunFolder(runs, "sft", name)
    yield Job(sft, ("-c", "configs/sft.yaml", "--data.cache", cache, *seeded))
    verifiers = {percent: RunFolder(runs, "verifier", f"noise{percent}-{name}") for percent in noise}
    for percent, verifier in verifiers.items():
        misread = ("misread", f"{percent / 100}"), ("misread_seed", f"{seed}")
        words = [word for key, value in misread for word in (f"--data.source.init_args.{key}", value)]
        yield Job(verifier, ("-c", "configs/verifier.yaml", *words, *seeded))
    grpo = ("--data.cache", cache, *seeded, "--from_sft", name)
    grpo += ("--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps))
    overlay = ("-c", "configs/grpo.yaml", "-c", "configs/reward/accuracy_only.yaml")
    yield Job(RunFolder(runs, "grpo", f"{ACCURACY}-{name}"), (*overlay, *grpo), (sft,))
    for percent, verifier in verifiers.items():
        for variant, reward in VARIANTS.items():
            overlay = ("-c", "configs/grpo.yaml", *(("-c", f"configs/reward/{reward}.yaml") if reward else ()))
            run = RunFolder(runs, "grpo", f"{variant}-noise{percent}-{name}")
            yield Job(run, (*overlay, *grpo, "--from_verifier", verifier.name), (sft, verifier))


def do(job: Job) -> int:
    """Trains and tests one run in a worker; its output goes into a file beside the runs. Returns the exit status."""
    from erv_lightning.__main__ import main

    log = job.run.root / "logs" / f"{job.run.stage}-{job.run.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    named = ("--runs", str(job.run.root), "--name", job.run.name)
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        for verb in ("fit", "test"):
            status = main([verb, *job.words, *named])
            if status != 0:
                return status
    return 0


def _quiet() -> None:
    """In a worker: one thread, and an empty command line, which Lightning would warn about."""
    import torch

    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]


def run_all(todo: Sequence[Job], workers: int, do: Callable[[Job], int] = do) -> None:
    """Every job once those that it needs are done; those that are done already are not done again.

    Args:
        todo: the jobs.
        workers: how many at once, in processes of their own.
        do: what is done with one; returns its exit status.

    Raises:
        RuntimeError: one failed; names its log.
    """
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with ProcessPoolExecutor(workers, context, _quiet) as pool, Progress(*columns, *times) as bar:
        task = bar.add_task("runs", total=len(todo))
        left, running = [job for job in todo if not job.done], dict[Future[int], Job]()
        bar.advance(task, len(todo) - len(left))
        while left or running:
            busy = {job.run for job in running.values()}
            missing = {job.run for job in left} | busy
            for job in [job for job in left if not missing.intersection(job.needs)][: workers - len(running)]:
                left.remove(job)
                running[pool.submit(do, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if future.result() != 0:
                    pool.shutdown(cancel_futures=True)
                    raise RuntimeError(f"{job.run.path} failed: see {job.run.root / 'logs'}")
                bar.advance(task)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifier_quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, 0 to N - 1 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="GRPO steps (default: %(default)s)")
    parser.add_argument("--noise", type=int, nargs="+", default=[0, 20, 40, 60], metavar="PERCENT")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once (default: all cores)")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="where runs go (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    args = parser.parse_args(argv)
    for seed in range(args.seeds):  # seed by seed: what is there when it is stopped has all cells
        run_all(list(jobs(seed, args.runs, args.noise, args.steps)), args.workers)
    settings = {"seeds": args.seeds, "steps": args.steps, "noise": args.noise, "variants": list(VARIANTS)}
    command = " ".join(["python -m benchmarks.verifier_quality", *(sys.argv[1:] if argv is None else argv)])
    for path in write(args.runs, args.out, settings, command):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()

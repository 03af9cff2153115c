"""`python -m erv_lightning VERB …`: hands each verb to its file."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from erv_lightning import config_files
from erv_lightning.errors import one_line

USAGE = """python -m erv_lightning VERB …

  fit       train a stage:          fit -c configs/grpo.yaml [-c OVERLAY …] [--key value …]
  validate  measure a run on the validation split
  test      measure a run on the test split, write predictions.jsonl
  predict   emotion and explanation of any clips:  predict clips/ --model runs/grpo/default
  doctor    what a run will take, and what keeps it from working:  doctor -c configs/grpo.yaml
  data      look at a data set, or rewrite it:  data check -c configs/sft.yaml -c configs/data/dfew.yaml
  verifier  make what a verifier learns from:  verifier build-data -c configs/verifier.yaml --teacher labels --to DIR
  evaluate  measure a run, or a file of predictions, in every way:  evaluate runs/grpo/default
  explain   what the verifier reads in each sentence:  explain "He smiles. The voice trembles."
  export    write a run's model for transformers:  export runs/grpo/default --to models/erv
  convert   read a published checkpoint of HumanOmni, R1-Omni or ERV:  convert humanomni PATH --out DIR
  compare   put finished runs side by side:  compare runs/sft/default runs/grpo/default
  report    runs as one page for a browser, with every completion and its clip:  report runs/grpo/default
  study     ask people which of two runs explains better:  study serve runs/grpo/accuracy-seed0 runs/grpo/erv-seed0
  sweep     try many settings:  sweep -c sweeps/grpo_bayes.yaml --local
  demo      SFT, verifier and GRPO on the built-in clips, their comparison and report

VERB --help tells more. ERV_DEBUG=1 shows the whole traceback of an error."""


def _lightning(verb: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        # The files are checked before the heavy imports: a mistyped path should not take seconds to report.
        helped = {"-h", "--help"} & set(argv)
        files = [] if helped else config_files.read(config_files.paths_in(argv))
        stage = "sft" if helped else config_files.stage_of(files)
        from erv_lightning.cli import main

        return main([verb, *argv], files, stage)

    return run


def _predict(verb: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        from erv_lightning.commands.predict import is_for_clips, main

        return (main if is_for_clips(argv) else _lightning(verb))(argv)

    return run


def _convert(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.convert import main

    return main


def _compare(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.compare import main

    return main


def _report(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.report import main

    return main


def _study(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.study import main

    return main


def _evaluate(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.evaluate import main

    return main


def _explain(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.explain import main

    return main


def _export(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.export import main

    return main


def _sweep(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.sweep import main

    return main


def _doctor(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.doctor import main

    return main


def _data(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.data import main

    return main


def _verifier(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.verifier import main

    return main


def _demo(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.demo import main

    return main


# Each verb imports only what it needs: `compare` should not wait for transformers.
VERBS: dict[str, Callable[[str], Callable[[list[str]], int]]] = {
    "fit": _lightning,
    "validate": _lightning,
    "test": _lightning,
    "predict": _predict,
    "doctor": _doctor,
    "data": _data,
    "verifier": _verifier,
    "evaluate": _evaluate,
    "explain": _explain,
    "export": _export,
    "convert": _convert,
    "compare": _compare,
    "report": _report,
    "study": _study,
    "sweep": _sweep,
    "demo": _demo,
}

# Warnings of libraries about themselves, which no user can act on.
QUIET = (
    r"LightningCLI's args parameter is intended",
    r".*isinstance\(treespec, LeafSpec\)",
    r"Experiment logs directory .* exists and is not empty",
    r"The '\w+_dataloader' does not have many workers",
    r"Be aware that when using `ckpt_path`, callbacks",
    r".*Consider increasing the value of the `num_workers` argument",
)


def main(argv: list[str]) -> int:
    """Runs a verb; returns the exit status: 0 done, 2 an error that one line explains, 130 interrupted."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(USAGE)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}, one of {', '.join(VERBS)} is needed", file=sys.stderr)
        return 2
    for pattern in QUIET:
        warnings.filterwarnings("ignore", message=pattern)
    try:
        return VERBS[verb](verb)(rest)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("ERV_DEBUG"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m erv_lightning VERB …`: hands each verb to its file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from erv_lightning.errors import one_line

USAGE = """python -m erv_lightning VERB …

  fit       train a stage:          fit -c configs/grpo.yaml [-c OVERLAY …] [--key value …]
  validate  measure a run on the validation split
  test      measure a run on the test split, write predictions.jsonl
  predict   write predictions.jsonl without measuring
  compare   put finished runs side by side:  compare runs/sft/default runs/grpo/default
  demo      SFT, verifier and GRPO on the built-in clips, and their comparison

VERB --help tells more. ERV_DEBUG=1 shows the whole traceback of an error."""


def _lightning(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.cli import main

    return lambda argv: main([verb, *argv])


def _compare(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.compare import main

    return main


def _demo(verb: str) -> Callable[[list[str]], int]:
    from erv_lightning.commands.demo import main

    return main


# Each verb imports only what it needs: `compare` should not wait for transformers.
VERBS: dict[str, Callable[[str], Callable[[list[str]], int]]] = {
    "fit": _lightning,
    "validate": _lightning,
    "test": _lightning,
    "predict": _lightning,
    "compare": _compare,
    "demo": _demo,
}


def main(argv: list[str]) -> int:
    """Runs a verb; returns the exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(USAGE)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}, one of {', '.join(VERBS)} is needed", file=sys.stderr)
        return 2
    try:
        return VERBS[verb](verb)(rest)
    except KeyboardInterrupt:
        return 130
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        if os.environ.get("ERV_DEBUG"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

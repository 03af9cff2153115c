"""Runs every benchmark and writes benchmarks/results/*.{json,md}:  python -m benchmarks.run"""

from __future__ import annotations

from benchmarks import data, evaluate, grpo_step, memory


def main() -> None:
    data.main([])
    evaluate.main([])
    memory.main([])
    grpo_step.main([])


if __name__ == "__main__":
    main()

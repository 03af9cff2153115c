"""Runs every benchmark and writes benchmarks/results/*.{json,md}:  python -m benchmarks.run"""

from __future__ import annotations

from benchmarks import grpo_step


def main() -> None:
    grpo_step.main([])


if __name__ == "__main__":
    main()

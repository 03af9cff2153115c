"""Runs every benchmark and writes benchmarks/results/*.{json,md}:  python -m benchmarks.run"""

from __future__ import annotations

from benchmarks import data, evaluate, grpo_step, memory, report_page


def main() -> None:
    data.main([])
    evaluate.main([])
    memory.main([])
    report_page.main([])
    grpo_step.main([])


if __name__ == "__main__":
    main()

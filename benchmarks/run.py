"""Runs every benchmark and writes benchmarks/results/*.{json,md}:  python -m benchmarks.run"""

from __future__ import annotations

from benchmarks import rollout


def main() -> None:
    rollout.main()


if __name__ == "__main__":
    main()

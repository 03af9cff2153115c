"""How long a run report takes to make, and how fluent its page is in a browser.

    python -m benchmarks.report_page [--sizes 1000 10000 50000 100000] [--rounds 5]

Rollouts are made up: groups of 8, every explanation of words of its own. The real verb makes the page in a process of
its own; headless Chromium opens the file. Without Chromium the browser's numbers are left out.
Results: benchmarks/results/report_page.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.progress import Progress

RESULTS = Path(__file__).parent / "results"
SIZES = (1_000, 10_000, 50_000, 100_000)
GROUP, GROUPS_A_STEP, SCROLLS = 8, 16, 60
NAMES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
PLACES = ("face", "voice", "brow", "mouth", "posture", "gaze", "breath", "speech")
LOOKS = ("strained", "calm", "bright", "tense", "hollow", "gentle", "restless", "frozen", "warm", "heavy")

# A process between: a child's peak starts at the memory of the process that forks it, and this one is small.
LAUNCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""

# Milliseconds from an action until the page shows that it is done, looked at once a frame.
UNTIL = """
async ([action, shown]) => {
  const look = new Function("return " + shown), before = look();
  const started = performance.now();
  new Function(action)();
  while (look() === before) {
    if (performance.now() - started > 20000) throw new Error("nothing changed after " + action);
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - started;
}
"""
SCROLL = """
async (steps) => {
  const list = document.getElementById("list"), end = list.scrollHeight - list.clientHeight, frames = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 1; i <= steps; i++) {
    list.scrollTop = end * i / steps;
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  return frames.sort((a, b) => a - b);
}
"""
FOUND = 'document.getElementById("found").textContent'
FIRST = 'document.querySelector("#list .row")?.textContent'


# -- the run ------------------------------------------------------------------------------------------------------


def make_run(folder: Path, size: int, seed: int = 0) -> Path:
    """A run folder of `size` rollouts and the curve of their rewards; the same bytes for the same size and seed."""
    folder.mkdir(parents=True)
    rng, rewards = random.Random(seed), dict[int, list[float]]()
    with (folder / "rollouts.jsonl").open("w", encoding="utf-8") as file:
        for number in range(size):
            row = make_rollout(number, rng)
            rewards.setdefault(row["step"], []).append(row["reward"])
            file.write(json.dumps(row) + "\n")
    lines = [f"{step},{sum(values) / len(values)}" for step, values in rewards.items()]
    (folder / "metrics.csv").write_text("\n".join(["step,train/reward", *lines]) + "\n")
    return folder


def make_rollout(number: int, rng: random.Random) -> dict[str, Any]:
    """A row of rollouts.jsonl with an explanation of 400 to 800 characters that no other has."""
    group, completion = divmod(number, GROUP)
    clip = group % 400
    label, answer, judged = clip % len(NAMES), rng.randrange(len(NAMES)), rng.randrange(len(NAMES))
    explanation = " ".join(
        f"The {rng.choice(PLACES)} of {number * 10 + place} looks {rng.choice(LOOKS)}, then {rng.choice(LOOKS)}, and "
        f"its {rng.choice(PLACES)} stays {rng.choice(LOOKS)}."
        for place in range(rng.randint(6, 9))
    )
    return {
        "step": group // GROUPS_A_STEP,
        "id": f"clip-{clip:04d}",
        "dataset": "synthetic",
        "label_space": "dfew",
        "clip": f"clips/clip-{clip:04d}.mp4",
        "label": NAMES[label],
        "completion": completion,
        "response": f"<think>{explanation}</think>\n<answer>{NAMES[answer]}</answer>",
        "explanation": explanation,
        "answer": NAMES[answer],
        "answer_id": answer,
        "label_id": label,
        "well_formed": True,
        "tokens": len(explanation) // 4,
        "truncated": False,
        "sentences": [{"labels": [rng.randrange(len(NAMES))], "p": 0.75} for _ in range(explanation.count("."))],
        "judges": {"verifier": judged},
        "reward": float(answer == label) + float(judged == answer),
        "rewards": {"accuracy": float(answer == label), "explanation": float(judged == answer)},
        "advantage": rng.uniform(-1, 1),
    }


# -- measuring ----------------------------------------------------------------------------------------------------


def make_page(run: Path, page: Path) -> dict[str, float]:
    """Calls the verb: seconds, MB of memory at its peak, MB of page."""
    verb = [sys.executable, "-m", "erv_lightning", "report", str(run), "--out", str(page), "--clips", "none"]
    started = perf_counter()
    done = subprocess.run([sys.executable, "-c", LAUNCH, *verb], capture_output=True, text=True)
    seconds = perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"The report of {run.name} failed: {done.stderr.strip()}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    memory = int(done.stdout.split()[-1]) * unit
    return {"seconds": seconds, "memory_mb": memory / 1e6, "page_mb": page.stat().st_size / 1e6}


def look_at(browser: Any, path: Path, rounds: int) -> dict[str, float]:
    """Opens a page: seconds until the first row; milliseconds of filter, search, sort and scroll; MB of heap."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(120_000)
    started = perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector(".row")
    opened = perf_counter() - started
    page.wait_for_load_state("load")
    click = "document.querySelector(\"#filters input[value='happy']\").click()"
    search = 'const box = document.getElementById("search"); box.value = box.value ? "" : "hollow, then hollow";'
    sort = 'const box = document.getElementById("sort"); box.value = box.value === "step" ? "-step" : "step";'
    told = ' box.dispatchEvent(new Event("{}", {{ bubbles: true }}));'

    def median(action: str, shown: str) -> float:
        times = sorted(page.evaluate(UNTIL, [action, shown]) for _ in range(2 * rounds))  # there and back
        return (times[rounds - 1] + times[rounds]) / 2

    numbers = {
        "open_s": opened,
        "filter_ms": median(click, FOUND),
        "search_ms": median(search + told.format("input"), FOUND),
        "sort_ms": median(sort + told.format("change"), FIRST),
    }
    frames = page.evaluate(SCROLL, SCROLLS)
    numbers |= {"scroll_ms": frames[len(frames) // 2], "scroll_worst_ms": frames[-1]}
    numbers["heap_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    page.close()
    return numbers


def in_browser(pages: dict[int, Path], rounds: int) -> tuple[str, dict[int, dict[str, float]]]:
    """Name of the browser, and its numbers by size; none where Chromium is missing."""
    program = shutil.which("chromium")
    if program is None:
        return "no Chromium", {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        words = ["--no-sandbox", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=program, args=words)
        numbers = {size: look_at(browser, page, rounds) for size, page in pages.items()}
        name = f"Chromium {browser.version}"
        browser.close()
    return name, numbers


def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    """All sizes, made and then opened."""
    rows, pages = [], dict[int, Path]()
    with tempfile.TemporaryDirectory() as folder, Progress() as bar:
        for size in bar.track(sizes, description="report_page"):
            run, pages[size] = make_run(Path(folder) / "grpo" / str(size), size), Path(folder) / f"{size}.html"
            rows.append({"responses": size, **make_page(run, pages[size])})
        browser, numbers = in_browser(pages, rounds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {browser}"
    rows = [row | {"browser": numbers.get(int(row["responses"]))} for row in rows]
    return {"machine": machine, "rounds": rounds, "rows": rows}


# -- the report ---------------------------------------------------------------------------------------------------


def make_table(report: dict[str, Any]) -> str:
    """Both tables, which docs/report.md has too."""
    keys = ("open_s", "filter_ms", "search_ms", "sort_ms", "scroll_ms", "scroll_worst_ms", "heap_mb")
    lines = ["| responses | made in, s | memory, MB | page, MB |", "|---:|---:|---:|---:|"]
    for row in report["rows"]:
        made = f"{row['seconds']:.1f} | {row['memory_mb']:,.0f} | {row['page_mb']:.1f}"
        lines.append(f"| {row['responses']:,} | {made} |")
    lines += [
        "",
        "| responses | first row, s | filter, ms | search, ms | sort, ms | scroll, ms a frame | worst frame, ms "
        "| heap, MB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        seen = row["browser"]
        cells = [
            (f"{seen[key]:.1f}" if key == "open_s" else f"{seen[key]:.0f}") if seen else "not measured" for key in keys
        ]
        lines.append(f"| {row['responses']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """The page of results."""
    return (
        "# How fast a run report is made and used\n\n"
        f"Made by `{report['command']}` on {report['machine']}. Rollouts are made up: groups of {GROUP}, explanations "
        "of 400 to 800 characters, no two alike, no clips. Memory is the peak of the process that makes the page.\n\n"
        f"{make_table(report)}\n"
        "The browser is headless and opens the file once. Filter, search and sort last from the action until the page "
        f"shows its result, waiting for typing to pause included; medians of {2 * report['rounds']}. "
        f"Scrolling goes through the whole list in {SCROLLS} steps, a step a frame.\n"
    )


def main(argv: list[str]) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_page")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="responses of each page")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    report = {"command": " ".join(["python -m benchmarks.report_page", *argv]), **measure(args.sizes, args.rounds)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report_page.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "report_page.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main(sys.argv[1:])

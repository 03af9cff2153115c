"""`python -m erv_lightning study …`: ask people which of two runs explains better, and count what they say."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shlex
import socket
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from erv_lightning.commands.arguments import count
from erv_lightning.errors import ConfigError
from erv_lightning.report import study as report
from erv_lightning.report.cells import table
from erv_lightning.results import read_predictions
from erv_lightning.study.answers import answers_of, load_answers, write_csv
from erv_lightning.study.items import Item, match, select
from erv_lightning.study.numbers import DRAWS, MAX_FAILED, analyse
from erv_lightning.study.plan import Plan
from erv_lightning.study.store import Store

_PROGRAM = "python -m erv_lightning study"
_NEEDS = ("fastapi", "uvicorn", "jinja2")
_MAX_WORDS = 20_000  # characters of a researcher's own text on the consent page


def main(argv: list[str]) -> int:
    """Runs a sub-verb; returns the exit code."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, str], int] = args.run
    return run(args, f"{_PROGRAM} {shlex.join(argv)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Shows raters a clip and two explanations, blind, asks which emotion each conveys and which fits "
        "the clip better, and counts the answers.",
        epilog=f"example: {_PROGRAM} serve runs/grpo/accuracy-seed0 runs/grpo/erv-seed0 --contact 'jo@example.org'",
    )
    verbs = parser.add_subparsers(required=True, metavar="WHAT")
    _serve_words(verbs.add_parser("serve", allow_abbrev=False, help="ask raters, on a web page"))
    status = verbs.add_parser("status", allow_abbrev=False, help="how far a study is, and completion codes")
    status.add_argument("db", type=Path, metavar="DB", help="file of the study, e.g. runs/study/study.sqlite")
    status.set_defaults(run=_status)
    export = verbs.add_parser("export", allow_abbrev=False, help="all answers as CSV, one row each")
    export.add_argument("db", type=Path, metavar="DB", help="file of the study")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="e.g. answers.csv")
    export.set_defaults(run=_export)
    forget = verbs.add_parser("forget", allow_abbrev=False, help="delete a rater and all their answers")
    forget.add_argument("db", type=Path, metavar="DB", help="file of the study")
    forget.add_argument("who", metavar="CODE", help="completion code, or the last part of the personal link")
    forget.set_defaults(run=_forget)
    _analyse_words(verbs.add_parser("analyse", allow_abbrev=False, help="preference, emotions read, agreement"))
    return parser


def _serve_words(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("predictions", nargs=2, type=Path, metavar="PREDICTIONS", help="two run folders, or predictions.jsonl files")
    add("--names", nargs=2, metavar=("A", "B"), help="of the arms in the results; raters never see them")
    add("--db", type=Path, default=Path("runs/study/study.sqlite"), metavar="FILE", help="default: %(default)s")
    add("--items", type=count, metavar="N", help="clips to rate, of each label alike (default: all)")
    add("--per-item", type=count, default=3, metavar="R", help="raters for each clip (default: %(default)s)")
    add("--per-rater", type=count, default=20, metavar="K", help="clips for each rater (default: %(default)s)")
    add("--attention", type=_whole, default=2, metavar="N", help="attention checks per rater (default: %(default)s)")
    add("--allow-tie", action="store_true", help="raters may prefer neither explanation (default: they must choose)")
    add("--max-raters", type=count, default=200, metavar="N", help="who may take part (default: %(default)s)")
    add(
        "--expire-minutes",
        type=count,
        default=60,
        metavar="N",
        help="a clip that was not answered by then is given to someone else (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the order of everything (default: %(default)s)")
    add("--title", default=Plan.title, metavar="TEXT", help="on the consent page (default: %(default)s)")
    add("--contact", default="", metavar="TEXT", help="on the consent page: whom raters can ask, e.g. a mail address")
    add("--consent-text", type=Path, metavar="FILE", help="text file with your own words for the consent page")
    add("--host", default="127.0.0.1", help="default: %(default)s, this machine alone")
    add("--port", type=_port, default=8765, help="default: %(default)s; 0 takes any that is free")
    parser.set_defaults(run=_serve)


def _analyse_words(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("answers", type=Path, metavar="DB|CSV", help="file of the study, or exported answers")
    add("--out", type=Path, default=Path("runs/study"), metavar="DIR", help="for study.md, study.json (%(default)s)")
    add(
        "--max-failed",
        type=_share,
        default=MAX_FAILED,
        metavar="SHARE",
        help="leave out who fails a larger share of attention checks (default: %(default)s; 1 keeps everyone)",
    )
    add("--draws", type=count, default=DRAWS, metavar="N", help="bootstrap draws (default: %(default)s)")
    parser.set_defaults(run=_analyse)


def _whole(text: str) -> int:
    """A whole number from 0 on."""
    return 0 if text == "0" else count(text)


def _port(text: str) -> int:
    """A whole number from 0 to 65535."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not a port, from 0 to 65535")
    return int(text)


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def _serve(args: argparse.Namespace, command: str) -> int:
    if any(importlib.util.find_spec(name) is None for name in _NEEDS):
        raise ConfigError("study serve needs FastAPI, uvicorn and Jinja2: pip install 'erv-lightning[study]'")
    import uvicorn

    from erv_lightning.study.server import make_app

    console = Console(highlight=False)
    arms = _arms(args)
    items = _items(args, console)
    plan = _plan(args, arms, sum(not item.check for item in items))
    store, there = Store.create_or_resume(args.db, items, plan)
    listening = _listen(args.host, args.port)
    for line in _welcome(store, items, there, listening.getsockname()):
        console.print(line, markup=False, soft_wrap=True)
    console.file.flush()
    # No access log: it would write down raters' links and addresses.
    config = uvicorn.Config(
        make_app(store), log_level="warning", access_log=False, server_header=False, limit_concurrency=1_000
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended by then, and raises it again
        uvicorn.Server(config).run(sockets=[listening])
    console.print(f"stopped; the answers are in {store.path}, the same command goes on", markup=False, soft_wrap=True)
    return 0


def _items(args: argparse.Namespace, console: Console) -> list[Item]:
    """What is shown; clips that cannot be are counted in one line."""
    frames = [read_predictions(_file(path)) for path in args.predictions]
    items, left_out = match(*frames)
    if left_out:
        told = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        console.print(f"{left_out.total()} clips are left out: {told}", style="yellow", markup=False, soft_wrap=True)
    if not items:
        raise ValueError("no clip is left that both files explain and a browser can play")
    return select(items, args.items, args.attention, args.seed)


def _file(path: Path) -> Path:
    """The predictions that a run folder holds, or a file itself."""
    found = path / "predictions.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise FileNotFoundError(f"no predictions {found}; python -m erv_lightning test writes them")
    return found


def _arms(args: argparse.Namespace) -> tuple[str, str]:
    a, b = args.names or [_name(path) for path in args.predictions]
    if a == b:
        raise ConfigError(f"both arms are called {a}: tell them apart with --names A B")
    return a, b


def _plan(args: argparse.Namespace, arms: tuple[str, str], rated: int) -> Plan:
    consent = args.consent_text.read_text(encoding="utf-8") if args.consent_text else ""
    if len(consent) > _MAX_WORDS:
        raise ConfigError(f"{args.consent_text} has more than {_MAX_WORDS} characters: shorten it")
    return Plan(
        arms=arms,
        per_item=args.per_item,
        per_rater=min(args.per_rater, rated),
        attention=args.attention,
        allow_tie=args.allow_tie,
        seed=args.seed,
        max_raters=args.max_raters,
        expire_minutes=args.expire_minutes,
        title=args.title,
        contact=args.contact,
        consent=consent,
    )


def _name(path: Path) -> str:
    """Stage and name of a run, or the name of a file."""
    parts = path.resolve().parts
    if path.is_file() and path.name != "predictions.jsonl":
        return path.stem
    return "/".join(parts[-2:] if path.is_dir() else parts[-3:-1])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is promised."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(1_024)  # whoever opens the address early waits a moment
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}): choose another --port or --host") from None
    return listening


def _welcome(store: Store, items: list[Item], there: bool, address: tuple[str, int]) -> list[str]:
    """What the researcher should know now."""
    plan, rated = store.plan, sum(not item.check for item in items)
    raters = -(-rated * plan.per_item // plan.per_rater)
    lines = [
        f"{'going on with' if there else 'new study'}: {rated} clips, {plan.per_item} raters each, {plan.per_rater} "
        f"clips and {plan.attention} attention checks per rater: {raters} raters are needed",
        f"A: {plan.arms[0]}   B: {plan.arms[1]}   (raters see neither)",
        f"answers: {store.path}",
    ]
    if not plan.contact:
        lines.append("raters should know whom to ask: --contact")
    lines += [
        f"open http://{address[0]}:{address[1]}/ (Ctrl-C ends)",
        "for raters elsewhere put your own HTTPS reverse proxy or tunnel before this address: docs/study.md",
    ]
    return lines


def _status(args: argparse.Namespace, command: str) -> int:
    store, console = Store(args.db), Console(highlight=False)
    clips = store.rows(
        "SELECT COUNT(answered_at) AS answered FROM items LEFT JOIN assignments ON item = items.number "
        "WHERE NOT is_check GROUP BY items.number"
    )
    done = sum(row["answered"] >= store.plan.per_item for row in clips)
    answers = sum(row["answered"] for row in clips)
    made = table("Clips by number of answers", "answers", ("clips",))
    for number in sorted({row["answered"] for row in clips}):
        made.add_row(str(number), str(sum(row["answered"] == number for row in clips)))
    raters = store.rows(
        "SELECT raters.number, code, COUNT(answered_at) AS answered, MAX(answered_at) AS last FROM raters "
        "LEFT JOIN assignments ON rater = raters.number GROUP BY raters.number"
    )
    people = table("Raters", "rater", ("pages", "code"))
    for row in raters:
        finished = row["answered"] >= store.plan.total
        people.add_row(
            f"R{row['number']}", f"{row['answered']} of {store.plan.total}{' ✓' if finished else ''}", row["code"]
        )
    console.print(f"{done} of {len(clips)} clips have {store.plan.per_item} answers; {answers} answers in all")
    console.print(made)
    console.print(people)
    return 0


def _export(args: argparse.Namespace, command: str) -> int:
    frame = answers_of(Store(args.db))
    write_csv(frame, args.to)
    Console(highlight=False).print(f"wrote {args.to}: {len(frame)} answers", markup=False, soft_wrap=True)
    return 0


def _forget(args: argparse.Namespace, command: str) -> int:
    if not Store(args.db).forget(args.who):
        raise ValueError(f"{args.db} has no rater with this code or link")
    print("deleted, with all answers; delete exported files yourself")
    return 0


def _analyse(args: argparse.Namespace, command: str) -> int:
    console = Console(highlight=False)
    with Console(stderr=True).status("computing intervals"):
        analysis = analyse(load_answers(args.answers), max_failed=args.max_failed, draws=args.draws)
    for one in report.tables(analysis):
        console.print(one)
    console.print(report.facts(analysis), style="dim", markup=False)
    console.print(report.attention(analysis), style="yellow" if analysis.failed else "dim", markup=False)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "study.md").write_text(report.markdown(analysis, command), encoding="utf-8")
    (args.out / "study.json").write_text(
        json.dumps(report.to_json(analysis, command), indent=2) + "\n", encoding="utf-8"
    )
    for name in ("study.md", "study.json"):
        console.print(f"wrote {args.out / name}", markup=False, soft_wrap=True)
    return 0

"""Judges by the words of a command line: ``grammar``, ``verifier:FOLDER``, ``chat:MODEL`` or a config file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erv_lightning import config_files
from erv_lightning.errors import ConfigError, explain_parse_error
from erv_lightning.judges.chat import ChatJudge
from erv_lightning.judges.classifier import ClassifierJudge
from erv_lightning.judges.grammar import GrammarJudge
from erv_lightning.judges.nli import NliJudge
from erv_lightning.judges.protocol import Judge
from erv_lightning.judges.verifier import VerifierJudge

KINDS: Mapping[str, Callable[..., Judge]] = {
    "verifier": VerifierJudge,
    "classifier": ClassifierJudge,
    "nli": NliJudge,
    "chat": ChatJudge,
}
"""What stands before the colon; behind it stands the first setting, a folder, hub id or model."""


def make_judge(spec: str) -> Judge:
    """The judge that the words stand for.

    Args:
        spec: ``[NAME=]KIND[:VALUE]`` or ``[NAME=]FILE.yaml``; NAME is what its verdicts are filed under, by default the
            judge's own. A file is an overlay of `configs/judge/`, or holds ``class_path`` and ``init_args`` alone.

    Raises:
        ValueError: words that stand for no judge, or settings that it does not take.
    """
    name, spec = _named(spec)
    if spec.endswith((".yaml", ".yml")):
        judge = _from_file(spec)
    elif spec == GrammarJudge.name:
        judge = GrammarJudge()
    else:
        kind, _, value = spec.partition(":")
        if kind not in KINDS or not value:
            known = ", ".join([GrammarJudge.name, *(f"{one}:VALUE" for one in KINDS), "FILE.yaml"])
            raise ConfigError(f"no judge {spec!r}; one of these is needed: {known}")
        judge = KINDS[kind](value)
    if name:
        judge.name = name
    return judge


def _named(spec: str) -> tuple[str, str]:
    """Splits ``NAME=…``; a name is one word, so that an address with "=" in it is none."""
    found = re.fullmatch(r"([\w.-]+)=(.+)", spec)
    return (found[1], found[2]) if found else ("", spec)


def _from_file(path: str) -> Judge:
    content = _resolved(config_files.read([path])[0].content, path)
    for key in () if "class_path" in content else ("model", "init_args", "judge"):
        inner = content.get(key)
        content = inner if isinstance(inner, dict) else {}
    if "class_path" not in content:
        raise ConfigError(f"{path!r} holds no judge: it needs class_path and init_args, see configs/judge/")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--judge", type=Judge)
    try:
        judge: Judge = parser.instantiate(parser.parse_object({"judge": dict(content)})).judge
    except ArgumentError as error:
        raise ConfigError(explain_parse_error(str(error), _settings(), {path: content})) from error
    return judge


def _resolved(content: dict[str, Any], path: str) -> dict[str, Any]:
    """The settings with their ``${…}`` put in; outside a run only ``${runs}`` means something."""
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create({"runs": "runs", **content}), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path!r}: {error}: write the value itself") from error
    return {key: value for key, value in resolved.items() if key in content}


def _settings() -> set[str]:
    """Names of all judges' settings, for suggestions."""
    return {name for kind in KINDS.values() for name in inspect.signature(kind).parameters}


def told_by(judge: Judge) -> str:
    """What a judge reports of its own work, such as tokens and cost; "" where it has nothing to say."""
    usage: Any = getattr(judge, "usage", None)
    return "" if usage is None else f"{judge.name}: {usage.summary()}"

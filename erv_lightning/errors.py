"""Errors as a person reads them: one line with what is wrong, where, and the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot run. The message is one line: what, where, and the way out."""


class ParseError(ConfigError):
    """What the argument parser said, in its own many words; `explain_parse_error` shortens it."""


def one_line(error: BaseException) -> str:
    """An error's own message, without the traceback that a data worker wraps around it."""
    text = str(error)
    if "Original Traceback" in text:
        last = text.rstrip().splitlines()[-1]
        text = re.sub(r"^[\w.]+: ", "", last)
    return " ".join(text.split()) or type(error).__name__


def outside(limits: Mapping[str, tuple[float | None, float, float | None]]) -> list[str]:
    """A line for each setting that is below the least or above the greatest value; None is never wrong."""
    problems = []
    for name, (value, least, most) in limits.items():
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            problems.append(f"{name} is {value}, it must be {allowed}")
    return problems


# What jsonargparse says about a key that nothing takes; the group is the key.
_UNKNOWN_KEY = (
    re.compile(r"Option '([^']+)' is not accepted"),
    re.compile(r"does not accept option '([^']+)'"),
    re.compile(r"unrecognized arguments: (?:--)?([^\s=]+)"),
    re.compile(r"Key '([^']+)' is not expected"),
    re.compile(r"No action for key '([^']+)'"),
)
_WRONG_TYPE = re.compile(r"Parser key \"([\w.]+)\":\s+(Expected [^\n]*?)\.?\s+Got value: ([^\n]*)")
_CLASS_PATH = re.compile(r"Problem with given class_path '([^']+)':\s*([^\n]*)")
_WITHIN = re.compile(r"Parser key \"([\w.]+)\"")
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes.*?Errors:\s+- (.*?)\n\s*Given value[^:]*: (.*)", re.S
)
_GIVEN = re.compile(r"Given value: ([^\n]*)")


def explain_parse_error(message: str, known_keys: Iterable[str], files: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for a parser's message.

    Args:
        message: as jsonargparse words it, often a screen long.
        known_keys: names to suggest in place of a misspelt one.
        files: path → content of the config files, to say where a key stands.
    """
    within = [key for key in _WITHIN.findall(message) if key != "model.init_args"]
    for pattern in _UNKNOWN_KEY:
        if found := pattern.search(message):
            return _unknown_key(found.group(1), within, known_keys, files)
    if found := _CLASS_PATH.search(message):
        return f"{'.'.join(dict.fromkeys(within))}: class {found.group(1)!r} cannot be used: {found.group(2)}"
    if found := _WRONG_TYPE.search(message):
        key, expected, value = found.groups()
        path = ".".join(dict.fromkeys([*within[: within.index(key)], key])) if key in within else key
        expected = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", expected)
        value = value.split(" - ")[0].strip()
        return f"{path}: {expected[0].lower()}{expected[1:]}, got {value!r}{_where([key.split('.')[-1]], files, value)}"
    if found := _UNION.search(message):
        return _of_several_types(found.group(1), message, within, files)
    return " ".join(message.split())


def _of_several_types(errors: str, message: str, within: list[str], files: Mapping[str, Mapping[str, Any]]) -> str:
    """For a setting of several types, e.g. X or null, jsonargparse lists what every type says: the telling one."""
    said = [" ".join(error.split()) for error in re.split(r"\n\s+- ", errors)]
    path = "".join(f"{key}: " for key in [".".join(dict.fromkeys(within))] if key)
    own = [error for error in said if not error.startswith("Expected a")]
    if own:
        return path + own[0]
    expected = [re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", error.removeprefix("Expected a ")) for error in said]
    expected = ["null" if name == "NoneType" else name for name in expected]
    given = _GIVEN.search(message)
    value = given.group(1) if given else ""
    place = _where([within[-1].split(".")[-1]], files, value) if within else ""
    return f"{path}expected {' or '.join(expected)}, got {value!r}{place}"


def _unknown_key(key: str, within: list[str], known_keys: Iterable[str], files: Mapping[str, Mapping[str, Any]]) -> str:
    path = ".".join([*dict.fromkeys(within), key])
    last = key.split(".")[-1]
    near = difflib.get_close_matches(last, {known.split(".")[-1] for known in known_keys}, n=1, cutoff=0.7)
    hint = f": did you mean {near[0]!r}?" if near and near[0] != last else ""
    place = _where(key.split("."), files)
    return f"unknown key {path!r}{place}{hint} (--print_config shows every key)"


def _where(keys: list[str], files: Mapping[str, Mapping[str, Any]], value: str | None = None) -> str:
    """' in FILE' for the last file that sets the keys below each other (to that value), '' if none does."""
    holders = [path for path, content in files.items() if _holds(content, keys, value)]
    return f" in {holders[-1]}" if holders else ""


def _holds(node: Any, keys: list[str], value: str | None) -> bool:
    if isinstance(node, list):
        return any(_holds(item, keys, value) for item in node)
    if not isinstance(node, Mapping):
        return False
    below: Any = node
    for key in keys:
        below = below.get(key, _ABSENT) if isinstance(below, Mapping) else _ABSENT
    if below is not _ABSENT and (value is None or str(below) == value):
        return True
    return any(_holds(item, keys, value) for item in node.values())


_ABSENT = object()

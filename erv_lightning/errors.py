"""Errors as a person reads them: one line with what is wrong, where, and the way out."""

from __future__ import annotations

import re


class ConfigError(ValueError):
    """A configuration that cannot run. The message is one line: what, where, and the way out."""


def one_line(error: BaseException) -> str:
    """An error's own message, without the traceback that a data worker wraps around it."""
    text = str(error)
    if "Original Traceback" in text:
        last = text.rstrip().splitlines()[-1]
        text = re.sub(r"^[\w.]+: ", "", last)
    return " ".join(text.split()) or type(error).__name__

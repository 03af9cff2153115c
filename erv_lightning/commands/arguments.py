"""Kinds of command-line words that several verbs take, for argparse."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)

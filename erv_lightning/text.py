"""What a response is: an explanation, an answer, sentences. Pure text, no labels and no tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THINK, _END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
_TURN = re.compile(rf"{_END_THINK}\s*{ANSWER}")
# One alternation does both jobs: a quoted span is consumed whole, so that no boundary inside it is seen.
_QUOTE_OR_BOUNDARY = re.compile(r'"[^"]*"|(?<=[.!?])\s+')


@dataclass(frozen=True)
class Response:
    """One completion, taken apart.

    Attributes:
        explanation: what stands in the first ``<think>`` block, stripped; "" without one or if it is never
            closed.
        answer: what stands in the ``<answer>`` block, stripped; "" without one and with more than one.
        well_formed: whether the whole completion has the form that R_format rewards.
    """

    explanation: str
    answer: str
    well_formed: bool


def parse_response(text: str) -> Response:
    r"""Takes a completion apart. Any text is accepted; what is missing comes back as "".

    ``well_formed`` is R_format of the method, read strictly: ``<think>.*?</think>\s*<answer>.*?</answer>``
    matches the whole completion, dot matching newlines, with nothing before or after it, not even white
    space. That pattern also lets several blocks pass; ``answer`` does not: a policy could name every emotion
    in a block of its own, so it is read only where exactly one ``<answer>`` and one ``</answer>`` stand in
    the completion.
    """
    return Response(_explanation(text), _answer(text), _is_well_formed(text))


def _explanation(text: str) -> str:
    _, _, rest = text.partition(_THINK)
    inside, closed, _ = rest.partition(_END_THINK)
    return inside.strip() if closed else ""


def _answer(text: str) -> str:
    if text.count(ANSWER) != 1 or text.count(END_ANSWER) != 1:
        return ""
    inside, closed, _ = text.partition(ANSWER)[2].partition(END_ANSWER)
    return inside.strip() if closed else ""


def _is_well_formed(text: str) -> bool:
    # The same language as the pattern above, which would take quadratic time on "</think><answer>" repeated.
    if not (text.startswith(_THINK) and text.endswith(END_ANSWER)):
        return False
    return _TURN.search(text, len(_THINK), len(text) - len(END_ANSWER)) is not None


def split_sentences(text: str) -> list[str]:
    r"""The sentences of an explanation in order, stripped, none empty (method: R_E).

    Splits at white space that follows ``.``, ``!`` or ``?`` (``(?<=[\.!?])\s+``) outside straight double
    quotes. Quotes pair up from left to right; a last one without a partner is an ordinary character, so that
    a forgotten closing quote does not turn the rest into one sentence. Takes time linear in the text's
    length.
    """
    sentences, start = [], 0
    for match in _QUOTE_OR_BOUNDARY.finditer(text):
        if match[0][0] != '"':
            sentences.append(text[start : match.start()])
            start = match.end()
    sentences.append(text[start:])
    return [sentence.strip() for sentence in sentences if sentence.strip()]

"""A chat model as the judge: any endpoint that speaks OpenAI's chat completions, far away or on this machine.

It asks with the paper's prompt, several explanations at a time, and pays for no reply twice: see `reply_cache`. It
knows nothing about clips or metrics. The API key is read from the environment when there is something to ask; it is in
no config, log, cache or error.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from erv_lightning.judges.asking import Asking
from erv_lightning.judges.protocol import Judge, LabelSets, Verdicts
from erv_lightning.judges.reply_cache import Reply, ReplyCache, request_key, sendable
from erv_lightning.labels import LabelSpace

PROMPT = (
    "Read the reasoning content and respond with the appropriate emotion in {labels}. Reply with only the emotion word."
    "\nReason: {explanation}\nAnswer Emotion:"
)
"""The paper's, word for word; it is the only message."""

SENTENCE_PROMPT = (
    "Which of these emotions does the sentence convey: {labels}? Reply with one or more of them, the strongest first, "
    "separated by commas, and nothing else.\nSentence: {sentence}\nEmotions:"
)
"""Asks for all emotions of one sentence; the method says that a language model labelled them, not how it was asked."""

_BETWEEN = re.compile(r"[,;/&\n]|\band\b", re.IGNORECASE)  # labels in a reply
_OURS = ("model", "messages", "stream", "n")  # fields of the request that `extra` may not set
_MARKS = " \t\n\"'`*“”‘’"  # what models like to put around a word
_MARKS_OF_LISTS = _MARKS + "-•.:[](){}0123456789"


@dataclass
class Usage:
    """What a judge has asked and got, over all its calls.

    Attributes:
        requests: sent over the network, retries among them.
        retries: requests sent again after an error.
        from_cache: different prompts whose reply was in the cache.
        prompt_tokens: of the replies received, as the server counts them; the cache's cost nothing and are not in here.
        completion_tokens: likewise.
        outside: explanations whose reply was none of the labels; `refused` and `cut` are among them.
        refused: explanations that the model refused to read.
        cut: explanations whose reply ended at `max_tokens` before it named a label.
        cost: of the tokens, in the currency of `price_in` and `price_out`.
    """

    requests: int = 0
    retries: int = 0
    from_cache: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outside: int = 0
    refused: int = 0
    cut: int = 0
    cost: float = 0.0

    def summary(self) -> str:
        """One line for a reader; it names a cost only if prices are known."""
        tokens = f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        cost = f", cost {self.cost:,.4f}" if self.cost else ""
        return (
            f"{self.requests:,} requests ({self.retries:,} of them retries), {self.from_cache:,} replies from the "
            f"cache, {tokens}{cost}; {self.outside:,} verdicts outside the labels ({self.refused:,} refusals, "
            f"{self.cut:,} cut off at max_tokens)"
        )


class ChatJudge(Judge):
    """Asks a chat model for the emotion of each explanation, with the paper's prompt and at temperature 0.

    Equal prompts are asked once, an empty explanation not at all. A reply is stored the moment it arrives: a run that
    failed or was killed goes on from there when it is started again. `usage` counts what was asked.

    Args:
        model: the endpoint's name for the model, e.g. ``gpt-4.1-mini``.
        base_url: of the endpoint; the only address that is asked. A local server's is e.g. ``http://127.0.0.1:8000/v1``.
        name: what its verdicts are filed under; None is the model's name.
        order: of the labels in the prompt: ``fixed`` is the label space's own, ``permuted`` one that depends on `seed`
            and the explanation's text alone.
        seed: of the permutations.
        concurrency: requests under way at once, from 1 on.
        retries: of one explanation after passing errors (status 408, 409, 429 or 5xx, time-outs, lost connections,
            unreadable replies), from 0 on. The waits grow from 0.5 to 8 s, or are what the server's Retry-After says.
        timeout: seconds without a sign of the server before a request is given up.
        max_tokens: of a reply; None leaves it to the server. Models that reason need hundreds.
        outside: the verdict for a reply that is none of the labels: the space's ``neutral`` as in the paper, or
            ``none``, which is −1.
        cache: file with the replies, which runs, judges and processes may share. A reply is found by model, prompt and
            the other fields of the request, not by the address. None keeps nothing.
        api_key_env: environment variable with the API key, which is sent to `base_url` and nowhere else. Where it is
            not set, servers other than OpenAI's get a placeholder.
        price_in: per million tokens of the prompts, for `usage`.
        price_out: per million tokens of the replies.
        extra: further fields of the request, e.g. ``{"reasoning_effort": "low"}``. They win over the judge's own, and
            null removes a field: ``{"temperature": null, "max_tokens": null, "max_completion_tokens": 500}`` suits
            models that refuse the first two.

    Raises:
        ValueError: for settings out of range, all of them in one line.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        name: str | None = None,
        order: Literal["fixed", "permuted"] = "fixed",
        seed: int = 0,
        concurrency: int = 8,
        retries: int = 6,
        timeout: float = 60.0,
        max_tokens: int | None = 16,
        outside: Literal["neutral", "none"] = "neutral",
        cache: str | None = "runs/judge_replies.sqlite",
        api_key_env: str = "OPENAI_API_KEY",
        price_in: float = 0.0,
        price_out: float = 0.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.base_url, self.name = model, base_url, name or model
        self.order, self.seed, self.outside = order, seed, outside
        self.concurrency, self.retries, self.timeout = concurrency, retries, timeout
        self.cache, self.api_key_env = cache, api_key_env
        self.price_in, self.price_out = price_in, price_out
        fields = {"temperature": 0, "max_tokens": max_tokens, **(extra or {})}
        self.fields = {key: value for key, value in fields.items() if value is not None}
        self.usage = Usage()
        problems = self._problems() + _problems_of_address(base_url)
        if max_tokens is not None and max_tokens < 1:
            problems.append(f"max_tokens is {max_tokens}, it must be at least 1 or null")
        if {*_OURS} & {*fields}:
            problems.append(f"extra must not set {' or '.join(_OURS)}")
        if problems:
            raise ValueError(f"chat judge: {'; '.join(problems)}")

    def _problems(self) -> list[str]:
        checks = {
            "model is empty": not self.model,
            f"order is {self.order!r}, it must be fixed or permuted": self.order not in ("fixed", "permuted"),
            f"outside is {self.outside!r}, it must be neutral or none": self.outside not in ("neutral", "none"),
            f"concurrency is {self.concurrency}, it must be at least 1": self.concurrency < 1,
            f"retries is {self.retries}, it must be at least 0": self.retries < 0,
            f"timeout is {self.timeout}, it must be above 0": not self.timeout > 0,
            "price_in and price_out must be at least 0": not min(self.price_in, self.price_out) >= 0,
        }
        return [problem for problem, found in checks.items() if found]

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        """Label ids; −1 for an empty explanation, `outside` for a reply that is none of the labels.

        Raises:
            ValueError: where asking is of no use: no API key, a request that the endpoint refuses, a damaged cache.
            ConnectionError: where an explanation stays unanswered after all retries. The other replies are kept.
        """
        prompts = [self.prompt(text, space) if text.strip() else None for text in explanations]
        replies = self._replies(list(dict.fromkeys(prompt for prompt in prompts if prompt is not None)))
        return Verdicts([-1 if prompt is None else self._verdict(replies[prompt], space) for prompt in prompts])

    def conveyed(
        self, sentences: Sequence[str], space: LabelSpace, threshold: float = 0.1, max_labels: int = 2
    ) -> LabelSets:
        """The labels that the model names, with a prompt of its own: `SENTENCE_PROMPT`.

        A reply is read kindly: commas, "and" or lines between labels, marks around them, synonyms; other words in it
        are passed over. One without a label of the space is no label, whatever `outside` says, and is counted there. Of
        more labels than `max_labels` the first stay; without probabilities there is no `threshold`.
        """
        texts = [sendable(text) for text in sentences]
        prompts = [
            SENTENCE_PROMPT.format(labels=self._labels(text, space), sentence=text) if text.strip() else None
            for text in texts
        ]
        replies = self._replies(list(dict.fromkeys(prompt for prompt in prompts if prompt is not None)))
        return LabelSets(
            [() if prompt is None else self._named(replies[prompt], space)[:max_labels] for prompt in prompts]
        )

    def settings(self) -> dict[str, Any]:
        """The model and what it is asked of a sentence, not the address, the haste or the price."""
        order = {"order": "permuted", "seed": self.seed} if self.order == "permuted" else {"order": self.order}
        return {"class": type(self).__name__, "model": self.model, **order, **self.fields, "prompt": SENTENCE_PROMPT}

    def prompt(self, explanation: str, space: LabelSpace) -> str:
        """What the model is asked about an explanation."""
        explanation = sendable(explanation)
        return PROMPT.format(labels=self._labels(explanation, space), explanation=explanation)

    def _labels(self, text: str, space: LabelSpace) -> str:
        """The labels in the order in which they are offered for a text."""
        labels = list(space.names)
        if self.order == "permuted":
            random.Random(f"{self.seed} {text}").shuffle(labels)
        return ", ".join(labels)

    def _named(self, reply: Reply, space: LabelSpace) -> tuple[int, ...]:
        """The ids of all labels that a reply names, in its order."""
        pieces = _BETWEEN.split(_bare(reply.text or ""))
        words = [piece.strip(_MARKS_OF_LISTS).rpartition(":")[2].strip(_MARKS_OF_LISTS) for piece in pieces]
        ids = [space.id(word) for word in words]
        found = tuple(dict.fromkeys(label for label in ids if label >= 0))
        if not found:
            self._count_outside(reply)
        return found

    def _verdict(self, reply: Reply, space: LabelSpace) -> int:
        label = -1 if reply.text is None else space.id(_bare(reply.text))
        if label >= 0:
            return label
        self._count_outside(reply)
        return space.neutral if self.outside == "neutral" else -1

    def _count_outside(self, reply: Reply) -> None:
        self.usage.outside += 1
        self.usage.refused += reply.text is None
        self.usage.cut += reply.text is not None and reply.cut

    def _replies(self, prompts: list[str]) -> dict[str, Reply]:
        """The reply to each prompt: from the cache where it is there, else from the network."""
        if not prompts:
            return {}
        asked = {prompt: {"model": self.model, "prompt": prompt, "fields": self.fields} for prompt in prompts}
        keys = {prompt: request_key(request) for prompt, request in asked.items()}
        with ReplyCache(self.cache) as cache:
            replies = {prompt: reply for prompt, key in keys.items() if (reply := cache.get(key)) is not None}
            self.usage.from_cache += len(replies)
            missing = [prompt for prompt in prompts if prompt not in replies]
            if missing:
                asking = Asking(self, lambda prompt, reply: cache.put(keys[prompt], self.model, prompt, reply))
                self._ask(missing, asking, len(replies))
                replies |= asking.replies
        return replies

    def _ask(self, prompts: list[str], asking: Asking, known: int) -> None:
        """Asks, and counts it also where that ends in an error."""
        try:
            asking.run(prompts)
        finally:
            self._count(asking)
        if asking.failure is not None:
            raise asking.explained(known, known + len(prompts)) from None

    def _count(self, asking: Asking) -> None:
        tokens_in = sum(reply.prompt_tokens for reply in asking.replies.values())
        tokens_out = sum(reply.completion_tokens for reply in asking.replies.values())
        self.usage.requests += asking.requests
        self.usage.retries += asking.retries
        self.usage.prompt_tokens += tokens_in
        self.usage.completion_tokens += tokens_out
        self.usage.cost += (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def _bare(reply: str) -> str:
    """A reply without its reasoning, a full stop, and marks around the word."""
    return reply.rpartition("</think>")[2].strip().removesuffix(".").strip(_MARKS)


def _problems_of_address(base_url: str) -> list[str]:
    if "@" in base_url:  # not shown: it may be a password
        return ["base_url must not hold a user or password: the key comes from the environment"]
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    return [] if good else [f"base_url is {base_url!r}, not an address such as http://127.0.0.1:8000/v1"]

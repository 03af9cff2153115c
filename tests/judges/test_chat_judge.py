from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from chat_servers import Answer, ChatServer, explanation_in, failing, saying

from erv_lightning.judges import Judge
from erv_lightning.judges.chat import ChatJudge
from erv_lightning.labels import DFEW, MAFW

KEY = "sk-proj-0123456789abcdef"
HAPPY, SAD, NEUTRAL, ANGRY, SURPRISE, DISGUST, FEAR = range(7)

Serve = Callable[[Callable[[str, int], Answer]], ChatServer]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no proxy, and the default cache in the test's own folder."""
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with the answers that a test decides."""
    with ExitStack() as running:
        yield lambda answer: running.enter_context(ChatServer(answer).running())


@pytest.fixture
def happy(serve: Serve) -> ChatServer:
    """A server to which everyone is happy."""
    return serve(lambda explanation, before: saying("happy"))


def judge_at(server: ChatServer, **settings: Any) -> ChatJudge:
    return ChatJudge(**{"model": "m", "base_url": server.url, **settings})


def cached(path: str | Path = "runs/judge_replies.sqlite") -> set[str]:
    """The explanations whose replies are in a cache."""
    with sqlite3.connect(path) as file:
        found = {explanation_in(prompt) for (prompt,) in file.execute("SELECT prompt FROM replies")}
    file.close()
    return found


# -- the prompt --------------------------------------------------------------------------------------------------


def test_the_papers_prompt_is_all_that_is_sent_at_temperature_zero(happy: ChatServer) -> None:
    judge_at(happy, model="gpt-4.1-mini")(["He smiles {broadly}.\nTwice."], DFEW)

    assert happy.requests == [
        {
            "model": "gpt-4.1-mini",
            "messages": [
                {
                    "role": "user",
                    "content": "Read the reasoning content and respond with the appropriate emotion in happy, sad, "
                    "neutral, angry, surprise, disgust, fear. Reply with only the emotion word.\n"
                    "Reason: He smiles {broadly}.\nTwice.\nAnswer Emotion:",
                }
            ],
            "temperature": 0,
            "max_tokens": 16,
        }
    ]


def labels_in(request: dict[str, Any]) -> list[str]:
    found = re.search(r"emotion in (.*)\. Reply", request["messages"][0]["content"])
    assert found is not None
    return found[1].split(", ")


def test_a_permuted_order_depends_on_seed_and_text_alone(happy: ChatServer) -> None:
    texts = [f"explanation {number}" for number in range(12)]

    def orders(texts: Sequence[str], seed: int) -> dict[str, list[str]]:
        del happy.requests[:]
        judge_at(happy, order="permuted", seed=seed, cache=None)(texts, MAFW)
        return {explanation_in(one["messages"][0]["content"]): labels_in(one) for one in happy.requests}

    first = orders(texts, 0)

    assert all(sorted(labels) == sorted(MAFW.names) for labels in first.values())
    assert len({tuple(labels) for labels in first.values()}) == 12
    assert orders(texts[::-1], 0) == first
    assert orders(texts[3:4], 0) == {texts[3]: first[texts[3]]}
    assert all(labels != first[text] for text, labels in orders(texts, 1).items())


def test_extra_fields_are_sent_and_null_removes_one(happy: ChatServer) -> None:
    extra = {"temperature": None, "max_tokens": None, "max_completion_tokens": 500, "reasoning_effort": "minimal"}
    judge_at(happy, extra=extra)(["a"], DFEW)

    sent = {key: value for key, value in happy.requests[0].items() if key not in ("model", "messages")}
    assert sent == {"max_completion_tokens": 500, "reasoning_effort": "minimal"}


def test_half_a_surrogate_pair_does_not_stop_an_evaluation(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying("happy\ud83d"))

    assert judge_at(server)(["a \ud83d smile"], DFEW) == [NEUTRAL]
    assert list(server.asked) == ["a ? smile"]


# -- replies -----------------------------------------------------------------------------------------------------

WORDS = {
    "happy": HAPPY,
    " Sad.\n": SAD,
    "ANGRY": ANGRY,
    '"fear"': FEAR,
    "**Disgust**": DISGUST,
    "`surprise`": SURPRISE,
    "“Happy.”": HAPPY,
    '"happy".': HAPPY,
    "joyful": HAPPY,
    "Sadness": SAD,
    "<think>\nHappy? The mouth falls.\n</think>\n\nsad": SAD,
    "The mouth falls.</think>sad": SAD,  # some servers leave out the opening tag
}
OUTSIDE = ("contempt", "happy, sad", "The emotion is happy.", "", "<think>happy")


def test_a_reply_names_a_label_in_any_dress(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying(explanation[1:-1]))
    judge = judge_at(server)

    assert judge([f"[{word}]" for word in WORDS], DFEW) == list(WORDS.values())
    assert judge.usage.outside == 0


@pytest.mark.parametrize(("outside", "verdict"), [("neutral", NEUTRAL), ("none", -1)])
def test_a_reply_that_is_no_label_counts_as_what_outside_says(serve: Serve, outside: str, verdict: int) -> None:
    replies = {
        **{word: saying(word) for word in OUTSIDE},
        "refuses": saying(None, refusal="I cannot help with that."),
        "silent": saying(None),
        "cut": saying("The emotion of the pers", finish="length"),
        "only reasoning": saying(None, finish="length"),
        "happy to the last token": saying("happy", finish="length"),
    }
    server = serve(lambda explanation, before: replies[explanation[1:-1]])
    judge = judge_at(server, outside=outside)
    texts = [f"[{name}]" for name in replies]

    assert judge(texts, DFEW) == [verdict] * 9 + [HAPPY]
    assert (judge.usage.outside, judge.usage.refused, judge.usage.cut) == (9, 2, 2)
    assert judge(texts, DFEW) == [verdict] * 9 + [HAPPY]  # from the cache
    assert (judge.usage.outside, judge.usage.refused, judge.usage.cut) == (18, 4, 4)


def test_verdicts_are_ids_of_the_given_label_space(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying("sad"))
    judge = judge_at(server)

    assert judge(["a"], DFEW) + judge(["a"], MAFW) == [1, MAFW.names.index("sadness")]


def test_empty_explanations_are_not_asked_and_equal_ones_once(happy: ChatServer) -> None:
    judge = judge_at(happy)

    assert judge(["", " \n"], DFEW) == [-1, -1]
    assert judge([], DFEW) == []
    assert not Path("runs").exists()
    assert judge(["b", "", "a", "b", "b"], DFEW) == [HAPPY, -1, HAPPY, HAPPY, HAPPY]
    assert happy.asked == {"a": 1, "b": 1}


# -- troubles that pass ------------------------------------------------------------------------------------------

SOON = {"retry-after-ms": "5"}
TROUBLES = {
    "slow": saying("sad", delay=0.8),
    "limited": failing(429, "slow down", **{"Retry-After": "0.01"}),
    "broken": failing(500),
    "overloaded": failing(503),
    "conflict": failing(409),
    "hangs up": Answer(None),
    "malformed": Answer(b'{"choices": [{"mess'),
    "no JSON": Answer(b"<html>welcome</html>", headers={"Content-Type": "text/html"}),
    "null": Answer(b"null"),
    "no choices": Answer(b'{"object": "chat.completion", "choices": []}'),
    "error inside": Answer(b'{"error": {"message": "upstream"}}'),
    "no text": Answer(b'{"choices": [{"message": {"content": 3}}]}'),
}


def test_every_trouble_that_passes_is_asked_again(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying("happy") if before else TROUBLES[explanation])
    judge = judge_at(server, timeout=0.3, retries=1, concurrency=12)

    assert judge(list(TROUBLES), DFEW) == [HAPPY] * 12
    assert server.asked == dict.fromkeys(TROUBLES, 2)
    assert (judge.usage.requests, judge.usage.retries) == (24, 12)


def test_retries_of_all_kinds_are_counted_together(serve: Serve) -> None:
    order = [failing(500), TROUBLES["null"], failing(429), saying("happy")]
    server = serve(lambda explanation, before: order[before])

    with pytest.raises(ConnectionError, match="after 2 retries"):
        judge_at(server, retries=2)(["a"], DFEW)
    assert server.asked == {"a": 3}
    assert judge_at(serve(lambda explanation, before: order[before]), retries=3)(["a"], DFEW) == [HAPPY]


# -- troubles that stay ------------------------------------------------------------------------------------------


def test_an_explanation_without_answer_stops_but_what_is_answered_is_kept(serve: Serve) -> None:
    broken = failing(500, "the engine is on fire")
    server = serve(lambda explanation, before: broken if explanation == "9" else saying("happy", delay=0.02))
    texts = [str(number) for number in range(200)]
    judge = judge_at(server, retries=2, concurrency=4)

    with pytest.raises(ConnectionError) as caught:
        judge(texts, DFEW)
    kept, asked = cached(), sum(server.asked.values())

    assert {"0", "1"} <= kept < {*texts} - {"9"}
    assert server.asked["9"] == 3
    assert set(server.asked) == kept | {"9"}  # what was under way came and was kept
    assert asked < 60
    message = str(caught.value)
    assert f"{len(kept)} of 200 are answered and kept in runs/judge_replies.sqlite: run again" in message
    assert f"m at {server.url}" in message
    assert "after 2 retries (Error code: 500 - the engine is on fire)" in message
    assert "\n" not in message
    assert judge.usage.requests == asked

    broken = saying("sad")
    assert judge(texts, DFEW) == [HAPPY] * 9 + [SAD] + [HAPPY] * 190
    assert server.asked == {**dict.fromkeys(texts, 1), "9": 4}


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    judge = ChatJudge("m", "http://127.0.0.1:9/v1", retries=0, cache=None)

    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/v1 .*Connection error.*refused.*name a file as cache"):
        judge(["a"], DFEW)


def test_an_unreadable_answer_is_quoted(serve: Serve) -> None:
    server = serve(lambda explanation, before: TROUBLES["no JSON"])

    with pytest.raises(ConnectionError, match="not a chat completion: <html>welcome</html>"):
        judge_at(server, retries=0)(["a"], DFEW)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "check model, and the request's fields"),
        (401, "put a valid key into the environment variable MY_KEY"),
        (403, "the key in MY_KEY may not use this model"),
        (404, "check model and base_url"),
        (422, "check model, and the request's fields"),
    ],
)
def test_a_refused_request_stops_at_once_and_says_what_to_do(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int, advice: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server = serve(lambda explanation, before: failing(status, f"no: {KEY}, {'-' * 240} {KEY}"))  # cut in the second

    with pytest.raises(ValueError, match=str(status)) as caught:
        judge_at(server, api_key_env="MY_KEY", concurrency=4)([str(number) for number in range(2000)], DFEW)

    message = str(caught.value)
    assert message.startswith(f"judge m: model m at {server.url} refuses the request (Error code: {status} - no: ")
    assert advice in message
    assert "\n" not in message
    assert KEY[:10] not in message
    assert 1 <= len(server.requests) <= 4


def test_nothing_is_asked_again_once_one_is_refused(serve: Serve) -> None:
    refused = failing(403)
    answers = {"refused": Answer(refused.body, 403, delay=0.15), "broken": failing(500, **{"retry-after-ms": "100"})}
    server = serve(lambda explanation, before: answers.get(explanation, TROUBLES["null"]))
    begun = time.monotonic()

    with pytest.raises(ValueError, match="403"):
        judge_at(server, retries=50)(["refused", "broken", "unreadable"], DFEW)
    assert time.monotonic() - begun < 2
    assert server.asked["broken"] <= 3
    assert server.asked["unreadable"] == 1


def test_what_fastapi_says_is_passed_on(serve: Serve) -> None:
    server = serve(lambda explanation, before: Answer(b'{"detail": "Server is pinned to other"}', 400))

    with pytest.raises(ValueError, match=r"Error code: 400 - Server is pinned to other"):
        judge_at(server)(["a"], DFEW)


# -- the key -----------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_left_nowhere(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # as `export OPENAI_API_KEY="$(cat file)"` may leave it
    caplog.set_level(logging.DEBUG)
    server = serve(lambda explanation, before: failing(500, f"bad {KEY}") if explanation == "b" else saying("happy"))
    judge = judge_at(server, retries=1)
    judge(["a"], DFEW)
    with pytest.raises(ConnectionError) as caught:
        judge(["a", "b"], DFEW)

    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert "bad [API key]" in str(caught.value)
    assert caplog.text  # something was logged
    out, err = capfd.readouterr()
    left = [caplog.text, str(caught.value), out, err, repr(vars(judge)), judge.usage.summary()]
    left += [file.read_bytes().decode(errors="replace") for file in Path("runs").iterdir()]
    assert not [text for text in left if KEY in text]


def test_openai_is_not_asked_without_a_key() -> None:
    with pytest.raises(ValueError, match="no API key: set the environment variable OPENAI_API_KEY"):
        ChatJudge("gpt-4.1-mini")(["a"], DFEW)


def test_other_servers_are_asked_without_a_key(happy: ChatServer) -> None:
    assert judge_at(happy)(["a"], DFEW) == [HAPPY]
    assert happy.authorizations == ["Bearer none"]


def test_a_key_that_no_header_can_hold_is_refused_unseen(happy: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nsecond line")

    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters that no API key has") as caught:
        judge_at(happy)(["a"], DFEW)
    assert KEY not in str(caught.value)
    assert not happy.requests


# -- settings ----------------------------------------------------------------------------------------------------


def test_all_settings_out_of_range_are_named_in_one_line() -> None:
    wrong: dict[str, Any] = {"order": "any", "concurrency": 0, "retries": -1, "timeout": 0, "max_tokens": 0}
    wrong |= {"outside": "sad", "price_in": -1.0, "base_url": "localhost:8000", "extra": {"stream": True}}

    with pytest.raises(ValueError, match="chat judge: model is empty") as caught:
        ChatJudge("", **wrong)
    message = str(caught.value)
    assert all(word in message for word in wrong if word != "price_in")
    assert "price_in and price_out" in message
    assert "\n" not in message


@pytest.mark.parametrize("address", ["http://user:secret@localhost/v1", "user:secret@localhost"])
def test_an_address_with_a_password_is_refused_unseen(address: str) -> None:
    with pytest.raises(ValueError, match="base_url must not hold a user or password") as caught:
        ChatJudge("m", address)
    assert "secret" not in str(caught.value)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # jsonargparse has a new name for a method, we allow older ones
def test_a_config_can_set_everything(happy: ChatServer) -> None:
    settings = {"model": "m", "base_url": happy.url, "name": "mini", "extra": {"top_p": 1, "stop": None}, "retries": 1}
    settings |= {"order": "permuted", "max_tokens": None, "outside": "none", "cache": None, "price_out": 2}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Judge, "judge")
    config = {"class_path": "erv_lightning.judges.chat.ChatJudge", "init_args": settings}
    judge = parser.instantiate_classes(parser.parse_object({"judge": config})).judge

    assert judge(["a"], DFEW) == [HAPPY]
    assert (judge.name, judge.price_out, judge.fields) == ("mini", 2.0, {"temperature": 0, "top_p": 1})


def test_the_shipped_config_is_the_papers_judge() -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "judge" / "chat.yaml").read_text())
    judge = ChatJudge(**config["model"]["init_args"]["judge"]["init_args"])

    assert (judge.model, judge.name, judge.order, judge.outside) == ("gpt-4.1-mini", "gpt-4.1-mini", "fixed", "neutral")


def test_without_the_package_openai_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(ValueError, match=r"pip install 'erv-lightning\[chat\]'"):
        ChatJudge("m", "http://127.0.0.1:9/v1")(["a"], DFEW)


def test_a_judge_that_has_asked_can_be_sent_to_another_process(happy: ChatServer) -> None:
    judge = judge_at(happy)
    judge(["a"], DFEW)
    there = pickle.loads(pickle.dumps(judge))

    assert there(["a", "b"], DFEW) == [HAPPY, HAPPY]
    assert happy.asked == {"a": 1, "b": 1}


def test_a_notebook_can_ask(happy: ChatServer) -> None:
    async def cell() -> list[int]:  # in Jupyter, an event loop is running already
        return judge_at(happy)(["a"], DFEW)

    assert asyncio.run(cell()) == [HAPPY]


# -- counting ----------------------------------------------------------------------------------------------------


def test_tokens_and_their_cost_add_up_over_calls(serve: Serve) -> None:
    server = serve(lambda explanation, before: failing(500) if explanation == "b" and not before else saying("joy"))
    judge = judge_at(server, price_in=0.4, price_out=1.6)
    judge(["a", "b", "c"], DFEW)
    judge(["c", "d", "d"], DFEW)

    usage = judge.usage
    assert (usage.requests, usage.retries, usage.from_cache) == (5, 1, 1)
    assert (usage.prompt_tokens, usage.completion_tokens) == (400, 8)
    assert usage.cost == pytest.approx((400 * 0.4 + 8 * 1.6) / 1_000_000)
    assert usage.summary() == (
        "5 requests (1 of them retries), 1 replies from the cache, 400 tokens in, 8 out, cost 0.0002; "
        "0 verdicts outside the labels (0 refusals, 0 cut off at max_tokens)"
    )


def test_a_server_that_counts_no_tokens_will_do(serve: Serve) -> None:
    server = serve(lambda explanation, before: Answer(b'{"choices": [{"message": {"content": "happy"}}]}'))
    judge = judge_at(server)

    assert judge(["a"], DFEW) == [HAPPY]
    assert (judge.usage.prompt_tokens, judge.usage.cost) == (0, 0.0)
    assert "cost" not in judge.usage.summary()


def test_requests_are_under_way_together_up_to_the_limit(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying("happy", delay=0.05))
    judge_at(server, concurrency=5)([str(number) for number in range(40)], DFEW)

    assert server.most_at_once == 5


def test_a_bar_shows_on_a_terminal_when_many_are_asked(
    happy: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = judge_at(happy, model="m[x]")
    judge([f"a{number}" for number in range(30)], DFEW)
    assert capsys.readouterr() == ("", "")  # a log file is no place for one
    monkeypatch.setenv("FORCE_COLOR", "1")
    judge([f"b{number}" for number in range(20)], DFEW)
    assert capsys.readouterr() == ("", "")
    judge([f"c{number}" for number in range(21)], DFEW)
    out, err = capsys.readouterr()

    assert out == ""
    assert "asking m[x]" in err


# -- the cache ---------------------------------------------------------------------------------------------------


def test_a_second_run_asks_for_nothing(happy: ChatServer) -> None:
    first, second = judge_at(happy), judge_at(happy, name="another", concurrency=1, retries=0)
    texts = ["a", "b", "c"]

    assert first(texts, DFEW) == second(texts, DFEW) == [HAPPY] * 3
    assert len(happy.requests) == 3
    assert (second.usage.requests, second.usage.from_cache, second.usage.prompt_tokens) == (0, 3, 0)


def test_the_cache_answers_without_network_or_key(happy: ChatServer) -> None:
    judge_at(happy, model="gpt-4.1-mini")(["a"], DFEW)

    assert ChatJudge("gpt-4.1-mini")(["a"], DFEW) == [HAPPY]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"order": "permuted"},
        {"max_tokens": 32},
        {"extra": {"temperature": 1}},
        {"extra": {"top_p": 0.5}},
        {"cache": "elsewhere/replies.sqlite"},
        {"cache": None},
    ],
)
def test_another_request_is_asked_anew(happy: ChatServer, change: dict[str, Any]) -> None:
    judge_at(happy)(["a"], DFEW)
    judge_at(happy, **change)(["a"], DFEW)

    assert happy.asked == {"a": 2}


def test_a_cache_says_for_readers_what_was_asked_and_replied(serve: Serve) -> None:
    server = serve(lambda explanation, before: saying("Happy."))
    judge_at(server)(["a"], DFEW)
    with sqlite3.connect("runs/judge_replies.sqlite") as file:
        rows = file.execute("SELECT model, prompt, reply, prompt_tokens, completion_tokens FROM replies").fetchall()
    file.close()

    assert rows == [("m", server.requests[0]["messages"][0]["content"], "Happy.", 100, 2)]


def test_a_file_that_is_no_cache_is_refused_and_left_alone(happy: ChatServer, tmp_path: Path) -> None:
    text, foreign, folder = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "folder"
    text.write_text("not a database, but notes of some length " * 50)
    with sqlite3.connect(foreign) as file:
        file.execute("CREATE TABLE runs (id INTEGER)")
    file.close()
    folder.mkdir()
    before = foreign.read_bytes()

    for path, kind in ((text, "no cache of replies"), (foreign, "another database"), (folder, "cannot be used")):
        with pytest.raises((ValueError, OSError), match=kind) as caught:
            judge_at(happy, cache=str(path))(["a"], DFEW)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert foreign.read_bytes() == before
    assert not happy.requests


def test_a_damaged_cache_is_one_line(happy: ChatServer) -> None:
    texts = [f"{number} {'long ' * 200}" for number in range(40)]
    judge_at(happy)(texts, DFEW)
    path = Path("runs/judge_replies.sqlite")
    content = bytearray(path.read_bytes())
    content[4096:-4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"^runs/judge_replies\.sqlite is no cache of replies, or is damaged [^\n]*$"):
        judge_at(happy)(texts, DFEW)


# -- interrupted, killed, and two at once ------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_under_way_and_asks_no_more(serve: Serve) -> None:
    def answer(explanation: str, before: int) -> Answer:
        if explanation == "10" and not before:
            os.kill(os.getpid(), signal.SIGINT)
        return saying("happy", delay=0.1)

    server = serve(answer)
    texts = [str(number) for number in range(60)]
    judge = judge_at(server, concurrency=4)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    with pytest.raises(KeyboardInterrupt):
        judge(texts, DFEW)

    assert cached() == set(server.asked)
    assert 11 <= len(server.asked) < 40
    assert judge.usage.prompt_tokens == 100 * len(server.asked)
    assert judge(texts, DFEW) == [HAPPY] * 60
    assert server.asked == dict.fromkeys(texts, 1)


PROCESS = """\
import sys
from erv_lightning.judges.chat import ChatJudge
from erv_lightning.labels import DFEW
judge = ChatJudge("m", sys.argv[1], concurrency=4, cache="shared.sqlite")
print("ready", flush=True)
sys.stdin.readline()
verdicts = judge([str(number) for number in range(int(sys.argv[2]), int(sys.argv[3]))], DFEW)
print(len(verdicts), set(verdicts), judge.usage.requests)
"""


class JudgingProcess:
    """A process that judges the explanations `first` to `last`, when it is let go."""

    def __init__(self, url: str, first: int, last: int) -> None:
        command = [sys.executable, "-c", PROCESS, url, str(first), str(last)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def go(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def said(self) -> str:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return out.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[str, int, int], JudgingProcess]]:
    """Starts judging processes, and leaves none behind."""
    started: list[JudgingProcess] = []

    def start(url: str, first: int, last: int) -> JudgingProcess:
        started.append(JudgingProcess(url, first, last))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_a_killed_evaluation_pays_for_no_reply_twice(
    serve: Serve, start: Callable[[str, int, int], JudgingProcess]
) -> None:
    server = serve(lambda explanation, before: saying("happy", delay=0.05))
    texts = [str(number) for number in range(60)]
    process = start(server.url, 0, 60)
    process.go()
    limit = time.monotonic() + 60
    while server.done < 25 and time.monotonic() < limit:
        time.sleep(0.005)
    process.kill()
    time.sleep(0.3)  # the server reads what the dead process had sent
    kept, asked = cached("shared.sqlite"), set(server.asked)

    assert 25 <= len(asked) < 60
    assert kept <= asked
    assert len(asked - kept) <= 4  # no more than were under way

    judge = judge_at(server, cache="shared.sqlite")
    assert judge(texts, DFEW) == [HAPPY] * 60
    assert server.asked == {text: 1 + (text in asked - kept) for text in texts}
    assert (judge.usage.requests, judge.usage.from_cache) == (60 - len(kept), len(kept))


def test_two_processes_share_a_cache_at_the_same_time(
    serve: Serve, start: Callable[[str, int, int], JudgingProcess]
) -> None:
    server = serve(lambda explanation, before: saying("happy", delay=0.01))
    processes = [start(server.url, 0, 60), start(server.url, 30, 90)]
    for process in processes:
        process.go()
    said = [process.said() for process in processes]
    asked = sum(server.asked.values())

    assert [words.rsplit(" ", 1)[0] for words in said] == ["60 {0}", "60 {0}"]
    assert sum(int(words.split()[-1]) for words in said) == asked
    assert cached("shared.sqlite") == {str(number) for number in range(90)}
    assert judge_at(server, cache="shared.sqlite")([str(number) for number in range(90)], DFEW) == [HAPPY] * 90
    assert sum(server.asked.values()) == asked

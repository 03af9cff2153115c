"""All emotions of a sentence: the reward's rule for judges with probabilities, a prompt of its own for chat models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from chat_servers import Answer, ChatServer, saying

from erv_lightning.judges import ChatJudge, GrammarJudge, Judge, Verdicts, VerifierJudge
from erv_lightning.labels import DFEW, MAFW, LabelSpace
from erv_lightning.models.verifier import EmotionVerifier

HAPPY, SAD, NEUTRAL, ANGRY, SURPRISE, DISGUST, FEAR = range(7)
NAN = float("nan")

Serve = Callable[[Callable[[str, int], Answer]], ChatServer]


class Reading(Judge):
    """Has read what a test says."""

    name = "reading"

    def __init__(self, verdicts: Verdicts) -> None:
        self.verdicts = verdicts

    def read(self, explanations: Sequence[str], space: LabelSpace) -> Verdicts:
        return self.verdicts


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as running:
        yield lambda answer: running.enter_context(ChatServer(answer).running())


# -- judges that read ----------------------------------------------------------------------------------------------


def test_probabilities_become_labels_by_the_rewards_rule_the_likeliest_first() -> None:
    probs = torch.tensor(
        [
            [0.2, 0.0, 0.3, 0.1, 0.0, 0.0, 0.0],  # 0.1 is not above 0.1
            [0.15, 0.6, 0.0, 0.0, 0.0, 0.0, 0.2],  # three above: the top two
            [0.01, 0.02, 0.0, 0.05, 0.0, 0.0, 0.0],  # none above: the likeliest
            [NAN] * 7,  # nothing to read
        ]
    )
    found = Reading(Verdicts([NEUTRAL, SAD, ANGRY, -1], probs)).conveyed(["a", "b", "c", ""], DFEW)

    assert found.label_ids == [(NEUTRAL, HAPPY), (SAD, FEAR), (ANGRY,), ()]
    assert found.probs is probs


def test_threshold_and_most_labels_can_be_set() -> None:
    probs = torch.tensor([[0.15, 0.6, 0.0, 0.0, 0.0, 0.0, 0.2]])
    judge = Reading(Verdicts([SAD], probs))

    assert judge.conveyed(["a"], DFEW, max_labels=3).label_ids == [(SAD, FEAR, HAPPY)]
    assert judge.conveyed(["a"], DFEW, threshold=0.3, max_labels=3).label_ids == [(SAD,)]


def test_a_judge_without_probabilities_gives_its_one_label_or_none() -> None:
    found = Reading(Verdicts([SAD, -1])).conveyed(["a", "b"], DFEW)
    assert (found.label_ids, found.probs) == ([(SAD,), ()], None)


def test_a_verifier_says_the_labels_that_the_reward_would_count(tmp_path: Path) -> None:
    sentences = ["She smiles.", "A tear falls.", "He stands there and talks."]
    verifier = EmotionVerifier.tiny(sentences, DFEW.names).eval()
    verifier.save(tmp_path / "tiny")
    probs = verifier.probs(sentences)

    found = VerifierJudge(str(tmp_path / "tiny")).conveyed(sentences, DFEW)

    assert found.label_ids == [tuple(row.argsort(descending=True)[:2].tolist()) for row in probs]  # all above 0.1
    assert found.probs is not None
    torch.testing.assert_close(found.probs, probs)


def test_settings_are_those_that_decide_and_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    chat = ChatJudge("m", "http://127.0.0.1:1/v1", extra={"seed": 3}).settings()

    assert GrammarJudge().settings() == {"class": "GrammarJudge"}
    assert VerifierJudge("models/x", name="y").settings() == {"class": "VerifierJudge", "pretrained": "models/x"}
    assert {key: chat[key] for key in ("class", "model", "temperature", "max_tokens", "seed")} == {
        "class": "ChatJudge", "model": "m", "temperature": 0, "max_tokens": 16, "seed": 3
    }  # fmt: skip
    assert "sk-secret" not in str(chat)
    assert ChatJudge("m", "http://other:1/v1", concurrency=2, name="n", extra={"seed": 3}).settings() == chat
    assert ChatJudge("m", order="permuted", seed=1).settings() != ChatJudge("m", order="permuted", seed=2).settings()


# -- chat models ---------------------------------------------------------------------------------------------------


def test_a_chat_model_is_asked_for_all_emotions_of_a_sentence(serve: Serve) -> None:
    server = serve(lambda sentence, before: saying("sad, fear"))
    judge = ChatJudge("m", server.url)

    assert judge.conveyed(["Her {voice} trembles.", "  ", "Her {voice} trembles."], DFEW).label_ids == [
        (SAD, FEAR), (), (SAD, FEAR)
    ]  # fmt: skip
    assert [request["messages"] for request in server.requests] == [
        [
            {
                "role": "user",
                "content": "Which of these emotions does the sentence convey: happy, sad, neutral, angry, surprise, "
                "disgust, fear? Reply with one or more of them, the strongest first, separated by commas, and nothing "
                "else.\nSentence: Her {voice} trembles.\nEmotions:",
            }
        ]
    ]


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ("happy", (HAPPY,)),
        ("Sadness, Fear.", (SAD, FEAR)),
        ("fear and sadness", (FEAR, SAD)),
        ("Happy, Surprise, and fear", (HAPPY, SURPRISE, FEAR)),
        ("Emotions: angry, sad", (ANGRY, SAD)),
        ('["angry", "disgust"]', (ANGRY, DISGUST)),
        ("- happy\n- surprised\n", (HAPPY, SURPRISE)),
        ("1. **Joy**\n2. *surprise*", (HAPPY, SURPRISE)),
        ('Emotions: "happy"', (HAPPY,)),
        ("happy / excited", (HAPPY,)),
        ("sad, sadness", (SAD,)),
        ("<think>Is it fear? happy, I guess.</think>\nsad", (SAD,)),
        ("not happy", ()),
        ("contempt", ()),
        ("The sentence conveys a happy mood", ()),
        ("", ()),
    ],
)
def test_a_reply_is_read_kindly(serve: Serve, reply: str, labels: tuple[int, ...]) -> None:
    judge = ChatJudge("m", serve(lambda sentence, before: saying(reply)).url)

    assert judge.conveyed(["a"], DFEW, max_labels=7).label_ids == [labels]
    assert judge.usage.outside == (not labels)


def test_of_many_labels_the_first_stay_and_a_refusal_is_no_label(serve: Serve) -> None:
    said = {
        "many": saying("fear, sad, angry"),
        "refused": saying(None, refusal="I cannot"),
        "cut": saying("The sentence", finish="length"),
    }
    judge = ChatJudge("m", serve(lambda sentence, before: said[sentence]).url, outside="neutral")

    assert judge.conveyed(list(said), DFEW).label_ids == [(FEAR, SAD), (), ()]
    assert (judge.usage.outside, judge.usage.refused, judge.usage.cut) == (2, 1, 1)


def test_replies_about_sentences_are_kept_beside_those_about_explanations(serve: Serve) -> None:
    server = serve(lambda sentence, before: saying("sad, fear" if before else "sad"))
    judge = ChatJudge("m", server.url)

    assert judge(["a"], DFEW) == [SAD]
    assert judge.conveyed(["a"], DFEW).label_ids == [(SAD, FEAR)]
    again = ChatJudge("m", server.url)
    assert (again(["a"], DFEW), again.conveyed(["a"], DFEW).label_ids) == ([SAD], [(SAD, FEAR)])
    assert (len(server.requests), again.usage.from_cache) == (2, 2)


def test_a_permuted_order_is_offered_for_sentences_too(serve: Serve) -> None:
    server = serve(lambda sentence, before: saying("anger"))
    ChatJudge("m", server.url, order="permuted").conveyed(["a", "b"], MAFW)

    offered = [one["messages"][0]["content"].partition("convey: ")[2].partition("?")[0] for one in server.requests]
    assert len(set(offered)) == 2
    assert all(sorted(one.split(", ")) == sorted(MAFW.names) for one in offered)

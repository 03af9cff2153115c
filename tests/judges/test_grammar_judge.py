from __future__ import annotations

import random

from erv_lightning.data.grammar import write_explanation
from erv_lightning.judges import GrammarJudge, Judge
from erv_lightning.labels import DFEW, MAFW


def test_explanations_are_judged_by_what_they_describe() -> None:
    judge: Judge = GrammarJudge()
    texts = [write_explanation(name, random.Random(seed)).text for seed, name in enumerate(DFEW.names)]
    assert judge(texts, DFEW) == list(range(7))
    assert judge.name == "grammar"


def test_text_that_the_grammar_cannot_say_is_judged_minus_one() -> None:
    assert GrammarJudge()(["", "The person is happy.", "x y z"], DFEW) == [-1, -1, -1]


def test_no_explanations_give_no_verdicts() -> None:
    assert GrammarJudge()([], DFEW) == []


def test_verdicts_are_ids_of_the_given_label_space() -> None:
    text = write_explanation("sad", random.Random(0)).text
    assert GrammarJudge()([text], MAFW) == [MAFW.names.index("sadness")]

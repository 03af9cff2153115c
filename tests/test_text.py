import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erv_lightning.text import Response, parse_response, split_sentences

R_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
# short strings over the pieces that matter meet every branch far sooner than arbitrary text
TAGGED = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "sad", " ", "\n", "<"])).map("".join)
PROSE = st.text(alphabet='ab."!? \n')


def test_a_response_is_an_explanation_and_an_answer():
    text = "<think> Her voice is\nloud. </think>\n<answer> angry </answer>"
    assert parse_response(text) == Response("Her voice is\nloud.", "angry", well_formed=True)


@pytest.mark.parametrize(
    ("text", "explanation", "answer"),
    [
        ("", "", ""),
        ("happy", "", ""),
        ("<answer>happy</answer>", "", "happy"),
        ("<think>she laughs</think>", "she laughs", ""),
        ("<think>she laughs <answer>happy</answer>", "", "happy"),
        ("<think>she laughs</think><answer>happy", "she laughs", ""),
        ("so <think>one</think><think>two</think> <answer>sad</answer>", "one", "sad"),
        ("</think><think>one</think></answer><answer>sad", "one", ""),
        ("<think>one</think><answer>sad</answer> done", "one", "sad"),
    ],
)
def test_what_can_be_read_of_a_malformed_response_is_read(text, explanation, answer):
    assert parse_response(text) == Response(explanation, answer, well_formed=False)


@pytest.mark.parametrize(
    "text",
    [
        "<think>x</think><answer>happy</answer><answer>sad</answer>",
        "<think>x <answer>happy</answer></think><answer>sad</answer>",
        "<think>x</think><answer>happy</answer>sad</answer>",
        "<think>x</think><answer>happy<answer>sad</answer>",
    ],
)
def test_a_policy_that_hedges_over_several_answers_has_none_though_the_pattern_lets_it_pass(text):
    assert R_FORMAT.fullmatch(text)
    assert parse_response(text) == Response(parse_response(text).explanation, "", well_formed=True)


@pytest.mark.parametrize("text", [" {}", "{}\n", "Sure: {}", "{} done"])
def test_anything_around_the_two_blocks_breaks_the_form(text):
    whole = "<think>x</think>\n<answer>sad</answer>"
    assert parse_response(whole).well_formed
    assert not parse_response(text.format(whole)).well_formed


@given(TAGGED)
def test_the_form_is_the_methods_pattern(text):
    assert parse_response(text).well_formed == (R_FORMAT.fullmatch(text) is not None)


@given(st.text() | TAGGED)
def test_no_text_breaks_the_parser(text):
    response = parse_response(text)
    assert response.explanation in text
    assert response.answer in text
    assert response.answer == response.answer.strip()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n ", []),
        ("She smiles", ["She smiles"]),
        (
            "She smiles. He frowns!  Why?\nNobody knows.",
            ["She smiles.", "He frowns!", "Why?", "Nobody knows."],
        ),
        ("At 3.5 seconds he stops...then goes.", ["At 3.5 seconds he stops...then goes."]),
        (
            'She says "No. Never! Go." and leaves. He stays.',
            ['She says "No. Never! Go." and leaves.', "He stays."],
        ),
        ('He shouts "Stop!" Then silence.', ['He shouts "Stop!" Then silence.']),
        (
            'He shouts "Stop. Now. He is angry. All see it.',
            ['He shouts "Stop.', "Now.", "He is angry.", "All see it."],
        ),
        ('"A. b" c. "d. e', ['"A. b" c.', '"d.', "e"]),
        ("It's fine. 'A. B'", ["It's fine.", "'A.", "B'"]),
    ],
)
def test_sentences_end_at_a_mark_and_white_space_outside_quotes(text, sentences):
    assert split_sentences(text) == sentences


def _split_by_hand(text):
    """One character at a time: a quote opens only if a partner follows."""
    sentences, current, quoted = [], "", False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted and '"' in text[position + 1 :]
        # white space ends a sentence if a mark stands before its run; only the run's first one is asked
        if character.isspace() and not quoted and text[:position].endswith((".", "!", "?")):
            sentences.append(current)
            current = ""
        else:
            current += character
    return [sentence.strip() for sentence in [*sentences, current] if sentence.strip()]


@given(PROSE)
def test_splitting_equals_reading_character_by_character(text):
    assert split_sentences(text) == _split_by_hand(text)


@given(st.text() | PROSE)
def test_splitting_loses_nothing_but_white_space(text):
    sentences = split_sentences(text)
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)
    assert "".join("".join(sentences).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "</think><answer>", "</think> ", '". ', '"', ". ", " ", "<answer></answer>"],
)
def test_hostile_text_takes_linear_time(piece):
    text = "<think>" + piece * 200_000 + "</answer"
    start = time.perf_counter()
    parse_response(text)
    parse_response(text + ">")
    split_sentences(text)
    assert time.perf_counter() - start < 5  # a quadratic reader takes minutes

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erv_lightning import labels
from erv_lightning.labels import (
    DFEW,
    GOEMOTIONS,
    MAFW,
    LabelSpace,
    get_label_space,
    goemotions_index,
    register_label_space,
)

SPACES = pytest.mark.parametrize("space", [DFEW, MAFW], ids=lambda space: space.name)


def test_the_spaces_have_the_order_of_their_data_sets():
    assert DFEW.names == ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    assert DFEW.neutral == 2
    assert MAFW.names == (
        *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety"),
        *("helplessness", "disappointment"),
    )
    assert MAFW.neutral == 4


@SPACES
def test_every_name_has_its_position_as_id(space):
    assert [space.id(name) for name in space.names] == list(range(len(space.names)))


@SPACES
@pytest.mark.parametrize("form", ["{}", " {}\n", "{}.", "{} .", "\t{}. "])
def test_case_surrounding_space_and_one_full_stop_are_ignored(space, form):
    for position, name in enumerate(space.names):
        for written in (name, name.upper(), name.title()):
            assert space.id(form.format(written)) == position


@pytest.mark.parametrize(
    ("text", "dfew", "mafw"),
    [
        ("happiness", 0, 3),
        ("happy", 0, 3),
        ("Joyful", 0, 3),
        ("joy", 0, 3),
        ("anger", 3, 0),
        ("angry", 3, 0),
        ("sadness", 1, 5),
        ("sad", 1, 5),
        ("fearful", 6, 2),
        ("afraid", 6, 2),
        ("disgusted", 5, 1),
        ("surprised", 4, 6),
        ("contempt", -1, 7),
        ("anxious", -1, 8),
        ("helpless", -1, 9),
        ("disappointed", -1, 10),
    ],
)
def test_synonyms_lead_to_the_label(text, dfew, mafw):
    assert (DFEW.id(text), MAFW.id(text)) == (dfew, mafw)


@SPACES
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "happy..",
        "happy!",
        "sad, angry",
        "sad or angry",
        "happy sad",
        "unhappy",
        "very sad",
        "-1",
        "0",
    ],
)
def test_all_else_is_no_label(space, text):
    assert space.id(text) == -1


@SPACES
@given(text=st.text())
def test_no_text_breaks_the_lookup(space, text):
    assert -1 <= space.id(text) < len(space.names)


def test_a_space_is_found_by_name_in_any_case():
    assert get_label_space("dfew") is DFEW
    assert get_label_space("MAFW") is MAFW


def test_an_unknown_space_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'iemocap'; known: cremad, dfew, .*register_label_space"):
        get_label_space("iemocap")


def test_a_user_can_add_a_space(monkeypatch):
    monkeypatch.setattr(labels, "_SPACES", dict(labels._SPACES))
    calm = LabelSpace("calm", ("calm", "neutral"), {"quiet": "calm"}, neutral=1)
    assert register_label_space(calm) is calm
    register_label_space(LabelSpace("calm", ("calm", "neutral"), {"quiet": "calm"}, neutral=1))
    assert get_label_space("calm").id("Quiet.") == 0
    with pytest.raises(ValueError, match="'calm' is already registered"):
        register_label_space(LabelSpace("calm", ("neutral",), {}, neutral=0))


def test_a_space_that_contradicts_itself_is_refused_with_every_reason():
    with pytest.raises(ValueError, match="label space") as error:
        LabelSpace("mine", ("Happy", "sad", "sad"), {"sad": "happy"}, neutral=3)
    for reason in (
        "'Happy' is not in plain lower case",
        "twice",
        "'sad' is itself",
        "'happy', which",
        "neutral = 3",
    ):
        assert reason in str(error.value)


def test_a_space_can_be_hashed_and_pickled():
    assert pickle.loads(pickle.dumps(DFEW)) == DFEW
    assert len({DFEW, MAFW, DFEW}) == 2


def test_goemotions_has_the_28_labels_of_its_classifiers():
    assert len(set(GOEMOTIONS)) == 28
    assert (GOEMOTIONS[0], GOEMOTIONS[-1]) == ("admiration", "neutral")


def test_emotions_map_to_goemotions_as_in_the_method():
    by_name = {
        "happiness": 17,
        "anger": 2,
        "disgust": 11,
        "fear": 14,
        "sadness": 25,
        "surprise": 26,
        "neutral": 27,
        "anxiety": 19,
        "helplessness": 16,
        "disappointment": 9,
        "contempt": 10,
    }
    assert {name: goemotions_index(name) for name in MAFW.names} == by_name
    assert [goemotions_index(name) for name in DFEW.names] == [17, 25, 27, 2, 26, 11, 14]


def test_an_emotion_without_a_place_in_goemotions_is_an_error_that_names_those_with_one():
    with pytest.raises(ValueError, match=r"'bored' has no place.*happiness, anger"):
        goemotions_index("bored")

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import stft
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from erv_lightning.data.grammar import EMOTIONS, PHRASES, is_taught, read_emotion
from erv_lightning.data.media import MediaSettings, load_clip
from erv_lightning.data.readers import SyntheticClips
from erv_lightning.data.readers.synthetic import misread_phrases
from erv_lightning.data.sample import Sample
from erv_lightning.data.synthetic import EXPRESSION, render
from erv_lightning.labels import DFEW
from erv_lightning.text import split_sentences

Array = NDArray[np.float64]

SMALL = {"train": 14, "rl": 7, "val": 7, "test": 14}  # clips


def contents(root: Path) -> dict[str, bytes]:
    """Every finished clip under a folder."""
    files = (path for path in root.rglob("*.mp4") if not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def start_preparing(root: Path) -> subprocess.Popen[bytes]:
    """`prepare` in a process group of its own, so that its workers can be killed with it."""
    code = (
        "from erv_lightning.data.readers import SyntheticClips; "
        f"SyntheticClips(root={str(root)!r}, **{SMALL}).prepare()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    SyntheticClips(root=str(root), **SMALL).prepare()
    return contents(root)


# -- the files ----------------------------------------------------------------------------------------------------


def test_every_sample_has_its_clip_and_nothing_else_is_made(undisturbed: dict[str, bytes]) -> None:
    assert len(undisturbed) == sum(SMALL.values())
    assert len(set(undisturbed.values())) == len(undisturbed)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_the_run_or_the_number_of_workers(
    workers: int, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(workers)))
    SyntheticClips(root=str(tmp_path), **SMALL).prepare()
    assert contents(tmp_path) == undisturbed


def test_another_seed_makes_other_clips_in_another_folder() -> None:
    one, other = SyntheticClips(seed=0), SyntheticClips(seed=1)
    assert one.folder != other.folder
    first, second = (render("happy", np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


@pytest.mark.parametrize("last_signal", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_generation_is_completed_by_the_next_call(
    last_signal: signal.Signals, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    process = start_preparing(tmp_path)
    deadline = time.monotonic() + 60
    while len(contents(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, last_signal)
    process.wait()
    begun = contents(tmp_path)
    assert 3 <= len(begun) < len(undisturbed)
    assert begun.items() <= undisturbed.items()  # nothing half-written under a final name
    SyntheticClips(root=str(tmp_path), **SMALL).prepare()
    assert contents(tmp_path) == undisturbed


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    process = start_preparing(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not contents(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        time.sleep(4)  # longer than the clips take that the workers may still finish
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_lost_clip_is_made_again_and_the_others_are_left_alone(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    source = SyntheticClips(root=str(tmp_path), **SMALL)
    source.prepare()
    lost, kept = (Path(sample.clip) for sample in source.samples("val")[:2])
    before = kept.stat().st_mtime_ns
    lost.unlink()
    source.prepare()
    assert contents(tmp_path) == undisturbed
    assert kept.stat().st_mtime_ns == before


def test_two_processes_may_prepare_at_once(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    both = [start_preparing(tmp_path) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert contents(tmp_path) == undisturbed


def test_more_clips_later_leave_the_first_ones_as_they_are(built_in: SyntheticClips) -> None:
    more = SyntheticClips(root=str(built_in.folder.parent), train=300, rl=7, val=14, test=140)
    assert [sample.clip for sample in more.samples("train")[:280]] == [one.clip for one in built_in.samples("train")]


def test_workers_start_without_torch() -> None:
    code = "import sys, erv_lightning.data.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "rl", "val", "test"])
def test_the_emotions_are_equally_frequent_and_ids_are_unique(split: str) -> None:
    samples = SyntheticClips().samples(split)
    frequency = Counter(sample.label for sample in samples)
    assert set(frequency) == set(DFEW.names)
    assert len(set(frequency.values())) == 1
    assert len({sample.id for sample in samples}) == len(samples)
    assert samples[7].id == f"{split}-0007"
    assert {(sample.dataset, sample.label_space, sample.split) for sample in samples} == {("synthetic", "dfew", split)}


@pytest.mark.parametrize(
    ("train", "mislabelled", "expected"), [(700, 0.4, 280), (100, 0.4, 40), (33, 0.5, 16), (20, 0, 0)]
)
def test_an_exact_share_of_the_training_explanations_describes_another_emotion(
    train: int, mislabelled: float, expected: int
) -> None:
    samples = SyntheticClips(train=train, mislabelled=mislabelled).samples("train")
    wrong = Counter(sample.label for sample in samples if read_emotion(sample.explanation) != sample.label)
    assert wrong.total() == expected
    assert max(wrong[name] for name in DFEW.names) - min(wrong[name] for name in DFEW.names) <= 1
    assert all(read_emotion(sample.explanation) is not None for sample in samples)


def test_validation_and_test_explanations_are_true_and_rl_has_none() -> None:
    source = SyntheticClips()
    for split in ("val", "test"):
        assert all(read_emotion(sample.explanation) == sample.label for sample in source.samples(split))
    assert not any(sample.explanation or sample.sentence_labels for sample in source.samples("rl"))


def test_sentence_labels_say_what_a_sentence_conveys_and_in_training_only_for_taught_phrases() -> None:
    source = SyntheticClips()
    for split in ("train", "val", "test"):
        unlabelled = 0
        for sample in source.samples(split):
            sentences = split_sentences(sample.explanation)
            for sentence, labels in zip(sentences, sample.sentence_labels, strict=True):
                phrase = sentence.split(", ", 1)[1].removesuffix(".")
                unlabelled += labels is None
                assert labels == ((read_emotion(sentence),) if split != "train" or is_taught(phrase) else None)
        assert (unlabelled > 0) == (split == "train")


def test_samples_are_the_same_in_every_process() -> None:
    code = "from erv_lightning.data.readers import SyntheticClips\nfor s in SyntheticClips().samples('train'): print(s)"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]


def test_a_split_that_does_not_exist_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no split 'dev', only train, rl, val, test"):
        SyntheticClips().samples("dev")
    with pytest.raises(ValueError, match="mislabelled and misread between 0 and 1"):
        SyntheticClips(mislabelled=1.2)
    with pytest.raises(ValueError, match="counts"):
        SyntheticClips(val=-1)


# -- both towers are needed ---------------------------------------------------------------------------------------

BY_SOUND = (("surprise", "fear"), ("angry", "disgust"))  # the same face
BY_SIGHT = (("happy", "surprise"), ("sad", "neutral"))  # the same voice


@pytest.mark.parametrize(("pair", "shared"), [(pair, 0) for pair in BY_SOUND] + [(pair, 1) for pair in BY_SIGHT])
def test_pairs_share_a_face_or_a_voice_exactly_but_not_both(pair: tuple[str, str], shared: int) -> None:
    one, other = (render(emotion, np.random.default_rng(3)) for emotion in pair)
    assert EXPRESSION[pair[0]][shared] == EXPRESSION[pair[1]][shared]
    assert EXPRESSION[pair[0]][1 - shared] != EXPRESSION[pair[1]][1 - shared]
    if shared == 0:  # drawn before it is voiced: the same person, to the pixel
        assert np.array_equal(one[0], other[0])


class Classifiers:
    """What simple classifiers tell from decoded test clips, having learned on decoded training clips."""

    def __init__(self, source: SyntheticClips) -> None:
        seen, heard, self.labels = _features(source.samples("train"))
        test_seen, test_heard, self.truth = _features(source.samples("test"))
        self.inputs = {
            "video": (seen, test_seen),
            "audio": (heard, test_heard),
            "both": (np.hstack([seen, heard]), np.hstack([test_seen, test_heard])),
        }

    def accuracy(self, modality: str, emotions: tuple[str, ...] = DFEW.names) -> float:
        """Share of right answers among test clips of some emotions; the classifier knows only these."""
        learn, test = np.isin(self.labels, emotions), np.isin(self.truth, emotions)
        train_inputs, test_inputs = self.inputs[modality]
        classifier = SVC(C=30, gamma=1.0).fit(train_inputs[learn], self.labels[learn])
        return float(classifier.score(test_inputs[test], self.truth[test]))


def _features(samples: list[Sample]) -> tuple[Array, Array, NDArray[np.str_]]:
    clips = [
        load_clip(sample.clip, MediaSettings(num_frames=4, frame_size=(28, 28)), record=sample.record)
        for sample in samples
    ]
    grey = np.stack([clip.frames.double().mean(1).numpy() for clip in clips])
    seen = np.concatenate([grey, grey[:, -1:] - grey[:, :1]], 1).reshape(len(clips), -1)  # frames, and what moved
    heard = np.stack([_sound_statistics(clip.audio.numpy(), clip.sample_rate) for clip in clips])
    return _standardise(seen), _standardise(heard), np.array([sample.label for sample in samples])


def _sound_statistics(wave: NDArray[np.float32], sample_rate: int) -> Array:
    """Mean and spread over time of 20 logarithmic frequency bands."""
    _, _, spectrum = stft(wave, fs=sample_rate, nperseg=400, noverlap=240, nfft=512, boundary=None)
    edges = np.unique(np.geomspace(2, 256, 21).round().astype(int))
    power = np.abs(spectrum) ** 2
    bands = np.log([power[low:high].mean(0) + 1e-9 for low, high in itertools.pairwise(edges)])
    return np.concatenate([bands.mean(1), bands.std(1)])


def _standardise(values: Array) -> Array:
    """Each modality with a typical length of one, so that neither drowns the other."""
    scaled: Array = StandardScaler().fit_transform(values) / np.sqrt(values.shape[1])
    return scaled


@pytest.fixture(scope="module")
def classifiers(built_in: SyntheticClips) -> Classifiers:
    return Classifiers(built_in)


@pytest.mark.parametrize("pair", BY_SOUND)
def test_two_pairs_are_told_apart_only_by_sound(pair: tuple[str, str], classifiers: Classifiers) -> None:
    assert classifiers.accuracy("video", pair) < 0.7  # 40 clips: chance is 0.5 ± 0.16
    assert classifiers.accuracy("audio", pair) > 0.85


@pytest.mark.parametrize("pair", BY_SIGHT)
def test_two_pairs_are_told_apart_only_by_sight(pair: tuple[str, str], classifiers: Classifiers) -> None:
    assert classifiers.accuracy("audio", pair) < 0.7
    assert classifiers.accuracy("video", pair) > 0.85


def test_both_modalities_together_are_clearly_better_than_either(classifiers: Classifiers) -> None:
    video, audio, both = (classifiers.accuracy(modality) for modality in ("video", "audio", "both"))
    assert max(video, audio) < 0.79  # 5/7, what either could reach at best, and the noise of 140 clips
    assert both > 5 / 7 + 0.03  # more than either can ever reach; faint expressions keep it below 1
    assert both > max(video, audio) + 0.1


def test_a_poor_teacher_misreads_a_share_of_the_phrases_and_each_always_alike() -> None:
    some, more = misread_phrases(0.2, seed=1), misread_phrases(0.6, seed=1)
    assert some.items() <= more.items()
    assert some != misread_phrases(0.2, seed=2)
    assert misread_phrases(0.0) == {}
    of = {phrase: emotion for emotion, slots in PHRASES.items() for phrases in slots.values() for phrase in phrases}
    assert all(of[phrase] != taken_for for phrase, taken_for in more.items())
    assert Counter(of[phrase] for phrase in more) == dict.fromkeys(EMOTIONS, 10)  # of 17

    true, misread = SyntheticClips(train=140), SyntheticClips(train=140, misread=0.6, misread_seed=1)
    for split in ("train", "val", "test"):
        taught, wrong = 0, 0
        for a, b in zip(true.samples(split), misread.samples(split), strict=True):
            assert a.explanation == b.explanation
            for sentence, one, other in zip(
                split_sentences(a.explanation), a.sentence_labels, b.sentence_labels, strict=True
            ):
                phrase = sentence.partition(", ")[2].removesuffix(".")
                taught, wrong = taught + (one is not None), wrong + (one != other)
                if one is not None:
                    assert other == ((more[phrase],) if split != "test" and phrase in more else one)
        assert wrong == 0 if split == "test" else 0.4 < wrong / taught < 0.8

"""The loader makes the next batch while the last one is computed with."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from torch.utils.data import Dataset

from erv_lightning.data.loader import EpochLoader
from erv_lightning.data.sampler import Draw, EpochSampler


class Numbers(Dataset[int]):
    """Remembers when each was made, and in which thread; one of them may be bad."""

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.made = bad, list[tuple[int, bool]]()

    def __getitem__(self, draw: Draw) -> int:
        if draw.sample == self.bad:
            raise ValueError(f"{draw.sample} is bad")
        self.made.append((draw.sample, threading.current_thread() is threading.main_thread()))
        return draw.sample


def loader(data: Numbers, ahead: bool, **settings: Any) -> EpochLoader:
    made = EpochLoader(data, batch_size=2, sampler=EpochSampler([1.0] * 10), collate_fn=list, **settings)
    made.ahead = ahead
    return made


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_the_same_with_and_without_a_thread(ahead: bool, workers: int) -> None:
    context = "fork" if workers else None
    made = loader(Numbers(), ahead, num_workers=workers, multiprocessing_context=context)
    for _ in range(2):
        assert list(made) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
        assert made.state_dict() == {"batches": 5}


def test_the_next_batch_is_made_while_the_last_one_is_in_use_and_no_further() -> None:
    data = Numbers()
    batches = iter(loader(data, True))
    assert next(batches) == [0, 1]
    end = time.monotonic() + 10
    while len(data.made) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert [sample for sample, _ in data.made] == [0, 1, 2, 3]
    assert not any(main for _, main in data.made)


def test_what_goes_wrong_is_raised_when_its_batch_has_its_turn() -> None:
    batches = iter(loader(Numbers(bad=5), True))
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="5 is bad"):
        next(batches)


def test_a_pass_that_is_left_early_leaves_no_thread() -> None:
    before = threading.active_count()
    batches = iter(loader(Numbers(), True))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_state_counts_what_was_handed_out_and_not_what_was_made() -> None:
    made = loader(Numbers(), True)
    batches = iter(made)
    next(batches)
    next(batches)
    state = made.state_dict()
    assert state == {"batches": 2}
    other = loader(Numbers(), True)
    other.load_state_dict(state)
    assert list(other) == [[4, 5], [6, 7], [8, 9]]
    assert next(iter(other)) == [0, 1]

"""Two real processes: what they count apart must add up."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from erv_lightning.metrics import (
    ExplanationEmotionAccuracy,
    ExplanationPredictionConsistency,
    FaithfulConsistencyRate,
    FaithfulGivenCorrect,
    UnweightedAverageRecall,
    WeightedAverageRecall,
)

# class 3 is only in the second process's shard, class 2 in neither
ROWS = [(0, 0, 0), (1, 0, 1), (0, 0, 1), (-1, 1, 1), (1, 1, 1), (3, 3, 3), (0, 3, 3)]
STEPS = [[slice(0, 3), slice(3, 4)], [slice(4, 5), slice(5, 7)]]  # of each process, never of one size


def metrics(**kwargs):
    return MetricCollection(
        {
            "eea": ExplanationEmotionAccuracy(**kwargs),
            "epc": ExplanationPredictionConsistency(**kwargs),
            "fcr": FaithfulConsistencyRate(**kwargs),
            "fgc": FaithfulGivenCorrect(**kwargs),
            "war": WeightedAverageRecall(**kwargs),
            "uar": UnweightedAverageRecall(4, **kwargs),
        }
    )


def floats(values):
    return {key: value.item() for key, value in values.items()}


def alone(rows):
    collection = metrics()
    collection.update(*torch.tensor(rows).unbind(1))
    return {key: pytest.approx(value, abs=1e-6) for key, value in floats(collection.compute()).items()}


def count_shard(rank, folder, shards):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        values = {}
        for name, (start, stop) in shards[rank].items():
            collection = metrics()
            for row in ROWS[start:stop]:
                collection.update(*torch.tensor([row]).unbind(1))
            if start == stop:
                collection.update(*torch.zeros(3, 0, dtype=torch.long))
            values[name] = floats(collection.compute())
        synced = metrics(dist_sync_on_step=True)
        values["steps"] = [floats(synced(*torch.tensor(ROWS[step]).unbind(1))) for step in STEPS[rank]]
        values["after steps"] = floats(synced.compute())
        Path(folder, f"{rank}.json").write_text(json.dumps(values))
    finally:
        dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_count_as_one_whatever_their_shards(tmp_path):
    shards = [
        {"odd": (0, 4), "one idle": (0, 7), "lopsided": (0, 1)},
        {"odd": (4, 7), "one idle": (7, 7), "lopsided": (1, 7)},
    ]
    workers = mp.start_processes(count_shard, args=(str(tmp_path), shards), nprocs=2, join=False)
    try:
        while not workers.join(timeout=30):  # false when one process is done before the other
            pass
    finally:
        for process in workers.processes:
            process.kill()
    for rank in range(2):
        values = json.loads((tmp_path / f"{rank}.json").read_text())
        assert values.pop("steps") == [alone(ROWS[one] + ROWS[other]) for one, other in zip(*STEPS, strict=True)]
        assert values == dict.fromkeys([*shards[0], "after steps"], alone(ROWS))

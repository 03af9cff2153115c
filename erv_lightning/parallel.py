"""FSDP2 as visible code: which modules are sharded, in which order, when they are gathered. Knows no stage and no loss.

Every unit is gathered before its forward and freed after it. What belongs to no unit (embeddings, the head, the last
norm) is the root's, which stays gathered from its first forward to the end of the backward pass: calls such as the
head's, which come as often as a process has chunks of tokens, must not talk to other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


class FSDP2Strategy(ModelParallelStrategy):
    """Data-parallel FSDP2 over all processes: weights, gradients and optimiser states are shared out among them.

    Lightning's own defaults share them out among nodes only, and split every layer within a node.

    Args:
        cpu_offload: keep the shards in the host's memory; each unit travels to the device when it is computed.
        save_distributed_checkpoint: every process writes its part, into a folder. Otherwise one file, which any number
            of processes can go on from, is put together by the first one.
        timeout_minutes: how long a process waits for the others before it gives up.
    """

    def __init__(
        self, cpu_offload: bool = False, save_distributed_checkpoint: bool = False, timeout_minutes: float = 30
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.cpu_offload = cpu_offload

    def setup_environment(self) -> None:
        """All processes make one group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def model_to_device(self) -> None:
        """Everything, or with `cpu_offload` what is no parameter."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self.root_device)


def shard(
    root: nn.Module,
    units: Sequence[nn.Module | list[nn.Module]],
    methods: Sequence[str],
    mesh: DeviceMesh,
    cpu_offload: bool = False,
) -> None:
    """Shards a model in place.

    Args:
        root: the model; its methods named in `methods` are its ways in, beside `forward`.
        units: what is gathered together, inner ones before the ones around them. A list is one unit.
        methods: names of root's methods that run modules.
        mesh: the processes.
        cpu_offload: keep the shards in the host's memory.
    """
    options: dict[str, Any] = {"mesh": mesh}
    if cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy()
    for unit in units:
        fully_shard(unit, **options)
    fully_shard(root, reshard_after_forward=False, **options)
    for name in methods:
        register_fsdp_forward_method(root, name)


def offloads(strategy: Strategy) -> bool:
    """Whether a strategy keeps the shards in the host's memory."""
    return isinstance(strategy, FSDP2Strategy) and strategy.cpu_offload


def sharded_units(module: nn.Module) -> list[FSDPModule]:
    """The sharded modules below a module, the module itself first if it is one."""
    return [one for one in module.modules() if isinstance(one, FSDPModule)]


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, all weights below a module are there: gathered once, however often they are used. No gradients inside.

    For rollouts, where processes take unequal numbers of steps. Does nothing for a model that is not sharded.
    """
    units = sharded_units(module)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for place, unit in enumerate(units):
            unit.reshard()
            unit.set_reshard_after_forward(place > 0, recurse=False)  # the root's stay, see above


def release(module: nn.Module) -> None:
    """Frees what is gathered, so that the parameters are the shards: before they are read or written."""
    for unit in sharded_units(module):
        unit.reshard()


def whole(value: Tensor) -> Tensor:
    """A sharded tensor put together, on every process; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor shared out as another one is."""
    if not isinstance(pattern, DTensor):
        return value
    return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: the modules of its longest list."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def trains(modules: Iterable[nn.Module]) -> bool:
    """Whether any parameter of the modules gets a gradient."""
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())

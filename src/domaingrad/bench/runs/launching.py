"""Where a training computes: the devices, and the processes on them, by Lightning Fabric."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from domaingrad.bench.domains import DataError
from domaingrad.bench.methods import Method

from .meeting import end_with_first, expect_others, meet
from .ranks import Ranks
from .settings import TrainConfig

T = TypeVar("T")

BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""What each node's environment says where no launcher does: the first node, and which one it is."""


class PlainCPU:
    """The CPU in one process: all that Fabric would say of it, without importing it."""

    device = torch.device("cpu")


def processes_of(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Processes on a node, and nodes: as given, as ``torchrun`` has it, or one.

    Raises:
        DataError: fewer than one, or another number than torchrun has started.
    """
    started = (1, 1)
    by_torchrun = dist.is_available() and dist.is_torchelastic_launched()
    if by_torchrun:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        started = (local, int(os.environ["WORLD_SIZE"]) // local)
    found = (devices or started[0], nodes or started[1])
    for name, given in (("devices", devices), ("nodes", nodes)):
        if given is not None and given < 1:
            raise DataError(f"{name} must be at least 1; found {given}.")
    if by_torchrun and found != started:
        raise DataError(
            f"torchrun has started {started[0]} processes on {started[1]} nodes; found devices "
            f"{found[0]} and nodes {found[1]}. Leave both out: torchrun says it."
        )
    return found


def alone_on(config: TrainConfig) -> Any:
    """Where one process computes: what is asked of :func:`fabric_of`.

    Raises:
        DataError: as there.
    """
    if config.precision != "16-mixed" and _is_cpu(config.accelerator):
        return PlainCPU()
    return fabric_of(config)


def _is_cpu(accelerator: str) -> bool:
    """Whether Fabric would take the CPU."""
    if accelerator == "auto":
        return not torch.accelerator.is_available() and find_spec("torch_xla") is None
    return accelerator == "cpu"


def fabric_of(config: TrainConfig, devices: int = 1, nodes: int = 1) -> Any:
    """Lightning Fabric, which knows devices and processes.

    Raises:
        DataError: a device that is not there or cannot compute in fp16, or nodes that know nothing
            of each other.
    """
    if config.precision == "16-mixed" and _fabric(config).device.type == "cpu":
        raise DataError("16-mixed needs a GPU, and there is none; use bf16-mixed or 32.")
    if devices * nodes == 1:
        return _fabric(config)
    fabric = _fabric(config, devices=devices, num_nodes=nodes, strategy=_strategy())
    lacking = [name for name in BY_HAND if name not in os.environ]
    if nodes > 1 and lacking and _environment(fabric) == "LightningEnvironment":
        raise DataError(
            f"{nodes} nodes need {', '.join(lacking)} in the environment of each node's command "
            f"(the first node's address, a free port of it, and the node's number from 0); or "
            f"start it by torchrun, which sets them."
        )
    return fabric


def require_among_processes(method: Method) -> None:
    """See that a method knows what to do among several processes.

    Raises:
        DataError: it does not.
    """
    if method.requires.sharding is None:
        raise DataError(
            f"{method.info.title} works in one process only, for it looks at all samples of a "
            f"step; use one device and node (and no torchrun), or use another method."
        )


def joined(fabric: Any, prepare: Callable[[], T]) -> tuple[Ranks, T]:
    """Start the other processes and meet them; each prepares for itself.

    The process that starts the others prepares first, so that what is wrong is told before they
    are there. Where something else has started all of them, they meet even if preparing fails,
    so that each different error is told once.

    Raises:
        Exception: what preparing raised here.
        FailedElsewhereError: what it raised on another process.
    """
    ready, failed = None, None
    try:
        ready = prepare()
    except Exception as error:
        if not fabric.strategy.cluster_environment.creates_processes_externally:
            raise
        failed = error
    # It says at length that processes are there.
    logging.getLogger("lightning_fabric.utilities").setLevel(logging.WARNING)
    if not dist.is_initialized():
        atexit.register(_part)
        environment = fabric.strategy.cluster_environment
        if not environment.creates_processes_externally and fabric.strategy.num_nodes == 1:
            expect_others()
    end_with_first()
    fabric.launch()
    ranks = Ranks(lambda: fabric, fabric.global_rank, fabric.world_size)
    ranks.require_none_failed(failed)
    assert ready is not None
    return ranks, ready


def _part() -> None:
    """End the threads of gloo while Python is whole; later they may abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _strategy() -> Any:
    """DistributedDataParallel, by which processes of one machine meet as :mod:`.meeting` says."""
    from lightning_fabric.strategies.ddp import DDPStrategy  # noqa: PLC0415 - takes seconds

    class Meeting(DDPStrategy):
        def setup_environment(self) -> None:
            """Meet first, since Lightning would listen to every network."""
            if self.root_device.type == "cuda":
                torch.cuda.set_device(self.root_device)
            meet(self)
            super().setup_environment()

    return Meeting()


def is_first(fabric: Any) -> bool:
    """Whether this process will be the first of all."""
    environment = fabric.strategy.cluster_environment
    return not (environment.local_rank() or environment.node_rank())


def _environment(fabric: Any) -> str:
    return type(fabric.strategy.cluster_environment).__name__


def _fabric(config: TrainConfig, **options: Any) -> Any:
    from lightning_fabric import Fabric  # noqa: PLC0415 - takes seconds to import
    from lightning_fabric.utilities.exceptions import (  # noqa: PLC0415
        MisconfigurationException,
    )

    try:
        return Fabric(accelerator=config.accelerator, **({"devices": 1} | options))
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise DataError(f"the accelerator {config.accelerator} cannot be used: {error}") from error

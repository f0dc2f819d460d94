"""Where the processes of one machine meet: in a private folder, and end with the first of them."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import torch.distributed as dist

FIRST, MEET = "DOMAINGRAD_FIRST", "DOMAINGRAD_MEET"
"""In the environment of those that the first process starts: its number, and where all meet."""
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
"""Name of the interface that no other machine reaches."""
POLL, GRACE, PATIENCE = 0.2, 3.0, timedelta(minutes=30)
"""Seconds between two looks at the first process, and in which a process may end by itself."""


def expect_others() -> None:
    """Say where to meet, to the processes that this one is about to start on this machine."""
    place = tempfile.mkdtemp(prefix="domaingrad-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    os.environ |= {FIRST: str(os.getpid()), MEET: place}
    if interface := LOOPBACK.get(sys.platform):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def end_with_first() -> None:
    """End this process soon after the one that has started it, whatever it is doing.

    Nothing happens where another process than one of ours has started it.
    """
    first = os.environ.get(FIRST)
    if first is None or first == str(os.getpid()):
        return

    def watch() -> None:
        while str(os.getppid()) == first:
            time.sleep(POLL)
        time.sleep(GRACE)
        shutil.rmtree(os.environ.get(MEET, ""), ignore_errors=True)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def meet(strategy: Any) -> None:
    """Meet the other processes of this machine, if one of them has said where.

    By files in a folder that no other user may look into: nothing listens to the network but, on
    loopback, what carries the gradients.

    Args:
        strategy: Lightning's, once it knows its processes.
    """
    place = os.environ.get(MEET)
    near = os.environ.get(FIRST) in (str(os.getpid()), str(os.getppid()))
    if place is None or not near or dist.is_initialized():
        return
    rank, world = strategy.local_rank, strategy.num_processes
    (Path(place) / f"here-{rank}").touch()
    while len(list(Path(place).glob("here-*"))) < world:  # in Python, so that signals are heard
        time.sleep(POLL / 4)
    device = strategy.root_device
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(str(Path(place) / "store"), world),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )

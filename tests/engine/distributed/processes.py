"""Run a function in several processes that talk by gloo, and get what each returns."""

import pickle
import traceback
from pathlib import Path

import torch
import torch.distributed as dist


def _run(rank: int, world: int, directory: str, function, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world
    )
    try:
        result = function(rank, world, *arguments)
    except BaseException:
        result = traceback.format_exc()
        Path(directory, f"failed-{rank}").write_text(result)
        raise
    with Path(directory, f"result-{rank}").open("wb") as file:
        pickle.dump(result, file)
    dist.barrier()
    dist.destroy_process_group()


def in_processes(function, world: int, directory: Path, *arguments) -> list:
    """What ``function(rank, world, *arguments)`` returns, by rank."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(_run, (world, str(directory), function, arguments), nprocs=world)
    return results_in(directory, world)


def results_in(directory: Path, world: int) -> list:
    """What was returned there, by rank."""
    results = []
    for rank in range(world):
        with Path(directory, f"result-{rank}").open("rb") as file:
            results.append(pickle.load(file))
    return results

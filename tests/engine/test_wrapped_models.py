"""Models that torch wraps: compiled, and distributed over two processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import domaingrad as dg

from .separate_passes import WAYS, Way

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 1, 0] * 3)
DOMAIN = torch.tensor([0, 1, 2] * 4)


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def mean_of_separate_passes() -> list[Tensor]:
    model = build()
    gradients = [
        torch.autograd.grad(
            F.cross_entropy(model(X[e == DOMAIN]), Y[e == DOMAIN]), list(model.parameters())
        )
        for e in range(3)
    ]
    return [torch.stack(separate).mean(0) for separate in zip(*gradients, strict=True)]


def step(model: nn.Module, way: Way, rows: slice = slice(None)) -> None:
    x, y, domain = X[rows], Y[rows], DOMAIN[rows]
    agree = dg.GradientAgreement(
        model, dg.Mean(), engine="streaming" if way == "mixed batch" else "auto"
    )
    if way != "domain by domain":
        agree.backward(F.cross_entropy(agree(x, domain), y, reduction="none"))
    else:
        for e in range(3):
            with agree.domain(e):
                F.cross_entropy(model(x[domain == e]), y[domain == e]).backward()
        agree.combine()


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model(way: Way) -> None:
    model = build()
    # aot_eager traces forward and backward as inductor does, without its seconds in the compiler.
    step(torch.compile(model, backend="aot_eager"), way)
    for parameter, expected in zip(model.parameters(), mean_of_separate_passes(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)


def one_of_two_processes(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2
    )
    for way in WAYS:
        model = build()
        wrapped = DistributedDataParallel(model)
        try:
            step(wrapped, way, slice(0, 6) if rank == 0 else slice(6, 12))
            result = "equal"
            for parameter, expected in zip(
                model.parameters(), mean_of_separate_passes(), strict=True
            ):
                if not torch.allclose(parameter.grad, expected, rtol=1e-6):
                    result = "silently another update"
        except (NotImplementedError, TypeError, ValueError, dg.AgreementError) as error:
            result = f"refused: {error}"
        Path(directory, f"{way}, process {rank}").write_text(result, encoding="utf-8")
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_two_processes, (str(directory),), nprocs=2)
    return directory


@pytest.mark.parametrize("way", WAYS)
def test_a_data_parallel_model_is_right_in_every_way(
    way: Way, results_of_two_processes: Path
) -> None:
    """Domain by domain, DDP averages, which is right since both hold as many samples of each."""
    for rank in range(2):
        result = (results_of_two_processes / f"{way}, process {rank}").read_text(encoding="utf-8")
        assert result == "equal"

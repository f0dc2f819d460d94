"""What the loops of other libraries are compared with: separate passes and a literal rule."""

import torch
from torch import nn
from torch.nn import functional as F

from ..reference import rules as reference

TAU, RATE, MOMENTUM = 0.6, 0.3, 0.9
BATCHES = 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(index: int):
    """Fifteen samples of three domains of uneven size."""
    generator = torch.Generator().manual_seed(index)
    domain = torch.tensor([0] * 4 + [1] * 8 + [2] * 3)
    shift = torch.randn(3, 6, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = torch.randn(len(domain), 6, generator=generator, dtype=torch.float64) + shift[domain]
    return x, torch.randint(3, (len(domain),), generator=generator), domain


def share(index: int, rank: int = 0, world: int = 1):
    """This process's part of a batch; of two, the first has the first domain, the second the last.

    So that averaging over processes, as they do by themselves, mixes domains.
    """
    return tuple(part.tensor_split(world)[rank] for part in batch(index))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def expected(at_once: int = 1, clip: float | None = None) -> torch.Tensor:
    """All parameters after the batches, ``at_once`` of them a step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    for first in range(0, BATCHES, at_once):
        parts = [batch(index) for index in range(first, min(first + at_once, BATCHES))]
        x, y, domain = (torch.cat(part) for part in zip(*parts, strict=True))
        gradients = []
        for e in range(3):
            loss = F.cross_entropy(model(x[domain == e]), y[domain == e])
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        for parameter, *own in zip(model.parameters(), *gradients, strict=True):
            stack = torch.stack([g.flatten() for g in own]).numpy()
            parameter.grad = torch.from_numpy(reference.and_mask(stack, TAU)).view_as(parameter)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return flat(model)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-9) -> None:
    assert ((found - wanted).norm() / wanted.norm()).item() < tolerance


def assert_takes_the_steps(found: torch.Tensor, case: str, wanted: dict) -> None:
    """Those of separate passes; in bfloat16, to its rounding."""
    assert_close(found, expected(**wanted), 3e-2 if case == "bf16" else 1e-9)


def assert_all_take_the_steps(results: list, case: str, wanted: dict) -> None:
    """On every process, and the same bits."""
    for result in results:
        assert_takes_the_steps(result[case], case, wanted)
        assert torch.equal(result[case], results[0][case])

"""Federated rounds in which a site gives away nothing but sums over its domains' gradients.

An element-wise rule is a function of Σ g, Σ sign(g), Σ g² over domains, so a server that has their
sums over sites takes the step that one process would with the data of all. Plain functions of
tensors and NumPy arrays, for Flower (``fit`` returns ``to_arrays(site_sums(…))``) or any other
transport. As the server needs the sums of all sites alone, secure aggregation may hide what each
one sends; without it a site with one domain shows that domain's gradient. Statistics of BatchNorm
do not leave a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from domaingrad.engine.blocks import Block, Part, Runner
from domaingrad.rules import Rule
from domaingrad.rules.authoring import ElementwiseRule, Statistics
from domaingrad.rules.statistics import LOG_FLOOR, Statistic, accumulation_dtype

NAMES: tuple[Statistic, ...] = ("mean", "m2", "sign_sum", "active", "log_sum")
"""Statistics of rules, in the order in which arrays have the sums that they need."""


@dataclass(frozen=True)
class SiteSums:
    """Sums over domains: of one site, or of all once they are added."""

    domains: int
    """Over how many."""
    sums: Mapping[Statistic, Mapping[str, Tensor]]
    """In float64, by the statistic that needs them and by parameter: Σ g for ``mean``, Σ g² for
    ``m2`` (whose own Σ (g − mean)² cannot be added), Σ sign(g), Σ [g ≠ 0], Σ log(|g| + 1e-10)."""


def site_sums(model: nn.Module, losses: Iterable[Tensor], rule: Rule) -> SiteSums:
    """What a site sends: the sums that a rule needs of the gradients of the site's domains.

    ``.grad`` is left alone. Memory does not grow with the number of domains, where ``losses`` is a
    generator.

    Args:
        model: with the weights of this round; what is trained of it.
        losses: the mean loss of each domain that the site has, a scalar with its graph.
        rule: an element-wise one.

    Raises:
        ValueError: a rule that needs more than sums; no loss.

    >>> from domaingrad.rules import ANDMask
    >>> model, rule = nn.Linear(2, 1, bias=False), ANDMask(rescale=False)
    >>> here = site_sums(model, [model(torch.tensor([[1.0, 2.0]])).sum()], rule)
    >>> there = site_sums(model, [model(torch.tensor([[3.0, -2.0]])).sum()], rule)
    >>> combine(model, added([here, there]), rule)
    >>> model.weight.grad
    tensor([[2., 0.]])
    """
    needed = _needed(rule)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total: SiteSums | None = None
    for loss in losses:
        found = torch.autograd.grad(
            loss, list(trained.values()), retain_graph=True, materialize_grads=True
        )
        gradients = {name: g.double() for name, g in zip(trained, found, strict=True)}
        own = {
            statistic: {name: _term(statistic, g) for name, g in gradients.items()}
            for statistic in needed
        }
        one = SiteSums(1, own)
        total = one if total is None else added([total, one])
    if total is None:
        raise ValueError(
            "a site sends sums over its domains and needs the loss of one at least; found none. "
            "Leave the site out of this round."
        )
    return total


def added(sites: Iterable[SiteSums]) -> SiteSums:
    """The sums of all sites.

    Raises:
        ValueError: no site; sites whose models or rules differ.
    """
    found = list(sites)
    if not found:
        raise ValueError("a round needs the sums of one site at least; found none.")
    for each in found[1:]:
        if _shapes(each) != _shapes(found[0]):
            raise ValueError(
                f"sites have to send the same sums of the same parameters; found "
                f"{_told(found[0])} from one and {_told(each)} from another. Give all the same "
                f"model and rule."
            )
    return reduce(_plus, found)


def combine(model: nn.Module, total: SiteSums, rule: Rule) -> None:
    """Leave in ``.grad`` the update of all sites together, as one process would.

    Args:
        model: with the weights of this round.
        total: the sums of all sites.
        rule: the one for which they were made; a random one draws here.

    Raises:
        ValueError: a rule that needs more than sums, or more domains; sums of another rule.
    """
    needed, count = _needed(rule), total.domains
    rule.require_domains(count, " over all sites")
    if missing := [name for name in needed if name not in total.sums]:
        raise ValueError(
            f"{rule} needs sums for {', '.join(needed)}; {', '.join(missing)} is missing in those "
            f"of the sites. Give site_sums the same rule."
        )
    parameters = dict(model.named_parameters())
    trained = [parameters[name] for name in total.sums["mean"]]
    runner, blocks = Runner(rule, None, None, "eager"), []
    for index, (name, p) in enumerate(zip(total.sums["mean"], trained, strict=True)):
        found = {s: _statistic(s, name, total).to(_like(p)).flatten() for s in needed}
        blocks.append(Block([Part(index, p.numel())]))
        runner.take_statistics(blocks[-1], Statistics(count, found))
    runner.finish()
    for block in blocks:
        for index, update in block:
            trained[index].grad = update.to(trained[index]).view_as(trained[index])


def to_arrays(sums: SiteSums) -> list[NDArray[np.float64]]:
    """Sums as arrays, to be sent: the number of domains, then tensor after tensor."""
    tensors = [t for name in NAMES if name in sums.sums for t in sums.sums[name].values()]
    return [np.array(float(sums.domains)), *(t.cpu().numpy() for t in tensors)]


def from_arrays(arrays: Sequence[NDArray[np.float64]], model: nn.Module, rule: Rule) -> SiteSums:
    """Back from what :func:`to_arrays` gave, by the names of the model's parameters.

    Raises:
        ValueError: another number of arrays than model and rule have sums.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    needed = _needed(rule)
    if len(arrays) != 1 + len(names) * len(needed):
        raise ValueError(
            f"expected {1 + len(names) * len(needed)} arrays, the number of domains and "
            f"{len(needed)} sums of {len(names)} parameters; found {len(arrays)}. Give server and "
            f"sites the same model and rule."
        )
    rest = iter(arrays[1:])
    sums = {s: {name: torch.from_numpy(np.array(next(rest))) for name in names} for s in needed}
    return SiteSums(int(arrays[0]), sums)


def _needed(rule: Rule) -> list[Statistic]:
    """In order; Σ g always."""
    if not isinstance(rule, ElementwiseRule):
        raise ValueError(
            f"{rule} needs products of the domains' gradients, which no site can sum up alone; use "
            f"an element-wise rule: ANDMask, SANDMask, AgrSum, AgrRand or Mean."
        )
    return [name for name in NAMES if name in rule.statistics or name == "mean"]


def _term(statistic: Statistic, gradient: Tensor) -> Tensor:
    match statistic:
        case "mean":
            return gradient
        case "m2":
            return gradient.square()
        case "sign_sum":
            return gradient.sign()
        case "active":
            return gradient.sign().abs()
        case "log_sum":
            return (gradient.abs() + LOG_FLOOR).log()


def _statistic(statistic: Statistic, name: str, total: SiteSums) -> Tensor:
    """As rules have it; in float64 the difference of sums is as good as centred in float32."""
    value, count = total.sums[statistic][name], total.domains
    match statistic:
        case "mean":
            return value / count
        case "m2":
            return (value - total.sums["mean"][name].square() / count).clamp(min=0)
        case _:
            return value


def _like(parameter: Tensor) -> Tensor:
    """Of the dtype in which one process sums a parameter's gradients, and of its device."""
    dtype = accumulation_dtype(parameter.dtype)
    return torch.empty(0, dtype=dtype, device=parameter.device)


def _plus(one: SiteSums, other: SiteSums) -> SiteSums:
    sums = {
        statistic: {name: t + other.sums[statistic][name] for name, t in own.items()}
        for statistic, own in one.sums.items()
    }
    return SiteSums(one.domains + other.domains, sums)


def _shapes(sums: SiteSums) -> dict[Statistic, dict[str, torch.Size]]:
    return {s: {name: t.shape for name, t in own.items()} for s, own in sums.sums.items()}


def _told(sums: SiteSums) -> str:
    return f"{', '.join(sums.sums)} of {', '.join(sums.sums['mean'])}"

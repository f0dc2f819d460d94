"""Where the gradients of the domains conflict: cosines and signs, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from domaingrad.engine.gradients import UnitGradients
from domaingrad.engine.inventory import Inventory, preserved
from domaingrad.engine.visiting import visit_units
from domaingrad.rules.statistics import accumulation_dtype


@dataclass(frozen=True)
class Relation:
    """How K gradients relate over some components."""

    gram: Tensor
    """⟨g_i, g_j⟩, shape [K, K], float64."""
    agreeing: int
    """Components on whose sign all K agree; a zero in any is disagreement."""
    components: int

    @property
    def cosines(self) -> Tensor:
        """cos(g_i, g_j), shape [K, K]; NaN where a gradient is zero."""
        lengths = self.gram.diagonal().sqrt()
        return self.gram / (lengths[:, None] * lengths[None, :])

    @property
    def mean_cosine(self) -> float:
        """Mean over the pairs i < j of gradients that are not zero; NaN without any."""
        rows, columns = torch.triu_indices(len(self.gram), len(self.gram), 1)
        return self.cosines[rows, columns].nanmean().item()

    @property
    def agreement(self) -> float:
        """Share of components on whose sign all agree."""
        return self.agreeing / self.components


@dataclass(frozen=True)
class Conflict(Relation):
    """How the domains' gradients relate, over the whole model and in each layer."""

    domains: tuple[int, ...]
    """Labels of the domains, in the order of rows and columns."""
    layers: Mapping[str, Relation]
    """By the name of the module that owns the parameters."""

    def table(self) -> str:
        """Mean cosine and agreement, a line a layer."""
        rows = [("model", self), *self.layers.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'layer':{width}}  mean cosine  agreement  components"]
        lines += [
            f"{name:{width}}  {of.mean_cosine:11.3f}  {100 * of.agreement:7.1f} %  "
            f"{of.components:10d}"
            for name, of in rows
        ]
        return "\n".join(lines)


def conflict(
    model: nn.Module, inputs: Any, loss_fn: Callable[[Any], Tensor], domain: Tensor, **options: Any
) -> Conflict:
    """Cosines between the domains' gradients, and the share of components agreeing in sign.

    cos(g_i, g_j) for every pair of domains and (1/P) Σ_p 1[ |Σ_e sign(g_{e,p})| = K ], which
    Mansilla et al. (arXiv 2108.01621) follow through training; g_e is the gradient of domain e's
    mean loss. Per layer is ours. One forward and one backward pass where the model allows. The
    model's ``.grad``, buffers and PyTorch's global random state are left as they were.

    Args:
        model: the model.
        inputs: as it takes them (a tuple is positional, a dict keyword arguments), every tensor
            with the N samples along its first dimension.
        loss_fn: from the model's outputs to the loss of each sample, [N].
        domain: integer tensor of shape [N].
        **options: passed to the model as they are.

    Raises:
        TypeError, ValueError: ``domain`` is no such tensor or names one domain only, losses that
            are not one a sample, a model with nothing to train.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    >>> found = conflict(model, x, lambda out: out[:, 0], torch.tensor([0, 1]))
    >>> found.cosines[0, 1].item(), found.agreement
    (0.0, 0.5)
    """
    labels = torch.unique(domain) if isinstance(domain, Tensor) else domain
    if isinstance(labels, Tensor) and len(labels) < 2:
        raise ValueError(
            f"a conflict is between domains, so the batch must hold at least two; found "
            f"{labels.tolist()}."
        )
    inventory = Inventory(model)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), preserved(inventory):
        pairs = visit_units(model, inputs, loss_fn, options, domain, _Pairs, of_samples=False)
    owners = {
        id(parameter): name.rpartition(".")[0] or name
        for name, parameter in model.named_parameters()
    }
    count = len(labels)
    layers: dict[str, Relation] = {}
    for parameter, found in zip(
        inventory.trained, pairs.relations(inventory.trained, count), strict=True
    ):
        owner = owners[id(parameter)]
        layers[owner] = _joined([layers[owner], found]) if owner in layers else found
    whole = _joined(list(layers.values()))
    return Conflict(whole.gram, whole.agreeing, whole.components, tuple(labels.tolist()), layers)


class ConflictWatch:
    """Looks at the conflict every so many batches of anyone's loop.

    >>> model = nn.Linear(3, 2)
    >>> watch = ConflictWatch(model, every=2)
    >>> for step in range(4):
    ...     x, y, domain = torch.randn(8, 3), torch.arange(8) % 2, torch.arange(8) // 4
    ...     watch(x, lambda out: nn.functional.cross_entropy(out, y, reduction="none"), domain)
    >>> list(watch.found)
    [1, 3]

    Args:
        model: the model that is trained.
        every: batches from one look to the next; the first batch is looked at.

    Raises:
        ValueError: ``every`` below 1.
    """

    def __init__(self, model: nn.Module, every: int = 50) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1; found {every}.")
        self.found: dict[int, Conflict] = {}
        """What was seen, by the number of the batch, counted from 1."""
        self._model = model
        self._every = every
        self._batches = 0

    def __call__(
        self, inputs: Any, loss_fn: Callable[[Any], Tensor], domain: Tensor, **options: Any
    ) -> None:
        """Count a batch, and look if it is time; arguments as for :func:`conflict`."""
        if self._batches % self._every == 0:
            self.found[self._batches + 1] = conflict(
                self._model, inputs, loss_fn, domain, **options
            )
        self._batches += 1

    def rows(self) -> list[dict[str, Any]]:
        """A row a look and layer, for a data frame: batch, layer, mean cosine, agreement."""
        return [
            {
                "batch": batch,
                "layer": layer,
                "mean_cosine": relation.mean_cosine,
                "agreement": relation.agreement,
                "components": relation.components,
            }
            for batch, seen in self.found.items()
            for layer, relation in {"model": seen, **seen.layers}.items()
        ]


class _Pairs:
    """Receives the domains' gradients of each parameter, and keeps their products."""

    in_graph = None

    def __init__(self, count: int) -> None:
        self._count = count
        self._products: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: dict[int, dict[int, Tensor]] = {}

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """All domains' gradients of one parameter."""
        self._products[index] = _products(gradients.tensor().flatten(1))

    def add(self, index: int, unit: int, gradient: Tensor) -> None:
        """One domain's gradient."""
        self._rows.setdefault(index, {})[unit] = gradient.detach().flatten().clone()

    def finish(self) -> dict[int, Tensor]:
        """Nothing waits."""
        return {}

    def relations(self, parameters: Sequence[nn.Parameter], count: int) -> list[Relation]:
        """Of each parameter; a domain that does not use it has a zero gradient there."""
        for index, rows in self._rows.items():
            zero = torch.zeros_like(next(iter(rows.values())))
            stacked = torch.stack([rows.get(unit, zero) for unit in range(count)])
            self._products[index] = _products(stacked)
        unused = torch.zeros(count, count, dtype=torch.float64), torch.zeros((), dtype=torch.long)
        found = [self._products.get(index, unused) for index in range(len(parameters))]
        # All in one copy each, since every copy to the host waits for the device.
        device = next(iter(self._products.values()), unused)[0].device
        grams = torch.stack([gram.to(device) for gram, _ in found]).cpu()
        agreeing = torch.stack([number.to(device) for _, number in found]).tolist()
        return [
            Relation(gram, number, parameter.numel())
            for gram, number, parameter in zip(grams, agreeing, parameters, strict=True)
        ]


def _products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The products of the gradients, [K, K], and the number of components that agree in sign."""
    rows = rows.to(accumulation_dtype(rows.dtype))
    agreeing = (rows.sign().sum(0).abs() == len(rows)).sum()
    return (rows @ rows.T).double(), agreeing


def _joined(relations: list[Relation]) -> Relation:
    return Relation(
        gram=torch.stack([relation.gram for relation in relations]).sum(0),
        agreeing=sum(relation.agreeing for relation in relations),
        components=sum(relation.components for relation in relations),
    )

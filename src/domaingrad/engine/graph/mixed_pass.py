"""A mixed batch between a captured graph and the losses, and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..batch import Batch, Order
from ..errors import (
    FOREIGN_BACKWARD,
    MIXED_LOSSES,
    UNREACHED,
    AgreementError,
    UnsupportedModelError,
)
from ..gradients import Given, Stacked, UnitGradients
from ..inventory import Inventory
from ..writing import write
from .capture import CapturedGraph, Pass, RuleInGraph


class Receiver(Protocol):
    """What is done with the units' gradients of each parameter."""

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, where a compiled graph may apply it."""

    def receive(self, index: int, gradients: UnitGradients) -> None:
        """Take the gradients of one parameter."""

    def finish(self) -> dict[int, Tensor]:
        """At the end of the pass: what is added to ``.grad``, by index."""


class MixedPass:
    """A mixed batch on its way through the model, and back.

    Autograd sees the outputs as they come out of the graph: the losses reach back to them, and from
    there the graph's own backward pass goes on.

    Args:
        model: the model.
        batch: which samples belong to which domain.
        order: how they were put for the model.
        current: what the captured graph asks while it runs.
        graph: the graph, which was just passed.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, order: Order, current: Pass, graph: CapturedGraph
    ) -> None:
        assert graph.passed is not None
        self.batch = batch
        self._model = model
        self._order = order
        self._current = current
        self._graph = graph
        self._program, self._passed = graph.passed
        self._walking = False
        self._cuts: dict[int, Tensor] = {}
        self._looked_at: tuple[Tensor, list[Tensor], Hashable] | None = None

    def parameters_behind(self, losses: Tensor) -> list[nn.Parameter]:
        """The parameters that losses may depend on, in the model's order."""
        leaves, _ = self._look_at(losses)
        if leaves:
            return Inventory(self._model).trained
        arguments = self._passed.arguments
        return [arguments[index] for index in self._graph.trained or ()]

    def _look_at(self, losses: Tensor) -> tuple[list[Tensor], Hashable]:
        """What losses depend on, not by way of the outputs, and of what calls they are made."""
        if self._looked_at is None or self._looked_at[0] is not losses:
            leaves, kind = _behind(losses)
            cuts = {id(cut) for cut in self._cuts.values()}
            self._looked_at = losses, [v for v in leaves if id(v) not in cuts], kind
        return self._looked_at[1:]

    @property
    def has_graph(self) -> bool:
        """Whether anything can be walked backward."""
        return bool(self._cuts)

    def output(self, tensor: Tensor) -> Tensor:
        """An output of the model, in the order of the batch."""
        if tensor.ndim == 0 or len(tensor) != self.batch.size:
            raise UnsupportedModelError(f"an output has shape {list(tensor.shape)}")
        found, place = self._graph.found, self._graph.place_of(tensor)
        cut = tensor.detach() if place not in self._cuts else self._cuts[place]
        if place is not None and place in found.differentiable and place not in self._cuts:
            if place not in found.of_samples:
                raise UnsupportedModelError(
                    f"an output of shape {list(tensor.shape)} does not hold the samples"
                )
            cut.requires_grad_().register_hook(self._require_own_walk)  # type: ignore[no-untyped-call]
            self._cuts[place] = cut
        return self._order.undone(cut)

    def backward(
        self, losses: Tensor, receiver: Receiver, parameters: Sequence[nn.Parameter]
    ) -> None:
        """Walk back from the sum over domains of their mean losses.

        Args:
            losses: one a sample.
            receiver: what is done with the gradients.
            parameters: those that the receiver knows by their place here, no less than
                :meth:`parameters_behind` the losses.

        Raises:
            AgreementError: the losses mix domains or do not depend on the outputs.
        """
        route = _Route(parameters, receiver)
        self._walking = True
        try:
            leaves, kind = self._look_at(losses)
            direct = route.among(leaves)
            if direct or kind not in self._graph.losses:
                gradients = self._domain_by_domain(losses, direct, route)
                self._graph.losses.add(kind)
            else:
                gradients = self._at_once(losses)
        finally:
            self._walking = False
        self._cuts, self._looked_at = {}, None
        places = self._graph.found.differentiable
        with self._current.walking(self._order.units, self._passed.arguments, route):
            self._program.backward(self._passed, [gradients.get(place) for place in places])
        route.finish()

    def _require_own_walk(self, gradient: Tensor) -> None:
        if not self._walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _at_once(self, losses: Tensor) -> dict[int, Tensor]:
        torch.autograd.backward(losses, self.batch.shares(losses))
        gradients = {p: cut.grad for p, cut in self._cuts.items() if cut.grad is not None}
        if not gradients:
            raise AgreementError(UNREACHED.format(domains=f"domains {self.batch.labels}"))
        return gradients

    def _domain_by_domain(
        self, losses: Tensor, direct: Sequence[nn.Parameter], route: _Route
    ) -> dict[int, Tensor]:
        """The same, with a look at each domain's share, and the parameters in the losses."""
        totals: dict[int, Tensor] = {}
        mixed = False
        for label, rows, own in zip(
            self.batch.labels, self.batch.rows, self._order.units.rows, strict=True
        ):
            loss = losses[rows.to(losses.device)].mean()
            with route.gradients_of_unit(direct):
                torch.autograd.backward(loss, retain_graph=label != self.batch.labels[-1])
            if all(cut.grad is None for cut in self._cuts.values()):
                raise AgreementError(UNREACHED.format(domains=f"domain {label}"))
            for place, cut in self._cuts.items():
                gradient, cut.grad = cut.grad, None
                if gradient is None:
                    continue
                total = totals.setdefault(place, torch.zeros_like(gradient))
                total[own] = gradient[own]
                gradient[own] = 0
                # NaN is no sign of mixing: 0 · inf in another sample's row makes one.
                mixed |= bool((gradient.nan_to_num_(0.0, 0.0, 0.0) != 0).any())
        if mixed:
            raise AgreementError(MIXED_LOSSES)
        return totals


class _Route:
    """The units' gradients on their way from the graph, and from the losses, to the receiver."""

    def __init__(self, parameters: Sequence[nn.Parameter], receiver: Receiver) -> None:
        self._parameters = parameters
        self._receiver = receiver
        self._index = {id(parameter): index for index, parameter in enumerate(parameters)}
        self._direct: dict[int, list[Tensor | None]] = {}
        self._stashed: dict[int, Tensor] = {}
        self._updates: dict[int, Tensor] = {}
        self._others: list[tuple[Tensor, Tensor]] = []

    def receive(self, parameter: Tensor, gradients: UnitGradients) -> None:
        """Hand on the units' gradients of a parameter; later if the losses use it, too."""
        index = self._index.get(id(parameter))
        if index is None:
            self._others.append((parameter, gradients.stack().sum(0)))
        elif index in self._direct:
            self._stashed[index] = gradients.stack()
        else:
            self._receiver.receive(index, gradients)

    @property
    def in_graph(self) -> RuleInGraph | None:
        """The rule, unless gradients come from elsewhere, too."""
        return None if self._direct else self._receiver.in_graph

    def agreed(self, parameter: Tensor, update: Tensor) -> None:
        """What a compiled graph made of all units' gradients of a parameter."""
        self._updates[self._index[id(parameter)]] = update

    def among(self, leaves: Sequence[Tensor]) -> list[nn.Parameter]:
        """Those leaves that are parameters."""
        places = [self._index[id(leaf)] for leaf in leaves if id(leaf) in self._index]
        return [self._parameters[place] for place in places]

    def gradients_of_unit(self, parameters: Sequence[nn.Parameter]) -> _Aside:
        """Take what autograd writes to these parameters as the gradients of the next unit."""
        return _Aside(parameters, self._keep)

    def _keep(self, parameter: nn.Parameter, gradient: Tensor | None) -> None:
        self._direct.setdefault(self._index[id(parameter)], []).append(gradient)

    def finish(self) -> None:
        """Hand on what had to wait, and write what comes of it."""
        for index, parts in self._direct.items():
            stack = Given(self._parameters[index], parts).stack()
            if index in self._stashed:
                stack = stack + self._stashed.pop(index)
            self._receiver.receive(index, Stacked(stack))
        for index, update in {**self._updates, **self._receiver.finish()}.items():
            write(self._parameters[index], update)
        if self._others:
            tensors, gradients = zip(*self._others, strict=True)
            torch.autograd.backward(tensors, gradients)


class _Aside:
    """``.grad`` is empty for the block; what is written there is shown, what was is put back."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        keep: Callable[[nn.Parameter, Tensor | None], None],
    ) -> None:
        self._parameters, self._keep = parameters, keep

    def __enter__(self) -> None:
        self._before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for parameter, before in zip(self._parameters, self._before, strict=True):
            if kind is None:
                self._keep(parameter, parameter.grad)
            parameter.grad = before


def _behind(losses: Tensor) -> tuple[list[Tensor], Hashable]:
    """The leaves that losses depend on, and of what calls they are made.

    Raises:
        AgreementError: part of the losses is in a re-entrant checkpoint.
    """
    found, seen, names = [], set(), set()
    nodes = [losses.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        names.add(name)
        if "CheckpointFunction" in name:
            raise AgreementError(
                "the losses are computed in a re-entrant checkpoint, behind which parameters "
                "cannot be seen; use checkpoint(..., use_reentrant=False) there, or none."
            )
        if (variable := getattr(node, "variable", None)) is not None:
            found.append(variable)
        nodes += [following for following, _ in node.next_functions]
    return found, frozenset(names)

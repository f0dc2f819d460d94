"""One forward and backward pass: which parameters were used where, and what came back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import FOREIGN_BACKWARD, AgreementError
from .gradients import Given, Stacked, UnitGradients
from .units import Units


class Receiver(Protocol):
    """What is done with the units' gradients of each parameter."""

    def receive(self, index: int, gradients: UnitGradients) -> Tensor | None:
        """Take the gradients of one parameter; what is returned becomes its ``.grad``."""

    def finish(self) -> dict[int, Tensor]:
        """At the end of the pass: gradients that could not be returned at once, by index."""


class Use:
    """One use of a shared tensor in the forward pass; it lives as long as its graph node."""

    __slots__ = ("__weakref__", "target")

    def __init__(self, target: int) -> None:
        self.target = target


class Session:
    """Collects the units' gradients of the shared tensors during one backward pass.

    A parameter that is used once gets its gradient from inside the layer's backward; one that is
    used several times, when the last use has come back. Tensors computed from parameters alone
    (a weight under a parametrisation, an expanded token) gather their units' gradients, which go on
    to the parameters at the end.

    Args:
        units: the units in the batch.
        parameters: what is trained.
        waits: of which parameters the update comes at the end of the pass; autograd does not see
            them before. All, unless told.
    """

    def __init__(
        self,
        units: Units,
        parameters: Sequence[nn.Parameter],
        waits: Callable[[Tensor], bool] = lambda _: True,
    ) -> None:
        self.units = units
        self._waits = waits
        self.walking = False
        self.inside = False
        self.anchor = torch.empty(0, requires_grad=True)
        self.parameters = parameters
        self._index = {id(parameter): index for index, parameter in enumerate(parameters)}
        self._receiver: Receiver | None = None
        self._pending: dict[int, WeakSet[Use]] = {}
        self._stashed: dict[int, Tensor] = {}
        self._late: set[int] = set()
        self._outside: dict[int, list[Tensor | None]] = {}
        self._derived: dict[int, Tensor] = {}
        self._updates: dict[int, Tensor | None] = {}

    def index(self, tensor: Tensor) -> int | None:
        """The index of a parameter."""
        return self._index.get(id(tensor))

    def use(self, tensor: Tensor, origins: Iterable[int]) -> tuple[Use, Tensor]:
        """Note a use of a shared tensor; what to hand to autograd in its place.

        Args:
            tensor: a parameter, or a tensor computed from parameters alone.
            origins: the indices of these parameters.
        """
        index = self.index(tensor)
        if index is None:
            self._derived[id(tensor)] = tensor
            self._late.update(origins)
            return Use(id(tensor)), tensor.detach()
        use = Use(index)
        self._pending.setdefault(index, WeakSet()).add(use)
        return use, tensor.detach() if self._waits(tensor) else tensor

    def used_without_graph(self, origins: Iterable[int]) -> None:
        """Note a use whose graph is built on the way back (a re-entrant checkpoint)."""
        self._late.update(origins)

    def contribute(self, use: Use, gradients: UnitGradients) -> Tensor | None:
        """Take what came back from one use; the parameter's gradient if that was the last."""
        target = use.target
        if target in self._derived:
            self._stash(target, gradients)
            return None
        pending = self._pending[target]
        pending.discard(use)
        if pending or target in self._stashed or target in self._late:
            self._stash(target, gradients)
            if pending or target in self._late:
                return None
            gradients = Stacked(self.parameters[target], self._stashed.pop(target))
        update = self._received(target, gradients)
        if not self._waits(self.parameters[target]):
            return update
        self._updates[target] = update
        return None

    def behind(self, losses: Tensor) -> tuple[list[nn.Parameter], Hashable]:
        """The parameters that losses use directly (a penalty), and of what calls they are made.

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
            names.add(node.name())
            if "CheckpointFunction" in node.name():
                raise AgreementError(
                    "the losses are computed in a re-entrant checkpoint, behind which parameters "
                    "cannot be seen; use checkpoint(..., use_reentrant=False) there, or none."
                )
            variable = getattr(node, "variable", None)
            if variable is not None and (index := self.index(variable)) is not None:
                found.append(self.parameters[index])
            nodes += [following for following, _ in node.next_functions]
        return found, frozenset(names)

    @contextmanager
    def gradients_of_unit(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Take what autograd writes to these parameters as the gradients of the next unit."""
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
            for parameter in parameters:
                index = self._index[id(parameter)]
                self._late.add(index)
                self._outside.setdefault(index, []).append(parameter.grad)
        finally:
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient

    @contextmanager
    def on_the_way_back(self, receiver: Receiver) -> Iterator[None]:
        """While autograd walks; only then may the layers' backward run.

        Args:
            receiver: what is done with the gradients.
        """
        self.walking, self._receiver = True, receiver
        try:
            yield
            self._finish(receiver)
        finally:
            self.walking, self._receiver = False, None

    def require_own_walk(self) -> None:
        """Refuse a walk that is not ours."""
        if not self.walking:
            raise AgreementError(FOREIGN_BACKWARD)

    def _finish(self, receiver: Receiver) -> None:
        """Hand on what had to wait."""
        self._pass_on_derived()
        for index, parts in self._outside.items():
            self._stash(index, Given(self.parameters[index], parts))
        self._outside.clear()
        updates, self._updates = self._updates, {}
        for index, stack in self._stashed.items():
            updates[index] = self._received(index, Stacked(self.parameters[index], stack))
        self._stashed.clear()
        updates |= receiver.finish()
        late = [
            (parameter, update.to(parameter.dtype))
            for index, update in updates.items()
            if (parameter := self.parameters[index]).requires_grad and update is not None
        ]
        if late:
            torch.autograd.backward([p for p, _ in late], [update for _, update in late])

    def _received(self, index: int, gradients: UnitGradients) -> Tensor | None:
        assert self._receiver is not None
        update = self._receiver.receive(index, gradients)
        return None if update is None else update.to(self.parameters[index].dtype)

    def _stash(self, target: int, gradients: UnitGradients) -> None:
        stack = gradients.stack()
        if target in self._stashed:
            self._stashed[target] += stack
        else:
            self._stashed[target] = stack

    def _pass_on_derived(self) -> None:
        arrived = [target for target in self._derived if target in self._stashed]
        roots = [self._derived[target] for target in arrived]
        stacks = [self._stashed.pop(target) for target in arrived]
        self._derived.clear()
        if not roots:
            return
        rows: list[tuple[Tensor | None, ...]] = [
            torch.autograd.grad(
                roots,
                self.parameters,
                [stack[unit].to(root) for root, stack in zip(roots, stacks, strict=True)],
                retain_graph=unit < self.units.count - 1,
                allow_unused=True,
            )
            for unit in range(self.units.count)
        ]
        for index, parts in enumerate(zip(*rows, strict=True)):
            if any(part is not None for part in parts):
                self._stash(index, Given(self.parameters[index], parts))

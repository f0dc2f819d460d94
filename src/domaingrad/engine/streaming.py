"""One step of domains that pass one after the other: what was taken so far, and the update."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from domaingrad.rules import Mean, Rule
from domaingrad.rules.authoring import ElementwiseRule, Reduce, StackRule
from domaingrad.rules.statistics import accumulation_dtype

from .blocks import Block, Part, Runner, capacity
from .distributed.shards import Shards, is_spread
from .errors import AgreementError
from .running import RunningStatistics
from .writing import write


@dataclass
class _Folded:
    """What is kept of some parameters' gradients."""

    parts: list[Part]
    dtype: torch.dtype
    running: RunningStatistics | None
    """For an element-wise rule: memory does not depend on the number of domains."""
    rows: list[Tensor | None] = field(default_factory=list)
    """For others: every domain's gradients."""
    missing: int = 0
    """Domains that use none of these parameters."""

    def take(self, flat: Tensor | None) -> None:
        """Take in one domain."""
        if self.running is None:
            self.rows.append(flat)
        elif flat is None:
            self.missing += 1
        else:
            self.running.fold(flat)

    def voters(self, domains: int) -> int:
        """How many of the domains use these parameters."""
        if self.running is not None:
            return domains - self.missing
        return sum(row is not None for row in self.rows)

    def hand_over(self, runner: Runner, block: Block, skip: bool) -> None:
        """Give all to the rule, and keep nothing.

        Args:
            runner: takes them through the rule.
            block: of these parameters.
            skip: leave domains that do not use them out, instead of counting them as zero.
        """
        if self.running is None:
            rows, self.rows = self.rows, []
            used = [row for row in rows if row is not None]
            zeros = torch.zeros_like(used[0])
            every = [zeros if row is None else row for row in rows]
            block.rows = torch.stack(used if skip else every)
            runner.take(block)
        else:
            if not skip:
                self.running.fold_zeros(self.missing)
            runner.take_statistics(block, self.running.statistics())
            self.running = None


class Step:
    """Takes the gradients of one domain after the other and adds the update to ``.grad``.

    Args:
        parameters: what is trained in this step.
        rule: what to do with the domains' gradients.
        scale: the loss scale to undo before the rule and to put back after.
        skip: let the domains that use a parameter agree on it among themselves; the only one that
            does has its way.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rule: Rule,
        scale: Tensor | None,
        skip: bool = False,
    ) -> None:
        self.parameters = parameters
        self.names: list[Hashable] = []
        self._rule = rule
        self._scale = scale
        self._skip = skip
        self._shards = Shards.of(parameters)
        self._used: set[int] = set()
        self._largest: list[Tensor] = []
        self._folded = list(self._grouped())

    @property
    def listed(self) -> str:
        """The names of the domains taken so far."""
        return ", ".join(map(repr, self.names))

    def take(self, name: Hashable, gradients: list[Tensor | None], weight: float) -> None:
        """Fold in one domain. The gradients become ours to overwrite, the list is emptied.

        Raises:
            AgreementError: no parameter has a gradient.
            TypeError: a gradient is sparse.
        """
        if all(gradient is None for gradient in gradients):
            raise AgreementError(
                f"no backward in the block of domain {name!r} reached a parameter of the model; "
                f"call loss.backward() inside `with agree.domain({name!r})`."
            )
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            raise TypeError(
                f"domain {name!r} has a sparse gradient; agreement compares dense ones. Make the "
                f"embedding with sparse=False."
            )
        largest = []
        for group in self._folded:
            # One visit of each gradient while it is in the cache.
            flat = self._flat(group, gradients)
            if flat is not None:
                if flat.numel() > 0:
                    largest.append(_largest(flat))
                if weight != 1.0:
                    flat.mul_(weight)
                if self._scale is not None:
                    flat.div_(self._scale.to(flat))
            group.take(flat)
        found = [each.to(largest[0]) for each in largest] or [torch.zeros(())]
        self._largest.append(torch.stack(found).amax())
        self.names.append(name)

    def _flat(self, group: _Folded, gradients: list[Tensor | None]) -> Tensor | None:
        """One domain's gradients of a group side by side, ours to overwrite; let go of one by one.

        ``None`` where the domain uses none of them.
        """
        found: list[Tensor | None] = []
        for part in group.parts:
            gradient, gradients[part.index] = gradients[part.index], None
            if gradient is not None:
                self._used.add(part.index)
                gradient = gradient.to_local() if is_spread(gradient) else gradient
            found.append(gradient)
        if all(gradient is None for gradient in found):
            return None
        if len(found) == 1 and found[0] is not None:
            return _own(found[0]).to(group.dtype).view(-1)
        return torch.cat(
            [
                self._local(part.index).new_zeros(part.size, dtype=group.dtype)
                if gradient is None
                else gradient.reshape(-1).to(group.dtype)
                for part, gradient in zip(group.parts, found, strict=True)
            ]
        )

    def add_update(self) -> Tensor | None:
        """Add the rule's update to ``.grad``.

        Returns:
            Whether all gradients of each domain are finite, [K], on their device.

        Raises:
            ValueError: fewer domains than the rule needs.
        """
        self._rule.require_domains(len(self.names), f" ({self.listed})")
        over = None if self._shards is None else self._shards.over
        runner = Runner(self._rule, None, self._scale, "eager", over)
        largest = torch.stack(self._largest)
        runner.note(largest if over is None else over(largest, "max"))
        groups, self._folded = self._folded, []
        blocks = []
        for group in groups:
            block = Block(group.parts)
            if any(part.index in self._used for part in group.parts):
                group.hand_over(self._runner_for(group, runner, over), block, self._skip)
                blocks.append(block)
        runner.finish([i for i in range(len(self.parameters)) if i not in self._used])
        for block in blocks:
            for index, update in block:
                if index in self._used:
                    write(self.parameters[index], self._restored(index, update), hooks=False)
        return runner.finite()

    def _runner_for(self, group: _Folded, runner: Runner, over: Reduce | None) -> Runner:
        """The runner of all; where some domains are left out, perhaps one of the group's own."""
        if not self._skip:
            return runner
        few = group.voters(len(self.names)) < self._rule.minimum_domains
        if few or isinstance(self._rule, StackRule):
            return Runner(Mean() if few else self._rule, None, self._scale, "eager", over)
        return runner

    def _grouped(self) -> Iterator[_Folded]:
        """Small parameters side by side, and each of the others alone."""
        elementwise = isinstance(self._rule, ElementwiseRule)
        together: dict[tuple[torch.device, torch.dtype], list[Part]] = {}
        filled: dict[tuple[torch.device, torch.dtype], int] = {}
        for index, parameter in enumerate(self.parameters):
            local = self._local(index)
            kind = local.device, accumulation_dtype(local.dtype)
            whole = None if self._shards is None else self._shards.whole(index)
            part = Part(index, local.numel(), whole)
            # By whole parameters, which are alike on all processes.
            small, most = capacity(local.device, 1, kind[1].itemsize)
            if parameter.numel() > small or self._skip:
                yield self._kept([part], kind[1], elementwise)
                continue
            together.setdefault(kind, []).append(part)
            filled[kind] = filled.get(kind, 0) + parameter.numel()
            if filled[kind] >= most:
                yield self._kept(together.pop(kind), kind[1], elementwise)
                filled[kind] = 0
        for (_, dtype), parts in together.items():
            yield self._kept(parts, dtype, elementwise)

    def _kept(self, parts: list[Part], dtype: torch.dtype, elementwise: bool) -> _Folded:
        if not elementwise:
            return _Folded(parts, dtype, None)
        assert isinstance(self._rule, ElementwiseRule)
        return _Folded(parts, dtype, RunningStatistics(self._rule.statistics))

    def _local(self, index: int) -> Tensor:
        """What of a parameter lies in this process."""
        data = self.parameters[index].data
        return data.to_local() if is_spread(data) else data

    def _restored(self, index: int, update: Tensor) -> Tensor:
        """In the parameter's shape, and as it is spread."""
        if self._shards is not None:
            return self._shards.restored(index, update)
        return update.view(self.parameters[index].shape)


def _largest(flat: Tensor) -> Tensor:
    """The largest size of a component; not finite if any is not."""
    if flat.device.type == "cpu":  # where a norm is twelve times slower
        low, high = torch.aminmax(flat)
        return torch.maximum(-low, high)
    return torch.linalg.vector_norm(flat, math.inf)  # type: ignore[no-any-return]


def _own(gradient: Tensor) -> Tensor:
    """The gradient itself; a copy where others share its storage, as in DDP's bucket views."""
    alone = gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()
    own = gradient.detach() if alone else gradient.detach().clone()
    return own.contiguous()

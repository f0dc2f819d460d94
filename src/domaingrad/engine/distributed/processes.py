"""What GradientAgreement needs to know of the processes that train a model together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from domaingrad.rules import Rule

from ..blocks import Kernels
from ..errors import AgreementError
from ..gradients import Given
from ..writing import write
from .hook import HOOKED
from .placement import Likeness, gather_placement
from .receiver import DistributedAgreement
from .shards import Shards


@dataclass
class Processes:
    """The processes of a model in DistributedDataParallel.

    Args:
        model: wrapped.
        comm_dtype: in which gradients and updates are sent, if not their own.
    """

    model: DistributedDataParallel
    comm_dtype: torch.dtype | None = None
    weights: Mapping[Hashable, float] = field(default_factory=dict)
    _likeness: Likeness = field(default_factory=Likeness, init=False)
    _forwards: int = field(default=0, init=False)
    _taken: int = field(default=0, init=False)
    _had_samples: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._hook = self.model.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self._forwards += torch.is_grad_enabled()

    def close(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    def require_own_forward(self, name: object, first: bool) -> None:
        """See that each domain passes the wrapped model by itself.

        Raises:
            AgreementError: several domains go back through one forward pass.
        """
        if not self.model.require_backward_grad_sync:
            raise AgreementError(
                f"domain {name!r} went back under no_sync(), so that each process has a gradient "
                f"of its own; leave no_sync() out, or use agree.accumulate."
            )
        self._require_unhooked()
        if not first and self._forwards == self._taken:
            raise AgreementError(
                f"domain {name!r} went back through the forward pass of the domain before it; "
                f"DistributedDataParallel synchronises only the first backward pass after a "
                f"forward pass, silently. Run the model once in each `with agree.domain(name)`, or "
                f"use agree(x, domain)."
            )
        self._taken = self._forwards

    def _require_unhooked(self) -> None:
        if self.model in HOOKED:
            raise AgreementError(
                "this model's domains agree in its communication already, by DDPAgreement; go "
                "back through the wrapped model as always, or wrap it anew for GradientAgreement."
            )

    @property
    def group(self) -> dist.ProcessGroup:
        """Who takes part."""
        group: dist.ProcessGroup = self.model.process_group
        return group

    def begin(self, rule: Rule, parameters: Sequence[nn.Parameter], samples: bool) -> None:
        """Before a forward pass: see once that all are alike, and average running statistics.

        The average is ours, over the processes that had samples in the step before:
        DistributedDataParallel takes those of rank 0, which may be of one domain alone.

        Args:
            rule: the rule.
            parameters: what is trained.
            samples: whether this process has any in this step.

        Raises:
            AgreementError: the processes differ.
        """
        self._require_unhooked()
        self.require_alike(rule, parameters)
        buffers = [b for b in self.model.module.buffers() if b.is_floating_point()]
        if not self.model.broadcast_buffers or not buffers:
            return
        with torch.no_grad():
            flat = torch.cat([buffer.reshape(-1).to(torch.float64) for buffer in buffers])
            summed = torch.cat([flat, flat.new_ones(1)])
            if not self._had_samples:
                summed.zero_()
            self._had_samples = samples
            dist.all_reduce(summed, group=self.group)
            if summed[-1] == 0:
                return
            flat = summed[:-1] / summed[-1]
            parts = torch.split_with_sizes(flat, [buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view(buffer.shape))

    def require_alike(self, rule: Rule, parameters: Sequence[nn.Parameter]) -> None:
        """See once that all processes have the same rule, seed and parameters.

        Raises:
            AgreementError: they have not.
        """
        options = {"weights": dict(self.weights), "comm_dtype": self.comm_dtype}
        self._likeness.require(rule, parameters, self.group, options)

    def agreement(
        self,
        rule: Rule,
        parameters: Sequence[nn.Parameter],
        held: Mapping[int, int],
        factors_of: Callable[[Sequence[int]], Tensor | None],
        scale: Tensor | None,
        kernels: Kernels,
    ) -> DistributedAgreement:
        """The receiver of this step's gradients; a collective call."""
        placement = gather_placement(held, self.group, parameters[0].device)
        return DistributedAgreement(
            rule, parameters, placement, factors_of, scale, self.group, kernels, self.comm_dtype
        )

    def add_updates(
        self,
        agreement: DistributedAgreement,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Sequence[Tensor | None]],
    ) -> None:
        """Let gradients that are there already agree, and add the updates to ``.grad``.

        Args:
            agreement: what receives them.
            parameters: what is trained.
            gradients: by domain of this process, in order of label, then by parameter.
        """
        for index in reversed(range(len(parameters))):
            parts = [own[index] for own in gradients]
            if any(part is not None for part in parts):
                agreement.receive(index, Given(parameters[index], parts))
        for index, update in agreement.finish().items():
            write(parameters[index], update, hooks=False)


def require_wrapped(parameters: Sequence[nn.Parameter]) -> None:
    """Refuse a plain model where several processes run: each would go its own way, silently.

    Raises:
        AgreementError: several processes, and a model that nothing synchronises.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    if Shards.of(parameters) is None:
        raise AgreementError(
            f"{dist.get_world_size()} processes run, and this model is in none of "
            f"DistributedDataParallel and fully_shard, so each process would train a model of its "
            f"own. Give GradientAgreement the wrapped model, or say local=True if that is meant."
        )

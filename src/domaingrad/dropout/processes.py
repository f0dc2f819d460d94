"""Who trains a model together, and so drops the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from domaingrad.engine.compiling import original
from domaingrad.engine.distributed.placement import gather_placement, require_same


@dataclass(frozen=True)
class Processes:
    """Some processes, of which this is one.

    Args:
        count: their number.
        group: what they talk over; ``None`` for the default one.
    """

    count: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, model: nn.Module, local: bool) -> Processes:
        """Those of DistributedDataParallel around the model, else all there are.

        Args:
            model: perhaps wrapped.
            local: whether this process trains its model by itself.
        """
        if local or not (dist.is_available() and dist.is_initialized()):
            return ALONE
        wrapped = original(model)
        group = wrapped.process_group if isinstance(wrapped, DistributedDataParallel) else None
        count = dist.get_world_size(group)
        return ALONE if count == 1 else cls(count, group)

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the processes; a collective call."""
        if self.count == 1 or not tensors:
            return list(tensors)
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, tensor in enumerate(tensors):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(index)
        found = list(tensors)
        for indices in kinds.values():
            flat = torch.cat([tensors[index].reshape(-1) for index in indices])
            dist.all_reduce(flat, group=self.group)
            parts = flat.split_with_sizes([tensors[index].numel() for index in indices])
            for index, part in zip(indices, parts, strict=True):
                found[index] = part.view(tensors[index].shape)
        return found

    def samples(self, held: Mapping[int, int], device: torch.device) -> Mapping[int, int]:
        """Samples by domain, in order of label, over all processes; a collective call."""
        if self.count == 1:
            return held
        return gather_placement(held, self.group, device).totals

    def require_same(self, own: Mapping[str, object]) -> None:
        """See that something is the same on all processes; a collective call.

        Raises:
            AgreementError: it is not.
        """
        if self.count > 1:
            told = {name: str(value) for name, value in own.items()}
            remedy = (
                "Make model, GSNRDropout and generator the same on every rank, or say local=True "
                "where each trains a model of its own."
            )
            require_same(told, self.group, remedy)


ALONE = Processes(1)

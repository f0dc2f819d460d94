"""Parameters that are spread over processes, as fully_shard (FSDP2) leaves them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeGuard

import torch.distributed as dist
from torch import Tensor, nn

from domaingrad.rules.authoring import Whole

from ..errors import AgreementError
from .placement import gather_placement, refuse_unlike

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_spread(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is spread over processes.

    PyTorch's module of such tensors takes a second to import; who has one has imported it.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def gather_no_more(model: nn.Module) -> None:
    """Let go of the whole parameters that fully_shard keeps from a forward to a backward pass."""
    from torch.distributed.fsdp import FSDPModule  # noqa: PLC0415 - see is_spread

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Shards:
    """How the parameters of a model are spread: each along its first dimension.

    Args:
        parameters: all that are trained, all of them spread over the same processes.

    Raises:
        AgreementError: spread in another way.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        from torch.distributed.tensor import Replicate, Shard  # noqa: PLC0415 - see is_spread

        self._like: list[DTensor] = []
        for parameter in parameters:
            data = parameter.data
            if not is_spread(data):
                raise AgreementError(
                    "some parameters of the model are spread over processes and others are not; "
                    "call fully_shard on the whole model, too."
                )
            self._like.append(data)
        meshes = {(data.device_mesh, data.placements) for data in self._like}
        (mesh, placements), *others = meshes
        spread = [n for n, each in enumerate(placements) if isinstance(each, Shard)]
        along = [each.dim for each in placements if isinstance(each, Shard)]
        plain = all(isinstance(each, Shard | Replicate) for each in placements)
        if others or along != [0] or not plain:
            raise AgreementError(
                f"expected parameters that fully_shard spreads along their first dimension over "
                f"one mesh; found {sorted({str(each.placements) for each in self._like})}."
            )
        self.group = mesh.get_group(spread[0])
        """The processes that share each parameter."""

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter]) -> Shards | None:
        """The shards of a model; ``None`` where its parameters are whole."""
        if any(is_spread(parameter.data) for parameter in parameters):
            return cls(parameters)
        return None

    def shares(self, labels: Sequence[int], sizes: Sequence[int]) -> list[float]:
        """What this process's mean losses weigh, times the number of processes; collective.

        fully_shard takes the mean over processes, so n_{r,e} W / n_e makes the gradient of the mean
        loss over all samples of domain e.

        Args:
            labels: of the domains here.
            sizes: their samples here.

        Raises:
            AgreementError: processes with other domains, or a mesh of several dimensions.
        """
        if self._like[0].device_mesh.ndim > 1:
            raise AgreementError(
                "agree(x, domain) with fully_shard is for a mesh of one dimension; found "
                f"{self._like[0].device_mesh}. Use `with agree.domain(name)`."
            )
        placement = gather_placement(
            dict(zip(labels, sizes, strict=True)), self.group, self._like[0].device
        )
        refuse_unlike(
            [{"domains": repr(placement.labels_of(rank))} for rank in range(placement.world)],
            "With fully_shard, every process needs samples of every domain of the step, since all "
            "gather the parameters together.",
        )
        totals = placement.totals
        return [
            size * placement.world / totals[label]
            for label, size in zip(labels, sizes, strict=True)
        ]

    def over(self, tensor: Tensor, how: Literal["sum", "max"]) -> Tensor:
        """Sum, or take the maximum of, a tensor over the processes."""
        device = self._like[0].device
        travelling = tensor.to(device, copy=True)
        operation = dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX
        dist.all_reduce(travelling, operation, group=self.group)
        return travelling.to(tensor.device)

    def whole(self, index: int) -> Whole:
        """Where this process's part of a parameter lies in it."""
        like = self._like[index]
        inner = math.prod(like.shape[1:])
        rows = like.shape[0] if like.ndim > 0 else 1
        share = math.ceil(rows / dist.get_world_size(self.group))
        start = min(dist.get_rank(self.group) * share, rows) * inner
        return Whole(like.numel(), slice(start, start + like.to_local().numel()))

    def restored(self, index: int, update: Tensor) -> Tensor:
        """An update of this process's part, as the parameter's."""
        like = self._like[index]
        return type(like).from_local(
            update.view(like.to_local().shape),
            like.device_mesh,
            like.placements,
            shape=like.shape,
            stride=like.stride(),
        )

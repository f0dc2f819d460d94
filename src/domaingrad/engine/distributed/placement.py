"""Which domains each process holds in a step, and whether the processes are alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from domaingrad import rules

from ..errors import AgreementError
from .collectives import all_gather, gather_values


@dataclass(frozen=True)
class Placement:
    """The rows of gradients of a step: which rank holds which domain, of how many samples."""

    ranks: tuple[int, ...]
    """Rank of each row; rows go rank by rank."""
    labels: tuple[int, ...]
    """Domain of each row."""
    samples: tuple[int, ...]
    """Samples that each row is the mean gradient of."""
    world: int

    @property
    def domains(self) -> list[int]:
        """All domains, in order."""
        return sorted(set(self.labels))

    @property
    def totals(self) -> dict[int, int]:
        """Samples of each domain on all ranks, in order of label."""
        found = dict.fromkeys(self.domains, 0)
        for label, samples in zip(self.labels, self.samples, strict=True):
            found[label] += samples
        return found

    def labels_of(self, rank: int) -> list[int]:
        """Which domains a rank holds."""
        rows = zip(self.ranks, self.labels, strict=True)
        return [label for own, label in rows if own == rank]

    def rows_of(self, rank: int) -> int:
        """How many rows a rank holds."""
        return self.ranks.count(rank)

    def combined(self, rows: Tensor) -> Tensor:
        """From one row a rank and domain, [R, n], to the mean gradient of each domain, [K, n].

        g_e = Σ_r (n_{r,e} / Σ_r n_{r,e}) g_{r,e}: a domain on several ranks counts by its samples.
        """
        domains = self.domains
        if len(domains) == len(self.labels):
            order = [self.labels.index(label) for label in domains]
            return rows if order == list(range(len(order))) else rows[order]
        out, totals = rows.new_zeros(len(domains), rows.shape[1]), self.totals
        for row, label, samples in zip(rows, self.labels, self.samples, strict=True):
            out[domains.index(label)].add_(row, alpha=samples / totals[label])
        return out


def gather_placement(
    held: Mapping[int, int], group: dist.ProcessGroup | None, device: torch.device
) -> Placement:
    """Tell all processes what this one holds.

    Args:
        held: samples by domain; empty for a process that has none in this step.
        group: the processes.
        device: where tensors travel.
    """
    world = dist.get_world_size(group)
    count = torch.tensor([len(held)], device=device)
    counts = torch.empty(world, dtype=count.dtype, device=device)
    all_gather(counts, count, group=group)
    most = int(counts.max())
    own = torch.zeros(max(most, 1), 2, dtype=torch.int64)
    for index, (label, samples) in enumerate(sorted(held.items())):
        own[index] = torch.tensor([label, samples])
    found = torch.empty(world * len(own), 2, dtype=torch.int64, device=device)
    all_gather(found, own.to(device), group=group)
    table = found.view(world, -1, 2).tolist()
    rows = [(rank, *table[rank][row]) for rank in range(world) for row in range(int(counts[rank]))]
    return Placement(
        tuple(rank for rank, _, _ in rows),
        tuple(label for _, label, _ in rows),
        tuple(samples for _, _, samples in rows),
        world,
    )


def one_row_each(
    label: int, samples: int, group: dist.ProcessGroup | None, device: torch.device
) -> Callable[[], Placement]:
    """Tell all processes of the one domain that this one holds, without waiting for them.

    Returns:
        What waits for them, to be called when it must be known.
    """
    world = dist.get_world_size(group)
    table = torch.empty(world, 2, dtype=torch.int64, device=device)
    own = torch.tensor([[label, samples]], device=device)
    travelling = all_gather(table, own, group=group, async_op=True)

    @cache
    def arrived() -> Placement:
        travelling.wait()
        labels, counts = table.T.tolist()
        return Placement(tuple(range(world)), tuple(labels), tuple(counts), world)

    return arrived


def require_same(own: Mapping[str, str], group: dist.ProcessGroup | None, remedy: str) -> None:
    """See that something is the same on all processes; a collective call.

    Args:
        own: what this process has, by name.
        group: the processes.
        remedy: what to do, for the error.

    Raises:
        AgreementError: it is not; on every process, with what differs where.
    """
    found = gather_values({name: str(value) for name, value in own.items()}, group)
    refuse_unlike(found, remedy)


def refuse_unlike(found: Sequence[Mapping[str, str]], remedy: str) -> None:
    """Raise what :func:`require_same` does, from what each process has, by rank."""
    if differing := unlike(found):
        told = "; ".join(f"{name}: {ranks}" for name, ranks in differing.items())
        raise AgreementError(f"the processes differ, so they cannot agree: {told}. {remedy}")


def unlike(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What processes do not have in common: who has what, by name.

    Args:
        found: what each has, by rank.

    >>> unlike([{"rule": "a", "seed": "1"}, {"rule": "b", "seed": "1"}])
    {'rule': 'a on rank 0, b on rank 1'}
    """
    return {
        name: ", ".join(f"{each[name]} on rank {rank}" for rank, each in enumerate(found))
        for name in found[0]
        if len({each[name] for each in found}) > 1
    }


class Likeness:
    """Whether all processes were seen to be alike, which is asked once."""

    def __init__(self) -> None:
        self._seen = False

    def require(
        self,
        rule: rules.Rule,
        parameters: Sequence[nn.Parameter],
        group: dist.ProcessGroup | None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """See that all have the same rule, random state, parameters, options and versions.

        Raises:
            AgreementError: they have not; on every process, with what differs where.
        """
        if self._seen:
            return
        shapes = repr([(tuple(p.shape), str(p.dtype)) for p in parameters])
        state = [leaf for leaf in tree_leaves(rule.state_dict()) if isinstance(leaf, Tensor)]
        random = b"".join(leaf.cpu().contiguous().numpy().tobytes() for leaf in state)
        own = {name: repr(value) for name, value in (options or {}).items()} | {
            # Where functions lie in memory is each process's own.
            "rule": re.sub(r" at 0x[0-9a-f]+", "", repr(rule)),
            "random state of the rule": hashlib.sha256(random).hexdigest()[:12],
            "shapes of the parameters": hashlib.sha256(shapes.encode()).hexdigest()[:12],
            "version of PyTorch": torch.__version__,
        }
        remedy = "Make model, rule and generator the same on every rank (the same seed, too)."
        require_same(own, group, remedy)
        self._seen = True

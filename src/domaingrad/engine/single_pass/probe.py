"""Where the samples lie in each call: found by passing all samples, and all but one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from .interception import Call, Interception, Kind, Site
from .inventory import Inventory
from .plan import Layout, Plan
from .units import Axis, LayoutError, axis_between

Tensors = list[Any]
Recorded = tuple[Tensors, Tensors, tuple[Kind | None, ...]]
"""Arguments, results, and what the arguments depend on."""


class Recorder(Interception):
    """Answers each taken call as it is, and keeps its tensors.

    Args:
        inventory: what the model is made of.
        without_samples: calls known to hold no samples.
    """

    def __init__(self, inventory: Inventory, without_samples: Collection[Site]) -> None:
        super().__init__(inventory)
        self.sites: dict[Site, Recorded] = {}
        self._without_samples = without_samples

    def take(self, call: Call) -> Any:
        """Keep the tensors and make the call."""
        arguments = [tensor.detach() for tensor in call.tensors]
        result = call.native()
        results = [_kept(leaf) for leaf in tree_flatten(result)[0]]
        self.sites[call.site] = arguments, results, tuple(call.kinds)
        if call.site in self._without_samples:
            self.mark(result, call.site.origins)
        return result


def _kept(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else None


def plan_of(inventory: Inventory, run: Callable[[int], Any], samples: int) -> Plan:
    """The layout of each call that uses parameters.

    Args:
        inventory: what the model is made of.
        run: passes the first so many samples through the model.
        samples: number of samples.

    Raises:
        LayoutError: the model takes another way with one sample less, or a shape does not follow
            the number of samples.
    """
    without: set[Site] = set()
    while True:
        small, ways_of_fewer = _sites(inventory, run, samples - 1, without)
        large, ways = _sites(inventory, run, samples, without)
        if large.keys() != small.keys():  # The first pass of all may have filled a cache.
            small, ways_of_fewer = _sites(inventory, run, samples - 1, without)
        if large.keys() != small.keys():
            raise LayoutError(
                f"the model takes another way with {samples - 1} than with {samples} samples"
            )
        layouts: dict[Site, Layout] = {}
        for site, (arguments, results, _) in large.items():
            few_arguments, few_results, _ = small[site]
            layouts[site] = Layout(
                _axes(arguments, few_arguments, samples), _axes(results, few_results, samples)
            )
        # A plain tensor of the model's looks like samples until its shape stays the same; what is
        # computed from it is then seen anew.
        found = {
            site
            for site, layout in layouts.items()
            if not layout.holds_samples(large[site][2]) and site not in without
        }
        if not found:
            return Plan({site: [layout] for site, layout in layouts.items()}, ways | ways_of_fewer)
        without |= found


def _sites(
    inventory: Inventory,
    run: Callable[[int], Any],
    count: int,
    without_samples: Collection[Site],
) -> tuple[dict[Site, Recorded], set[tuple[str, str]]]:
    recorder = Recorder(inventory, without_samples)
    with recorder, torch.enable_grad():
        run(count)
    return recorder.sites, recorder.ways


def _axes(many: Tensors, few: Tensors, samples: int) -> tuple[Axis | None, ...]:
    if len(many) != len(few):
        raise LayoutError(f"{len(many)} tensors for {samples} samples, {len(few)} for one less")
    return tuple(
        axis_between(a, b, samples, samples - 1) if isinstance(a, Tensor) else None
        for a, b in zip(many, few, strict=True)
    )

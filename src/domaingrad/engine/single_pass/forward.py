"""The forward pass of a mixed batch, with each use of a parameter taken over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .calls import LAYERS
from .interception import Call, Interception
from .inventory import Inventory
from .plan import Layout, Plan, UnknownSiteError
from .session import Session
from .taken import Taken


def saved_elsewhere() -> bool:
    """Whether hooks take what autograd saves, as those of a checkpoint do."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class MixedForward(Interception):
    """Takes over each call with parameters, so that the way back tells the units apart.

    Known layers compute their input gradient at once and their weights' gradients unit by unit; in
    element-wise calls the shared tensor is spread over the samples; any other call is made once a
    unit.

    Args:
        inventory: what the model is made of.
        session: where the gradients go.
        plan: where the samples lie in each call.
        pools_statistics: whether batch norms in training mode look at the whole batch, and not at
            each unit by itself.
    """

    def __init__(
        self,
        inventory: Inventory,
        session: Session,
        plan: Plan,
        pools_statistics: bool = False,
    ) -> None:
        super().__init__(inventory)
        self.session = session
        self.pools_statistics = pools_statistics
        self.comes_back = False
        self._inventory = inventory
        self._plan = plan

    def passive(self) -> bool:
        """Calls of our own backward are let through."""
        return self.session.inside

    def take(self, call: Call) -> Any:
        """By its layer, by spreading, or once a unit."""
        if self.session.walking and not torch.is_grad_enabled():
            return call.native()  # Somebody's own backward.
        self.comes_back |= self.session.walking
        layout = self._layout(call)
        if not layout.holds_samples(call.kinds):
            result = call.native()
            self.mark(result, call.site.origins)
            return result
        if not torch.is_grad_enabled():
            self.session.used_without_graph(call.site.origins)
            self.comes_back = True
        elif saved_elsewhere():
            self.comes_back = True
        return Taken(self, call, layout).answer(LAYERS)

    def _layout(self, call: Call) -> Layout:
        """The plan's layout for this call; a checkpoint comes by once more on the way back."""
        sites = [call.site]
        if self.session.walking:
            sites = [replace(call.site, occurrence=o + 1) for o in range(call.site.occurrence)]
        for site in sites:
            for layout in self._plan.layouts.get(site, ()):
                if layout.fits(call.tensors, self.session.units.samples):
                    return layout
        raise UnknownSiteError(call.site)

    def batch_norm_of(self, running_mean: Tensor | None) -> nn.modules.batchnorm._BatchNorm | None:
        """The module that owns these running statistics."""
        return self._inventory.batch_norms.get(id(running_mean))

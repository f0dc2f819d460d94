"""CDANN."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from .base import MethodInfo, Requires
from .dann import DANN, DANNLearner


def class_balance(y: Tensor, classes: int, published: bool = False) -> Tensor:
    """w_i = 1/(n_{y_i} C′), n_y samples of class y in the batch, C′ classes in it; shape [N].

    Published: C′ = the largest label + 1, so that the sum is below 1 where a class is missing.
    """
    counts = F.one_hot(y, classes).sum(0)
    present = y.max() + 1 if published else (counts > 0).sum()
    return 1 / (counts[y] * present)


class CDANNLearner(DANNLearner):
    """Its discriminator sees the class, too."""

    def build(self) -> None:
        """An embedding of the classes."""
        self.classes = nn.Embedding(self.setup.outputs, self.network.width)
        super().build()

    def adversary(self) -> list[nn.Parameter]:
        """The embedding, too."""
        return [*super().adversary(), *self.classes.parameters()]

    def seen(self, z: Tensor, y: Tensor) -> Tensor:
        """Z + E[y]."""
        seen: Tensor = z + self.classes(y)
        return seen

    def weights(self, y: Tensor) -> Tensor:
        """Each class has the same."""
        return class_balance(y, self.setup.outputs, self.hp.as_published)


@dataclass(frozen=True)
class CDANN(DANN):
    """DANN whose discriminator sees z + E[y], with equal weight for each class.

    Li et al., ECCV 2018, as in DomainBed; readings as of DANN, and of the weights.
    """

    meant = MethodInfo(
        name="cdann",
        title="CDANN",
        summary="features from which, given the class, a discriminator cannot tell the domain",
        paper="Li et al., ECCV 2018",
        cost="1 pass, and steps + 1 of the discriminator",
    )
    published = "CDANN whose updates are steps of the network or of the discriminator"
    requires = Requires(features=True, classes=True)
    code = CDANNLearner

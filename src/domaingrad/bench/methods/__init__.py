"""Methods: what is compared, each a small class with its hyper-parameters."""

from .agreement import AgrRand, AgrSum, ANDMask, PCGrad, SANDMask
from .base import Backward, Batches, Losses, Method
from .erm import ERM

METHODS: dict[str, Method] = {
    method.name: method for method in (ERM(), ANDMask(), SANDMask(), AgrSum(), AgrRand(), PCGrad())
}
"""Every method by name, with its default hyper-parameters."""

__all__ = ["METHODS", "Backward", "Batches", "Losses", "Method"]

"""Models: small networks for the data sets that need no download."""

from .mlp import linear, mlp

__all__ = ["linear", "mlp"]

"""Models: perceptrons, DomainBed's digits network, the backbones of libraries and their weights."""

from .backbones import BackboneError, build, default_backbone, freeze_norms
from .mlp import linear, mlp
from .mnist_cnn import mnist_cnn
from .weights import WeightsError, WeightsReport, load_weights

__all__ = [
    "BackboneError",
    "WeightsError",
    "WeightsReport",
    "build",
    "default_backbone",
    "freeze_norms",
    "linear",
    "load_weights",
    "mlp",
    "mnist_cnn",
]

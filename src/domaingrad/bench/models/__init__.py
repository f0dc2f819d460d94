"""Models: perceptrons, DomainBed's digits network, the backbones of libraries and their weights."""

from .backbones import BACKBONES, Architecture, BackboneError, build, default_backbone, freeze_norms
from .mlp import linear, mlp
from .mnist_cnn import mnist_cnn
from .network import PREDICTORS, Network, Predictor
from .weights import WeightsError, WeightsReport, load_weights

__all__ = [
    "BACKBONES",
    "PREDICTORS",
    "Architecture",
    "BackboneError",
    "Network",
    "Predictor",
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

"""Models: perceptrons, DomainBed's digits network, the backbones of libraries and their weights."""

from .backbones import BACKBONES, Architecture, build, default_backbone, freeze_norms
from .mlp import linear, mlp
from .mnist_cnn import mnist_cnn
from .network import PREDICTORS, Network, Predictor
from .pretrained import BackboneError
from .weights import WeightsError, WeightsReport, digest_of, load_weights

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
    "digest_of",
    "freeze_norms",
    "linear",
    "load_weights",
    "mlp",
    "mnist_cnn",
]

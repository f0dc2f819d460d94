"""Methods: what is compared, each a small class with its hyper-parameters and its learner."""

from domaingrad.bench.names import Registry

from .base import Method, MethodInfo, Requires, Sharding
from .erm import ERM
from .gsnr_dropout import ABLATIONS
from .learner import Amp, Batches, Learner, Setup, Validation, by_domain, pooled
from .rules import AGREEMENT, method_of_rule

METHODS = Registry[Method]("method")
"""Every method by name, with its default hyper-parameters."""

for _method in (ERM(), *AGREEMENT, *(each for methods in ABLATIONS.values() for each in methods)):
    METHODS.add(_method.info.name, _method)

QUICK = ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad")
"""Those whose step costs about as much as ERM's; what ``compare`` runs unless told otherwise."""


def listed_methods() -> dict[str, Method]:
    """All but ablations."""
    return {name: method for name, method in METHODS.items() if not method.info.ablation}


__all__ = [
    "ABLATIONS",
    "METHODS",
    "QUICK",
    "Amp",
    "Batches",
    "Learner",
    "Method",
    "MethodInfo",
    "Requires",
    "Setup",
    "Sharding",
    "Validation",
    "by_domain",
    "listed_methods",
    "method_of_rule",
    "pooled",
]

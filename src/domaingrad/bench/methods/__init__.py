"""Methods: what is compared, each a small class with its hyper-parameters and its learner."""

from dataclasses import replace

from domaingrad.bench.names import Registry, look_up

from .arm import ARM
from .base import Method, MethodInfo, NeverBegunWarning, Requires, Sharding, TwoReadings, Within
from .causirl import CausIRL
from .cdann import CDANN
from .coral import CORAL
from .dann import DANN
from .dsp_reg import DSPReg
from .eqrm import EQRM
from .erm import ERM
from .ermpp import ERMPlusPlus
from .fish import Fish
from .fishr import Fishr
from .genie import GENIE
from .gga import GGAL
from .groupdro import GroupDRO
from .gsnr_dropout import ABLATIONS
from .ib import IBERM, IBIRM
from .iga import IGA
from .irm import IRM
from .learner import (
    Amp,
    Batches,
    Learner,
    NonFiniteTermWarning,
    Pooled,
    Setup,
    Terms,
    Validation,
    by_domain,
    pooled,
)
from .lp_ft import LPFT
from .miro import MIRO
from .mixup import Mixup
from .mldg import MLDG
from .mmd import MMD
from .mtl import MTL
from .passes import AnnealedLearner, Forward, PenaltyLearner, RiskWeightsLearner, forward
from .pogm import POGM
from .q_mean import Q_MEAN
from .q_samples import QSamples, QSteps
from .rdm import RDM
from .references import REFERENCES
from .rsc import RSC
from .rules import AGREEMENT, RuleLearner, RuleMethod, method_of_rule
from .sagm import SAGM
from .sagnet import SagNet
from .sam import SAM
from .sd import SD
from .selfreg import SelfReg
from .transfer import Transfer
from .urm import URM
from .vrex import VREx

METHODS = Registry[Method]("method")
"""Every method by name, with its default hyper-parameters."""

PUBLISHED_SETTINGS = {"mixup": {"alpha": 0.1}}
"""Hyper-parameters that differ in the published reading, by method."""

LITERATURE: tuple[Method, ...] = (
    # Of DomainBed's tables, by what they act on: risks and outputs, features, steps.
    *(IRM(), VREx(), GroupDRO(), EQRM(), RDM(), SD(), Mixup()),
    *(CORAL(), MMD(), CausIRL("coral"), CausIRL("mmd"), IBERM(), IBIRM(), Fishr(), IGA(), RSC()),
    *(DANN(), CDANN(), MTL(), SagNet(), ARM(), SelfReg(), URM(), Transfer(), MIRO()),
    *(Fish(), MLDG(), POGM(), SAM(), SAGM(), LPFT(), ERMPlusPlus()),
    # Of this project's statistics.
    *(GENIE(), DSPReg(), GGAL(), Q_MEAN, QSamples(), QSteps()),
)
PUBLISHED: tuple[Method, ...] = tuple(
    replace(each, variant="as published", **PUBLISHED_SETTINGS.get(each.info.name, {}))
    for each in LITERATURE
    if isinstance(each, TwoReadings)
)
"""As their code has them, where that is something else than they say."""

for _method in (
    ERM(),
    *AGREEMENT,
    *LITERATURE,
    *PUBLISHED,
    *(each for methods in ABLATIONS.values() for each in methods),
):
    METHODS.add(_method.info.name, _method)

QUICK = ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad")
"""Those whose step costs about as much as ERM's; what ``compare`` runs unless told otherwise."""


def method_named(name: str) -> Method:
    """A method or a reference, with its default hyper-parameters.

    Raises:
        UnknownNameError: there is none.
    """
    return look_up("method", name, METHODS if name in METHODS else {**METHODS, **REFERENCES})


def listed_methods() -> dict[str, Method]:
    """All but ablations."""
    return {name: method for name, method in METHODS.items() if not method.info.ablation}


__all__ = [
    "ABLATIONS",
    "LITERATURE",
    "METHODS",
    "PUBLISHED",
    "QUICK",
    "REFERENCES",
    "Amp",
    "AnnealedLearner",
    "Batches",
    "Forward",
    "Learner",
    "Method",
    "MethodInfo",
    "NeverBegunWarning",
    "NonFiniteTermWarning",
    "PenaltyLearner",
    "Pooled",
    "Requires",
    "RiskWeightsLearner",
    "RuleLearner",
    "RuleMethod",
    "Setup",
    "Sharding",
    "Terms",
    "TwoReadings",
    "Validation",
    "Within",
    "by_domain",
    "forward",
    "listed_methods",
    "method_named",
    "method_of_rule",
    "pooled",
]

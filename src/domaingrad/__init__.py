"""domaingrad: train on several domains so that the model holds on one it has never seen.

Rules say what to do with the gradients of the domains; :class:`GradientAgreement` gets these
gradients out of any model in anyone's training loop.
"""

from . import inspect, rules
from .dropout import GSNRDropout, LearnedRatio
from .engine import (
    AgreementError,
    AuditError,
    DDPAgreement,
    GradientAgreement,
    NonFiniteGradientWarning,
    SignalToNoise,
    SinglePassWarning,
    signal_to_noise,
)
from .rules import AgrRand, AgrSum, ANDMask, Mean, PCGrad, SANDMask

__version__ = "0.1.0"

__all__ = [
    "ANDMask",
    "AgrRand",
    "AgrSum",
    "AgreementError",
    "AuditError",
    "DDPAgreement",
    "GSNRDropout",
    "GradientAgreement",
    "LearnedRatio",
    "Mean",
    "NonFiniteGradientWarning",
    "PCGrad",
    "SANDMask",
    "SignalToNoise",
    "SinglePassWarning",
    "inspect",
    "rules",
    "signal_to_noise",
]

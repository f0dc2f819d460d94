"""domaingrad: train on several domains so that the model holds on one it has never seen.

Rules say what to do with the gradients of the domains; :class:`GradientAgreement` gets these
gradients out of any model in anyone's training loop.
"""

from . import inspect, rules, samplers
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
from .rules import AgrRand, AgrSum, ANDMask, Mean, Median, PCGrad, SANDMask, TrimmedMean

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
    "Median",
    "NonFiniteGradientWarning",
    "PCGrad",
    "SANDMask",
    "SignalToNoise",
    "SinglePassWarning",
    "TrimmedMean",
    "inspect",
    "rules",
    "samplers",
    "signal_to_noise",
]

"""Engine: how to get the domains' gradients out of a model. Knows no method."""

from .agreement import Engine, GradientAgreement
from .blocks import Kernels
from .distributed.hook import DDPAgreement
from .errors import AgreementError, AuditError, NonFiniteGradientWarning, SinglePassWarning
from .running import RunningStatistics
from .signal_to_noise import SignalToNoise, signal_to_noise

__all__ = [
    "AgreementError",
    "AuditError",
    "DDPAgreement",
    "Engine",
    "GradientAgreement",
    "Kernels",
    "NonFiniteGradientWarning",
    "RunningStatistics",
    "SignalToNoise",
    "SinglePassWarning",
    "signal_to_noise",
]

"""Engine: how to get the domains' gradients out of a model. Knows no method."""

from .agreement import Engine, GradientAgreement
from .errors import AgreementError, NonFiniteGradientWarning
from .running import RunningStatistics

__all__ = [
    "AgreementError",
    "Engine",
    "GradientAgreement",
    "NonFiniteGradientWarning",
    "RunningStatistics",
]

"""domaingrad: train on several domains so that the model holds on one it has never seen.

Rules say what to do with the gradients of the domains; :class:`GradientAgreement` gets these
gradients out of any model in anyone's training loop.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import inspect, rules, samplers
    from .dropout import GSNRDropout, LearnedRatio
    from .engine import (  # type: ignore[no-redef]
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

_HOMES = {
    **dict.fromkeys(("GSNRDropout", "LearnedRatio"), "dropout"),
    **dict.fromkeys(
        (
            "AgreementError", "AuditError", "DDPAgreement", "GradientAgreement",
            "NonFiniteGradientWarning", "SignalToNoise", "SinglePassWarning", "signal_to_noise",
        ),
        "engine",
    ),
}  # fmt: skip
"""Where the names are that are not of rules."""
_PACKAGES = ("inspect", "rules", "samplers")


def __getattr__(name: str) -> Any:
    """What is asked for, imported then, so that the command line's help need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    found = getattr(importlib.import_module(f".{_HOMES.get(name, 'rules')}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

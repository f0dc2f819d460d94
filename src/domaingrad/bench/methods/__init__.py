"""Methods: what is compared, each a small class with its hyper-parameters."""

from typing import get_args

from domaingrad.dropout import Select

from .agreement import AgrRand, AgrSum, ANDMask, PCGrad, SANDMask
from .base import Backward, Batches, Bound, Dealt, Losses, Method
from .erm import ERM
from .gsnr_dropout import GSNRDropoutMethod

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        ERM(),
        ANDMask(),
        SANDMask(),
        AgrSum(),
        AgrRand(),
        PCGrad(),
        GSNRDropoutMethod(),
        GSNRDropoutMethod(learned=False),
    )
}
"""Every method by name, with its default hyper-parameters."""

QUICK = ("erm", "and-mask", "sand-mask", "agr-sum", "agr-rand", "pcgrad")
"""Those whose step costs about as much as ERM's; what ``compare`` runs unless told otherwise."""

ABLATIONS: dict[str, dict[str, Method]] = {
    name: {
        method.name: method
        for method in (
            ERM(),
            *(
                GSNRDropoutMethod(select, learned, rescale=rescale)
                for select in get_args(Select)
                for learned in (True, False)
            ),
        )
    }
    for name, rescale in (("gsnr", False), ("gsnr, rescaled", True))
}
"""Methods that are compared to see what part of a method matters, by the name of the ablation."""

ALL_METHODS: dict[str, Method] = METHODS | {
    name: method for methods in ABLATIONS.values() for name, method in methods.items()
}

__all__ = [
    "ABLATIONS",
    "ALL_METHODS",
    "METHODS",
    "QUICK",
    "Backward",
    "Batches",
    "Bound",
    "Dealt",
    "Losses",
    "Method",
]

"""Models that are awkward in one way each, with a batch of uneven, shuffled domains."""

from . import attention, bare, control, convolutions, everyday, norms, recurrent
from .everyday import Named, Outputs
from .problem import CLASSES, LABELS, SIZES, Problem, call, cross_entropy, select

__all__ = [
    "CLASSES",
    "LABELS",
    "PROBLEMS",
    "RANDOM",
    "SIZES",
    "UNFIT",
    "Named",
    "Outputs",
    "Problem",
    "call",
    "cross_entropy",
    "select",
]

PROBLEMS: dict[str, Problem] = {
    **everyday.PROBLEMS,
    **convolutions.PROBLEMS,
    **norms.PROBLEMS,
    **recurrent.PROBLEMS,
    **attention.PROBLEMS,
    **bare.PROBLEMS,
    **control.PROBLEMS,
}

RANDOM = frozenset({"dropout", "attention", "checkpoint", "re-entrant checkpoint"})
"""Problems with dropout."""

UNFIT = {
    "bare parameters in place": "__setitem__ writes in place",
    "embedding bags": "offsets",
    "hard mixture of experts": "no dimension grows with the number of samples",
    "a function with its own gradient": "used where it cannot be seen",
    "a penalty as an output": "used where it cannot be seen",
}
"""Problems for which one pass for all domains is not exact, and what the refusal says."""

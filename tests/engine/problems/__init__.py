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
    "embedding bags": "_embedding_bag",
    "hard mixture of experts": "picks by a mask",
    "unused by some domains": "Data-dependent branching",
    "convolutions padded unevenly": "marked as skipped",
    "batch norm over time, with cumulative statistics": "data-dependent",
    "instance norm with running statistics": "mixes samples",
    "bare parameters repeated for each sample": "makes a constant of the number of samples",
    "samples in a list": "makes a constant of the number of samples",
}
"""Problems of which no graph can be proven to tell domains apart, and what the refusal says."""

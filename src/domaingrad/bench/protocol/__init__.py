"""Protocol: which samples train, validate and test, which seeds, which draws, what is selected."""

from .sampling import draw
from .search import Distribution, PowerOfTen, PowerOfTwo, Uniform, drawn
from .seeds import generator_of, seed_of
from .selection import SELECTIONS, Candidate, Selection, training_domain_validation
from .splits import Split, split_domain

__all__ = [
    "SELECTIONS",
    "Candidate",
    "Distribution",
    "PowerOfTen",
    "PowerOfTwo",
    "Selection",
    "Split",
    "Uniform",
    "draw",
    "drawn",
    "generator_of",
    "seed_of",
    "split_domain",
    "training_domain_validation",
]

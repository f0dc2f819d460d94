"""Protocol: which samples train, validate and test, which seeds, which checkpoint counts."""

from .sampling import draw
from .seeds import generator_of, seed_of
from .selection import training_domain_validation
from .splits import Split, split_domain

__all__ = [
    "Split",
    "draw",
    "generator_of",
    "seed_of",
    "split_domain",
    "training_domain_validation",
]

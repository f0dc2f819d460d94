"""Protocol: which samples train, validate and test, which seeds, which draws, what is selected."""

from .sampling import draw, drawn_ahead, drawn_rows
from .search import Choice, Distribution, Floor, PowerOfTen, PowerOfTwo, Uniform, drawn, space
from .seeds import generator_of, seed_of
from .selection import SELECTIONS, Candidate, Selection, training_domain_validation
from .splits import TRAIN_SHARE, Split, of_trained, split_domain, strata_of, trained_groups

__all__ = [
    "SELECTIONS",
    "TRAIN_SHARE",
    "Candidate",
    "Choice",
    "Distribution",
    "Floor",
    "PowerOfTen",
    "PowerOfTwo",
    "Selection",
    "Split",
    "Uniform",
    "draw",
    "drawn",
    "drawn_ahead",
    "drawn_rows",
    "generator_of",
    "of_trained",
    "seed_of",
    "space",
    "split_domain",
    "strata_of",
    "trained_groups",
    "training_domain_validation",
]

import itertools

import numpy as np
import pytest
import torch

from .variants import VARIANTS

# Three components of shared sign with sizes of their own, and nine where some domains differ, all
# five of them active: but for silent components, which this input has not (see test_agr_rand.py),
# every setting changes the update.
_random = np.random.default_rng(4)
GRADIENTS = _random.standard_normal((5, 12)) + np.array([3.0] * 3 + [0.8] * 6 + [0.0] * 3)
NAMES = [name for name in VARIANTS if name != "agr-rand-silent"]


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(NAMES, 2)])
def test_no_two_rules_coincide(one: str, other: str) -> None:
    stack = torch.tensor(GRADIENTS)
    difference = VARIANTS[one]()(stack) - VARIANTS[other]()(stack)
    # Gradients are of size 1; anything that is not the same rule differs far above rounding.
    assert difference.abs().max() > 0.01

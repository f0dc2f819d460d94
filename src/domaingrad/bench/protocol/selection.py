"""Which checkpoint of a run counts. Held-out scores select nothing here."""

from __future__ import annotations

from collections.abc import Sequence


def training_domain_validation(accuracies: Sequence[float]) -> int:
    """Index of the checkpoint with the best source validation accuracy, the latest of equals.

    Training-domain validation (arXiv 2007.01434, §3); that the latest of equals counts is ours.

    Args:
        accuracies: mean accuracy over the source domains' ``val`` splits, by checkpoint.

    >>> training_domain_validation([0.5, 0.9, 0.9, 0.8])
    2
    """
    return max(range(len(accuracies)), key=lambda index: (accuracies[index], index))

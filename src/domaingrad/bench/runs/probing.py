"""The head that fine-tuning begins with: fitted to the frozen backbone's features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from domaingrad.bench.domains import DataError, DomainData, Embeddings, News, embedded
from domaingrad.bench.models import Network

from .settings import TrainConfig
from .trainer import Splits

STRENGTHS = (1.0, 10.0, 100.0)
"""Of the loss against ‖w‖²/2, that source validation chooses among."""
ITERATIONS = 300
"""Of L-BFGS, at most."""


def fit_head(network: Network, config: TrainConfig, data: DomainData, splits: Splits) -> str:
    """Put a fitted classifier into a network, as linear probing before fine-tuning does.

    arXiv 2202.10054. Ours: logistic regression (ridge regression of numbers) on standardised
    features of the sources' training splits, each domain weighing the same, its strength chosen by
    the sources' validation; the standardisation is folded into the classifier.

    Args:
        network: with the backbone's weights; its classifier is changed.
        config: resolved settings, of which the backbone and its weights.
        data: of images.
        splits: which samples do what.

    Returns:
        What there is to tell of it.

    Raises:
        DataError: a classifier that is no linear layer.
    """
    layer = network.classifier
    if not network.divided or not isinstance(layer, nn.Linear) or layer.bias is None:
        raise DataError(
            f"fine-tuning from a fitted head needs a classifier that is a linear layer; that of "
            f"{config.backbone} is none. Leave lp_ft out, or choose another backbone."
        )
    assert config.backbone is not None
    sources = replace(data, domains={name: data.domains[name] for name in splits.sources})
    found = embedded(sources, config.backbone, config.weights, News(), config.accelerator)
    inputs = {name: domain.tensors[0] for name, domain in found.domains.items()}
    of_training = [inputs[name][split.train] for name, split in splits.sources.items()]
    standard = found.preparation.fitted(of_training)
    train, val = (
        [
            (
                standard(inputs[n][rows]).numpy(),
                splits.target.scaled(s.data.tensors[1][rows]).numpy(),
            )
            for n, s in splits.sources.items()
            for rows in [getattr(s, which)]
        ]
        for which in ("train", "val")
    )
    x, y = (np.concatenate(each) for each in zip(*train, strict=True))
    shares = np.concatenate([np.full(len(own), len(y) / len(train) / len(own)) for _, own in train])
    fitted = []
    for strength in STRENGTHS:
        model = _fitted(data.task == "classification", strength, x, y, shares)
        fitted.append((float(np.mean([model.score(*each) for each in val])), strength, model))
    score, strength, model = max(fitted, key=lambda each: each[0])
    assert isinstance(standard, Embeddings)
    scale, mean = (torch.tensor(each).double() for each in (standard.scale, standard.mean))
    weight, bias = _of_outputs(model, data.outputs)
    with torch.no_grad():
        layer.weight.copy_(weight / scale)
        layer.bias.copy_(bias - layer.weight.double() @ mean)
    return (
        f"fine-tuning begins with a head fitted to the features (strength {strength:g}), whose "
        f"source validation is {score:.3f}"
    )


def _fitted(
    classes: bool,
    strength: float,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    shares: NDArray[np.float64],
) -> Any:
    """The minimum of strength · the mean loss + ‖w‖²/2, of weighted samples."""
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415 - takes seconds

    if classes:
        model = LogisticRegression(C=strength / len(y), max_iter=ITERATIONS)
    else:
        model = Ridge(alpha=len(y) / strength)
    return model.fit(x, y, sample_weight=shares)


def _of_outputs(model: Any, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight [outputs, width] and bias; of a class that the sources lack the least likely one."""
    weight = torch.as_tensor(np.atleast_2d(model.coef_), dtype=torch.float64)
    bias = torch.as_tensor(np.atleast_1d(model.intercept_), dtype=torch.float64)
    known = getattr(model, "classes_", [0])
    if len(known) == 2:  # scikit-learn has one row for two classes
        weight, bias = (torch.cat([-each / 2, each / 2]) for each in (weight, bias))
    places = torch.as_tensor(np.asarray(known), dtype=torch.long)
    every = weight.new_zeros(outputs, weight.shape[1]), bias.min().expand(outputs).clone()
    return every[0].index_copy(0, places, weight), every[1].index_copy(0, places, bias)

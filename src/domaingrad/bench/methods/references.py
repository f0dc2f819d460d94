"""What a network has to beat: scikit-learn's models under the same protocol.

They are fit once to the sources' training splits as a network sees them, without knowing of
domains, and are then a network like any other: weights of a linear layer, or trees as tensors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from domaingrad.bench.domains import DataError
from domaingrad.bench.protocol import PowerOfTen, PowerOfTwo, space

from .base import Count, Method, MethodInfo, Rate, Requires
from .learner import Batches, Learner, pooled

ABSENT = -1e4
"""The output for a class that training has not seen."""
CLOSE = 1e-4
"""How far outputs may lie from scikit-learn's own, which computes in float64."""
MOST = 5000
"""Samples by which the loss is estimated."""
PAPER = "scikit-learn, Pedregosa et al. 2011"


@dataclass(frozen=True)
class Reference(Method):
    """A model of scikit-learn."""

    @property
    def requires(self) -> Requires:
        """All samples at once, of one domain or more."""
        return Requires(min_domains=1, whole=True)

    @property
    def code(self) -> type[Learner[Any]]:
        """Fits it."""
        return ReferenceLearner

    @abstractmethod
    def estimator(self, classes: bool, seed: int) -> Any:
        """Of scikit-learn, not fit yet."""

    @abstractmethod
    def weights(self, fit: Any, outputs: int) -> dict[str, Tensor]:
        """What the backbone computes the same by, by the names of its tensors."""


class ReferenceLearner(Learner[Reference]):
    """Fits a model in one step, and hands it to the network."""

    def update(self, batches: Batches) -> Tensor:
        """Fit to all samples."""
        outputs = self.setup.outputs
        x, y, _ = pooled(batches)
        rows, labels = x.flatten(1).cpu().numpy(), y.cpu().numpy()
        seed = int(torch.randint(2**31, (), generator=self.setup.generator))
        given = self.setup.class_weights
        weights = None if given is None else given.cpu().numpy()[labels]
        fit = self.hp.estimator(outputs > 1, seed).fit(rows, labels, sample_weight=weights)
        tensors = {name: t.to(x.device) for name, t in self.hp.weights(fit, outputs).items()}
        self.network.classifier.load_state_dict(tensors)
        found = self.network(x[:200]).detach()
        self._require_same(fit, rows[:200], found.cpu())
        some = slice(None, None, 1 + len(x) // MOST)
        return self.setup.loss(self.network(x[some]).detach(), y[some]).mean()

    def _require_same(self, fit: Any, rows: Any, found: Tensor) -> None:
        """See that the network puts out what scikit-learn does, whose inner values it takes."""
        if found.shape[1] == 1:
            theirs = torch.as_tensor(fit.predict(rows)).float()
            far = (found[:, 0] - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        else:
            theirs = torch.as_tensor(fit.predict_proba(rows)).float()
            far = (found.softmax(1)[:, fit.classes_] - theirs).abs().max()
        if far > CLOSE:
            raise DataError(
                f"{self.hp.info.title}: outputs differ from those of scikit-learn by {far:.2g}; "
                f"this version of it is built otherwise than those that are known (1.5 to 1.9)."
            )


@dataclass(frozen=True)
class _Linear(Reference):
    backbone: ClassVar[str] = "linear"

    def weights(self, fit: Any, outputs: int) -> dict[str, Tensor]:
        """Of a linear layer."""
        weight, bias = np.atleast_2d(fit.coef_), np.atleast_1d(fit.intercept_)
        if outputs == 1:
            return {"weight": torch.tensor(weight).float(), "bias": torch.tensor(bias).float()}
        if len(weight) == 1:  # of two classes scikit-learn has the second's
            weight, bias = (np.concatenate([np.zeros_like(each), each]) for each in (weight, bias))
        layer = {"weight": torch.zeros(outputs, weight.shape[1]),
                 "bias": torch.full((outputs,), ABSENT)}  # fmt: skip
        layer["weight"][fit.classes_] = torch.tensor(weight).float()
        layer["bias"][fit.classes_] = torch.tensor(bias).float()
        return layer


@dataclass(frozen=True)
class LogisticRegression(_Linear):
    """Logistic regression on all samples alike."""

    info = MethodInfo("logistic", "logistic regression", "a linear model of classes", PAPER)
    requires = Requires(min_domains=1, whole=True, classes=True)
    search = space(c=PowerOfTen(-3, 2))

    c: Rate = 1.0

    def estimator(self, classes: bool, seed: int) -> Any:
        """Of scikit-learn."""
        from sklearn.linear_model import LogisticRegression as Logistic  # noqa: PLC0415 - slow

        return Logistic(C=self.c, max_iter=2000)


@dataclass(frozen=True)
class RidgeRegression(_Linear):
    """Ridge regression on all samples alike."""

    info = MethodInfo("ridge", "ridge regression", "a linear model of numbers", PAPER)
    requires = Requires(min_domains=1, whole=True, numbers=True)
    search = space(alpha=PowerOfTen(-2, 3))

    alpha: Rate = 1.0

    def estimator(self, classes: bool, seed: int) -> Any:
        """Of scikit-learn."""
        from sklearn.linear_model import Ridge  # noqa: PLC0415 - slow

        return Ridge(alpha=self.alpha)


@dataclass(frozen=True)
class HistGradientBoosting(Reference):
    """Gradient boosting over histograms on all samples alike."""

    backbone: ClassVar[str] = "boosted-trees"
    info = MethodInfo(
        "hist-gradient-boosting", "gradient boosting", "boosted trees over histograms", PAPER
    )
    search = space(
        shrinkage=PowerOfTen(-2, 0), leaves=PowerOfTwo(3, 6.99), iterations=PowerOfTwo(5, 8.99)
    )

    shrinkage: Rate = 0.1
    iterations: Count = 100
    leaves: Annotated[Count, "most of a tree"] = 31

    def estimator(self, classes: bool, seed: int) -> Any:
        """Of scikit-learn, without the early stopping that would split by chance within domains."""
        from sklearn import ensemble  # noqa: PLC0415 - slow

        kind = "Classifier" if classes else "Regressor"
        return getattr(ensemble, f"HistGradientBoosting{kind}")(
            learning_rate=self.shrinkage,
            max_iter=self.iterations,
            max_leaf_nodes=max(2, self.leaves),
            early_stopping=False,
            random_state=seed,
        )

    def weights(self, fit: Any, outputs: int) -> dict[str, Tensor]:
        """Of its trees, which scikit-learn keeps as tables of nodes."""
        rounds, trees = fit._predictors, []
        columns = list(fit.classes_) if outputs > 1 else [0]
        if len(columns) == 2:
            columns = columns[1:]
        for tree in (each for together in rounds for each in together):
            nodes, own = tree.nodes, np.arange(len(tree.nodes))
            leaf = nodes["is_leaf"].astype(bool)
            trees.append(
                (
                    nodes["feature_idx"].astype(np.int64),
                    nodes["num_threshold"],
                    np.where(leaf, own, nodes["left"]),
                    np.where(leaf, own, nodes["right"]),
                    nodes["value"][:, None],
                    int(nodes["depth"].max()),
                )
            )
        base = np.full(outputs, ABSENT if outputs > 1 else 0.0)
        if outputs > 1:
            base[fit.classes_] = 0
        base[columns] = np.ravel(fit._baseline_prediction)
        return _stacked(trees, torch.tensor(base), torch.tensor(columns * len(rounds)))


@dataclass(frozen=True)
class RandomForest(Reference):
    """A random forest on all samples alike."""

    backbone: ClassVar[str] = "forest"
    info = MethodInfo("random-forest", "random forest", "the mean of trees grown at random", PAPER)
    search = space(leaf=PowerOfTwo(0, 5))

    trees: Count = 100
    leaf: Annotated[Count, "fewest samples of one"] = 1

    def estimator(self, classes: bool, seed: int) -> Any:
        """Of scikit-learn."""
        from sklearn import ensemble  # noqa: PLC0415 - slow

        kind = "Classifier" if classes else "Regressor"
        return getattr(ensemble, f"RandomForest{kind}")(
            self.trees, min_samples_leaf=self.leaf, random_state=seed, n_jobs=1
        )

    def weights(self, fit: Any, outputs: int) -> dict[str, Tensor]:
        """Of its trees."""
        trees = []
        for each in fit.estimators_:
            tree, own = each.tree_, np.arange(each.tree_.node_count)
            leaf = tree.children_left < 0
            value = tree.value[:, 0]
            if outputs > 1:
                value = np.zeros((len(own), outputs))
                value[:, fit.classes_] = tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True)
            trees.append(
                (
                    np.where(leaf, 0, tree.feature),
                    tree.threshold,
                    np.where(leaf, own, tree.children_left),
                    np.where(leaf, own, tree.children_right),
                    value / len(fit.estimators_),
                    int(tree.max_depth),
                )
            )
        return _stacked(trees, torch.zeros(outputs).double(), torch.zeros(0, dtype=torch.long))


def _stacked(trees: list[tuple[Any, ...]], base: Tensor, column: Tensor) -> dict[str, Tensor]:
    """Trees one after another."""
    feature, threshold, left, right, value, depth = zip(*trees, strict=True)
    root = np.cumsum([0, *(len(each) for each in feature[:-1])])
    moved = [
        np.concatenate([each + at for each, at in zip(side, root, strict=True)])
        for side in (right, left)
    ]
    return {
        "feature": torch.tensor(np.concatenate(feature)),
        "threshold": torch.tensor(np.concatenate(threshold)),
        "below": torch.tensor(np.stack(moved, axis=1)).long().flatten(),
        "value": torch.tensor(np.concatenate(value)),
        "root": torch.tensor(root),
        "column": column,
        "base": base,
        "depth": torch.tensor(max(depth)),
    }


REFERENCES: Mapping[str, Method] = {
    method.info.name: method
    for method in (HistGradientBoosting(), RandomForest(), LogisticRegression(), RidgeRegression())
}
"""By name; they stand in reports beside the methods, and are compared with ERM."""

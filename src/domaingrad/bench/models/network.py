"""What is trained: features, and a head upon them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from domaingrad.bench.names import Registry


class Network(nn.Module):
    r"""A model in two parts: ``forward(x) = head(features(x))``.

    Features are what enters the classifier, shape [n, ``width``], after dropout. The two parts are
    those of a plain model, whose names its weights keep in files (:meth:`plain_state`). Where the
    classifier cannot be told apart (several heads, pooling after it), ``features`` are the outputs
    and ``head`` leaves them as they are; then ``divided`` is false.

    Args:
        module: a model that maps [n, \*shape] to [n, outputs]; it is taken apart.
        shape: of one input.
        dropout: share of the features that is zeroed in training, as in DomainBed.
        precision: in which both parts compute, by autocast; ``None`` as it is.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> network = Network(model, (4,))
    >>> z = network.features(torch.ones(3, 4))
    >>> z.shape, network.head(z).shape, network.width
    (torch.Size([3, 8]), torch.Size([3, 2]), 8)
    >>> list(network.plain_state())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        dropout: float = 0.0,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.precision, self.shape = precision, tuple(shape)
        self.body: nn.Module
        self.classifier: nn.Module
        self.body, self.classifier, self._name, self.width = _divided(module, shape)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    @property
    def divided(self) -> bool:
        """Whether the features are not the outputs."""
        return self._name is not None

    def features(self, x: Tensor) -> Tensor:
        """What enters the classifier, shape [n, width]."""
        with self._autocast(x):
            z: Tensor = self.dropout(self.body(x))
        return z

    def head(self, z: Tensor) -> Tensor:
        """Outputs of features, shape [n, outputs]."""
        with self._autocast(z):
            outputs: Tensor = self.classifier(z)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape [n, outputs]."""
        return self.head(self.features(x))

    def plain_state(self) -> dict[str, Tensor]:
        """The weights by the names that they had in the plain model."""
        return {self.plain_name(name): tensor for name, tensor in self.state_dict().items()}

    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`plain_state` gave."""
        self.load_state_dict({name: state[self.plain_name(name)] for name in self.state_dict()})

    def plain_name(self, name: str) -> str:
        """The name that a module, parameter or buffer had in the plain model."""
        part, _, rest = name.partition(".")
        before = self._name if part == "classifier" else ""
        return ".".join(filter(None, (before, rest)))

    def _autocast(self, x: Tensor) -> AbstractContextManager[object]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(x.device.type, self.precision)


class Predictor(nn.Module):
    """A network that predicts otherwise than by ``head(features(x))``, and what it needs for that.

    A subclass makes its parts in ``__init__``, overrides ``forward``, and is registered under a
    name in :data:`PREDICTORS`; a model file holds that name, the arguments and the weights.

    Args:
        network: the network.
        arguments: of the subclass: numbers and strings.
    """

    name: str

    def __init__(self, network: Network, **arguments: Any) -> None:
        super().__init__()
        self.network, self.arguments = network, arguments


PREDICTORS = Registry[type[Predictor]]("predictor")
"""Classes of predictors, by name."""


def classifiers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that yield a model's outputs.

    What a model of timm calls its classifier (``get_classifier()``, which may be several layers);
    of any other model the last layer with parameters in the order of ``model.modules()``, which is
    so for torchvision's classifiers and the networks of this package.
    """
    if callable(classifier := getattr(model, "get_classifier", None)):
        given = classifier()
        return list(given) if isinstance(given, (tuple, list)) else [given]
    leaves = (module for module in model.modules() if not any(module.children()))
    return [leaf for leaf in leaves if any(True for _ in leaf.parameters())][-1:]


@torch.no_grad()
def _divided(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[nn.Module, nn.Module, str | None, int]:
    """Body, classifier, the name that this had, and the width between them."""
    training = module.training
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(2, *shape, generator=generator)
    whole = module.eval()(probe)
    found = classifiers_of(module)
    names = {id(each): name for name, each in module.named_modules()}
    name = names.get(id(found[0])) if len(found) == 1 else None
    body: nn.Module = nn.Identity()
    if name:
        body = module
        module.set_submodule(name, nn.Identity())
    if name is not None:
        z = body(probe)
        if z.dim() == 2 and torch.equal(found[0](z), whole):
            body.train(training)
            return body, found[0].train(training), name, z.shape[1]
        if name:
            module.set_submodule(name, found[0])
    return module.train(training), nn.Identity(), None, whole.shape[1]

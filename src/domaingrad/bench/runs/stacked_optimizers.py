"""The optimizers of runs that train together: PyTorch's Adam, AdamW and SGD, run by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from domaingrad.bench.methods import Learner

NORM_FLOOR = 1e-6
"""Added to norms, as PyTorch's clip_grad_norm_ does."""


class Moments:
    """What the optimizers of R runs keep, side by side; each has its own as views.

    Learning rates, betas, weight decay and steps are each run's own. An optimizer that begins anew,
    or is another one, begins with moments of 0.

    Args:
        learners: each with one optimizer, of its network.
        parameters: by name, [R, ...].
    """

    def __init__(self, learners: Sequence[Learner[Any]], parameters: Mapping[str, Tensor]) -> None:
        self._learners, self._parameters = learners, parameters
        self._optimizers = [each.optimizer for each in learners]
        first = self._optimizers[0]
        self._clip = [each.setup.amp.clip_norm for each in learners]
        self._names = ("momentum_buffer",) if isinstance(first, SGD) else ("exp_avg", "exp_avg_sq")
        self._adaptive, self._decoupled = not isinstance(first, SGD), isinstance(first, AdamW)
        like = next(iter(parameters.values()))
        self._steps = {name: like.new_zeros(len(learners)) for name in parameters}
        self._kept = {
            kind: {name: torch.zeros_like(each) for name, each in parameters.items()}
            for kind in self._names
        }
        for row in range(len(learners)):
            self._take(row)

    def follow(self) -> None:
        """See which optimizers begin anew."""
        for row, learner in enumerate(self._learners):
            if learner.optimizer is not self._optimizers[row] or not learner.optimizer.state:
                self._optimizers[row] = learner.optimizer
                self._take(row)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """A step of each run.

        Args:
            gradients: by name, [R, ...]; may be overwritten.
        """
        if any(most is not None for most in self._clip):
            self._clip_(gradients)
        groups = [each.param_groups[0] for each in self._optimizers]
        (self._adam if self._adaptive else self._sgd)(gradients, groups)

    def _adam(self, gradients: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
        """As torch.optim.Adam, or AdamW, without options."""
        rate, decay, eps = (_vector(groups, key) for key in ("lr", "weight_decay", "eps"))
        first, second = (
            torch.tensor([g["betas"][place] for g in groups], dtype=torch.float64)
            for place in (0, 1)
        )
        decays = bool(decay.any())
        for name, parameter in self._parameters.items():
            gradient = gradients[name]
            done = self._steps[name].add_(1).double().cpu()
            mean, square = (self._kept[kind][name] for kind in self._names)
            if decays and self._decoupled:
                parameter.mul_(_on(parameter, 1 - rate * decay))
            elif decays:
                gradient = gradient + _on(parameter, decay) * parameter
            mean.lerp_(gradient, _on(parameter, 1 - first).expand_as(mean))
            square.mul_(_on(parameter, second))
            square.addcmul_(gradient * _on(parameter, 1 - second), gradient)
            root = (1 - second.pow(done)).sqrt()
            below = square.sqrt().div_(_on(parameter, root)).add_(_on(parameter, eps))
            size = rate / (1 - first.pow(done))
            parameter.sub_(mean.div(below).mul_(_on(parameter, size)))

    def _sgd(self, gradients: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
        """As torch.optim.SGD with momentum and weight decay."""
        rate, decay, momentum = (_vector(groups, key) for key in ("lr", "weight_decay", "momentum"))
        for name, parameter in self._parameters.items():
            (buffer,) = (self._kept[kind][name] for kind in self._names)
            gradient = gradients[name] + _on(parameter, decay) * parameter
            buffer.mul_(_on(parameter, momentum)).add_(gradient)
            parameter.sub_(_on(parameter, rate) * buffer)

    def _clip_(self, gradients: Mapping[str, Tensor]) -> None:
        """To each run's largest norm."""
        norms = torch.stack(
            [torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients.values()]
        )
        total = torch.linalg.vector_norm(norms, dim=0)
        most = torch.tensor([float("inf") if m is None else m for m in self._clip]).to(total)
        factor = (most / (total + NORM_FLOOR)).clamp(max=1.0)
        for each in gradients.values():
            each.mul_(_on(each, factor))

    def _take(self, row: int) -> None:
        """Put a run's moments beside the others', or zeros, and give it views of them."""
        optimizer: Optimizer = self._optimizers[row]
        parameters = dict(self._learners[row].network.named_parameters())
        for name in self._parameters:
            own = dict(optimizer.state.get(parameters[name], {}))
            for kind in self._names:
                place = self._kept[kind][name][row]
                found = own.get(kind)
                place.copy_(torch.zeros_like(place) if found is None else found)
                own[kind] = place
            if self._adaptive:
                steps = self._steps[name]
                steps[row] = float(own.get("step", 0.0))
                own["step"] = steps[row]
            optimizer.state[parameters[name]] = own


def _vector(groups: Sequence[Mapping[str, Any]], key: str) -> Tensor:
    """A number of each run, float64 on the CPU."""
    return torch.tensor([float(group[key]) for group in groups], dtype=torch.float64)


def _on(like: Tensor, each: Tensor) -> Tensor:
    """A number of each run, beside a tensor [R, ...]."""
    return each.to(like).view(-1, *[1] * (like.dim() - 1))

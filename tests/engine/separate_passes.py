"""The reference: one plain forward and backward pass a domain, stacked."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

import domaingrad as dg

from .equations import Stacks
from .problems import Problem, call, select

Way = Literal["single pass", "mixed batch", "domain by domain"]
WAYS: tuple[Way, ...] = ("single pass", "mixed batch", "domain by domain")
SEED_OF_PASSES = 1


def model_of(problem: Problem) -> nn.Module:
    torch.manual_seed(0)
    return problem.build().double()


def separate_gradients(problem: Problem, model: nn.Module, way: Way = "mixed batch") -> Stacks:
    """[K, *shape] for each parameter that some domain uses, zeros where a domain does not.

    The passes go in the order of the labels and leave their mark on the model's buffers. One pass
    moves what is no statistic of the data (the vectors of a spectral norm) once for all domains.
    """
    before = [(b, b.clone()) for b in buffers_without_statistics(model)]
    torch.manual_seed(SEED_OF_PASSES)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    per_domain: list[dict[str, Tensor | None]] = []
    for label in problem.labels:
        if way == "single pass":
            for buffer, value in before:
                buffer.copy_(value)
        rows = problem.domain == label
        outputs = call(model, select(problem.inputs, rows), problem.options)
        loss = problem.losses(outputs, problem.targets[rows]).mean()
        gradients = gradients_by_backward(loss, list(named.values()))
        per_domain.append(dict(zip(named, gradients, strict=True)))
    return {
        name: np.stack(
            [np.zeros(p.shape) if g[name] is None else g[name].numpy() for g in per_domain]
        )
        for name, p in named.items()
        if any(g[name] is not None for g in per_domain)
    }


def buffers_without_statistics(model: nn.Module) -> list[Tensor]:
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    return [
        buffer
        for module in model.modules()
        if not isinstance(module, norms)
        for buffer in module.buffers(recurse=False)
    ]


def gradients_by_backward(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """``backward`` and not ``autograd.grad``, which re-entrant checkpoints do not know."""
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


class Agreed:
    """What the engine leaves in ``.grad``, for one rule after the other from the same state."""

    def __init__(self, problem: Problem, model: nn.Module, way: Way) -> None:
        self._problem, self._model, self._way = problem, model, way
        self._state = deepcopy(model.state_dict())
        engine: dg.engine.Engine = "single-pass" if way == "single pass" else "streaming"
        self._first = dg.Mean()
        self._agree = dg.GradientAgreement(model, self._first, engine=engine)

    def __call__(self, rule: dg.rules.Rule) -> dict[str, Tensor | None]:
        problem, model, agree = self._problem, self._model, self._agree
        if agree.rule is not self._first:
            model.zero_grad()
        agree.rule = rule
        model.load_state_dict(self._state)
        torch.manual_seed(SEED_OF_PASSES)
        if self._way != "domain by domain":
            outputs = agree(problem.inputs, problem.domain, **problem.options)
            agree.backward(problem.losses(outputs, problem.targets))
        else:
            for label in problem.labels:
                rows = problem.domain == label
                with agree.domain(label):
                    outputs = call(model, select(problem.inputs, rows), problem.options)
                    problem.losses(outputs, problem.targets[rows]).mean().backward()
            agree.combine()
        return {name: parameter.grad for name, parameter in model.named_parameters()}


def agreed_gradients(
    problem: Problem, model: nn.Module, rule: dg.rules.Rule, way: Way
) -> dict[str, Tensor | None]:
    """What the engine leaves in ``.grad``."""
    return Agreed(problem, model, way)(rule)


def reference_and_copy(
    problem: Problem, way: Way = "mixed batch"
) -> tuple[Stacks, nn.Module, nn.Module]:
    """The separate gradients, the model they moved, and a copy of the model as it was."""
    model = model_of(problem)
    untouched = deepcopy(model)
    return separate_gradients(problem, model, way), model, untouched

"""The forward and backward pass of a rewritten graph, run without autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..errors import AgreementError
from .rewriting import Rewritten

Boxed = Callable[[list[Any]], Sequence[Any]]
"""Takes its inputs in a list, which it empties, so that it frees each after its last use."""


@dataclass
class Half:
    """One of the two passes."""

    inputs: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    run: Boxed | None = None

    def note(self, graph: GraphModule) -> None:
        """Its inputs and results, by the names of their nodes."""
        self.inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        results = graph.graph.output_node().args[0]
        self.results = [getattr(node, "name", "") for node in results]  # type: ignore[union-attr]


@dataclass
class Passed:
    """A forward pass, as long as the backward pass is to come."""

    outputs: list[Any]
    arguments: Sequence[Any]
    kept: list[Any]
    versions: list[int]


class Program:
    """A rewritten graph, as two functions of plain tensors.

    What autograd does around such functions is done here: inputs are overwritten where the model
    does so, and what is kept for the way back must not be.

    Args:
        found: what was found of the graph.
        forward: the forward pass.
        backward: the backward pass.
    """

    def __init__(self, found: Rewritten, forward: Half, backward: Half) -> None:
        assert forward.run is not None
        assert backward.run is not None
        self._forward, self._backward = forward.run, backward.run
        self._overwritten = found.overwritten
        self._differentiable = found.differentiable
        kept = forward.results[len(found.overwritten) :]
        places = {name: place for place, name in enumerate(kept)}
        others = [name for name in backward.inputs if name not in places]
        # States of random generators go from pass to pass under other names, in the same order.
        renamed = others[: len(others) - len(found.differentiable)]
        unclaimed = [name for name in kept if name not in set(backward.inputs)]
        places |= {new: places[old] for new, old in zip(renamed, unclaimed, strict=True)}
        self._wanted = [places.get(name, -1) for name in backward.inputs]

    def forward(self, arguments: Sequence[Any]) -> Passed:
        """The model's outputs, and what the way back needs."""
        with torch.no_grad(), torch._C._DisableAutocast():
            results = self._forward(list(arguments))
            own = list(zip(self._overwritten, results, strict=False))
            outputs = [value for index, value in own if index is None]
            if len(outputs) < len(own):
                torch._foreach_copy_(
                    [arguments[index] for index, _ in own if index is not None],
                    [value for index, value in own if index is not None],
                )
        kept = list(results[len(self._overwritten) :])
        return Passed(outputs, arguments, kept, _versions(kept))

    def backward(self, passed: Passed, gradients: Sequence[Tensor | None]) -> None:
        """Walk back; who is shown the units' gradients, the graph knows.

        Args:
            passed: the forward pass; for one way back.
            gradients: of the differentiable outputs, in their order; ``None`` for zeros.

        Raises:
            AgreementError: a tensor that was kept has been overwritten since.
        """
        kept, passed.kept = passed.kept, []
        if _versions(kept) != passed.versions:
            raise AgreementError(
                "a parameter, a buffer or an output was overwritten between agree(x, domain) and "
                "agree.backward(losses), which needs it as it was; let the optimizer step, and "
                "change outputs in place, after agree.backward(losses)."
            )
        starts = iter(
            torch.zeros_like(passed.outputs[place]) if g is None else g
            for place, g in zip(self._differentiable, gradients, strict=True)
        )
        inputs = [kept[place] if place >= 0 else next(starts) for place in self._wanted]
        del kept
        with torch.no_grad(), torch._C._DisableAutocast():
            self._backward(inputs)


def _versions(tensors: Sequence[Any]) -> list[int]:
    return [tensor._version for tensor in tensors if isinstance(tensor, Tensor)]


def as_it_is(half: Half, graph: GraphModule) -> Boxed:
    """A graph that no compiler sees."""
    half.note(graph)
    boxed = getattr(torch.fx.graph, "_BoxedCodeGen", None)
    if boxed is None:  # in an older PyTorch; inputs are then freed at the end
        half.run = lambda inputs: graph.forward(*inputs)
    else:
        graph.graph.set_codegen(boxed())
        graph.recompile()
        half.run = graph.forward
    return half.run

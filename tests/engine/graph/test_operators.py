"""What a rule says of an operator, against what the operator does when one sample is changed."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, Node

from domaingrad.engine.graph.layout import Sampled, Shared
from domaingrad.engine.graph.operators import RULES, Call, Outcome, UnprovableError, rule
from domaingrad.engine.graph.proof import Prover
from domaingrad.engine.graph.sizes import Sizes
from domaingrad.engine.units import Units

aten = torch.ops.aten
N = 6


class At:
    """A tensor argument: a shape, in which ``n`` stands for the samples, and how it is filled."""

    def __init__(self, *shape: int, dim: int | None = None, groups: tuple[int, int] = (1, 1)):
        self.axis = None if dim is None else Sampled(dim, *groups)
        self.shape = list(shape)
        if dim is not None:
            self.shape[dim] = groups[0] * N * groups[1]

    def make(self, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape, generator=draw, dtype=torch.float64)


class Whole(At):
    """Integers from 0 to 2."""

    def make(self, seed: int) -> Tensor:
        return torch.randint(0, 3, self.shape, generator=torch.Generator().manual_seed(seed))


class Truth(At):
    """Booleans."""

    def make(self, seed: int) -> Tensor:
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def x(*rest: int) -> At:
    return At(N, *rest, dim=0)


def second(first: int, *rest: int) -> At:
    return At(first, N, *rest, dim=1)


def flat(inner: int, *rest: int) -> At:
    """Positions of a sample side by side."""
    return At(N, *rest, dim=0, groups=(1, inner))


def grouped(outer: int, *rest: int) -> At:
    """All samples once for each position."""
    return At(N, *rest, dim=0, groups=(outer, 1))


KEPT = [
    (aten.add.Tensor, x(3), At(3)),
    (aten.add.Tensor, second(4, 3), At(4, 1, 1)),
    (aten.mul.Tensor, flat(2, 3), flat(2, 3)),
    (aten.where.self, Truth(N, 3, dim=0), x(3), At(3)),
    (aten.tanh.default, grouped(3, 2)),
    (aten.view.default, x(4, 3), [N * 4, 3]),
    (aten.view.default, flat(4, 3), [N, 4, 3]),
    (aten.view.default, x(4, 6), [N, 4, 2, 3]),
    (aten.t.default, x(3)),
    (aten.transpose.int, x(4, 3), 0, 1),
    (aten.permute.default, x(4, 3), [2, 0, 1]),
    (aten.unsqueeze.default, x(3), 0),
    (aten.squeeze.dim, At(1, N, 3, dim=1), 0),
    (aten.expand.default, x(1), [4, N, 3]),
    (aten.repeat.default, x(3), [2, 1]),
    (aten.select.int, x(4, 3), 1, 2),
    (aten.slice.Tensor, x(4), 1, 1, 3),
    (aten.slice.Tensor, grouped(3, 2), 0, N, 3 * N),
    (aten.cat.default, [x(4), x(3)], 1),
    (aten.cat.default, [x(3), x(3)], 0),
    (aten.stack.default, [x(3), x(3)], 1),
    (aten.flip.default, x(4), [1]),
    (aten.roll.default, x(4), [1], [1]),
    (aten.constant_pad_nd.default, x(4), [1, 2]),
    (aten.select_backward.default, x(3), [N, 4, 3], 1, 2),
    (aten.slice_backward.default, x(2), [N, 4], 1, 1, 3, 1),
    (aten.sum.dim_IntList, x(4, 3), [1, 2]),
    (aten.mean.dim, x(4, 3), [-1], True),
    (aten.amax.default, second(4, 3), [0]),
    (aten.var_mean.correction, x(4), [1]),
    (aten.argmax.default, x(4), 1),
    (aten._softmax.default, x(4), 1, False),
    (aten.cumsum.default, x(4), 1),
    (aten.sort.default, x(4), 1),
    (aten.topk.default, x(4), 2, 1),
    (aten.mm.default, x(4), At(4, 3)),
    (aten.mm.default, At(3, 4), At(4, N, dim=1)),
    (aten.bmm.default, x(2, 4), x(4, 3)),
    (aten.addmm.default, At(3), x(4), At(4, 3)),
    (aten.baddbmm.default, x(2, 3), x(2, 4), x(4, 3)),
    (aten.mv.default, x(4), At(4)),
    (aten.convolution.default, x(2, 5), At(3, 2, 3), At(3), [1], [1], [1], False, [0], 1),
    (aten.convolution.default, x(2, 5), At(2, 3, 3), None, [2], [1], [1], True, [0], 1),
    (aten.native_layer_norm.default, x(4, 3), [3], At(3), At(3), 1e-5),
    (aten.native_group_norm.default, x(4, 5), At(4), At(4), N, 4, 5, 2, 1e-5),
    (aten._native_batch_norm_legit_no_training.default, x(4), *[At(4)] * 3, Truth(4), 0.1, 0.1),
    (aten.avg_pool2d.default, x(2, 4, 4), [2, 2]),
    (aten.max_pool2d_with_indices.default, x(2, 4, 4), [2, 2]),
    (aten._adaptive_avg_pool2d.default, x(2, 4, 4), [2, 2]),
    (aten.upsample_nearest2d.default, x(2, 2, 2), [4, 4]),
    (aten.reflection_pad1d.default, x(2, 4), [1, 1]),
    (aten.pixel_shuffle.default, x(4, 2, 2), 2),
    (aten.embedding.default, At(3, 4), Whole(N, 2, dim=0)),
    (aten.gather.default, x(4), 1, Whole(N, 2, dim=0)),
    (aten.scatter.src, x(4), 1, Whole(N, 2, dim=0), x(2)),
    (aten.index.Tensor, x(4), [None, Whole(5)]),
    (aten.index.Tensor, At(3, 4), [Whole(N, dim=0)]),
    (aten.index_select.default, x(4), 1, Whole(2)),
    (aten._fft_r2c.default, x(4), [1], 0, True),
    (aten.threshold_backward.default, x(3), x(3), 0),
    (aten.gelu_backward.default, x(3), x(3)),
]  # fmt: skip
"""Operators that keep samples apart."""

REFUSED = [
    (aten.add.Tensor, x(3), At(N, 1)),
    (aten.add.Tensor, x(N), At(N, N, dim=1)),
    (aten.add.Tensor, flat(2, 3), grouped(2, 3)),
    (aten.view.default, x(4), [4, N]),
    (aten.view.default, second(4), [N, 4]),
    (aten.select.int, x(3), 0, 1),
    (aten.slice.Tensor, x(3), 0, 0, 2),
    (aten.slice.Tensor, grouped(2, 3), 0, 1, N + 1),
    (aten.cat.default, [x(3), At(2, 3)], 0),
    (aten.flip.default, x(3), [0]),
    (aten.roll.default, x(3), [1], [0]),
    (aten.roll.default, x(3), [1]),
    (aten.cumsum.default, x(3), 0),
    (aten.sort.default, x(3), 0),
    (aten._softmax.default, x(3), 0, False),
    (aten.sum.dim_IntList, x(3), [0]),
    (aten.mean.dim, x(3), [0, 1]),
    (aten.mm.default, At(3, N, dim=1), x(4)),
    (aten.mm.default, x(4), At(4, N, dim=1)),
    (aten.mm.default, At(N, N), x(4)),
    (aten.bmm.default, x(2, 4), At(N, 4, 3)),
    (aten.convolution.default, At(1, N, 5, dim=1), At(3, N, 3), None, [1], [0], [1], False, [0], 1),
    (aten.native_layer_norm.default, x(3), [N, 3], None, None, 1e-5),
    (aten.index.Tensor, x(4), [Whole(N)]),
    (aten.index.Tensor, x(4), [Whole(N, dim=0)]),
    (aten.index_select.default, x(4), 0, Whole(2)),
    (aten.gather.default, x(4), 0, Whole(2, 4)),
    (aten.diagonal.default, x(N)),
    (aten.triu.default, x(N)),
    (aten._fft_r2c.default, x(4), [0], 0, True),
    (aten.embedding.default, At(N, 4, dim=0), Whole(3)),
]
"""Operators that mix samples, or combine them with what has one entry a sample."""


def tensors_of(args: Sequence[Any]) -> list[At]:
    found = []
    for arg in args:
        found += tensors_of(arg) if isinstance(arg, list) else [arg] if isinstance(arg, At) else []
    return found


def filled(args: Any, values: Sequence[Any]) -> Any:
    """The arguments with values in the place of tensors."""
    rest = iter(values)

    def fill(arg: Any) -> Any:
        if isinstance(arg, list):
            return [fill(each) for each in arg]
        return next(rest) if isinstance(arg, At) else arg

    return [fill(arg) for arg in args]


def variance(op: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Running variances must be positive."""
    return [t.double().abs() + 1 if t.dtype == torch.bool and "batch_norm" in str(op) else t
            for t in tensors]  # fmt: skip


def proven(op: Any, args: Sequence[Any]) -> tuple[Any, list[Tensor]]:
    """Where the samples lie in the result, and the tensors that were given."""
    given = tensors_of(args)
    tensors = variance(op, [each.make(seed) for seed, each in enumerate(given)])
    graph, starts, nodes = Graph(), {}, []
    for place, (each, tensor) in enumerate(zip(given, tensors, strict=True)):
        node = graph.placeholder(f"x{place}")
        node.meta["val"] = tensor
        starts[node] = each.axis if each.axis is not None else Shared()
        nodes.append(node)
    call = graph.call_function(op, tuple(filled(args, nodes)))
    call.meta["val"] = op(*filled(args, tensors))
    return Prover(Sizes(), N).prove(graph, starts, {}).placements[call], tensors


def name(case: tuple[Any, ...]) -> str:
    return str(case[0])


@pytest.mark.parametrize("case", KEPT, ids=name)
def test_a_changed_sample_changes_its_own_rows_alone(case: tuple[Any, ...]) -> None:
    op, *args = case
    placements, tensors = proven(op, args)
    singly = Units((1,) * N)
    before = op(*filled(args, tensors))
    axes = [each.axis for each in tensors_of(args)]
    moved = False
    for sample in range(N):
        changed = []
        for seed, (tensor, axis) in enumerate(zip(tensors, axes, strict=True)):
            if axis is None:
                changed.append(tensor)
                continue
            other = axis.split(tensors_of(args)[seed].make(100 + seed), singly)
            parts = list(axis.split(tensor, singly))
            parts[sample] = other[sample]
            changed.append(axis.join(parts, singly))
        after = op(*filled(args, changed))
        results = zip(_several(before), _several(after), _several(placements), strict=True)
        for one, two, axis in results:
            if not isinstance(axis, Sampled):
                assert isinstance(axis, Shared)
                assert torch.equal(one, two)
                continue
            pairs = zip(axis.split(one, singly), axis.split(two, singly), strict=True)
            for number, (old, new) in enumerate(pairs):
                if number == sample:
                    moved |= not torch.equal(old, new)
                else:
                    assert torch.equal(old, new), "another sample's rows have changed"
    assert moved, "the samples had no effect, so that nothing was seen"


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else [value]


@pytest.mark.parametrize("case", REFUSED, ids=name)
def test_what_mixes_samples_is_refused(case: tuple[Any, ...]) -> None:
    op, *args = case
    with pytest.raises(UnprovableError):
        proven(op, args)


def test_an_operator_without_a_rule_is_named_with_the_way_to_add_one() -> None:
    with pytest.raises(UnprovableError, match=r"aten\.logdet.*operators\.rule"):
        proven(aten.logdet.default, [x(3, 3)])


def test_a_rule_of_ones_own_is_asked() -> None:
    packet = aten.logdet
    assert packet not in RULES

    @rule(packet)
    def each_matrix(call: Call) -> Outcome:
        return Outcome(call.at(call["self"]))

    try:
        assert proven(aten.logdet.default, [x(3, 3)])[0] == Sampled(0)
    finally:
        del RULES[packet]


def test_nodes_are_what_rules_are_asked_about() -> None:
    graph = Graph()
    node = graph.placeholder("x")
    node.meta["val"] = torch.zeros(N, 3)
    call = graph.call_function(aten.sum.dim_IntList, (node, [1]))
    asked = Call(call, {node: Sampled(0)}, Sizes(), N, False)
    assert isinstance(asked["self"], Node)
    assert asked["keepdim"] is False
    assert asked.shape(asked["self"]) == (N, 3)

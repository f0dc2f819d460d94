"""The compiled path: the graph through Inductor, against separate passes.

Most tests leave out the C++ compiler, and run the graphs that Inductor would be given: traced,
decomposed, parted, with the rule in them. Those named after Inductor go all the way.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch.fx import GraphModule

import domaingrad as dg
from domaingrad.engine.graph import inductor
from domaingrad.rules.authoring import ElementwiseRule, Proposal, Statistics

from . import equations
from .problems import PROBLEMS, Problem
from .separate_passes import model_of, separate_gradients

NAMES = (
    "mlp",
    "frozen parameters",
    "unused by all",
    "convolutions of images",
    "transposed convolutions of images",
    "group norm",
    "batch norm",
    "batch norm in eval mode",
    "layer norms",
    "vision transformer",
    "embedding",
    "tied weights",
    "recurrent",
    "several inputs",
    "learned queries",
    "checkpointed convolutions",
)
RULES = {
    "Mean": (dg.Mean(), equations.mean),
    "AND-mask": (dg.ANDMask(tau=0.5), equations.and_mask(0.5, rescale=True)),
    "SAND-mask": (dg.SANDMask(tau=0.4), equations.sand_mask(0.4, 10.0)),
    "Agr-Sum": (dg.AgrSum(), equations.agr_sum),
}
QUICKLY = {"options": {"aot_inductor.debug_compile": True}}
"""Without the optimizations that C++ compilers take their time for."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Graphs that Inductor would compile; they run as they are."""
    found: list[GraphModule] = []

    def inner(graph: GraphModule, examples: Sequence[Any], **_: Any) -> Callable[..., Any]:
        found.append(graph)
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(inductor, "compile_fx_inner", inner)
    return found


def agreed(agree: dg.GradientAgreement, problem: Problem) -> dict[str, np.ndarray]:
    agree.model.zero_grad()
    outputs = agree(problem.inputs, problem.domain, **problem.options)
    agree.backward(problem.losses(outputs, problem.targets))
    named = agree.model.named_parameters()
    return {name: p.grad.double().numpy() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_that_of_separate_passes(name: str, graphs: list[GraphModule]) -> None:
    problem = PROBLEMS[name]
    moved = model_of(problem)
    stacks = separate_gradients(problem, moved, "single pass")
    model = model_of(problem)
    state = copy.deepcopy(model.state_dict())
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", compile=True)
    for title, (rule, equation) in RULES.items():
        model.load_state_dict(state)
        agree.rule = rule
        found = agreed(agree, problem)
        assert found.keys() == stacks.keys()
        for own, expected in equation(stacks).items():
            if title == "Mean" or own not in problem.rounding_noise:
                np.testing.assert_allclose(found[own], expected, rtol=1e-9, atol=1e-11)
    for one, other in zip(model.buffers(), moved.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    # One forward pass, and one backward pass for each rule.
    assert len(graphs) == 1 + len(RULES)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(sum(sizes))
    n = sum(sizes)
    domain = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(n, generator=draw)
    x = torch.randn(n, 4, generator=draw).double()
    return x, torch.randint(0, 3, (n,), generator=draw), domain[order]


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def separate(model: nn.Module, x: Tensor, y: Tensor, domain: Tensor) -> list[Tensor]:
    parts = [
        torch.autograd.grad(
            losses_of(model(x[domain == e]), y[domain == e]).mean(), list(model.parameters())
        )
        for e in domain.unique()
    ]
    return [torch.stack(gradients) for gradients in zip(*parts, strict=True)]


def assert_mean(model: nn.Module, stacks: Sequence[Tensor]) -> None:
    for parameter, stack in zip(model.parameters(), stacks, strict=True):
        torch.testing.assert_close(parameter.grad, stack.mean(0), rtol=1e-9, atol=1e-12)


def test_other_sizes_and_absent_domains(graphs: list[GraphModule]) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", compile=True)
    for sizes in ((3, 3, 3), (2, 3, 4), (4, 5), (3, 3, 3)):
        model.zero_grad()
        x, y, domain = batch(sizes)
        agree.backward(losses_of(agree(x, domain), y))
        assert_mean(model, separate(model, x, y, domain))


def test_with_too_many_sizes_the_graph_runs_without_the_compiler(
    graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor, "MOST_SIZES", 1)
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", compile=True)
    agree(*batch((4, 4))[::2])
    x, y, domain = batch((3, 5))
    with pytest.warns(RuntimeWarning, match="without the compiler"):
        agree.backward(losses_of(agree(x, domain), y))
    assert_mean(model, separate(model, x, y, domain))
    assert len(graphs) == 2


def test_accumulation_sees_the_domains_gradients(graphs: list[GraphModule]) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.AgrSum(), engine="single-pass", compile=True)
    x, y, domain = batch((4, 4))
    agree.backward(losses_of(agree(x, domain), y))
    model.zero_grad()
    agree.accumulate(losses_of(agree(x, domain), y))
    agree.accumulate(losses_of(agree(x, domain), y))
    agree.combine()
    for parameter, stack in zip(model.parameters(), separate(model, x, y, domain), strict=True):
        expected = dg.AgrSum()(stack)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [dg.AgrRand, dg.PCGrad])
def test_rules_over_the_whole_model(
    rule: type[dg.AgrRand | dg.PCGrad], graphs: list[GraphModule]
) -> None:
    """They draw the same numbers as where the domains pass one after the other."""
    x, y, domain = batch((4, 4, 4))
    gradients = []
    for engine in ("single-pass", "streaming"):
        model = mlp()
        agree = dg.GradientAgreement(model, rule(), engine=engine, compile=engine == "single-pass")
        agree.backward(losses_of(agree(x, domain), y))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_weights_and_loss_scale_are_inputs_of_the_graph(graphs: list[GraphModule]) -> None:
    model = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    rule = dg.SANDMask()
    agree = dg.GradientAgreement(
        model, rule, engine="single-pass", compile=True, weights={1: 3.0}, scaler=scaler
    )
    x, y, domain = batch((4, 4))
    factors = torch.tensor([1.0, 3.0]).double()
    for scale in (64.0, 16.0):
        model.zero_grad()
        agree.backward(scaler.scale(losses_of(agree(x, domain), y)))
        for parameter, stack in zip(model.parameters(), separate(model, x, y, domain), strict=True):
            weighted = stack * factors.view(-1, *(1,) * (stack.ndim - 1))
            expected = rule(weighted) * scale
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-10)
        scaler.update(16.0)
    assert len(graphs) == 2


def test_autocast_in_bfloat16(graphs: list[GraphModule]) -> None:
    """Half precision keeps 8 bits."""
    model = mlp().float()
    x, y, domain = batch((8, 8))
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", compile=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(agree(x.float(), domain), y)
    agree.backward(losses)
    stacks = separate(copy.deepcopy(model), x.float(), y, domain)
    for parameter, stack in zip(model.parameters(), stacks, strict=True):
        torch.testing.assert_close(parameter.grad, stack.mean(0), rtol=0.05, atol=0.02)


def test_dropout_takes_the_mask_of_the_forward_pass(graphs: list[GraphModule]) -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x * self.weight, 0.5)

    model = Dropped()
    x, _, domain = batch((4, 4))
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass", compile=True)
    outputs = agree(x, domain)
    agree.backward(outputs.sum(1))
    torch.testing.assert_close(model.weight.grad, outputs.detach().mean(0))
    kept = float((outputs != 0).double().mean())
    assert 0.0 < kept < 1.0


class Looking(ElementwiseRule):
    """Branches on a number, which no graph can."""

    statistics = frozenset({"mean"})

    def propose(self, statistics: Statistics) -> Proposal:
        mean = statistics.mean
        return Proposal(2 * mean if float(mean.abs().sum()) >= 0 else mean)


def test_a_rule_that_cannot_be_traced_is_applied_outside(graphs: list[GraphModule]) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, Looking(), engine="single-pass", compile=True)
    x, y, domain = batch((4, 4))
    agree.backward(losses_of(agree(x, domain), y))
    assert_mean(model, [2 * stack for stack in separate(model, x, y, domain)])


def test_changed_numbers_of_a_rule_are_noticed(graphs: list[GraphModule]) -> None:
    model, rule = mlp(), dg.ANDMask(tau=1.0, rescale=False)
    agree = dg.GradientAgreement(model, rule, engine="single-pass", compile=True)
    x, y, domain = batch((4, 4))
    for tau in (1.0, 0.0):
        rule.tau = tau
        model.zero_grad()
        agree.backward(losses_of(agree(x, domain), y))
        for parameter, stack in zip(model.parameters(), separate(model, x, y, domain), strict=True):
            torch.testing.assert_close(parameter.grad, rule(stack), rtol=1e-9, atol=1e-12)


def test_a_domain_that_is_not_finite_is_named_and_seen(graphs: list[GraphModule]) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.ANDMask(), engine="single-pass", compile=True)
    x, y, domain = batch((4, 4))
    agree.backward(losses_of(agree(x, domain), y))
    x[domain == 1] = float("nan")
    with pytest.warns(dg.NonFiniteGradientWarning, match="domain 1;"):
        agree.backward(losses_of(agree(x, domain), y))
    assert all(parameter.grad.isnan().any() for parameter in model.parameters())


def test_a_compiler_that_computes_something_else_is_found_out(
    graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: GraphModule, examples: Sequence[Any], **options: Any) -> Callable[..., Any]:
        def doubled(*args: Any) -> list[Any]:
            return [x if x is None else x * 1.1 for x in graph(*args)]

        backward = options.get("is_backward", False)
        return make_boxed_func(doubled if backward else graph.forward)

    monkeypatch.setattr(inductor, "compile_fx_inner", wrong)
    agree = dg.GradientAgreement(mlp(), dg.Mean(), engine="single-pass", compile=True)
    x, _, domain = batch((4, 4))
    with pytest.raises(dg.AgreementError, match="gradients of the compiled model are not"):
        agree(x, domain)


@pytest.mark.parametrize("way", ["compiled", "in place", "by option"])
def test_options_of_the_user_reach_inductor(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def inner(graph: GraphModule, examples: Sequence[Any], **_: Any) -> Callable[..., Any]:
        seen.append(torch._inductor.config.max_fusion_size)
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(inductor, "compile_fx_inner", inner)
    asked: dict[str, Any] = {"options": {"max_fusion_size": 7}}
    model: Any = mlp()
    plain = model
    if way == "compiled":
        model = torch.compile(model, **asked)
    elif way == "in place":
        model.compile(**asked)
    agree = dg.GradientAgreement(
        model, dg.Mean(), engine="single-pass", compile=asked if way == "by option" else False
    )
    x, y, domain = batch((4, 4))
    agree.backward(losses_of(agree(x, domain), y))
    assert seen == [7, 7]
    assert_mean(plain, separate(mlp(), x, y, domain))


def test_modes_of_the_user_reach_inductor() -> None:
    agree = dg.GradientAgreement(mlp(), dg.Mean(), compile={"mode": "reduce-overhead"})
    assert agree._compiler == {"triton.cudagraphs": True}


def test_what_torch_compile_does_not_know_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Unexpected optimization option"):
        dg.GradientAgreement(mlp(), dg.Mean(), compile={"options": {"no_such_option": 1}})


def test_another_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="compiled with backend 'mine'"):
        dg.GradientAgreement(torch.compile(mlp(), backend=mine), dg.Mean())


def mine(graph: GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    return graph.forward


def test_inductor_without_a_compiler_says_so() -> None:
    options = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    agree = dg.GradientAgreement(
        mlp(), dg.Mean(), engine="single-pass", compile={"options": options}
    )
    x, _, domain = batch((4, 4))
    with pytest.raises(dg.AgreementError, match="PyTorch finds no compiler"):
        agree(x, domain)


class Network(nn.Module):
    """Convolution, batch norm, attention's layer norm, an embedding and a tied weight, in small."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.batch_norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm(4)
        self.table = nn.Embedding(3, 4)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        y = self.batch_norm(self.convolution(x.view(-1, 1, 2, 2))).relu().mean(1).flatten(1)
        return self.layer_norm(y + self.table(word)) @ self.table.weight.t()


def test_inductor_is_that_of_separate_passes() -> None:
    torch.manual_seed(0)
    model = Network().double()
    agree = dg.GradientAgreement(
        torch.compile(model, **QUICKLY), dg.SANDMask(), engine="single-pass"
    )
    for sizes in ((4, 4), (3, 5)):
        x, y, domain = batch(sizes)
        moved = copy.deepcopy(model)
        parts = [
            torch.autograd.grad(
                losses_of(moved(x[domain == e], y[domain == e]), y[domain == e]).mean(),
                list(moved.parameters()),
            )
            for e in range(2)
        ]
        model.zero_grad()
        agree.backward(losses_of(agree((x, y), domain), y))
        for (name, own), *each in zip(model.named_parameters(), *parts, strict=True):
            if name != "convolution.bias":  # Before a batch norm: its gradient is zero.
                expected = dg.SANDMask()(torch.stack(each))
                torch.testing.assert_close(own.grad, expected, rtol=1e-9, atol=1e-12)
        for one, other in zip(model.buffers(), moved.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)

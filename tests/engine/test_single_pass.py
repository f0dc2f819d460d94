"""The single pass: when it is taken, when it is refused, and what it does in a real loop."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import domaingrad as dg
from domaingrad.bench.models import mnist_cnn
from domaingrad.engine.blocks import Block, Kernels, Part, Runner
from domaingrad.engine.gradients import Products
from domaingrad.engine.graph.operators import products
from domaingrad.engine.graph.verification import Comparison
from domaingrad.engine.loops import compiler_found
from tests.reference import rules as reference

from .problems import PROBLEMS, UNFIT
from .separate_passes import model_of

CLASSES = 3


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


def batch(domain: list[int], width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(len(domain))
    x = torch.randn(len(domain), width, generator=draw).double()
    return x, torch.randint(0, CLASSES, (len(domain),), generator=draw), torch.tensor(domain)


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def separate(model: nn.Module, x: Tensor, y: Tensor, domain: Tensor) -> list[Tensor]:
    """[K, *shape] for each parameter."""
    stacks = [
        torch.autograd.grad(
            losses_of(model(x[domain == e]), y[domain == e]).mean(), list(model.parameters())
        )
        for e in domain.unique()
    ]
    return [torch.stack(gradients) for gradients in zip(*stacks, strict=True)]


def assert_mean(model: nn.Module, stacks: list[Tensor], rtol: float = 1e-9) -> None:
    for parameter, stack in zip(model.parameters(), stacks, strict=True):
        torch.testing.assert_close(parameter.grad, stack.mean(0), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused_with_the_reason(name: str) -> None:
    problem = PROBLEMS[name]
    agree = dg.GradientAgreement(model_of(problem), dg.Mean(), engine="single-pass")
    with pytest.raises(dg.AgreementError, match=UNFIT[name]):
        agree(problem.inputs, problem.domain, **problem.options)


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_runs_domain_by_domain_with_one_warning(name: str) -> None:
    problem = PROBLEMS[name]
    model = model_of(problem)
    agree = dg.GradientAgreement(model, dg.Mean())
    with pytest.warns(dg.SinglePassWarning, match="one after the other") as caught:
        agree(problem.inputs, problem.domain, **problem.options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    agree.discard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = agree(problem.inputs, problem.domain, **problem.options)
    agree.backward(problem.losses(outputs, problem.targets))


class BatchAttention(nn.Module):
    """Each sample looks at all others."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, CLASSES)
        self.mix = Mixer()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.tanh(self.body(x))))


class Mixer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.T, 1) @ x


def test_a_module_that_mixes_samples_is_named() -> None:
    model = BatchAttention().double()
    x, y, domain = batch([0, 0, 1, 1, 1])
    agree = dg.GradientAgreement(model, dg.Mean())
    with pytest.warns(
        dg.SinglePassWarning, match=r"module 'mix' \(Mixer\): aten.mm.default mixes samples"
    ):
        outputs = agree(x, domain)
    agree.backward(losses_of(outputs, y))
    assert_mean(model, separate(model, x, y, domain))


def test_a_head_that_starts_at_zero_hides_nothing() -> None:
    model = BatchAttention().double()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    x, _, domain = batch([0, 0, 1, 1, 1])
    with pytest.raises(dg.AgreementError, match="'mix'"):
        dg.GradientAgreement(model, dg.Mean(), engine="single-pass")(x, domain)
    assert not model.head.weight.any(), "the parameters are as they were"


def test_a_loss_that_mixes_domains_is_refused_at_the_first_step() -> None:
    x, _, domain = batch([0, 1, 0, 1])
    agree = dg.GradientAgreement(mlp(), dg.Mean(), engine="single-pass")
    outputs = agree(x, domain)
    with pytest.raises(dg.AgreementError, match=r"depend on outputs of another.*agree\.domain"):
        agree.backward((outputs @ outputs.T).mean(1))


@pytest.mark.parametrize("lengths", [(5, 5), (5, 7), (3, 5)])
def test_sequence_first_is_found_even_where_the_length_is_that_of_the_batch(
    lengths: tuple[int, int],
) -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)  # [L, N, C]
            return self.head(torch.tanh(self.inner(x)).cumsum(0)[-1])

    model = TimeFirst().double()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    for length in lengths:
        model.zero_grad()
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(5, length, 4, generator=draw).double()
        y, domain = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 0, 1, 1])
        agree.backward(losses_of(agree(x, domain), y))
        assert_mean(model, separate(model, x, y, domain))


@settings(deadline=None, max_examples=60)
@given(
    domain=st.lists(st.integers(-2, 4), min_size=2, max_size=24).filter(lambda d: len(set(d)) > 1)
)
def test_any_number_size_and_order_of_domains(domain: list[int]) -> None:
    model = mlp()
    x, y, labels = batch(domain)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    agree.backward(losses_of(agree(x, labels), y))
    assert_mean(model, separate(model, x, y, labels))


def test_other_numbers_of_domains_and_samples_in_later_steps() -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    for domain in ([0, 1, 0, 1], [0, 1, 2] * 4, [5, 9], [1] * 7 + [0], list(range(11))):
        model.zero_grad()
        x, y, labels = batch(domain)
        agree.backward(losses_of(agree(x, labels), y))
        assert_mean(model, separate(model, x, y, labels))


def changed_layer(model: nn.Sequential) -> None:
    model[0] = nn.Linear(4, 6).double()


def frozen_layer(model: nn.Sequential) -> None:
    model[0].bias.requires_grad_(False)


def added_layer(model: nn.Sequential) -> None:
    model.append(nn.LayerNorm(CLASSES).double())


def parametrised_layer(model: nn.Sequential) -> None:
    nn.utils.parametrizations.weight_norm(model[0])


@pytest.mark.parametrize("change", [changed_layer, frozen_layer, added_layer, parametrised_layer])
def test_a_change_of_the_model_is_noticed(change: Callable[[nn.Sequential], None]) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    change(model)
    model.zero_grad()
    agree.backward(losses_of(agree(x, domain), y))
    expected = copy.deepcopy(model)
    for parameter in expected.parameters():
        parameter.requires_grad_(True)
    stacks = separate(expected, x, y, domain)
    for parameter, stack in zip(model.parameters(), stacks, strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, stack.mean(0), rtol=1e-9, atol=1e-12)
        else:
            assert parameter.grad is None


class Switched(nn.Module):
    """Takes another way when its attribute is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
        self.norm = nn.BatchNorm1d(CLASSES)
        self.both = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        return y + self.second(x) if self.both else y


def test_another_way_through_the_model_is_examined_anew() -> None:
    model, reference = Switched().double(), Switched().double()
    reference.load_state_dict(model.state_dict())
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1, 0])
    for both in (False, True, False):
        model.both = reference.both = both
        model.zero_grad()
        agree.backward(losses_of(agree(x, domain), y))
        for e in (0, 1):
            reference.zero_grad()
            losses_of(reference(x[domain == e]), y[domain == e]).mean().backward()
        # The step that was begun and made anew moved the running statistics once all the same.
        torch.testing.assert_close(model.norm.running_mean, reference.norm.running_mean)
        assert model.norm.num_batches_tracked == reference.norm.num_batches_tracked
        assert (model.second.weight.grad is not None) == both


def test_the_examination_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model = model.double()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, _, domain = batch([0, 1, 0, 1, 1])
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    agree(x, domain)
    first = torch.get_rng_state()
    model.load_state_dict(state)
    torch.set_rng_state(random)
    agree(x, domain)  # not examined again
    assert torch.equal(first, torch.get_rng_state()), "the first step drew what any step draws"
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[1].num_batches_tracked == 2, "two domains, one step"


@pytest.mark.parametrize("engine", ["single-pass", "streaming"])
def test_accumulated_batches_are_one_large_batch(engine: str) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.ANDMask(), engine=engine)
    x, y, domain = batch([0, 1, 2, 1, 0, 2, 2, 0, 1, 1])
    for rows in (slice(0, 4), slice(4, 10)):
        agree.accumulate(losses_of(agree(x[rows], domain[rows]), y[rows]))
    agree.combine()
    rule = dg.ANDMask()
    for parameter, stack in zip(model.parameters(), separate(model, x, y, domain), strict=True):
        torch.testing.assert_close(parameter.grad, rule(stack), rtol=1e-9, atol=1e-12)


def test_accumulated_losses_wait_for_combine() -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean())
    x, y, domain = batch([0, 1, 0, 1])
    agree.accumulate(losses_of(agree(x, domain), y))
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(dg.AgreementError, match=r"agree\.combine\(\)"):
        agree.backward(losses_of(agree(x, domain), y))
    with pytest.raises(dg.AgreementError, match="saved between steps"):
        agree.state_dict()


def test_removed_it_leaves_the_model_as_it_was() -> None:
    model = mlp()
    modules = {name: dict(module.__dict__) for name, module in model.named_modules()}
    agree = dg.GradientAgreement(model, dg.Mean())
    x, y, domain = batch([0, 1, 0, 1])
    agree.backward(losses_of(agree(x, domain), y))
    agree.remove()
    for name, module in model.named_modules():
        assert module.__dict__.keys() == modules[name].keys()
        assert "forward" not in module.__dict__
    assert all(
        not p._backward_hooks and not p._post_accumulate_grad_hooks for p in model.parameters()
    )
    losses_of(model(x), y).mean().backward()
    with pytest.raises(dg.AgreementError, match="make a new GradientAgreement"):
        agree(x, domain)


def test_a_plain_pass_between_the_steps_is_plain() -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    with torch.inference_mode():
        outputs = agree(x, domain)
        torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=0)
        assert outputs.is_inference()
    model.zero_grad()
    losses_of(model(x), y).mean().backward()
    expected = torch.autograd.grad(losses_of(model(x), y).mean(), model[0].weight)[0]
    torch.testing.assert_close(model[0].weight.grad, expected)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_goes_on_by_itself(copied: str) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.AgrRand(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    if copied == "deepcopy":
        other = copy.deepcopy(agree)
    elif copied == "pickle":
        agree.rule.generator = None  # PyTorch's generators cannot be pickled.
        other = pickle.loads(pickle.dumps(agree))
    else:
        agree.rule.generator = None
        buffer = io.BytesIO()
        torch.save(agree, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    for way in (agree, other):
        way.model.zero_grad()
        way.backward(losses_of(way(x, domain), y))
    for one, two in zip(model.parameters(), other.model.parameters(), strict=True):
        assert one is not two
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_separate_passes(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.LayerNorm(72),
        nn.Linear(72, CLASSES),
    )  # fmt: skip
    x, y = torch.randn(12, 2, 5, 5), torch.randint(0, CLASSES, (12,))
    domain = torch.arange(12) % 3
    gradients = {}
    for engine in ("single-pass", "streaming"):
        model.zero_grad()
        agree = dg.GradientAgreement(model, dg.Mean(), engine=engine)
        with torch.autocast("cpu", precision):
            outputs = agree(x, domain)
            assert outputs.dtype == precision
            losses = losses_of(outputs, y)
        agree.backward(losses)
        gradients[engine] = [parameter.grad.clone() for parameter in model.parameters()]
    for one, other in zip(*gradients.values(), strict=True):
        assert one.dtype == torch.float32
        # bfloat16 has 8 bits: sums of a few dozen products differ by a few 2^-8.
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * other.abs().max().item())


def test_a_scaled_loss_gives_the_scaled_update_and_shows_one_domains_overflow() -> None:
    model = mlp().float()
    x, y, domain = batch([0, 1, 0, 1, 1])
    x = x.float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(torch.zeros(()))
    agree = dg.GradientAgreement(model, dg.SANDMask(), engine="single-pass", scaler=scaler)
    agree.backward(scaler.scale(losses_of(agree(x, domain), y)))
    plain = copy.deepcopy(model)
    plain.zero_grad()
    dg_plain = dg.GradientAgreement(plain, dg.SANDMask(), engine="single-pass")
    dg_plain.backward(losses_of(dg_plain(x, domain), y))
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad * 2.0**10, rtol=1e-5, atol=1e-6)
    model.zero_grad()
    weight = torch.where(domain == 1, torch.tensor(1e38), torch.tensor(1.0))
    agree.backward(scaler.scale(losses_of(agree(x, domain), y) * weight))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in model.parameters()]
    scaler.step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_domain_with_a_non_finite_gradient_is_named() -> None:
    x, y, domain = batch([3, 7, 3, 7, 7])
    agree = dg.GradientAgreement(mlp(), dg.ANDMask(), engine="single-pass")
    agree.backward(losses_of(agree(x, domain), y))
    x[1] = float("inf")
    with pytest.warns(dg.NonFiniteGradientWarning, match=r"domain 7;") as caught:
        agree.backward(losses_of(agree(x, domain), y))
    assert caught[0].filename == __file__
    assert not agree.model[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("rule", [dg.ANDMask(), dg.AgrRand(), dg.PCGrad()])
@pytest.mark.parametrize("hidden", [16, 4096])
def test_hooks_see_the_agreed_gradient_once(rule: dg.rules.Rule, hidden: int) -> None:
    """Of small parameters, which are reduced together, and of large ones, at once."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    agree = dg.GradientAgreement(model.double(), rule, engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    seen: dict[nn.Parameter, list[Tensor]] = {p: [] for p in model.parameters()}
    for parameter in seen:
        parameter.register_post_accumulate_grad_hook(lambda p: seen[p].append(p.grad.clone()))
    agree.backward(losses_of(agree(x, domain), y))
    for parameter, grads in seen.items():
        (grad,) = grads
        assert torch.equal(grad, parameter.grad)


def test_clipping_and_channels_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES))
    model = model.double().to(memory_format=torch.channels_last)
    x = torch.randn(6, 2, 5, 5).double().to(memory_format=torch.channels_last)
    y, domain = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 1, 1, 0])
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    agree.backward(losses_of(agree(x, domain), y))
    assert_mean(model, separate(model, x, y, domain))
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert norm > 0.1
    total = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert total.item() == pytest.approx(0.1, rel=1e-4)


class Median(dg.rules.authoring.StackRule):
    """The coordinate-wise median."""

    def combine(self, gradients: Tensor) -> Tensor:
        """Of the K values of each component."""
        return gradients.quantile(0.5, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own.
@pytest.mark.parametrize(
    "rule", [dg.Mean(), dg.ANDMask(), dg.SANDMask(), dg.AgrSum(), dg.AgrRand()]
)
def test_compiled_kernels_give_what_eager_ones_give(
    rule: dg.rules.authoring.ElementwiseRule,
) -> None:
    """With a compiler, the same components and the same scale."""
    if not compiler_found(torch.device("cpu")):
        pytest.skip("no C++ compiler")
    stack = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    stack[:, :50] = 0
    factors = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0])
    one, two = (
        updated(deepcopy(rule), stack.clone(), [1000], kernels, factors)[0]
        for kernels in ("compiled", "eager")
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def updated(
    rule: dg.rules.Rule,
    stack: Tensor,
    sizes: list[int],
    kernels: Kernels = "eager",
    factors: Tensor | None = None,
) -> list[Tensor]:
    """The updates of tensors side by side in one block."""
    runner = Runner(rule, factors, None, kernels)
    block = Block([Part(index, size) for index, size in enumerate(sizes)], stack)
    runner.take(block)
    runner.finish()
    return [update for _, update in block]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own.
def test_small_masks_keep_their_digits_in_a_compiled_loop() -> None:
    """m = tanh(x) with x from 1e-6 on, where a compiler's exp(−2x) − 1 would leave few digits."""
    if not compiler_found(torch.device("cpu")):
        pytest.skip("no C++ compiler")
    stack = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) + 0.5
    stack *= torch.logspace(-1, 3, 4000)
    rule = dg.SANDMask(tau=0.5, k=1.0)
    (update,) = updated(rule, stack.clone(), [4000], "compiled")
    found = update.double().numpy()
    np.testing.assert_allclose(found, reference.sand_mask(stack.double().numpy(), 0.5, 1.0), 2e-5)
    weights = reference.sand_weights(stack.double().numpy(), 0.5, 1.0)
    assert weights.min() < 1e-5
    assert weights.max() > 0.99


@pytest.mark.parametrize(
    "rule",
    [dg.Mean(), dg.ANDMask(), dg.SANDMask(), dg.AgrSum(), dg.PCGrad(), Median()],
    ids=lambda rule: type(rule).__name__,
)
def test_tensors_of_one_block_get_what_they_get_alone(rule: dg.rules.Rule) -> None:
    """But for a rule over the whole model, where they get what they get in blocks of their own."""
    sizes = [5, 1, 300]
    stack = torch.randn(4, sum(sizes), generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.0, 2.0, 0.5, 1.0])
    together = updated(deepcopy(rule), stack.clone(), sizes, factors=factors)
    runner = Runner(deepcopy(rule), factors, None, "eager")
    blocks = [
        Block([Part(index, size)], part.clone())
        for index, (size, part) in enumerate(zip(sizes, stack.split(sizes, 1), strict=True))
    ]
    for block in blocks:
        runner.take(block)
    runner.finish()
    for one, block in zip(together, blocks, strict=True):
        torch.testing.assert_close(one, block.update, rtol=1e-5, atol=1e-6)


def test_a_rule_that_cannot_be_compiled_goes_on_without() -> None:
    class Branching(dg.rules.authoring.ElementwiseRule):
        statistics = frozenset({"mean"})

        def propose(self, statistics: dg.rules.authoring.Statistics) -> dg.rules.authoring.Proposal:
            half = 0.5 if statistics.mean.sum().item() > 0 else 1.0
            return dg.rules.authoring.Proposal(statistics.mean * half)

    with pytest.warns(RuntimeWarning, match="kernels='eager'"):
        (update,) = updated(Branching(), torch.ones(2, 200_000), [200_000], "auto")
    assert torch.equal(update, torch.full((200_000,), 0.5))


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="'auto', 'eager', 'compiled'; found 'fast'"):
        dg.GradientAgreement(mlp(), dg.Mean(), kernels="fast")


class MixedGradient(torch.autograd.Function):
    """Mixes samples on the way back only."""

    @staticmethod
    def forward(_ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx, g: Tensor) -> Tensor:
        return g - g.mean(0)


class MixStyle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * x[torch.randperm(len(x))]


class NoiseOfTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * x.std(0, keepdim=True)


class Teacher(nn.Module):
    """A target without gradient, from the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.body(x)
        with torch.no_grad():
            return logits, (logits - logits.mean(0)).softmax(1)


class Centre(nn.Module):
    """A running mean of its own, moved once a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.centre.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.centre


class Apply(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


def between(layer: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, CLASSES))


@pytest.mark.parametrize(
    "build",
    [
        lambda: between(Apply(MixedGradient)),
        lambda: between(MixStyle()),
        lambda: between(NoiseOfTheBatch()),
        lambda: between(Centre()),
        Teacher,
    ],
    ids=["on the way back", "MixStyle", "noise of the batch", "own statistics", "teacher"],
)
def test_what_mixes_samples_in_any_way_is_found(build: Callable[[], nn.Module]) -> None:
    x, _, domain = batch([0, 1, 0, 1, 1])
    agree = dg.GradientAgreement(build().double(), dg.Mean(), engine="single-pass")
    with pytest.raises(dg.AgreementError, match="not exact for this model"):
        agree(x, domain)


class UsedTwice(nn.Module):
    """A parameter beside a branch that autograd gives the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.d, self.e, self.h = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.p = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        d = self.d(x)
        return self.h((torch.tanh(self.e(x) + self.p) + self.p + d).square())


@pytest.mark.parametrize("domain", [[0, 1, 2, 3], [0, 1, 0, 1]])
def test_autograds_own_gradients_are_not_written_to(domain: list[int]) -> None:
    """One sample a domain: sums over its samples are views."""
    torch.manual_seed(0)
    model = UsedTwice().double()
    x, y, labels = batch(domain)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    agree.backward(losses_of(agree(x, labels), y))
    assert_mean(model, separate(model, x, y, labels))


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.use_reentrant, self.on = use_reentrant, False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.on:
            x = torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=self.use_reentrant)
        else:
            x = self.block(x)
        return self.head(x)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_switched_on_later(use_reentrant: bool) -> None:
    model = Checkpointed(use_reentrant).double()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    for model.on in (False, True, False):
        model.zero_grad()
        agree.backward(losses_of(agree(x, domain), y))
        assert_mean(model, separate_by_backward(model, x, y, domain))


def separate_by_backward(model: nn.Module, x: Tensor, y: Tensor, domain: Tensor) -> list[Tensor]:
    twin = copy.deepcopy(model)
    stacks = []
    for e in domain.unique():
        twin.zero_grad()
        losses_of(twin(x[domain == e]), y[domain == e]).mean().backward()
        stacks.append([parameter.grad.clone() for parameter in twin.parameters()])
    return [torch.stack(gradients) for gradients in zip(*stacks, strict=True)]


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.on = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.body(x))
        return self.head(x - x.mean(0) if self.on else x)


def test_mixing_that_begins_later_is_found() -> None:
    model = Centred().double()
    agree = dg.GradientAgreement(model, dg.Mean())
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    model.on = True
    model.zero_grad()
    with pytest.warns(dg.SinglePassWarning, match="mixes samples"):
        agree.backward(losses_of(agree(x, domain), y))
    assert_mean(model, separate(model, x, y, domain))


def test_a_loss_that_begins_to_mix_domains_is_refused() -> None:
    agree = dg.GradientAgreement(mlp(), dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    outputs = agree(x, domain)
    with pytest.raises(dg.AgreementError, match="depend on outputs of another"):
        agree.backward((outputs @ outputs.T).mean(1))


@pytest.mark.parametrize("first", [0.0, float("nan")])
def test_a_first_batch_that_shows_nothing_is_no_check(first: float) -> None:
    """It passes domain by domain, and the next batch is compared."""
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean())
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree(torch.full_like(x, first), domain)
    agree.discard()
    with pytest.raises(dg.AgreementError, match="all samples of the batch are the same"):
        dg.GradientAgreement(model, dg.Mean(), engine="single-pass")(
            torch.full_like(x, first), domain
        )
    agree.backward(losses_of(agree(x, domain), y))
    assert_mean(model, separate(model, x, y, domain))


def test_hooks_on_gradients_see_each_domains() -> None:
    model = mlp()
    model[0].weight.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree = dg.GradientAgreement(model, dg.Mean())
    agree.backward(losses_of(agree(x, domain), y))
    stacks = separate(mlp(), x, y, domain)
    assert_mean(model, [stacks[0].clamp(-1e-3, 1e-3), *stacks[1:]])


def test_accumulated_gradients_belong_to_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    agree = dg.GradientAgreement(model, dg.Mean())
    x, _, domain = batch([0, 1, 0, 1])
    agree.accumulate(agree(x, domain).square().sum(1))
    expected = torch.stack(
        [
            torch.autograd.grad(model(x[domain == e]).square().sum(1).mean(), model[1].weight)[0]
            for e in (0, 1)
        ]
    ).mean(0)
    model[0].requires_grad_(False)
    agree.combine()
    torch.testing.assert_close(model[1].weight.grad, expected)
    assert model[0].weight.grad is None


def test_large_finite_gradients_are_finite() -> None:
    model = nn.Linear(4, 2, bias=False)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x = torch.ones(4, 4)
    x[0, 0] = 0.5
    agree.backward(agree(x, torch.tensor([0, 0, 1, 1])).sum(1) * 1e38)
    assert model.weight.grad.isfinite().all()


def test_running_statistics_changed_before_the_way_back_are_noticed() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval()
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    x, y, domain = batch([0, 1, 0, 1])
    losses = losses_of(agree(x, domain), y)
    model[1].running_var.fill_(50.0)
    with pytest.raises(dg.AgreementError, match=r"was overwritten between.*optimizer step"):
        agree.backward(losses)


def test_an_activation_at_its_kink_is_no_misfit():
    """In one of a hundred units of one sample, rounding moves a ReLU, and the gradient by 1 %."""
    torch.manual_seed(0)
    model = mnist_cnn((2, 28, 28), 2)
    inputs, labels = torch.randn(100, 2, 28, 28), torch.randint(2, (100,))
    agree = dg.GradientAgreement(model, dg.ANDMask(0.8), kernels="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = F.cross_entropy(agree(inputs, torch.arange(100)), labels, reduction="none")
        agree.backward(losses)


@pytest.mark.parametrize("is_exact", [True, False])
def test_float64_decides_where_rounding_could_explain_a_difference(
    is_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where rounding moves an activation of one unit across the kink of a ReLU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    inputs, domain = torch.randn(4, 4), torch.arange(4)
    asked = []
    in_float64 = Comparison.in_float64
    monkeypatch.setattr(
        Comparison, "in_float64", lambda self: (asked.append(True), in_float64(self))
    )

    class Off(products.Products):
        """The gradient of one unit is off by one in a hundred, in float32 or always."""

        def tensor(self) -> Tensor:
            out = super().tensor()
            if not is_exact or out.dtype is torch.float32:
                out[0] *= 1.01
            return out

    monkeypatch.setattr(products, "Products", Off)
    agree = dg.GradientAgreement(model, dg.Mean(), engine="single-pass")
    if is_exact:
        agree(inputs, domain)
    else:
        with pytest.raises(dg.AgreementError, match="not that of separate passes"):
            agree(inputs, domain)
    assert asked
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_it_explains_which_way_each_gradient_takes() -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean())
    assert agree.explain() == "no batch has passed yet"
    x, y, domain = batch([0, 1, 0, 1, 1])
    agree.backward(losses_of(agree(x, domain), y))
    assert agree.explain().splitlines() == [
        "0.weight  one pass, aten.mm.default",
        "0.bias    one pass, aten.sum.dim_IntList",
        "2.weight  one pass, aten.mm.default",
        "2.bias    one pass, aten.sum.dim_IntList",
    ]


def test_it_explains_why_a_model_passes_domain_by_domain() -> None:
    agree = dg.GradientAgreement(BatchAttention().double(), dg.Mean())
    x, _, domain = batch([0, 0, 1, 1, 1])
    with pytest.warns(dg.SinglePassWarning):
        agree(x, domain)
    reason, first, *_ = agree.explain().splitlines()
    assert reason == "domain by domain: module 'mix' (Mixer): aten.mm.default mixes samples"
    assert first.split() == ["body.weight", "domain", "by", "domain"]


def test_an_audit_finds_what_goes_wrong_later(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    agree = dg.GradientAgreement(model, dg.Mean())
    unaudited = dg.GradientAgreement(mlp(), dg.Mean(), audit=False)
    x, y, domain = batch([0, 1, 0, 1, 1])
    for each in (agree, unaudited):
        each.backward(losses_of(each(x, domain), y))
    exact = Products.tensor
    monkeypatch.setattr(Products, "tensor", lambda products: exact(products).flip(0))
    unaudited(x, domain)
    with pytest.raises(dg.AuditError, match=r"^step 2 .*'0\.weight'.*in step 1\."):
        agree(x, domain)


def test_audits_change_no_number() -> None:
    """Neither dropout's draws nor running statistics."""
    updates = []
    for audit in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
        agree = dg.GradientAgreement(model.double(), dg.ANDMask(0.5), audit=audit)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(9):
            x, y, domain = batch([0, 1, 2, 0, 1, 2, 2, 1, 0, 0])
            optimizer.zero_grad()
            agree.backward(losses_of(agree(x, domain), y))
            optimizer.step()
        updates.append([*model.parameters(), *model.buffers()])
    for one, other in zip(*updates, strict=True):
        assert torch.equal(one, other)

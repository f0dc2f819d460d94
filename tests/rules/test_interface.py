"""What holds for every rule: shapes, dtypes, refusals, and what a call leaves alone."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from domaingrad import rules
from domaingrad.rules import Mean, Rule

from .variants import VARIANTS

every_rule = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
every_rule_but_mean = pytest.mark.parametrize(
    "make",
    [v for n, v in VARIANTS.items() if n != "mean"],
    ids=[n for n in VARIANTS if n != "mean"],
)


DEVICES = ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))


@every_rule
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 1, 3, 2)], ids=str)
def test_update_has_the_shape_dtype_and_device_of_a_gradient(
    make: Callable[[], Rule], shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    update = make()(stack)
    assert (update.shape, update.dtype, update.device) == (shape, dtype, stack.device)
    assert update.isfinite().all()
    assert not update.requires_grad


@pytest.mark.parametrize("name", VARIANTS)
def test_scalar_gradients(name: str) -> None:
    update = VARIANTS[name]()(torch.tensor([1.0, 2.0, 4.0]))
    assert update.shape == ()
    assert update > 0


@every_rule
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 2)], ids=str)
def test_empty_gradients(make: Callable[[], Rule], shape: tuple[int, ...]) -> None:
    assert make()(torch.zeros(3, *shape)).shape == shape


@every_rule
def test_zero_gradients_give_a_zero_update(make: Callable[[], Rule]) -> None:
    assert make()(torch.zeros(3, 4)).tolist() == [0.0] * 4


@every_rule
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_gradients_are_not_modified(make: Callable[[], Rule], dtype: torch.dtype) -> None:
    stack = torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0], [0.5, 1.0, 0.0]], dtype=dtype)
    before = stack.clone()
    make()(stack).fill_(9.0)
    assert torch.equal(stack, before)


@every_rule
def test_strided_gradients(make: Callable[[], Rule]) -> None:
    stack = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    strided = stack.permute(2, 1, 0)
    # Sums may run in another order: a few of u = 1e-16.
    torch.testing.assert_close(
        make()(strided), make()(strided.contiguous()), rtol=1e-12, atol=1e-12
    )


@every_rule
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_needed(make: Callable[[], Rule], mode: Callable) -> None:
    stack = torch.tensor([[1.0, -2.0], [3.0, 2.0]])
    expected = make()(stack)
    with mode():
        assert torch.equal(make()(stack.clone()), expected)
    # Gradients of gradients (create_graph=True) carry a graph; the update is the same.
    assert torch.equal(make()(stack.clone().requires_grad_()).detach(), expected)


@every_rule
def test_global_random_state_is_left_alone(make: Callable[[], Rule]) -> None:
    before = torch.get_rng_state()
    make()(torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0], [-1.0, 1.0, 0.0]]))
    assert torch.equal(torch.get_rng_state(), before)


@every_rule
def test_global_random_state_is_not_used(make: Callable[[], Rule]) -> None:
    stack = torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0], [-1.0, 1.0, 0.0]])
    updates = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        updates.append(make()(stack))
    assert torch.equal(*updates)


@every_rule_but_mean
@pytest.mark.parametrize("count", [0, 1])
def test_refuses_fewer_than_two_domains(make: Callable[[], Rule], count: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 2.*found {count}"):
        make()(torch.ones(count, 3))


def test_mean_takes_one_domain_but_not_none() -> None:
    assert Mean()(torch.tensor([[1.0, -2.0]])).tolist() == [1.0, -2.0]
    with pytest.raises(ValueError, match=r"at least 1.*found 0"):
        Mean()(torch.ones(0, 3))


@every_rule
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64], ids=str)
def test_refuses_gradients_that_are_not_floating(
    make: Callable[[], Rule], dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=rf"floating-point.*found shape \[2, 3\] of {dtype}"):
        make()(torch.ones(2, 3, dtype=dtype))


@every_rule
def test_refuses_a_stack_without_domains(make: Callable[[], Rule]) -> None:
    with pytest.raises(ValueError, match=r"\[K, \*shape\].*found shape \[\] of torch.float32"):
        make()(torch.tensor(1.0))


@every_rule
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda rule: pickle.loads(pickle.dumps(rule))], ids=("copy", "pickle")
)
def test_copies_go_on_with_the_same_numbers(make: Callable[[], Rule], clone: Callable) -> None:
    stack = torch.tensor([[1.0, -2.0, 0.3], [3.0, 2.0, -0.7], [-1.0, 1.0, -0.4]])
    rule = make()
    rule(stack)
    other = clone(rule)
    assert torch.equal(other(stack), rule(stack))


def test_representation_names_the_settings() -> None:
    assert repr(VARIANTS["and-0.6"]()) == "ANDMask(tau=0.6, rescale=False, average='arithmetic')"
    assert repr(VARIANTS["agr-rand"]()) == "AgrRand(noise_where_silent=False)"


def test_more_domains_than_sixteen_bits_count():
    """Sums of signs of 40 000 units, as with the sample as unit, once wrapped around to nothing."""
    gradients = torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    update = rules.ANDMask(tau=0.8, rescale=False)(gradients)
    torch.testing.assert_close(update, gradients.mean(0))


def test_products_keep_their_precision_under_autocast():
    """In bfloat16 1 + 2^-10 is 1: the two gradients would look orthogonal and stay as they are."""
    gradients = torch.tensor([[1.0, -1.0], [1.0, 1.0 + 2.0**-10]])
    plain = rules.PCGrad()(gradients)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rules.PCGrad()(gradients), plain)
    assert not torch.equal(plain, gradients.sum(0))

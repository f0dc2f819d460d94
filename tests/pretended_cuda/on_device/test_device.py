"""The pretended device itself: what raises, what waits, what is a launch, what goes through it."""

import copy
import io
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pretended_cuda.counting import counted

from .batches import mixed


def on_device(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape).to("cuda")


def test_values_are_those_of_the_host() -> None:
    x = on_device(3, 4)
    assert type(x) is Tensor
    assert x.device == torch.device("cuda", 0)
    assert torch.equal((x @ x.T).cpu(), x.cpu() @ x.cpu().T)
    x[1] = 7.0  # a view is written through
    x.t_()
    assert x.shape == (4, 3)
    assert x[:, 1].tolist() == [7.0] * 4
    assert torch.empty(0, device="cuda").resize_(5).shape == (5,)


def test_models_are_copied_saved_and_loaded() -> None:
    model = nn.Linear(3, 3).cuda()
    copied = copy.deepcopy(model)
    assert copied.weight.device.type == "cuda"
    with torch.no_grad():
        model.weight.zero_()
    assert copied.weight.count_nonzero() > 0
    file = io.BytesIO()
    torch.save(copied.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, map_location="cpu"))
    assert torch.equal(model.weight, copied.weight)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, host: x + host,
        lambda x, host: host + x,
        lambda x, host: host.add_(x),
        lambda x, host: torch.cat([x, host]),
        lambda x, host: torch.stack([x, host]),
        lambda x, host: torch.where(x > 0, x, host),
        F.linear,
        lambda x, host: torch._foreach_mul([x], host.sum()),
        lambda x, host: torch.mm(x, x.T, out=host),
        lambda x, host: host[x[0].long()],
        lambda x, _: x.numpy(),
        lambda x, _: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)),
    ],
)
def test_tensors_of_both_devices_do_not_meet(mix: Callable[[Tensor, Tensor], object]) -> None:
    x, host = on_device(4, 4), torch.zeros(4, 4)
    with pytest.raises((RuntimeError, TypeError), match=r"device|CPU|cpu"):
        mix(x, host)


def test_a_number_of_the_host_may_stand_in_an_element_wise_operator() -> None:
    with counted() as counts:
        y = on_device(3) * torch.tensor(2.0)
    assert y.tolist() == [0.0, 2.0, 4.0]
    assert counts.kernels["mul"] == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: torch.randn(3, device="cuda", generator=g),
        lambda g: torch.empty(3, device="cuda").uniform_(generator=g),
        lambda g: torch.randperm(3, device="cuda", generator=g),
        lambda g: on_device(3).multinomial(2, generator=g),
    ],
)
def test_a_generator_of_the_host_draws_nothing_on_the_device(
    draw: Callable[[torch.Generator], Tensor],
) -> None:
    with pytest.raises(RuntimeError, match="generator"):
        draw(torch.Generator())
    first = draw(torch.Generator("cuda").manual_seed(3))
    assert torch.equal(first, draw(torch.Generator("cuda").manual_seed(3)))


def test_the_device_has_random_states_of_its_own() -> None:
    host = torch.get_rng_state()
    torch.cuda.manual_seed(5)
    first = F.dropout(torch.ones(64, device="cuda"))
    state = torch.cuda.get_rng_state()
    second = F.dropout(torch.ones(64, device="cuda"))
    torch.cuda.set_rng_state(state)
    assert torch.equal(F.dropout(torch.ones(64, device="cuda")), second)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), host)


PINNED = torch.ones(3).pin_memory()


@pytest.mark.parametrize(
    ("waits", "what"),
    [
        (1, lambda x: x.sum().item()),
        (1, lambda x: bool(x.sum() > 0)),
        (1, lambda x: x.tolist()),
        (1, lambda x: x.cpu()),
        (1, lambda x: x.copy_(torch.ones(3))),
        (1, lambda x: x.copy_(torch.ones(3), non_blocking=True)),  # of memory that is not pinned
        (1, lambda x: x.copy_(PINNED)),
        (0, lambda x: x.copy_(PINNED, non_blocking=True)),
        (0, lambda x: PINNED.copy_(x, non_blocking=True)),
        (1, lambda _: torch.tensor([1.0, 2.0], device="cuda")),
        (1, lambda x: x.new_tensor(3.0)),
        (0, lambda _: torch.full((), 3.0, device="cuda")),
        (0, torch.zeros_like),
        (1, lambda x: x.nonzero()),
        (1, lambda x: x[x > 1]),
        (1, lambda x: x[torch.tensor([0, 2])]),
        (0, lambda x: x[torch.arange(2, device="cuda")]),
        (0, lambda x: x.masked_fill_(x > 1, 0.0)),
        (1, lambda x: x.unique()),
        (1, lambda x: torch.equal(x, x + 1)),
        (1, lambda x: x.long().bincount()),
        (1, lambda x: x.repeat_interleave(x.long())),
        (0, lambda x: x.repeat_interleave(x.long(), output_size=3)),
        (1, lambda _: torch.cuda.synchronize()),
        (0, lambda x: x.add(1).mul(2).sum().view(1).expand(5)),
    ],
)
def test_waits(waits: int, what: Callable[[Tensor], object]) -> None:
    x = on_device(3)
    with counted() as counts:
        what(x)
    assert counts.synchronizations == waits, str(counts)


def test_launches() -> None:
    x, norm, weight = on_device(2, 3), nn.LayerNorm(3).cuda(), on_device(4, 2, 1)
    with counted() as counts:
        x[:, None].expand(2, 5, 3).transpose(1, 2)[0].detach()
    assert counts.launches == 0
    with counted() as counts:
        torch._foreach_add_([x] * 5, 1.0)
        norm(x)
        F.conv1d(x[None], weight)
        x.relu().sum()
    expected = ("_foreach_add_", "convolution", "native_layer_norm", "relu", "sum")
    assert counts.kernels == dict.fromkeys(expected, 1)


def test_backward_has_a_thread_for_itself() -> None:
    threads = set()
    x = on_device(3).requires_grad_()
    x.register_hook(lambda _: threads.add(threading.get_ident()))
    with counted() as counts:
        (x * x).sum().backward()
    assert threads != {threading.get_ident()}
    assert counts.kernels["mul"] == 3


@pytest.mark.parametrize("network", ["MLP", "CNN", "ViT"])
def test_captured_whole_with_the_gradients_of_the_host(network: str) -> None:
    host = mixed(network)
    device = host.to("cuda")
    compiled = torch.compile(device.model, backend="aot_eager", fullgraph=True)
    for batch, model in ((host, host.model), (device, compiled)):
        batch.losses(model(batch.x)).mean().backward()
    for name, gradient in host.gradients.items():
        torch.testing.assert_close(device.gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_the_gradient_scaler(dtype: torch.dtype) -> None:
    model = nn.Linear(3, 3).cuda()
    before = copy.deepcopy(model.weight)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.autocast("cuda", dtype):
        out = model(on_device(2, 3))
    assert out.dtype == dtype
    scaler.scale(out.float().sum()).backward()
    with counted() as counts:
        scaler.step(optimizer)
    assert counts.synchronizations == 1
    assert not torch.equal(model.weight, before)

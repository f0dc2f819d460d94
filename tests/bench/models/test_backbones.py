"""Backbones against the libraries' own constructors, and norms that stay as they are."""

import copy
import pickle
import socket
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from domaingrad import GradientAgreement, Mean
from domaingrad.bench.domains.recipes import for_tables
from domaingrad.bench.models import (
    BackboneError,
    build,
    default_backbone,
    freeze_norms,
    mnist_cnn,
)
from domaingrad.bench.names import UnknownNameError

IMAGE = (3, 64, 64)


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision")


@pytest.fixture
def timm(torchvision):
    return pytest.importorskip("timm")


@pytest.fixture
def offline(monkeypatch):
    def refused(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)


def assert_same_weights(found: nn.Module, expected: nn.Module):
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_perceptron_has_three_layers_for_any_shape():
    model = build("mlp", (4, 5), 3)
    widths = [(m.in_features, m.out_features) for m in model if isinstance(m, nn.Linear)]
    assert widths == [(20, 128), (128, 128), (128, 3)]


def test_wide_and_deep_is_a_linear_model_and_a_perceptron_added_up():
    model = build("wide-deep", (2, 3), 4)
    x = torch.randn(5, 2, 3)
    assert model(x).tolist() == [[0.0] * 4] * 5
    with torch.no_grad():
        model[-1].weight.normal_()
        model[-1].bias.normal_()
    flat, weights = x.flatten(1).double().numpy(), {
        name: tensor.detach().double().numpy() for name, tensor in model.named_parameters()
    }  # fmt: skip
    w1, b1, last, bias = weights.values()
    assert w1.shape == (32, 6)
    hidden = flat @ w1.T + b1
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    expected = flat @ last[:, :6].T + hidden @ last[:, 6:].T + bias
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_network_and_the_length_of_training_grow_with_the_table():
    assert for_tables([333, 333, 333]).backbone.name == "wide-deep"
    assert for_tables([333, 333, 334]).backbone.name == "mlp"
    # Ten passes over 80 % of a domain's 42,000 rows, 64 at a time; 1000 steps at least.
    assert for_tables([42_000] * 10).steps == 5250
    assert for_tables([300] * 3).steps == 1000


def test_the_digits_network_is_built_by_name():
    model = build("mnist-cnn", (1, 16, 16), 10)
    torch.manual_seed(0)
    assert_same_weights(model, mnist_cnn((1, 16, 16), 10))


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_a_backbone_of_torchvision_is_its_own_with_fresh_weights(torchvision, offline, name):
    model = build(name, IMAGE, 7)
    torch.manual_seed(0)
    assert_same_weights(model, torchvision.models.resnet18(num_classes=7))
    assert all(module.training for module in model.modules())


def test_resnet50_is_that_of_torchvision(torchvision):
    with torch.device("meta"):  # no time is lost on its weights
        found = build("resnet50", IMAGE, 7).state_dict()
        expected = torchvision.models.resnet50(num_classes=7).state_dict()
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_backbone_of_timm_takes_any_number_of_channels(timm, offline, channels):
    model = build("timm:resnet10t", (channels, 64, 64), 7)
    torch.manual_seed(0)
    expected = timm.create_model("resnet10t", num_classes=7, in_chans=channels)
    assert_same_weights(model, expected)
    assert model(torch.randn(2, channels, 64, 64)).shape == (2, 7)


def test_a_model_with_auxiliary_outputs_gives_one_in_training_too(torchvision):
    model = build("torchvision:googlenet", IMAGE, 7)
    assert model(torch.randn(2, *IMAGE)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mnist_cnn", "mnist-cnn"),
        ("resnet81", "resnet18"),
        ("torchvison:resnet18", "torchvision:NAME"),
        ("torchvision:resnet81", "resnet18"),
        ("torchvision:ResNet18", "resnet18"),
        ("timm:resnet10_t", "resnet10t"),
        ("timm:resnet18.fb_swsl_ig1b_ft_in1k", "resnet18"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(timm, name, nearest):
    with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
        build(name, IMAGE, 7)


@pytest.mark.parametrize("name", ["torchvision:fasterrcnn_resnet50_fpn", "timm:hf-hub:a/b"])
def test_detectors_and_downloads_are_no_backbones(timm, offline, name):
    with pytest.raises(UnknownNameError, match="there is no"):
        build(name, IMAGE, 7)


def test_channels_that_torchvision_does_not_take_are_told(torchvision):
    with pytest.raises(BackboneError, match=r"3 channels; found 1 .*timm:NAME.*RGB"):
        build("resnet18", (1, 64, 64), 7)


@pytest.mark.parametrize("name", ["mnist-cnn", "torchvision:squeezenet1_0", "timm:resnet10t"])
def test_images_are_expected_of_all_but_the_perceptron(name):
    with pytest.raises(BackboneError, match=rf"{name} takes images .*found .*\(13,\)\. Use mlp"):
        build(name, (13,), 2)


def test_images_that_are_too_small_are_told_with_the_cause(torchvision):
    with pytest.raises(BackboneError, match=r"shape \(3, 16, 16\): .*Output size is too small"):
        build("torchvision:squeezenet1_0", (3, 16, 16), 7)


def test_a_size_that_a_transformer_is_not_made_for_is_told_with_the_cause(timm):
    with pytest.raises(BackboneError, match=r"shape \(3, 64, 64\): Input height \(64\)"):
        build("timm:test_vit3", IMAGE, 7)
    assert build("timm:test_vit3", (3, 160, 160), 7).training


def test_a_model_that_yields_something_else_is_refused(timm):
    with pytest.raises(BackboneError, match=r"expected shape \[2, 0\] for two, found shape \[2, 5"):
        build("timm:resnet10t", IMAGE, 0)  # without outputs timm gives the features


@pytest.mark.parametrize("name", ["timm:resnet18", "resnet18"])
def test_a_missing_library_is_told_with_what_to_install(monkeypatch, name):
    library = "timm" if name.startswith("timm") else "torchvision"
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackboneError, match=rf"{library}, which .*pip install 'domaingrad\[vision"):
        build(name, IMAGE, 7)


BROKEN = RuntimeError("operator torchvision::nms does not exist")


@pytest.mark.parametrize("name", ["timm:resnet18", "resnet18"])
@pytest.mark.parametrize("error", [BROKEN, ImportError("libcudart.so.13: cannot open"), OSError()])
def test_a_library_that_cannot_be_imported_is_told_apart(monkeypatch, name, error):
    """As in a CUDA build of torchvision beside a PyTorch for the CPU."""
    for module in [m for m in sys.modules if m.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, module)

    class Finder:
        def find_spec(self, found, *_):
            if found.partition(".")[0] in ("timm", "torchvision"):
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    cause = str(error) or "OSError"
    with pytest.raises(BackboneError, match=rf"cannot be imported \({cause}\).*another build"):
        build(name, IMAGE, 7)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((13,), "mlp"),
        ((28, 28), "mlp"),
        ((1, 28, 28), "mnist-cnn"),
        ((3, 32, 32), "mnist-cnn"),
        ((3, 32, 33), "resnet18"),
        ((3, 224, 224), "resnet18"),
    ],
)
def test_the_default_goes_by_the_shape(shape, name):
    assert default_backbone(shape) == name


def normed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("carried", [lambda model: model, copy.deepcopy, through_pickle])
def test_frozen_norms_use_and_keep_their_statistics_in_training(carried):
    model = normed()
    model[1].running_mean.uniform_()
    before = copy.deepcopy(model[1])
    names = list(model.state_dict())
    assert freeze_norms(model) == 1
    model = carried(model).train()
    assert not model[1].training
    assert model[0].training
    assert list(model.state_dict()) == names
    x = torch.randn(5, 4, 4, 4)
    shape = (1, -1, 1, 1)
    expected = (x - before.running_mean.view(shape)) / (1 + before.eps) ** 0.5
    torch.testing.assert_close(model[1](x), expected)
    model(torch.randn(5, 3, 6, 6)).square().sum().backward()
    assert torch.equal(model[1].running_mean, before.running_mean)
    assert model[1].num_batches_tracked == 0
    assert all(p.grad is not None and p.grad.any() for p in model[1].parameters())


def test_frozen_norms_hold_in_compiled_models():
    model = normed()
    freeze_norms(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(5, 3, 6, 6)
    for _ in range(2):
        torch.testing.assert_close(compiled.train()(x), copy.deepcopy(model).eval()(x))
    assert model[1].num_batches_tracked == 0


def test_norms_of_a_library_keep_their_own_forward(timm):
    """EfficientNet's norm is a subclass of BatchNorm2d with the activation inside."""
    model = build("timm:test_efficientnet", IMAGE, 7)
    kinds = {name: type(module) for name, module in model.named_modules()}
    count = sum(issubclass(kind, nn.BatchNorm2d) for kind in kinds.values())
    x = torch.randn(2, *IMAGE)
    expected = copy.deepcopy(model).eval()(x)
    assert freeze_norms(model) == count > 10
    assert freeze_norms(model) == count
    assert all(isinstance(module, kinds[name]) for name, module in model.named_modules())
    torch.testing.assert_close(model.train()(x), expected)


def test_models_without_batch_norms_have_nothing_to_freeze():
    assert freeze_norms(mnist_cnn((1, 8, 8), 2)) == 0


def test_norms_without_running_statistics_cannot_be_frozen():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    assert freeze_norms(model) == 0
    assert model[1].training


@pytest.mark.parametrize("engine", ["single-pass", "streaming"])
def test_the_engines_see_frozen_norms(engine):
    """With fixed statistics, the mean of the domains' gradients is that of the whole batch."""
    model = normed()
    freeze_norms(model)
    model.train()
    x, y = torch.randn(8, 3, 6, 6), torch.randint(0, 2, (8,))
    F.cross_entropy(model(x), y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    agree = GradientAgreement(model, Mean(), engine=engine)
    outputs = agree(x, torch.tensor([0, 1] * 4))
    agree.backward(F.cross_entropy(outputs, y, reduction="none"))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert model[1].num_batches_tracked == 0

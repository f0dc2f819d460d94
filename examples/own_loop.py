"""Your own loop: digits rotated by domain, one angle held out; AND-mask beside the mean.

    python examples/own_loop.py
    python examples/own_loop.py --steps 300 --held-out 60

It needs scikit-learn beside domaingrad. One seed and one angle decide nothing: see docs/limits.md.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import domaingrad as dg

ANGLES = (0, 15, 30, 45, 60, 75)


def rotated_digits(angle: int, index: int) -> tuple[Tensor, Tensor]:
    """Every sixth digit, from ``index`` on, so that no digit is in two domains."""
    stored = load_digits()
    images = torch.tensor(stored.images[index :: len(ANGLES)], dtype=torch.float32)[:, None] / 16
    turn = torch.deg2rad(torch.tensor(float(angle)))
    matrix = torch.tensor([[turn.cos(), -turn.sin(), 0], [turn.sin(), turn.cos(), 0]])
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    labels = torch.tensor(stored.target[index :: len(ANGLES)])
    return F.grid_sample(images, grid, align_corners=False), labels


def train(rule: dg.rules.Rule, held_out: int, steps: int, seed: int = 0) -> float:
    """Train on the other angles; the accuracy at the one held out."""
    torch.manual_seed(seed)
    domains = {angle: rotated_digits(angle, at) for at, angle in enumerate(ANGLES)}
    test_x, test_y = domains.pop(held_out)
    x = torch.cat([images for images, _ in domains.values()])
    y = torch.cat([labels for _, labels in domains.values()])
    domain = torch.cat([torch.full((len(y),), angle) for angle, (_, y) in domains.items()])

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    agree = dg.GradientAgreement(model, rule)
    batches = dg.samplers.BalancedSampler(domain, batch=32, seed=seed)
    step = 0
    while step < steps:
        for rows in batches:
            losses = F.cross_entropy(agree(x[rows], domain[rows]), y[rows], reduction="none")
            agree.backward(losses)  # .grad now holds the agreed update
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == steps:
                break
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=75, choices=ANGLES)
    given = parser.parse_args()
    for rule in (dg.Mean(), dg.ANDMask(tau=0.8)):
        accuracy = train(rule, given.held_out, given.steps)
        print(f"{rule}: {100 * accuracy:.1f} % at {given.held_out}°, which training never saw")


if __name__ == "__main__":
    main()

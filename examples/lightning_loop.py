"""Lightning: a mixin, losses one a sample; the Trainer does the rest.

    python examples/lightning_loop.py --epochs 5

It needs `pip install 'domaingrad[lightning]'`.
"""

import argparse

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import domaingrad as dg
from domaingrad.integrations.lightning import AgreementMixin


class Classifier(AgreementMixin, L.LightningModule):  # in this order
    """Two classes, from inputs of width 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        self.agree_by(dg.ANDMask(tau=0.8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y, domain = batch
        return F.cross_entropy(self.agree(x, domain), y, reduction="none")  # one a sample

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    L.seed_everything(0, verbose=False)
    domain = torch.arange(600) % 3
    x = torch.randn(600, 8)
    y = (x[:, 0] + 0.1 * domain > 0).long()
    batches = dg.samplers.BalancedSampler(domain, batch=16)
    loader = DataLoader(TensorDataset(x, y, domain), batch_sampler=batches)
    trainer = L.Trainer(
        max_epochs=given.epochs, gradient_clip_val=1.0, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,  # the sampler knows the processes itself
    )  # fmt: skip
    model = Classifier()
    trainer.fit(model, loader)
    right = (model.eval()(x).argmax(1) == y).double().mean().item()
    print(f"accuracy on the sources {right:.3f}")


if __name__ == "__main__":
    main()

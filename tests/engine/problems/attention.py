"""Attention, and the ways to lay tokens and samples out in one tensor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .problem import CLASSES, SIZES, Apply, N, normal, problem, tokens, weights


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class SequenceFirst(nn.Module):
    """Tokens before samples, as PyTorch's layers have it by default."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, **options)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(0, 1)).square().mean(0))


class Decoder(nn.Module):
    """A causal mask that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(6, 2, 8, 0.0, batch_first=True, bias=False)
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(4))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layer(x, memory, tgt_mask=self.mask).square().mean(1))


class CrossAttention(nn.Module):
    """Keys and values of other widths than the queries; the weights are an output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=3, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        x, weights = self.attention(queries, keys, values, need_weights=True)
        return self.head(x.mean(1)), weights


def with_weights(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    logits, attention = outputs
    return F.cross_entropy(logits, targets, reduction="none") + attention.square().mean((1, 2))


class LearnedKey(nn.Module):
    """One more key and value that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, add_bias_kv=True, bias=False)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(0))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18, bias=False), nn.Linear(6, 6)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 2, 3).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, bias)
        return self.out(x.transpose(1, 2).flatten(2))


class Windows(nn.Module):
    """2×2 windows of an image as samples [N * windows, tokens, C], as in Swin (2103.14030 §3.2).

    Each offset between two pixels of a window has its learned bias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = SelfAttention()
        self.table = weights(9, 2)
        self.head = nn.Linear(6, CLASSES)
        row, column = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        index = 3 * (row[:, None] - row + 1) + column[:, None] - column + 1
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = x.view(n, 2, 2, 2, 2, 6).transpose(2, 3).reshape(n * 4, 4, 6)
        bias = self.table[self.index].permute(2, 0, 1)[None]
        x = x + self.attention(x, bias)
        return self.head(x.view(n, 16, 6).square().mean(1))


class VisionTransformer(nn.Module):
    """A class token, positions and LayerScale as bare parameters of the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 6, 2, stride=2)
        self.cls, self.positions = weights(1, 1, 6), weights(1, 5, 6)
        self.norm, self.attention = nn.LayerNorm(6), SelfAttention()
        self.gamma = nn.Parameter(torch.full((6,), 0.5))
        self.mlp = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.gamma * self.attention(self.norm(x))
        x = x + self.gamma * self.mlp(x)
        return self.head(x[:, 0])


class PositionsByEmbedding(nn.Module):
    """One layer looks up samples' tokens, the other what all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 6), nn.Embedding(5, 6)
        self.attention, self.head = SelfAttention(), nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        return self.head((x + self.attention(x)).tanh().mean(1))


class LearnedQueries(nn.Module):
    """The queries pass a layer before they meet a sample; there are as many as samples in a domain.

    The other layer sees the samples.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.queries = weights(count, 6)
        self.of_queries, self.of_samples = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q = self.of_queries(self.queries).tanh().expand(len(x), -1, -1)
        x = F.scaled_dot_product_attention(q, x, self.of_samples(x).tanh())
        return self.head((q * x).mean(1))


class CheckpointedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention = nn.Linear(6, 6), SelfAttention()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + checkpoint(self.attention, x, use_reentrant=False)
        return self.head(x.tanh().mean(1))


class Flattened(nn.Module):
    """Tokens as rows [N * L, C] or [L * N, C] of a layer."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, CLASSES)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        if self.first == "samples":
            return self.head(self.rows(x.flatten(0, 1)).view(n, length, -1)).mean(1)
        rows = self.rows(x.transpose(0, 1).flatten(0, 1))
        return self.head(rows.view(length, n, -1)).mean(0)

    def rows(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.layer(x)))


def linear_on_grids() -> nn.Module:
    """Linear layers with further dimensions between samples and features, [N, H, W, C]."""
    return nn.Sequential(
        nn.Linear(6, 5),
        nn.Tanh(),
        Apply(lambda x: x.mean(2)),
        nn.Linear(5, 4, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, CLASSES, bias=False),
    )


# The bias of the keys adds the same to every score of a softmax: its true gradient is zero.
BIAS = "in_proj_bias"
OF_ENCODER = frozenset({f"layer.self_attn.{BIAS}"})
SEQUENCE = normal(4, 6)

PROBLEMS = {
    "attention": problem(Attention, SEQUENCE, rounding_noise=OF_ENCODER),
    "sequence first": problem(lambda: SequenceFirst(bias=False), SEQUENCE),
    "sequence first, as long as the batch": problem(
        lambda: SequenceFirst(norm_first=True), normal(N, 6), rounding_noise=OF_ENCODER
    ),
    "sequence first, as long as a domain": problem(
        lambda: SequenceFirst(bias=False), normal(SIZES[2], 6)
    ),
    "decoder": problem(Decoder, (SEQUENCE, normal(3, 6, seed=1))),
    "cross attention of other widths": problem(
        CrossAttention,
        (SEQUENCE, normal(5, 4, seed=1), normal(5, 3, seed=2)),
        with_weights,
        rounding_noise=frozenset({f"attention.{BIAS}"}),
    ),
    "a learned key for all samples": problem(LearnedKey, SEQUENCE),
    "windows of an image": problem(Windows, normal(4, 4, 6)),
    "vision transformer": problem(VisionTransformer, normal(2, 4, 4)),
    "positions by embedding": problem(PositionsByEmbedding, tokens(5)),
    "learned queries": problem(lambda: LearnedQueries(4), SEQUENCE),
    "learned queries, as many as a domain has samples": problem(
        lambda: LearnedQueries(SIZES[2]), SEQUENCE
    ),
    "learned queries, as many as samples": problem(lambda: LearnedQueries(N), SEQUENCE),
    "checkpointed attention": problem(CheckpointedAttention, SEQUENCE),
    "flattened tokens, samples first": problem(lambda: Flattened("samples"), SEQUENCE),
    "flattened tokens, tokens first": problem(lambda: Flattened("tokens"), SEQUENCE),
    "linear layers on grids": problem(linear_on_grids, normal(2, 3, 6)),
}

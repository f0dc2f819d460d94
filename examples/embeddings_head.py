"""A head on embeddings: a rule in a loop of one layer, beside logistic regression.

    python examples/embeddings_head.py                 # on vectors made for it
    python examples/embeddings_head.py mine.npz --held-out lab-c

`mine.npz` has embeddings [n, width], label [n] and domain [n]; it needs scikit-learn.
"""

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

import domaingrad as dg


def made() -> dict[str, np.ndarray]:
    """Two classes in three laboratories, each with a shift of its own."""
    rng = np.random.default_rng(0)
    label, domain = np.arange(600) % 2, np.arange(600) // 200
    shift = rng.normal(0.0, 1.0, (3, 64))[domain]
    mechanism = np.zeros(64)
    mechanism[:8] = 1.0
    vectors = label[:, None] * mechanism + shift + rng.normal(0.0, 1.5, (600, 64))
    names = np.array(["lab-a", "lab-b", "lab-c"])[domain]
    return {"embeddings": vectors, "label": label, "domain": names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", help="an .npz; made vectors without it")
    parser.add_argument("--held-out", default="lab-c")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()

    stored = np.load(given.file) if given.file else made()
    source = stored["domain"] != given.held_out
    scaler = StandardScaler().fit(stored["embeddings"][source])  # of the sources alone
    vectors = scaler.transform(stored["embeddings"]).astype(np.float32)
    classes, label = np.unique(stored["label"], return_inverse=True)
    _, domain = np.unique(stored["domain"][source], return_inverse=True)

    x, y, domain = map(torch.from_numpy, (vectors[source], label[source], domain))
    torch.manual_seed(0)
    head = nn.Linear(x.shape[1], len(classes))
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    agree = dg.GradientAgreement(head, dg.ANDMask(tau=1.0))
    for _ in range(given.steps):
        losses = F.cross_entropy(agree(x, domain), y, reduction="none")
        agree.backward(losses)
        optimizer.step()
        optimizer.zero_grad()

    known = LogisticRegression(max_iter=1000).fit(vectors[source], label[source])
    predicted = head(torch.from_numpy(vectors[~source])).argmax(1).numpy()
    right = (predicted == label[~source]).mean()
    print(f"{given.held_out}, held out: AND-mask {100 * right:.1f} %", end=", ")
    print(f"logistic regression {100 * known.score(vectors[~source], label[~source]):.1f} %")


if __name__ == "__main__":
    main()

"""`domaingrad embed`: images through a frozen backbone, once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from domaingrad.bench import embed as run_embedding

from . import options
from .errors import bad_input
from .training_view import TrainingView


@options.takes(settings=("backbone", "weights", "accelerator", "plugins"))
def embed(
    data: Annotated[str, typer.Option(help="A folder of images, or KIND:PATH of images.")],
    out: Annotated[Path, typer.Option(help="The file of embeddings, an .npz.")],
    *,
    settings: Mapping[str, Any],
) -> None:
    """Embed images by a frozen backbone into a file that `train` and `sweep` read.

    Shows speed and time left; goes on after a kill; what was embedded before, by the same weights
    at the same size, is found by its content. `train --frozen-backbone` does the same by itself.

    - `domaingrad embed --data PACS/ --size 128 --backbone efficientnet-lite0 --out pacs.npz`

    - `domaingrad train --data pacs.npz --hold-out sketch --method and-mask`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        found = run_embedding(data, out, **settings, news=view.listener.news)
    samples = sum(len(domain) for domain in found.domains.values())
    errors.print(
        f"Wrote {samples:,} vectors of {found.preparation.shape[0]:,} numbers, "
        f"{len(found.domains)} domains, to {out}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )

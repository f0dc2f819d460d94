"""`domaingrad cache`: where decoded images and embeddings lie, and how much room they take."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from domaingrad.bench import cache_directory, cached_bytes, clear_cache

from .errors import bad_input
from .live import in_bytes


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
) -> None:
    """Show where decoded images and embeddings are kept and what they take, or remove them.

    Runs that need them make them anew. `DOMAINGRAD_CACHE` puts the cache elsewhere.

    - `domaingrad cache --clear`
    """
    with bad_input(Console(stderr=True)):
        done = f"removed {in_bytes(clear_cache())} from" if clear else in_bytes(cached_bytes())
    told = f"{done} {cache_directory()}" if clear else f"{cache_directory()}: {done}"
    Console().print(told, highlight=False, markup=False, soft_wrap=True)

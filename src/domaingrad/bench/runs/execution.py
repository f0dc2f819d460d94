"""Many runs side by side, wherever there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .attempts import attempt, places_of
from .events import OnEvent
from .plan import Bundle
from .processes import Crew, in_processes
from .ray_cluster import RayCrew, on_ray

AnyCrew = Crew | RayCrew
"""Where runs are carried out."""


def execute(
    bundles: Sequence[Bundle], place: Callable[[str], Path], crew: AnyCrew, on_event: OnEvent
) -> None:
    """Carry out everything, and tell what happens.

    One thread a bundle, so that the numbers are the same however many run at a time, and wherever.
    A run whose process dies goes on in another one, at most
    :data:`~domaingrad.bench.runs.events.ATTEMPTS` times. Ctrl-C ends the runs under way and starts
    no others.

    Args:
        bundles: what is to be done; runs that train together, or one alone.
        place: directory of a run, by its key.
        crew: where it is done.
        on_event: who hears of it.

    Raises:
        KeyboardInterrupt: after all processes have ended.
        FullDiskError: likewise.
    """
    if isinstance(crew, RayCrew):
        on_ray(bundles, place, crew, on_event)
    elif crew.jobs == 1 and not crew.devices:
        for bundle in bundles:
            for ended in attempt(bundle, places_of(bundle, place), crew.keep_models, on_event):
                on_event(ended)
    else:
        in_processes(bundles, place, crew, on_event)

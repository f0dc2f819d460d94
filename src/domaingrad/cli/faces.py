"""`domaingrad prepare-faces` and `domaingrad fas-synthetic`: data of live faces and attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from domaingrad.bench import look_up
from domaingrad.faces.layouts import Kind, prepare_faces
from domaingrad.faces.synthetic import write_fas_synthetic

from .errors import bad_input
from .shown import say
from .training_view import TrainingView


def prepare(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(get_args(Kind))}.")],
    root: Annotated[Path, typer.Argument(help="Where the set lies, in its own layout.")],
    out: Annotated[Path, typer.Argument(help="Where frames and lists go; one for all sets.")],
    frames: Annotated[int, typer.Option(help="Frames of each video, evenly.")] = 4,
) -> None:
    """Make frames and lists of a face anti-spoofing set from its own directory layout.

    Takes videos (by PyAV) or folders of frames, tells live from attack by the set's own rule, and
    writes OUT/SET/…_label.json, which `faces:OUT` reads. Goes on where it was left.

    - `domaingrad prepare-faces oulu-npu OULU/ faces/`

    - `domaingrad train --data faces:faces --protocol "O&C&I-M" --backbone resnet18`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        known = {name: name for name in get_args(Kind)}
        prepare_faces(look_up("set of faces", kind, known), root, out, frames, view.listener.news)


def synthesise(
    out: Annotated[Path, typer.Argument(help="Where frames and lists go.")],
    seed: Annotated[int, typer.Option(help="From which everything is drawn.")] = 0,
    size: Annotated[int, typer.Option(help="Height and width.")] = 64,
    subjects: Annotated[int, typer.Option(help="People of each camera.")] = 20,
    frames: Annotated[int, typer.Option(help="Frames of each video.")] = 4,
) -> None:
    """Generate faces, prints and replayed screens before four cameras.

    No licence is needed, and no result on them says anything of real attacks: they are there to try
    out methods and protocols. The cameras' habits tell live from attack in one domain and mislead
    in another; what printing and replaying leave behind tells in all.

    - `domaingrad fas-synthetic faces-synthetic/`
    """
    errors = Console(stderr=True)
    with bad_input(errors), TrainingView(errors) as view:
        write_fas_synthetic(out, seed, size, subjects, frames, view.listener.news.advance)
    say(errors, f"Wrote {out}; train on it with --data faces:{out}.")

"""The four data sets of face anti-spoofing that are used together, and protocols over them.

Numbers follow from how the sets were recorded: OULU-NPU has 55 subjects × 6 phones × 3 sessions × 1
live and 4 attacks (20, 15 and 20 subjects in its three parts), CASIA-FASD 50 × 3 live and 9
attacks, Replay-Attack 50 × 4 live and 20 attacks (15, 15 and 20), MSU-MFSD 35 × 2 live and 6
attacks. Where to ask for them is written from public documentation and may have moved.
"""

from __future__ import annotations

from dataclasses import dataclass

LIVE = "live"
"""The class that is no attack."""
UNNAMED = "unnamed"
"""Kind of the attacks of lists that name none."""


@dataclass(frozen=True)
class FaceSet:
    """A licensed data set of live faces and attacks."""

    letter: str
    """Its name in protocols."""
    title: str
    kind: str
    """What :func:`~.layouts.prepare_faces` calls it."""
    folder: str
    """Of its lists, as in SSDG."""
    names: frozenset[str]
    """Other names of that folder, letters and digits alone."""
    videos: tuple[tuple[int, int], ...]
    """Numbers of live videos and of attacks: as published, then in other lists in use."""
    source: str

    def obtained(self) -> str:
        """What someone needs to know who has not got it, in a sentence."""
        return (
            f"{self.title} is not part of this package: ask {self.source} for it, then have "
            f"prepare-faces {self.kind} make {self.folder}/all_label.json and its frames"
        )


OULU = FaceSet(
    letter="O",
    title="OULU-NPU",
    kind="oulu-npu",
    folder="oulu",
    names=frozenset({"oulunpu", "o"}),
    videos=((990, 3960), (720, 2880)),  # SSDG's lists of all leave out the development part
    source="the University of Oulu (sites.google.com/site/oulunpudatabase; a signed agreement)",
)
CASIA = FaceSet(
    letter="C",
    title="CASIA-FASD",
    kind="casia-fasd",
    folder="casia",
    names=frozenset({"casiafasd", "casiamfsd", "c"}),
    videos=((150, 450),),
    source="the Institute of Automation of the Chinese Academy of Sciences (CBSR; a signed "
    "agreement)",
)
REPLAY = FaceSet(
    letter="I",
    title="Replay-Attack",
    kind="replay-attack",
    folder="replay",
    names=frozenset({"replayattack", "idiap", "i"}),
    videos=((200, 1000), (140, 700), (300, 1000)),  # without development; with enrolment
    source="the Idiap Research Institute (www.idiap.ch/dataset/replayattack; a signed agreement)",
)
MSU = FaceSet(
    letter="M",
    title="MSU-MFSD",
    kind="msu-mfsd",
    folder="msu",
    names=frozenset({"msumfsd", "m"}),
    videos=((70, 210),),
    source="Michigan State University (biometrics.cse.msu.edu; a signed agreement)",
)

FACE_SETS: dict[str, FaceSet] = {face.letter: face for face in (OULU, CASIA, REPLAY, MSU)}
"""Every known set by its letter."""

PROTOCOLS: dict[str, tuple[tuple[str, ...], str]] = {
    "O&C&I-M": (("O", "C", "I"), "M"),
    "O&M&I-C": (("O", "M", "I"), "C"),
    "O&C&M-I": (("O", "C", "M"), "I"),
    "I&C&M-O": (("I", "C", "M"), "O"),
    "M&I-C": (("M", "I"), "C"),
    "M&I-O": (("M", "I"), "O"),
}
"""Sources and the held-out domain by name: leave one of four out, and two with few sources."""


def known_set(folder: str) -> FaceSet | None:
    """The set that a folder's name stands for.

    >>> known_set("OULU_NPU").letter, known_set("mine")
    ('O', None)
    """
    bare = "".join(filter(str.isalnum, folder)).lower()
    return next(
        (face for face in FACE_SETS.values() if bare == face.folder or bare in face.names), None
    )

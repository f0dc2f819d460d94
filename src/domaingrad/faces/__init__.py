"""Face anti-spoofing: videos of live faces and attacks, protocols over sets, rates by video.

Above the bench by its registries: importing this registers the reader ``faces`` and the sections
``liveness`` of reports and evaluations.
"""

from domaingrad.bench import register

from .reader import FACES
from .report import Liveness

register.reader(FACES)
register.section("liveness", Liveness())

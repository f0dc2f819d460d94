"""Twelve methods of the literature, as short as their learners allow: the test of the design."""

from . import coral, dann, ermpp, fish, fishr, groupdro, irm, mixup, mldg, mtl, sagnet, swad

SKETCHES = {
    method.info.name: method
    for method in (
        irm.IRM(), mixup.Mixup(), groupdro.GroupDRO(), mldg.MLDG(), coral.CORAL(), fishr.Fishr(),
        fish.Fish(), dann.DANN(), sagnet.SagNet(), mtl.MTL(), swad.SWAD(), ermpp.ERMPlusPlus(),
    )
}  # fmt: skip
"""By name."""


def register():
    """Put them into the registry, as a plug-in does."""
    from domaingrad.bench import register as to

    for method in SKETCHES.values():
        to.method(method)

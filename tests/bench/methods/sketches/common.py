"""What a sketch is called."""

from domaingrad.bench.methods import MethodInfo


def info(name, title, paper):
    return MethodInfo(
        name=name, title=title, summary=f"a sketch of {title}", paper=f"arXiv {paper}"
    )

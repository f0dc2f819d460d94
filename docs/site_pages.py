"""What the site has beside the pages of this folder: pages of other folders, and the API reference.

Links between files are written as they hold in the repository; here they become links of the site.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from pathlib import Path, PurePosixPath
from textwrap import indent
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from yaml import dump

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
} | {
    f"benchmarks/{path.name}": f"benchmarks/results/{path.name}"
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
}
"""Pages of the site, and the files in the repository that they are."""
FOLDERS = {"benchmarks/results": "costs.md", "examples": "examples.md", "LICENSE": "license.md"}
"""Where links to what is no page lead."""
REFERENCE = {
    "In a loop": ("domaingrad", "GradientAgreement DDPAgreement GSNRDropout LearnedRatio"),
    "Rules": (
        "domaingrad.rules",
        "Mean ANDMask SANDMask AgrSum AgrRand PCGrad Median TrimmedMean from_torchjd Rule",
    ),
    "Rules of your own": ("domaingrad.rules.authoring", ""),
    "Statistics": ("domaingrad", "signal_to_noise SignalToNoise"),
    "Inspect": ("domaingrad.inspect", ""),
    "Batches": (
        "domaingrad.samplers",
        "BalancedSampler MixedSampler DomainPerRankSampler DomainSampler",
    ),
    "Errors and warnings": (
        "domaingrad",
        "AgreementError AuditError NonFiniteGradientWarning SinglePassWarning",
    ),
    "Lightning": ("domaingrad.integrations.lightning", "AgreementMixin"),
    "Accelerate": ("domaingrad.integrations.accelerate", "AcceleratedAgreement"),
    "Sites": ("domaingrad.integrations.federated", "SiteSums site_sums added combine"),
    "Training": (
        "domaingrad.bench",
        "train TrainConfig Result load_model TrainedModel evaluate Evaluation estimate "
        "Estimates predict Predictions inspect Inspection embed export Exported",
    ),
    "Sweeps": ("domaingrad.bench", "sweep SweepConfig plan_sweep PlannedSweep Summary"),
    "Methods of your own": (
        "domaingrad.bench.methods",
        "Method MethodInfo Learner Requires Batches Setup",
    ),
    "Data of your own": (
        "domaingrad.bench.domains",
        "DataSet Domains Recipe Reader ReaderOptions DomainData DataError",
    ),
    "Registration": ("domaingrad.bench.register", ""),
}
"""Public names by what they are for; an empty list is all of the module's ``__all__``."""


def reference() -> dict[str, dict[str, str]]:
    """Dotted names and their pages, by section.

    Names that differ by case alone have pages that do not, since some file systems cannot.

    Raises:
        ValueError: a name of ``domaingrad.__all__`` that no section has.
    """
    sections: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for title, (module, names) in REFERENCE.items():
        sections[title] = {}
        for short in names.split() or sorted(_public(importlib.import_module(module))):
            name = f"{module}.{short}"
            page = f"reference/{name}{'-function' if name.lower() in taken else ''}.md"
            taken.add(name.lower())
            sections[title][name] = page
    shown = {name.rpartition(".")[2] for each in sections.values() for name in each}
    package = importlib.import_module("domaingrad")
    modules = {"inspect", "rules", "samplers"}
    if missing := set(package.__all__) - shown - modules:
        raise ValueError(f"expected a section of REFERENCE for {', '.join(sorted(missing))}.")
    return sections


def _public(module: Any) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = (name for name, each in vars(module).items() if callable(each))
    return [
        name
        for name in own
        if not name.startswith("_") and getattr(module, name).__module__ == module.__name__
    ]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    results = [{_titled(page): page} for page in ELSEWHERE if page.startswith("benchmarks/")]
    pages = [
        {title: [{name.rpartition(".")[2]: page} for name, page in names.items()]}
        for title, names in reference().items()
    ]
    for section in config.nav or []:
        for title, entries in section.items() if isinstance(section, dict) else ():
            if title == "Benchmarks":
                entries[1:] = results
            elif title == "API reference":
                entries[:] = ["reference/index.md", *pages]
    return config


def _titled(page: str) -> str:
    first = (ROOT / ELSEWHERE[page]).read_text("utf-8").partition("\n")[0]
    return first.removeprefix("# ")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of other folders, and a page for each public name."""
    made = {page: (ROOT / path).read_text("utf-8") for page, path in ELSEWHERE.items()}
    scripts = sorted((ROOT / "examples").glob("*.py"))
    made["examples.md"] = "# Examples\n\n" + "\n".join(map(_script, scripts))
    made["license.md"] = (
        "# License\n\n```text\n" + (ROOT / "LICENSE").read_text("utf-8") + "\n```\n"
    )
    index = [
        "# API reference\n\nThe public names, a page each: equation, shapes, errors, example.\n"
    ]
    for title, names in reference().items():
        index.append(f"\n## {title}\n")
        for name, page in names.items():
            short = name.rpartition(".")[2]
            index.append(f"- [`{short}`]({posixpath.basename(page)}): {_summary(name)}")
            heading = {"options": {"heading": name}}
            made[page] = f"::: {_where_it_is(name)}\n{indent(dump(heading), '    ')}"
    made["reference/index.md"] = "\n".join(index) + "\n"
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def _script(path: Path) -> str:
    text = path.read_text("utf-8")
    title = text.partition('"""')[2].partition("\n")[0]
    return f"## {path.name}\n\n{title}\n\n```python\n{text}```\n"


def _where_it_is(name: str) -> str:
    """The name to read it by: one that is a module's, too, would be taken for that."""
    module, _, short = name.rpartition(".")
    try:
        shadowed = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        shadowed = False
    return (
        f"{getattr(importlib.import_module(module), short).__module__}.{short}"
        if shadowed
        else name
    )


def _summary(name: str) -> str:
    module, _, short = name.rpartition(".")
    documented = getattr(importlib.import_module(module), short)
    text = documented.__doc__ or ""
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.strip().partition("\n")[0])


def on_page_markdown(markdown: str, page: Page, **others: Any) -> str:
    """Turn links between files of the repository into links of the site."""
    here = page.file.src_uri
    source = PurePosixPath(ELSEWHERE.get(here, f"docs/{here}"))
    pages = {path: name for name, path in ELSEWHERE.items()} | FOLDERS

    def link(found: re.Match[str]) -> str:
        opening, target, anchor, closing = found.groups()
        if "://" in target or not target:
            return found[0]
        path = posixpath.normpath(f"{source.parent}/{target}")
        to = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is None:
            return found[0]
        return f"{opening}{posixpath.relpath(to, posixpath.dirname(here) or '.')}{anchor}{closing}"

    if here.startswith("reference/"):
        return markdown
    markdown = re.sub(r"(\]\()([^)#\s]*)([^)\s]*)(\))", link, markdown)
    return re.sub(r"((?:src|srcset)=\")([^\"#]*)()(\")", link, markdown)

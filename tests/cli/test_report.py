"""The report in a real browser."""

import re
import shutil
import subprocess

import matplotlib.image
import pytest
from typer.testing import CliRunner

from domaingrad.cli.app import app

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Debian's package chromium to open the report"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    arguments = ["compare", "--data", "colored-digits", "--methods", "erm,agr-sum", "--steps", "4"]
    result = CliRunner().invoke(app, [*arguments, "--jobs", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out / "report.html"


def browse(page, tmp_path, *options):
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1600",
            *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def test_the_page_shows_its_tables_and_plots(report, tmp_path):
    document = browse(report, tmp_path, "--dump-dom").stdout
    tables = re.findall(r"<table>(.*?)</table>", document, flags=re.DOTALL)
    scores, _, _, selections, paired = tables  # first training-domain validation, then oracles
    rows = re.findall(r"<tr>(.*?)</tr>", scores, flags=re.DOTALL)
    assert [re.findall(r"<td[^>]*>(.*?)</td>", row)[0] for row in rows[1:]] == ["ERM", "Agr-Sum"]
    assert len(re.findall(r"\d+\.\d±\d+\.\d", scores)) == 2 * 5
    assert re.findall(r"<td[^>]*>(.*?)</td>", paired)[:2] == ["Agr-Sum", "ERM"]
    assert re.findall(r"<th>(.*?)</th>", selections)[1:] == [
        "training-domain validation", "oracle, last checkpoint", "oracle, best checkpoint",
    ]  # fmt: skip
    assert document.count("<img") == 3


@pytest.mark.parametrize(("options", "light"), [((), True), (("--force-dark-mode",), False)])
def test_the_page_is_drawn_in_light_and_dark(report, tmp_path, options, light):
    picture = tmp_path / "page.png"
    browse(report, tmp_path, f"--screenshot={picture}", *options)
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert (pixels[5, 5].mean() > 0.5) == light
    # The colour of Agr-Sum's or AND-mask's marks, #E69F00, is there only if the plots are drawn.
    distance = abs(pixels - [0xE6 / 255, 0x9F / 255, 0x00 / 255]).max(axis=-1)
    assert (distance < 0.02).sum() > 50

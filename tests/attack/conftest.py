"""Good things that are then spoiled: data, runs and sweeps, made once."""

import shutil

import pytest
import torch
from PIL import Image

from domaingrad.bench.models import build
from domaingrad.faces.synthetic import write_fas_synthetic

from .invoking import command

TRAIN = ["train", "--accelerator", "cpu", "--steps", 2, "--checkpoints", 2, "--batch", 4]


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_anyones(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOMAINGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Paths by name; nobody writes to them."""
    root = tmp_path_factory.mktemp("good")
    rows = [f"{site},{n % 2},{n % 3},{n / 7:.3f},p{n // 2}\n" for site in "abc" for n in range(12)]
    (root / "table.csv").write_text("site,ill,kind,age,person\n" + "".join(rows))
    for domain in ("north", "south", "west"):
        for number, name in enumerate(("cat", "dog") * 4):
            place = root / "photos" / domain / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (60 * number % 256, 40, 90)).save(place)
    found = {"root": root, "table": root / "table.csv", "photos": root / "photos"}
    table = f"csv:{found['table']}"
    told = ["--data", table, "--target", "ill", "--domain", "site"]
    write_fas_synthetic(root / "generated", subjects=3, frames=1, size=32)
    runs = {
        "run": [*told, "--hold-out", "c"],
        "grouped": [*told, "--hold-out", "c", "--group", "person"],
        "open": [*told, "--hold-out", "none"],
        "seen": ["--data", found["photos"], "--hold-out", "west", "--size", 28,
                 "--backbone", "mnist-cnn"],
        "faces": ["--data", f"faces:{root / 'generated'}", "--hold-out", "O", "--size", 28,
                  "--backbone", "mnist-cnn"],
    }  # fmt: skip
    for name, more in runs.items():
        result = command([*TRAIN, *more, "--out", root / name])
        assert result.exit_code == 0, result.output
        found[name] = root / name
    sweep = ["sweep", "--data", "spirals", "--methods", "erm,coral", "--draws", 1, "--trials", 1,
             "--steps", 2, "--jobs", 1, "--accelerator", "cpu"]  # fmt: skip
    sweep += ["--out", root / "sweep"]
    result = command(sweep)
    assert result.exit_code == 0, result.output
    embed = ["embed", "--data", found["photos"], "--size", 32, "--backbone", "squeezenet"]
    embed += ["--weights", weights_in(root), "--accelerator", "cpu", "--out"]
    return found | {
        "sweep": root / "sweep", "sweep command": sweep, "train command": told,
        "embed command": embed, "runs": runs, "weights": root / "weights.pt",
    }  # fmt: skip


def weights_in(folder):
    """A file of weights of a backbone, made up."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build("squeezenet", (3, 32, 32), 5).state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


@pytest.fixture
def copied(good, tmp_path):
    """A copy of one of them, to be spoiled."""

    def copy(name):
        return shutil.copytree(good[name], tmp_path / name)

    return copy

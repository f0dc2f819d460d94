"""Sets of WILDS are read through its own package, from small folders laid out as it leaves them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image

from domaingrad.bench.domains.data import DataError, News
from domaingrad.bench.domains.wilds import WILDS, WildsOptions

SIDE = 8
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture
def package(monkeypatch):
    """The package wilds, kept from asking the network for a newer version of itself."""
    monkeypatch.setitem(sys.modules, "outdated", None)
    return pytest.importorskip("wilds")


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    monkeypatch.setenv("DOMAINGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WILDS_DATA", str(tmp_path / "wilds"))
    # The package lifts Pillow's limit for the whole process when it is asked for FMoW.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    (tmp_path / "wilds").mkdir()
    return tmp_path / "wilds"


def read(name, **options):
    return WILDS.read(Path(name), WildsOptions(size=SIDE, **options), News())


def downloaded(root, name, version):
    folder = root / f"{name}_v{version}"
    folder.mkdir()
    (folder / f"RELEASE_v{version}.txt").touch()
    return folder


def paint(path, number):
    """A photograph that tells its number by its red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (10 * number, 0, 0)).save(path)


def contents(data):
    """Numbers of the photographs and their classes, by domain."""
    result = {}
    for name, domain in data.domains.items():
        stored, labels = domain.tensors
        images = stored[torch.arange(len(stored))]
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.dtype == torch.uint8
        numbers = (images[:, 0, 0, 0].float() / 10).round().int().tolist()
        classes = [data.classes[label] for label in labels]
        result[name] = dict(zip(numbers, classes, strict=True))
    return result


def test_camelyon17_has_hospitals_as_domains(package, root):
    folder = downloaded(root, "camelyon17", "1.0")
    rows = []
    for n in range(6):
        row = {"patient": "004", "node": n % 2, "x_coord": n, "y_coord": 2 * n}
        rows.append(row | {"tumor": n // 4, "slide": n, "center": n % 3, "split": 0})
        node = f"patient_004_node_{n % 2}"
        paint(folder / "patches" / node / f"patch_{node}_x_{n}_y_{2 * n}.png", n)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
    data = read("camelyon17")
    assert data.name == "camelyon17"
    assert data.preparation.shape == (3, SIDE, SIDE)
    assert contents(data) == {
        "hospital-0": {0: "normal", 3: "normal"},
        "hospital-1": {1: "normal", 4: "tumor"},
        "hospital-2": {2: "normal", 5: "tumor"},
    }
    assert len(read("camelyon17", domain="slide").domains) == 6


def test_iwildcam_has_locations_as_domains(package, root):
    folder = downloaded(root, "iwildcam", "2.0")
    rows = []
    for n in range(6):
        row = {"split": ["train", "val", "test", "id_val", "id_test"][n % 5], "y": n % 2}
        rows.append(row | {"filename": f"{n}.png", "location_remapped": n // 3})
        rows[-1] |= {"sequence_remapped": n, "datetime": "2013-06-05 05:44:19.000"}
        paint(folder / "train" / f"{n}.png", n)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
    assert contents(read("iwildcam")) == {
        "location-0": {0: "0", 1: "1", 2: "0"},
        "location-1": {3: "1", 4: "0", 5: "1"},
    }


def test_fmow_has_regions_as_domains_or_years(package, root):
    folder = downloaded(root, "fmow", "1.1")
    rows = []
    for n in range(8):
        # The third is sequestered, and leaves a gap in the numbers of the files.
        row = {"split": "seq" if n == 2 else "train", "country_code": ["DEU", "JPN"][n % 2]}
        rows.append(row | {"timestamp": f"{2002 + n // 4}-03-01T00:00:00Z"})
        rows[-1] |= {"category": ["zoo", "airport"][n % 3 == 0]}
        paint(folder / "images" / f"rgb_img_{n}.png", n)
    pd.DataFrame(rows).to_csv(folder / "rgb_metadata.csv")
    codes = pd.DataFrame({"alpha-3": ["DEU", "JPN"], "region": ["Europe", "Asia"]})
    codes.to_csv(folder / "country_code_mapping.csv")
    assert contents(read("fmow")) == {
        "Asia": {1: "zoo", 3: "airport", 5: "zoo", 7: "zoo"},
        "Europe": {0: "airport", 4: "zoo", 6: "airport"},
    }
    assert contents(read("fmow", domain="year")) == {
        "2002": {0: "airport", 1: "zoo", 3: "airport"},
        "2003": {4: "zoo", 5: "zoo", 6: "airport", 7: "zoo"},
    }


class Given:
    """In place of the package, one data set or the error that it raises."""

    def __init__(self, outcome):
        self.outcome = outcome

    def get_dataset(self, dataset, root_dir, download):
        assert not download
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_rxrx1_has_experiments_as_domains(root, monkeypatch):
    # Its class in wilds 2.0 does not work with pandas 3.
    files = [f"images/{n}.png" for n in range(4)]
    for n, file in enumerate(files):
        paint(root / file, n)
    stub = SimpleNamespace(
        data_dir=root,
        _input_array=files,
        y_array=torch.tensor([7, 8, 7, 8]),
        metadata_fields=["cell_type", "experiment", "y"],
        metadata_array=torch.tensor([[0, 1, 7], [0, 0, 8], [1, 0, 7], [1, 1, 8]]),
        metadata_map={"cell_type": ["HEPG2", "RPE"], "experiment": ["HEPG2-01", "RPE-02"]},
    )
    monkeypatch.setitem(sys.modules, "wilds", Given(stub))
    assert contents(read("rxrx1")) == {"HEPG2-01": {1: "8", 2: "7"}, "RPE-02": {0: "7", 3: "8"}}
    assert set(read("rxrx1", domain="cell_type").domains) == {"HEPG2", "RPE"}


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("camelion17", {}, "did you mean 'camelyon17'"),
        ("poverty", {}, "Known: camelyon17, fmow, iwildcam, rxrx1"),
        ("fmow", {"domain": "country"}, "no domain of fmow 'country'.* Known: region, year"),
    ],
)
def test_other_sets_and_domains_are_refused_with_those_there_are(name, options, complaint):
    with pytest.raises(DataError, match=complaint):
        read(name, **options)


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wilds", None)
    with pytest.raises(DataError, match="pip install wilds"):
        read("fmow")


def test_without_the_data_it_says_how_to_get_them_and_downloads_nothing(package, root):
    with pytest.raises(DataError, match=r"camelyon17 is not whole in .*11 GB, CC0.*download=True"):
        read("camelyon17")
    root.rmdir()
    with pytest.raises(DataError, match=r"there is no folder .*WILDS_DATA.*11 GB, CC0"):
        read("camelyon17")
    assert not root.exists()


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (ValueError("assignment destination is read-only"), "read-only.*pandas<3"),
        (RuntimeError("operator torchvision::nms does not exist"), "nms.*torchvision of the same"),
    ],
)
def test_a_package_that_does_not_work_here_is_explained(monkeypatch, error, complaint):
    monkeypatch.setitem(sys.modules, "wilds", Given(error))
    with pytest.raises(DataError, match=complaint):
        read("rxrx1")


def test_times_with_and_without_fractions_are_read_under_the_pinned_pandas(monkeypatch):
    """wilds 2.0 gives pandas the times of FMoW without a format."""
    plain = pd.to_datetime

    def get_dataset(**_):
        found = pd.to_datetime(pd.Series(["2015-08-02T01:12:44Z", "2016-01-01T00:00:00.5Z"]))
        assert found.dt.year.tolist() == [2015, 2016]
        raise FileNotFoundError("enough")

    monkeypatch.setitem(sys.modules, "wilds", SimpleNamespace(get_dataset=get_dataset))
    with pytest.raises(DataError, match="enough"):
        read("fmow")
    assert pd.to_datetime is plain


def test_a_folder_called_wilds_is_not_taken_for_the_package(monkeypatch, tmp_path):
    (tmp_path / "beside" / "wilds").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "wilds", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "beside")])
    with pytest.raises(DataError, match=r"cannot be imported .*is another one.*pip install wilds"):
        read("fmow")
    sys.modules.pop("wilds", None)

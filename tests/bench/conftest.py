import os
from pathlib import Path

import pytest

BESIDE_THE_REPOSITORY = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Where real data lie; a test that asks for them skips without."""
    folder = Path(os.environ.get("DOMAINGRAD_TEST_DATA", BESIDE_THE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set DOMAINGRAD_TEST_DATA to where they are")
    return folder

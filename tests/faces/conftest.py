"""Pictures and a cache of their own, as the tests of other images have them."""

from tests.bench.domains.conftest import cache, save, sort_images

__all__ = ["cache", "save", "sort_images"]

"""A small data set of photographs that are made."""

import pytest
from PIL import Image

from tests.data.conftest import picture


@pytest.fixture
def folder(tmp_path):
    """18 made photographs of 18 sizes, 3 in each of 6 classes."""
    for i in range(18):
        place = tmp_path / "data" / "val" / f"{i % 6}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(60 + 7 * i, 120 - 3 * i, seed=i)).save(place / f"{i:02}.png")
    return tmp_path / "data"

"""What several tests of padding share."""

import pytest

from pcpad.padding import border


@pytest.fixture(params=["border", "whole"])
def both_ways(request, monkeypatch):
    """Partial padding of small maps: their border alone, as of large ones, and the map as a whole."""
    monkeypatch.setattr(border, "SMALL", 0 if request.param == "border" else 2**17)

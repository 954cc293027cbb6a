"""Which loader is taken, and what is said about it."""

import sys

import pytest

from pcpad.data.loaders import choose_loader


def test_auto_takes_dali_where_it_imports():
    pytest.importorskip("nvidia.dali")
    for asked in ("auto", "dali"):
        module, name, line = choose_loader(asked)
        assert (module.__name__, name) == ("pcpad.data.dali", "dali")
        assert "\n" not in line
    assert choose_loader("torchvision")[1] == "torchvision"


def test_without_dali_auto_takes_torchvision_and_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "pcpad.data.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # as if it were not installed
    monkeypatch.delattr("pcpad.data.dali", raising=False)
    module, name, line = choose_loader("auto")
    assert (module.__name__, name) == ("pcpad.data.reference", "torchvision")
    assert "DALI does not import" in line
    with pytest.raises(
        ValueError, match=r"data\.loader dali: nvidia\.dali does not import.*--data\.loader torchvision"
    ):
        choose_loader("dali")

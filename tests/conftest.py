"""What every test gets: a cache of its own, one torch thread, and no GPU test without a GPU."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """pcpad's cache for the session, so that no test reads or writes the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCPAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("IMAGENET", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The arrays are small: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photographs() -> Path:
    """1000 ImageNet photographs, ``val/<wnid>/*.JPEG``; skips where they are not at hand."""
    folder = SHARED / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    return folder


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")

"""What every test gets: a cache of its own, one torch thread, no GPU test without a GPU; and tests that are done."""

import hashlib
import json
import os
import platform
import signal
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """pcpad's cache for the session, so that no test reads or writes the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCPAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("IMAGENET", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def heeded_signals():
    """Signals as in a terminal: what runs in the background ignores some, and pcpad leaves that as it is."""
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1), signal.SIG_DFL)
    handlers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def pytest_addoption(parser):
    parser.addoption(
        "--done",
        type=lambda name: Path(name).resolve(),  # tests may change folder
        help="JSON lines of tests that have passed: they are not run again, new ones are added",
    )


@cache
def code_digest() -> str:
    """Digest of the library and of the tests, as they were when this was first called."""
    root = Path(__file__).resolve().parents[1]
    files = sorted([*(root / "pcpad").rglob("*.py"), *(root / "tests").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def pytest_collection_modifyitems(config, items):
    """Leave out what has passed with today's code, so that a long run can be broken off."""
    file = config.getoption("--done")
    code = code_digest() if file else ""
    if file and file.is_file():
        lines = map(json.loads, file.read_text().splitlines())
        done = {line["test"] for line in lines if line["code"] == code}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    file = item.config.getoption("--done")
    if file and report.when == "call" and report.passed:
        file.parent.mkdir(parents=True, exist_ok=True)
        facts = {"test": item.nodeid, "seconds": round(report.duration, 1), "code": code_digest()}
        facts |= {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
        facts |= {name: version(name) for name in ("torch", "torchvision", "timm")}
        with file.open("a") as out:
            out.write(json.dumps(facts) + "\n")
    return report


def pytest_sessionfinish(session, exitstatus):
    """Having nothing left to do is a success."""
    if session.config.getoption("--done") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture
def registries():
    """What a test adds to the padding modes is gone after it."""
    from pcpad.padding.fillers import FILLERS
    from pcpad.padding.modes import PADDING_MODES

    kept = dict(PADDING_MODES), dict(FILLERS)
    yield
    for registry, before in zip((PADDING_MODES, FILLERS), kept, strict=True):
        registry.clear()
        registry.update(before)

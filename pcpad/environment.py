"""Where a run happens: device, versions, commit, hardware, memory."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of two options of mallopt, in bytes: how much free memory it keeps, and which blocks are single."""
NEEDED_DRIVER = {"12": "525", "13": "580"}
"""Smallest NVIDIA driver on Linux for each major version of CUDA (NVIDIA's release notes of CUDA)."""


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cuda``, ``cpu`` or ``mps``.

    Raises:
        ValueError: there is an NVIDIA GPU that torch cannot use, or the device named does not exist.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device mps: torch finds no Apple GPU here; use --device cpu")
        return torch.device("mps")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    driver = None if hidden else nvidia_driver()
    if driver is not None:
        built = torch.version.cuda
        if built is None:
            wants = "this torch was built without CUDA: install the CUDA build"
        else:
            major = built.partition(".")[0]
            wants = f"torch {torch.__version__} was built for CUDA {built}, which needs driver "
            needed = NEEDED_DRIVER.get(major, "of its own major version")
            if driver.partition(".")[0].isdigit() and needed.isdigit() and int(driver.partition(".")[0]) >= int(needed):
                wants = "its driver is new enough, so permissions on /dev/nvidia* or a broken installation are likely"
            else:
                wants += f"{needed} or newer"
        raise ValueError(f"there is an NVIDIA GPU (driver {driver}) that torch cannot use: {wants}; or --device cpu")
    if name == "cuda":
        raise ValueError("device cuda: there is no NVIDIA GPU here; use --device cpu")
    return torch.device("cpu")


def keep_freed_memory(device: torch.device) -> bool:
    """Let the C library keep memory that is freed, for the next feature map, where a network runs on a CPU.

    By default glibc gives large blocks back to the system at once, which has to clear each page of the next one: on two
    cores EfficientNet-Lite0 at 224 pixels takes 1.3 times as long to train for it, and 2.1 times as long to evaluate
    (experiments/benchmarks/memory-cpu.json).

    Returns:
        Whether it was done: on glibc, for a CPU, and where no MALLOC_* variable says how.
    """
    if device.type != "cpu" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # another C library may take other numbers  # noqa: B018
        return bool(library.mallopt(TRIM_THRESHOLD, 2**31 - 1) and library.mallopt(MMAP_THRESHOLD, 2**30))
    except (OSError, AttributeError):
        return False


def nvidia_driver(root: Path = Path("/")) -> str | None:
    """Version of the NVIDIA driver, ``"unknown"`` for a GPU without a readable one, None where there is no GPU."""
    if not list((root / "dev").glob("nvidia[0-9]*")):
        return None  # a container may show the host's driver without any of its GPUs
    stated = root / "proc/driver/nvidia/version"
    if stated.is_file():
        words = stated.read_text().split("Kernel Module", 1)[-1].split()
        return next((w for w in words if w[0].isdigit()), "unknown")
    if root == Path("/") and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(subprocess.TimeoutExpired, OSError):
            done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
    return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in ("pcpad", "torch", "torchvision", "timm", "nvidia-dali-cuda130", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "pcpad" not in found:
        from pcpad import __version__

        found["pcpad"] = __version__
    return found


def hardware(device: torch.device) -> str:
    """The processor or GPU, with its number of cores, in one line."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {num_cores()} cores"


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


RESULTS = [f":(exclude,glob)experiments/**/*.{ending}" for ending in ("json", "jsonl", "csv", "md", "svg", "png")]
"""What benchmarks and studies write, as git's patterns: no code that a result could depend on."""


def commit() -> str | None:
    """The commit of the clone pcpad runs from, with ``+`` where its code differs from it; None outside a clone."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", root, *args], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *RESULTS)
    return head and head[:12] + ("+" if changed else "")


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: the allocator's on a GPU, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here

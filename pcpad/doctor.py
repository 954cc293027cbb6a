"""pcpad doctor: what is installed, whether it works, and what a training would use, on one screen."""

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pcpad.config import DoctorSettings

NEEDS = {
    "torch": ("2.11", "2.14"),
    "timm": ("1.0.20", None),
    "torchvision": ("0.26", "0.29"),
    "nvidia-dali-cuda130": ("2.0", None),
    "tensorboard": ("2.19", None),
    "jsonargparse": ("4.49", None),
    "pandas": ("2.2", None),
    "matplotlib": ("3.9", None),
    "scipy": ("1.13", None),
    "tqdm": ("4.66", None),
    "numpy": ("2.0", None),
    "pillow": ("10", None),
    "pyyaml": ("6", None),
}
"""The least version of each package, and the first that is too new, as in pyproject.toml."""
PYTHON = ((3, 11), (3, 13))
"""The first version that pcpad is tested with, and the first after those."""
LEAST_SHARED = 1.0
"""GiB of shared memory below which the workers of the torchvision loader may run out of it."""
LEAST_DISK = 2.0
"""GiB of free space below which a run of ResNet-50 with its checkpoints may not fit."""
WIDTH = 100
"""Characters of a line."""


@dataclass(frozen=True)
class Finding:
    """One line of the result.

    Attributes:
        state: ``note`` is worth knowing, ``problem`` keeps something from working.
    """

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str

    def __str__(self) -> str:
        mark = {"ok": "", "note": "note: ", "problem": "PROBLEM: "}[self.state]
        return textwrap.fill(
            f"{self.topic:10}{mark}{self.text}",
            WIDTH,
            subsequent_indent=10 * " ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def doctor(settings: DoctorSettings) -> bool:
    """Look, print each finding as it is made, and return whether there was no problem.

    Nothing is written but a file that is removed at once, nothing is downloaded.
    """
    problems = 0
    for topic, look in (
        ("pcpad", look_at_pcpad),
        ("packages", look_at_packages),
        ("torch", look_at_torch),
        ("device", lambda: look_at_device(settings)),
        ("images", lambda: look_at_loaders(settings)),
        ("data", lambda: look_at_data(settings)),
        ("disk", look_at_disk),
        ("cluster", look_at_cluster),
        ("training", lambda: what_would_be_used(settings)),
    ):
        for finding in guarded(topic, look):
            problems += finding.state == "problem"
            print(finding, flush=True)
    print(f"{'':10}{'no problem found' if not problems else f'problems: {problems}'}")
    return problems == 0


def guarded(topic: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What `look` finds; what it raises is a problem, whatever it is: this command is for broken installations."""
    try:
        yield from look()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        known = isinstance(error, ValueError)
        yield Finding(topic, "problem", first if known else f"{type(error).__name__}: {first}")


def look_at_pcpad() -> Iterator[Finding]:
    """pcpad itself, its commit, Python and the system."""
    import pcpad

    at = None
    with suppress(Exception):  # torch may not load: that is said below
        from pcpad.environment import commit

        at = commit()
    words = f"{pcpad.__version__}, in {Path(pcpad.__file__).parent}"
    yield Finding("pcpad", "ok", words + (f", commit {at.replace('+', ' with changes')}" if at else ""))
    found = f"{platform.python_version()} in {sys.prefix}, on {platform.platform()}"
    tested = PYTHON[0] <= sys.version_info[:2] < PYTHON[1]
    words = "" if tested else f"; pcpad is tested with {' and '.join(f'3.{n}' for n in range(11, 13))}"
    yield Finding("python", "ok" if tested else "note", found + words)


def look_at_packages() -> Iterator[Finding]:
    """Versions of all packages that pcpad needs, and which are missing or out of range."""
    found, missing, wrong = [], [], []
    for package, (least, first_after) in NEEDS.items():
        if package.startswith("nvidia-dali") and sys.platform != "linux":
            continue
        have = installed(package)
        if have is None:
            missing.append(package)
            continue
        found.append(f"{package} {have}")
        if not in_range(have, least, first_after):
            wrong.append(
                f"{package} {have} (needs {least}{f' to below {first_after}' if first_after else ' or newer'})"
            )
    yield Finding("packages", "ok", ", ".join(found))
    if wrong:
        yield Finding("packages", "problem", f"not a version that pcpad works with: {', '.join(wrong)}")
    library = [package for package in missing if package in ("torch", "timm")]
    if library:
        yield Finding("packages", "problem", f"missing, and nothing works without: {', '.join(library)}")
    harness = [package for package in missing if package not in library]
    if harness:
        words = f"missing: {', '.join(harness)}; pcpad.convert works, the commands need pip install 'pcpad[harness]'"
        yield Finding("packages", "note" if harness == ["nvidia-dali-cuda130"] else "problem", words)


def installed(package: str) -> str | None:
    """Version of a package; DALI counts under the name of any CUDA version."""
    names = [package, "nvidia-dali-cuda120"] if package.startswith("nvidia-dali") else [package]
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def in_range(have: str, least: str, first_after: str | None) -> bool:
    """Whether a version lies in a half-open range; of ``2.13.0+cpu`` the numbers before the plus count."""

    def numbers(text: str) -> tuple[int, ...]:
        parts = [int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3]]
        return tuple(parts + [0] * (3 - len(parts)))

    return numbers(least) <= numbers(have) and (first_after is None or numbers(have) < numbers(first_after))


def look_at_torch() -> Iterator[Finding]:
    """Whether torch, torchvision and timm load, and what torch was built for."""
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    backends = [name for name in ("nccl", "gloo") if getattr(torch.distributed, f"is_{name}_available")()]
    words = f"loads, {built}, {torch.get_num_threads()} threads; processes talk by {', '.join(backends) or 'nothing'}"
    yield Finding("torch", "ok" if backends else "note", words)
    for package in ("torchvision", "timm"):
        try:
            importlib.import_module(package)
        except Exception as error:  # operators that do not fit torch raise RuntimeError, or others
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            words = f"{package} does not load ({first}): its build does not fit this torch; install both from one place"
            yield Finding("torch", "problem", words)


def look_at_device(settings: DoctorSettings) -> Iterator[Finding]:
    """The processor, the GPUs, and whether a convolution runs on what would be used."""
    import torch

    from pcpad.environment import cpu_name, num_cores, nvidia_driver, pick_device

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    yield Finding("device", "ok", f"{cpu_name()}, {num_cores()} cores{memory}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(i))
            words = f"GPU {i}: {torch.cuda.get_device_name(i)}, {free:.0f} of {total:.0f} GiB free"
            yield Finding("device", "ok", f"{words}, driver {nvidia_driver()}")
    elif not torch.backends.mps.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        words = "no NVIDIA GPU" + (" to be seen: CUDA_VISIBLE_DEVICES hides them" if hidden else "")
        yield Finding("device", "ok", words)
    device = pick_device(settings.device)
    x = torch.ones(1, 1, 4, 4, device=device)
    total = float(torch.nn.functional.conv2d(x, torch.ones(1, 1, 3, 3, device=device), padding=1).sum())
    if total != 100:  # 4 corners of 4, 8 sides of 6, 4 inner of 9
        yield Finding("device", "problem", f"a convolution on {device} gives {total:g} instead of 100")


def look_at_loaders(settings: DoctorSettings) -> Iterator[Finding]:
    """Whether DALI and torchvision decode an image, and whether they agree."""
    import numpy as np
    from PIL import Image

    from pcpad.data.batch import EvalTransform
    from pcpad.data.loaders import choose_loader
    from pcpad.environment import pick_device

    device = pick_device(settings.device)
    transform = EvalTransform(64, 0.875, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ramp.jpg"
        ramp = np.add.outer(np.arange(120), np.arange(160)) * 255 / 278
        Image.fromarray(np.repeat(ramp.astype(np.uint8)[..., None], 3, 2)).save(file, quality=95)
        for name in ("dali", "torchvision"):
            try:
                module = choose_loader(name)[0]
                options = {"batch_size": 1, "workers": 1, "device": device}
                batch = next(iter(module.EvalLoader([str(file)], np.zeros(1, np.int64), transform, **options)))
                pixels[name] = batch.images.cpu()
            except ValueError as error:  # DALI does not import
                yield Finding("images", "note" if settings.loader != name else "problem", str(error))
    if len(pixels) == 2:
        apart = 255 * float((pixels["dali"] - pixels["torchvision"]).abs().mean())
        state = "ok" if apart < 1 else "problem"
        yield Finding("images", state, f"DALI and torchvision decode, and differ by {apart:.2f} of 255 on average")
    elif pixels:
        yield Finding("images", "ok", f"{next(iter(pixels))} decodes")


def look_at_data(settings: DoctorSettings) -> Iterator[Finding]:
    """Which images would be used, and whether they are there."""
    from pcpad.data import catalogue, textures
    from pcpad.data.manifest import cache_dir, class_folders

    name = settings.data
    stated = os.environ.get("IMAGENET")
    if name == "auto":
        name = "imagenet" if stated else "textures"
        why = f"since IMAGENET={stated}" if stated else "since IMAGENET is not set; --data says otherwise"
        yield Finding("data", "ok", f"{name}, {why}")
    if name == "textures":
        root = textures.place(cache_dir())
        words = f"made already, in {root}" if root.is_dir() else f"made at first use, in seconds, in {root}"
        yield Finding("data", "ok", f"the built-in images: {words}")
        return
    _, root = catalogue.locate(name)
    for split in ("train", "val"):
        if not (root / split).is_dir():
            words = f"{root} has no folder {split}/: training needs train/<class>/ and val/<class>/"
            yield Finding("data", "problem", words)
            continue
        classes = class_folders(root / split)
        yield Finding("data", "ok", f"{root / split}: {len(classes):,} classes ({classes[0]} to {classes[-1]})")


def look_at_disk() -> Iterator[Finding]:
    """Whether the folders that pcpad writes to can be written, and their free space."""
    from pcpad.data.manifest import cache_dir

    for topic, folder in (("cache", cache_dir()), ("runs", Path("runs").absolute())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            way = " ($PCPAD_CACHE names another)" if topic == "cache" else " (--out names another)"
            yield Finding(topic, "problem", f"{folder} cannot be written ({error.strerror}){way}")
            continue
        yield Finding(topic, "ok" if free >= LEAST_DISK else "note", f"{folder}, {free:.1f} GiB free")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 2**30
        if size < LEAST_SHARED:
            words = f"{size:.2f} GiB: the torchvision loader's workers may run out of it (docker run --shm-size=8g)"
            yield Finding("/dev/shm", "note", words)


def look_at_cluster() -> Iterator[Finding]:
    """Whether jobs can be given to Slurm from here."""
    if shutil.which("sbatch") is None:
        yield Finding("cluster", "ok", "no Slurm here (no sbatch)")
        return
    have = installed("submitit")
    state = "ok" if have else "note"
    yield Finding("cluster", state, f"Slurm; submitit {have or 'is not installed: pip install pcpad[slurm]'}")


def what_would_be_used(settings: DoctorSettings) -> Iterator[Finding]:
    """What ``pcpad train`` without further options would do here."""
    from pcpad.arguments import train_settings
    from pcpad.data.loaders import choose_loader, default_workers
    from pcpad.environment import hardware, pick_device

    options = ["--data", settings.data] if settings.data != "auto" else []
    train = train_settings(options)
    device = pick_device(settings.device)
    _, _, loader = choose_loader(settings.loader)
    words = f"pcpad train: {train.model}, {train.padding} padding, {train.data.name}, recipe {train.recipe} ("
    words += f"{train.size} pixels, {train.epochs} epochs, batch {train.batch_size}); on {hardware(device)}; {loader}, "
    words += f"{default_workers()} workers"
    if device.type == "cuda":
        import torch

        if torch.cuda.device_count() > 1:
            words += f"; on one GPU: --gpus {torch.cuda.device_count()} uses all"
    yield Finding("training", "ok", words)

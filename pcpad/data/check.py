"""pcpad data check: every image decoded once, the damaged ones named, those of training listed to be left out."""

import os
from pathlib import Path

from pcpad.config import CheckSettings
from pcpad.data.catalogue import locate, open_for_training
from pcpad.data.manifest import Manifest, check_store, class_folders, decode_images, list_images
from pcpad.environment import num_cores
from pcpad.progress import Progress, say


def check(settings: CheckSettings) -> None:
    """Check the training and the validation images of a data set, or the images of a folder of classes.

    Raises:
        ValueError: images are damaged, other than training images that ``settings.out`` lists now; or there is no such
            data set. OSError: the list cannot be written.
    """
    out = Path(settings.out) if settings.out else None
    if out is not None and (out.exists() or not out.parent.is_dir()):
        why = "exists: remove it, or choose another file" if out.exists() else f"has no folder {out.parent} to go to"
        raise ValueError(f"--out {out} {why}")
    splits = splits_of(settings.data)
    damaged = {name: check_split(name, split, settings.workers or num_cores()) for name, split in splits.items()}
    found = sum(len(paths) for paths in damaged.values())
    if not found:
        say("every image is intact" + (f": {out} is not needed, and was not written" if out else ""))
        return
    listed = damaged.pop("train", [])
    if listed and out is not None:
        out.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in listed))
        say(f"{out} names the damaged training images: --data.exclude {out} leaves them out")
        listed = []
    if listed or any(damaged.values()):
        ways = "repair or remove them"
        if listed:
            ways += ", or list those of training with --out FILE, and train without them with --data.exclude FILE"
        raise ValueError(f"{found} images are damaged (named above): {ways}")


def splits_of(name: str) -> dict[str, Manifest]:
    """Split to its images: ``train`` and ``val``, the one that is there, or ``images`` for a folder of classes."""
    _, root = locate(name)
    there = [split for split in ("train", "val") if (root / split).is_dir()]
    if len(there) == 2:
        data = open_for_training(name)
        return {"train": data.train, "val": data.val}
    folders = {split: root / split for split in there} or {"images": root}
    return {split: list_images(at, {c: i for i, c in enumerate(class_folders(at))}) for split, at in folders.items()}


def check_split(name: str, manifest: Manifest, workers: int) -> list[str]:
    """Decode what is not known to be intact, and say what was found; returns the paths of the damaged images."""
    bar = None

    def step(total: int) -> None:
        nonlocal bar
        bar = bar or Progress(f"check of {name}", total, 30.0)
        bar.step(str)

    try:
        done, damaged = decode_images(manifest, workers, step)
    finally:
        if bar:
            bar.close()
    known = f", {len(manifest) - done:,} of them known from before" if done < len(manifest) else ""
    say(f"{name}: {len(manifest):,} images{known}, {len(damaged):,} damaged; remembered in {check_store(manifest)}")
    for error in damaged:
        say(f"  {error.path}: {error.reason}")
    names = dict(zip(manifest.files, manifest.paths, strict=True))
    return [names[error.path] for error in damaged]

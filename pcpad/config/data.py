"""Settings of ``pcpad data``: check, list, pack, prepare."""

from dataclasses import dataclass

from pcpad.config.fields import check, nearest

DATA_NAMES = ("textures", "elpv", "cifar10", "imagenette", "imagenet")
"""Data sets that pcpad knows by name, the ones that need least first."""


@dataclass(frozen=True)
class CheckSettings:
    """Decode every image of a data set once, name the damaged ones and remember the others."""

    data: str = "auto"
    """As in train, or a folder of class folders."""
    workers: int | None = None
    """Threads that decode; the number of cores if not given."""
    out: str | None = None
    """Write the names of damaged training images to this file, so that `pcpad train --data.exclude` leaves them out."""

    def __post_init__(self):
        check(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")


@dataclass(frozen=True)
class ListSettings:
    """What there is by name: size, licence, source, layout, and whether it is ready on this machine."""

    name: str | None = None
    """One data set only; or the first word of the call."""

    def __post_init__(self):
        check_name(self.name)


@dataclass(frozen=True)
class PrepareSettings:
    """Get a data set ready by name; a second start goes on where the first one stopped."""

    name: str | None = None
    """`textures`, `elpv`, `cifar10`, `imagenette` or `imagenet`; or the first word of the call."""
    out: str | None = None
    """Folder that gets train/<class>/ and val/<class>/, or of an ImageNet tree that is there already; a folder of the
    cache ($PCPAD_CACHE, ~/.cache/pcpad) if not given, for imagenet the one that $IMAGENET names."""
    archives: str | None = None
    """Folder of archives that were downloaded by hand, under their own names; for imagenet `out` if not given."""
    workers: int | None = None
    """Threads or processes that write images; the number of cores, at most 16, if not given. More of them help where
    files lie on a network."""

    def __post_init__(self):
        if self.name is None:
            raise ValueError(f"say which data set: pcpad data prepare NAME, one of {', '.join(DATA_NAMES)}")
        check_name(self.name)
        check(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        if self.name == "textures" and self.out is not None:
            raise ValueError("textures are made below the cache: choose another with PCPAD_CACHE=/path, without --out")
        if self.name in ("textures", "elpv") and self.archives is not None:
            raise ValueError(f"--archives: {self.name} comes in none")


@dataclass(frozen=True)
class PackSettings:
    """Pack a data set into a few tar files with an index, for file systems where many small files are slow.

    The form is WebDataset's; DATA=OUT then reads it. A second start goes on where the first one stopped.
    """

    data: str = "auto"
    """As in train."""
    out: str | None = None
    """Folder that gets train/ and val/; a new or an empty one."""
    tar_mb: int = 256
    """Size of a tar file, MiB."""
    workers: int | None = None
    """Tar files that are written at a time; 4 if not given."""

    def __post_init__(self):
        check(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        check(self.tar_mb >= 1, "tar_mb", self.tar_mb, "at least 1")
        if self.out is None:
            raise ValueError("say where the packed form goes: pcpad data pack --data DATA --out DIR")


def check_name(name: str | None) -> None:
    """Raise ValueError unless `name` is that of a data set, or None."""
    if name is not None and name not in DATA_NAMES:
        raise ValueError(
            f"unknown data set {name!r}: choose from {', '.join(DATA_NAMES)} (a folder with train/<class>/ and "
            f"val/<class>/ needs no preparing: --data /path){nearest(name, DATA_NAMES)}"
        )

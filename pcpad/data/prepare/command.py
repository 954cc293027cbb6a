"""pcpad data list and pcpad data prepare."""

import os
from pathlib import Path

from pcpad.config import ListSettings, PrepareSettings
from pcpad.data import textures
from pcpad.data.manifest import cache_dir
from pcpad.data.prepare import tree
from pcpad.data.prepare.sources import SOURCES, Source
from pcpad.progress import say


def list_data(settings: ListSettings) -> None:
    """Print what is known of each data set, and where it lies on this machine."""
    for name, source in SOURCES.items():
        if settings.name in (None, name):
            for line in entry(name, source):
                say(line)
    if settings.name is None:
        say("any other: DATA=/path with train/<class>/ and val/<class>/, the same class folders in both")


def entry(name: str, source: Source) -> list[str]:
    """The lines about one data set."""
    facts = {
        "images": f"{source.train:,} train, {source.val:,} val, {source.classes:,} classes",
        "size": f"{source.disk} on disk, {source.download} to fetch",
        "licence": source.licence,
        "source": source.origin,
        "cite": source.cite,
        "layout": source.layout,
        "here": where(name) or f"no: {source.command}",
    }
    return [f"{name}: {source.about}", *(f"  {key:8} {text}" for key, text in facts.items() if text), ""]


def where(name: str) -> str | None:
    """Where a data set lies on this machine, in words; None where it does not."""
    if name == "textures":
        root = cache_dir() / f"textures-v{textures.VERSION}"
        return str(root) if root.is_dir() else None
    given = os.environ.get("IMAGENET") if name == "imagenet" else None
    if given and Path(given).is_dir() and tree.marker_of(Path(given)) is None:
        half = (Path(given) / tree.PARTIAL).exists()
        return f"{given} ($IMAGENET), {'half prepared' if half else 'not verified: pcpad data prepare imagenet does'}"
    root = Path(given) if given else tree.find(name)
    return str(root) if root else None


def prepare(settings: PrepareSettings) -> None:
    """Get one data set ready, or verify the one that is, and say where it lies.

    Raises:
        ValueError: it cannot be had; says what to download, from where, and where to put it. OSError: it cannot be
            written.
    """
    name = settings.name
    if name == "textures":
        say(f"textures are at {textures.ensure(cache_dir())}: DATA=textures")
        return
    root = choose_root(settings)
    source = SOURCES[name]
    say(f"{name}, licence: {source.licence}" + (f"; cite {source.cite}" if source.cite else ""))
    facts = tree.marker_of(root)
    if facts is not None:
        verify(root, name, facts)
    else:
        check_empty(root, name)
        facts = build(settings, root)
    counts = ", ".join(f"{split['images']:,} {key}" for key, split in facts["splits"].items())
    use = f"DATA={name}"
    if name == "imagenet" and os.environ.get("IMAGENET") and Path(os.environ["IMAGENET"]).resolve() != root.resolve():
        use = f"IMAGENET={root}"
    say(f"{name} is whole: {counts} images, {facts['splits']['train']['classes']:,} classes, at {root}: {use}")


def choose_root(settings: PrepareSettings) -> Path:
    """The folder of the tree: `out`, else where it is already or where it goes by default.

    Raises:
        ValueError: for ImageNet, which is too large for a default.
    """
    if settings.out:
        return Path(settings.out).expanduser()
    if settings.name != "imagenet":
        return tree.find(settings.name) or tree.default_root(settings.name)
    root = os.environ.get("IMAGENET") or tree.find("imagenet")
    if not root:
        raise ValueError(
            "data imagenet: say where the tree goes, 145 GB, or where one is: --out DIR; and where the archives are, "
            f"to extract it: --archives DIR (from {SOURCES['imagenet'].origin})"
        )
    return Path(root).expanduser()


def verify(root: Path, name: str, facts: dict) -> None:
    """Compare a tree with its marker, by classes, paths and bytes of all images; remember it under its name.

    Raises:
        ValueError: the tree is another data set, or was changed since.
    """
    if facts["name"] != name:
        raise ValueError(f"--out {root} holds {facts['name']}; choose another folder for {name}")
    found = tree.describe({split: root / split for split in tree.SPLITS})
    for split, then in facts["splits"].items():
        if found[split] != then:
            raise ValueError(
                f"{root / split} was changed since it was prepared: {found[split]['images']:,} images of "
                f"{found[split]['bytes']:,} bytes, {then['images']:,} of {then['bytes']:,} then (digest "
                f"{found[split]['digest']}, {then['digest']} then); put it right, or prepare it anew in an empty folder"
            )
    tree.write_json(tree.note_file(name), facts | {"root": str(root.resolve())})


def check_empty(root: Path, name: str) -> None:
    """Raise ValueError where a folder holds what is not ours; ImageNet's may hold a tree, which is adopted."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"--out {root} is no folder")
    held = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    if held and tree.PARTIAL not in held and name != "imagenet":
        raise ValueError(f"--out {root} is not empty ({held[0]}); choose a new or an empty folder")


def build(settings: PrepareSettings, root: Path) -> dict:
    """Make the tree of a data set; returns its marker's content."""
    from pcpad.data.loaders import default_workers

    workers = settings.workers or default_workers()
    archives = Path(settings.archives).expanduser() if settings.archives else None
    if archives is not None and not archives.is_dir():
        raise ValueError(f"--archives {archives} is no folder")
    if settings.name == "imagenet":
        from pcpad.data.prepare.imagenet import prepare as prepare_imagenet

        return prepare_imagenet(root, archives, workers)
    if settings.name == "elpv":
        from pcpad.data.prepare.elpv import prepare_elpv

        return prepare_elpv(root)
    from pcpad.data.prepare.downloads import prepare_cifar10, prepare_imagenette

    if settings.name == "cifar10":
        return prepare_cifar10(root, archives, workers)
    return prepare_imagenette(root, archives)

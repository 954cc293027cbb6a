"""ImageNet (ILSVRC 2012) as a class tree: from the official archives, or from a tree that is there already."""

import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pcpad.data.catalogue import imagenet_wnids
from pcpad.data.manifest import class_folders, shorten
from pcpad.data.prepare import tree
from pcpad.data.prepare.archives import Archive, in_parallel, opened, plain_name, verify, write_member
from pcpad.data.prepare.sources import SOURCES
from pcpad.progress import say

VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
SOURCE = SOURCES["imagenet"]


@dataclass(frozen=True)
class Edition:
    """What the archives are and hold.

    Attributes:
        train: a tar of one tar for each class, ``<wnid>.tar``, of images ``<wnid>_<number>.JPEG``.
        val: a tar of images ``ILSVRC2012_val_<number>.JPEG``, numbered from 1.
        devkit: holds ``data/meta.mat`` and the class of each validation image, one a line.
        wnids: the class folders, sorted.
        images: split to its number of images.
    """

    train: Archive
    val: Archive
    devkit: Archive
    wnids: tuple[str, ...]
    images: dict[str, int]


def official() -> Edition:
    """ILSVRC 2012; the checksums are those of torchvision.datasets.imagenet."""
    return Edition(
        train=Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", "138 GB"),
        val=Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", "6.3 GB"),
        devkit=Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf", "2.5 MB"),
        wnids=imagenet_wnids(),
        images={"train": SOURCE.train, "val": SOURCE.val},
    )


def prepare(root: Path, archives: Path | None, workers: int, edition: Edition | None = None) -> dict:
    """Make `root` the whole tree of ImageNet, from what is there: a split that is there already is adopted.

    ``train`` is extracted from its archive, class by class; ``val`` likewise, or, where its images lie in ``val/``
    itself, they are moved into class folders by the devkit's ground truth. Classes and images that an earlier start
    wrote are kept if their bytes are as many as in the archive.

    Args:
        archives: folder of the archives; `root` if None.
        workers: processes.

    Returns:
        The marker's content.

    Raises:
        ValueError: an archive is missing or damaged, or a tree that is there is not ImageNet; says what to do.
        OSError: the tree cannot be written, or the disk has too little room.
    """
    edition = edition or official()
    archives = archives or root
    there = {split: (root / split).is_dir() for split in tree.SPLITS}
    flat = there["val"] and is_flat(root / "val")
    needed = [edition.train] * (not there["train"]) + [edition.val] * (not there["val"])
    needed += [edition.devkit] * (flat or not there["val"])
    check_there(needed, archives, root)
    for split in tree.SPLITS:
        if there[split] and not (flat and split == "val"):
            check_tree(root / split, edition)
    if not needed:
        return adopt(root, archives, edition)
    truth = []
    if edition.devkit in needed:
        truth = read_devkit(verify(edition.devkit, archives), edition)
    if flat:
        check_val_names([path.name for path in files_to_sort(root)], root / "val", truth)
    extracted = [edition.train] * (not there["train"]) + [edition.val] * (not there["val"])
    with tree.building(root, "imagenet") as work:
        check_room(extracted, archives, root, work)
        paths = {archive.file: verify(archive, archives, work / "checked.json") for archive in extracted}
        if not there["train"]:
            extract_train(paths[edition.train.file], work / "train", edition, workers)
        if not there["val"]:
            extract_val(paths[edition.val.file], work / "val", truth, workers)
        elif flat:
            sort_val(root / "val", work / "val", truth)
        return tree.finish(root, "imagenet", edition.images, about([a.md5 for a in needed]))


def about(md5s: list[str]) -> dict:
    """What the marker says beside the images: where they come from."""
    return {"source": SOURCE.origin, "licence": SOURCE.licence, "archives": md5s}


def adopt(root: Path, archives: Path, edition: Edition) -> dict:
    """Take a sorted tree for what it is, by classes and number; val also by ground truth where the devkit is there."""
    splits = tree.describe({split: root / split for split in tree.SPLITS})
    for split, number in edition.images.items():
        if splits[split]["images"] != number:
            found = splits[split]["images"]
            raise ValueError(
                f"{root / split} has {found:,} images, ImageNet {number:,}: {abs(number - found):,} "
                f"{'are missing' if found < number else 'too many'}; to read the tree as it is, give its path "
                f"(DATA={root}), or move {root / split} away and give --archives DIR to extract it anew"
            )
    if (archives / edition.devkit.file).is_file():
        truth = read_devkit(verify(edition.devkit, archives), edition)
        misplaced = [
            f"{wnid}/{name}"
            for wnid in edition.wnids
            for name in sorted(os.listdir(root / "val" / wnid))
            if VAL_NAME.fullmatch(name) and truth[number_of(name) - 1 : number_of(name)] != [wnid]
        ]
        if misplaced:
            raise ValueError(
                f"{len(misplaced):,} images of {root / 'val'} lie in another class folder than by the devkit's ground "
                f"truth: {shorten(misplaced, 3)}; put all of them into {root / 'val'} itself and start again"
            )
    else:
        say(f"the classes of val were taken as they are: no {edition.devkit.file} in {archives} to compare them with")
    return tree.mark(root, "imagenet", splits, about([]))


def check_there(needed: list[Archive], archives: Path, root: Path) -> None:
    """Raise ValueError, with what to download and where to put it, unless every archive is there."""
    missing = [archive for archive in needed if not (archives / archive.file).is_file()]
    if missing:
        names = ", ".join(f"{archive.file} ({archive.size}, MD5 {archive.md5})" for archive in missing)
        raise ValueError(
            f"data imagenet: {archives} has no {names}; download from {SOURCE.origin} there ("
            f"{SOURCE.licence}), put them into one folder, and say which: pcpad data prepare imagenet --archives DIR "
            f"--out {root}; or give --out the folder of a tree that has train/<wnid>/ and val/<wnid>/ already"
        )


def check_tree(folder: Path, edition: Edition) -> None:
    """Raise ValueError unless the class folders are those of ImageNet."""
    classes = class_folders(folder)
    missing = [wnid for wnid in edition.wnids if wnid not in set(classes)]
    others = [name for name in classes if name not in set(edition.wnids)]
    if missing or others:
        parts = [f"{len(missing):,} classes are missing ({shorten(missing)})"] if missing else []
        parts += [f"{len(others):,} folders are no class of it ({shorten(others)})"] if others else []
        raise ValueError(
            f"{folder} is not ImageNet's: {'; '.join(parts)}; a tree of other classes needs no preparing, give its path"
        )


def check_room(archives: list[Archive], folder: Path, root: Path, work: Path) -> None:
    """Raise OSError where the disk has less room than what is left to extract takes."""
    wanted = sum((folder / archive.file).stat().st_size for archive in archives)
    free = shutil.disk_usage(root).free
    if wanted > free:
        wanted -= sum(entry.stat().st_size for entry in work.rglob("*.JPEG"))
    if wanted > free:
        raise OSError(f"{root} has {free / 1e9:.1f} GB free and {wanted / 1e9:.1f} GB are needed; choose another --out")


def extract_train(archive: Path, target: Path, edition: Edition, workers: int) -> None:
    """Extract the archive of every class that is not there whole, in parallel."""
    with opened(archive) as outer:
        inner = {plain_name(member).removesuffix(".tar"): member for member in outer}
    if set(inner) != set(edition.wnids):
        others = sorted(set(inner) ^ set(edition.wnids))
        raise ValueError(f"{archive} does not hold one archive for each class of ImageNet: {shorten(others)}")
    tasks = [(extract_class, archive, inner[wnid], target / wnid) for wnid in edition.wnids]
    in_parallel("extracting train", tasks, workers)


def extract_class(archive: Path, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract the images of one class, unless they are there."""
    with (
        opened(archive) as outer,
        outer.extractfile(member) as stream,
        tarfile.open(fileobj=stream, mode="r:") as inner,
    ):
        images = {plain_name(image): image for image in inner}
        if folder.is_dir():
            there = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
            if there == {name: image.size for name, image in images.items()}:
                return
            shutil.rmtree(folder)
        with tree.whole_folder(folder) as part:
            for name, image in images.items():
                write_member(inner, image, part / name)


def extract_val(archive: Path, target: Path, truth: list[str], workers: int) -> None:
    """Extract every validation image that is not there whole into the folder of its class, in parallel."""
    with opened(archive) as tar:
        images = {plain_name(member): member for member in tar}
    check_val_names(list(images), archive, truth)
    for wnid in set(truth):
        (target / wnid).mkdir(parents=True, exist_ok=True)
    ordered = sorted(images.items(), key=lambda item: item[1].offset)
    size = max(1, len(ordered) // 200)
    parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    in_parallel("extracting val", [(extract_images, archive, part, target, truth) for part in parts], workers)


def extract_images(archive: Path, images: list[tuple[str, tarfile.TarInfo]], target: Path, truth: list[str]) -> None:
    """Extract some validation images, unless they are there."""
    with opened(archive) as tar:
        for name, image in images:
            path = target / truth[number_of(name) - 1] / name
            if not (path.is_file() and path.stat().st_size == image.size):
                write_member(tar, image, path)


def is_flat(folder: Path) -> bool:
    """Whether images lie in ``val/`` itself, or nothing: an earlier start has moved them all."""
    names = os.listdir(folder)
    return not names or any(number_of(name) for name in names)


def files_to_sort(root: Path) -> list[Path]:
    """The validation images of a flat tree, those included that an earlier start has moved."""
    folders = (root / "val", root / tree.PARTIAL / "val")
    return [path for folder in folders for path in folder.rglob("*") if not path.is_dir()]


def sort_val(flat: Path, target: Path, truth: list[str]) -> None:
    """Move the images of ``val/``, wherever in it they lie, into class folders elsewhere; what stays is empty."""
    files = [path for path in flat.rglob("*") if not path.is_dir()]
    say(f"sorting the {len(files):,} images of {flat} into class folders")
    for wnid in set(truth):
        (target / wnid).mkdir(parents=True, exist_ok=True)
    for path in files:
        os.rename(path, target / truth[number_of(path.name) - 1] / path.name)
    for folder in sorted(flat.rglob("*"), reverse=True):
        folder.rmdir()


def number_of(name: str) -> int:
    """The number in a validation image's name, from 1; 0 for any other name."""
    match = VAL_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def check_val_names(names: list[str], where: Path, truth: list[str]) -> None:
    """Raise ValueError unless the names are those of all validation images, each once."""
    others = sorted(name for name in names if not 1 <= number_of(name) <= len(truth))
    if others:
        raise ValueError(f"{where} holds what is no validation image of ImageNet: {shorten(others)}; move it elsewhere")
    if len(set(names)) < len(names):
        raise ValueError(f"{where} has {len(names) - len(set(names)):,} validation images twice; remove one of each")
    if len(names) < len(truth):
        wanted = {f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(truth) + 1)}
        missing = sorted(wanted - set(names))
        raise ValueError(f"{where} lacks {len(missing):,} of {len(truth):,} validation images: {shorten(missing, 3)}")


def read_devkit(archive: Path, edition: Edition) -> list[str]:
    """The class of each validation image, in the order of their numbers.

    As torchvision's parse_devkit_archive: the ids of the ground truth are the devkit's own, which meta.mat translates.
    """
    import scipy.io

    content = {}
    with opened(archive) as tar:
        for member in tar:
            name = os.path.basename(member.name)
            if name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt") and member.isfile():
                content[name] = tar.extractfile(member).read()
    try:
        synsets = scipy.io.loadmat(BytesIO(content["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(synset[0]): str(synset[1]) for synset in synsets if synset[4] == 0}  # those without children
        truth = [wnids[int(line)] for line in content["ILSVRC2012_validation_ground_truth.txt"].split()]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{archive} is not the devkit of ILSVRC 2012 ({error!r}); download it again") from error
    if set(truth) != set(edition.wnids) or len(truth) != edition.images["val"]:
        raise ValueError(f"{archive} is not the devkit of ILSVRC 2012: other classes or another number of images")
    return truth

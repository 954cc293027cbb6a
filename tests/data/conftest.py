"""Images made on the spot, and the two loaders under test."""

import io
import struct
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A made photograph, uint8 (height, width, 3): soft colours, hard edges and a little grain."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[:height, :width]
    image[(x // 24 + y // 17) % 5 == 0] *= 0.5
    image += rng.normal(0, 6, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def encode(image: Image.Image, file_format: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **settings)
    return buffer.getvalue()


def png16(values: np.ndarray) -> bytes:
    """A 16-bit grey PNG of the values (height, width), written by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks.items())


def without_adobe_marker(jpeg: bytes) -> bytes:
    """A JPEG less its APP14 segment (2 bytes of marker, 14 of content)."""
    start = jpeg.index(b"\xff\xee\x00\x0eAdobe")
    return jpeg[:start] + jpeg[start + 16 :]


def kinds() -> dict[str, bytes]:
    """Every kind of image file that a folder of photographs may hold, by name; all are named .JPEG later."""
    photo = Image.fromarray(picture(188, 250))
    alpha = Image.fromarray(picture(188, 250, seed=1)[..., 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    cmyk = np.asarray(photo.convert("CMYK")).copy()
    black = cmyk[..., :3].min(-1)
    cmyk[..., :3] -= black[..., None]
    cmyk[..., 3] = black
    with_black = encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=90)
    marker = with_black[with_black.index(b"Adobe") :][:12]  # its last byte says: 0 CMYK, 2 YCCK
    rgba, grey_alpha = photo.convert("RGBA"), photo.convert("LA")
    rgba.putalpha(alpha)
    grey_alpha.putalpha(alpha)
    grey16 = np.asarray(photo.convert("L")).astype(np.uint32) * 257
    grey16 = np.clip(grey16 + np.random.default_rng(2).integers(0, 200, grey16.shape), 0, 65535)
    return {
        "rgb": encode(photo, "JPEG", quality=90),
        "rgb_444": encode(photo, "JPEG", quality=90, subsampling=0),
        "progressive": encode(photo, "JPEG", quality=90, progressive=True),
        "portrait": encode(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90),
        "exif_turned": encode(photo, "JPEG", quality=90, exif=turned),
        "grey": encode(photo.convert("L"), "JPEG", quality=90),
        "cmyk": encode(photo.convert("CMYK"), "JPEG", quality=90),
        "cmyk_black": with_black,
        "ycck": with_black.replace(marker, marker[:-1] + b"\2"),
        "cmyk_no_adobe": without_adobe_marker(with_black),
        "png": encode(photo, "PNG"),
        "png_rgba": encode(rgba, "PNG"),
        "png_palette": encode(photo.quantize(64), "PNG"),
        "png_palette_alpha": encode(photo.quantize(64), "PNG", transparency=bytes(range(0, 256, 4))),
        "png_grey_alpha": encode(grey_alpha, "PNG"),
        "png_grey16": png16(grey16),
        "wide": encode(photo.resize((500, 20)), "JPEG", quality=90),
        "tall": encode(photo.resize((20, 500)), "JPEG", quality=90),
        "small": encode(photo.resize((32, 32)), "JPEG", quality=90),
        "tiny": encode(photo.resize((7, 5)), "JPEG", quality=90),
    }


@pytest.fixture(scope="session")
def kind_files(tmp_path_factory) -> dict[str, str]:
    """Path of one file of every kind, by the kind's name."""
    folder = tmp_path_factory.mktemp("kinds")
    files = {name: folder / f"{name}.JPEG" for name in kinds()}
    for name, data in kinds().items():
        files[name].write_bytes(data)
    return {name: str(path) for name, path in files.items()}


@pytest.fixture(scope="session")
def flat_files(tmp_path_factory) -> list[str]:
    """64 files of 12x16 pixels; every pixel of file i is 4 * i, whatever is cropped or flipped."""
    folder = tmp_path_factory.mktemp("flat")
    for i in range(64):
        Image.fromarray(np.full((12, 16, 3), 4 * i, np.uint8)).save(folder / f"{i:02}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="session")
def photo_files(tmp_path_factory) -> list[str]:
    """12 different made photographs, JPEG, 60 to 104 pixels high and 80 wide."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(12):
        Image.fromarray(picture(60 + 4 * i, 80, seed=i)).save(folder / f"{i:02}.jpg", quality=90)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="session")
def real_files() -> list[str]:
    """48 real photographs, where they lie beside the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample" / "val"
    if not folder.is_dir():
        pytest.skip(f"no real photographs: {folder} is not there")
    return [str(path) for path in sorted(folder.glob("*/*"))[::21]]


def get_module(name: str):
    if name == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI does not import here")
    return import_module(f"pcpad.data.{'dali' if name == 'dali' else 'reference'}")


@pytest.fixture(params=["torchvision", "dali"])
def loader(request):
    """The module of each loader in turn."""
    return get_module(request.param)


@pytest.fixture
def torchvision():
    """The module of the torchvision loader."""
    return get_module("torchvision")


@pytest.fixture
def dali():
    """The module of the DALI loader."""
    return get_module("dali")


@pytest.fixture
def archives(tmp_path):
    """Folder of ImageNet's archives with three classes, and what they are."""
    from tests.data.archives import make_imagenet

    folder = tmp_path / "archives"
    return folder, make_imagenet(folder)


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """The files of the tree that torchvision extracts from the same archives."""
    from torchvision.datasets import imagenet as theirs

    from tests.data.archives import contents, make_imagenet

    root = tmp_path_factory.mktemp("oracle")
    edition = make_imagenet(root)
    with pytest.MonkeyPatch.context() as patch:
        named = {"train": edition.train, "val": edition.val, "devkit": edition.devkit}
        patch.setattr(theirs, "ARCHIVE_META", {split: (a.file, a.md5) for split, a in named.items()})
        theirs.parse_devkit_archive(root)
        theirs.parse_train_archive(root)
        theirs.parse_val_archive(root)
    return contents(root)

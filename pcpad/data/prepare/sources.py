"""What is known of each data set by name: size, licence, source, layout."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A data set by name, as ``pcpad data list`` states it.

    Attributes:
        about: what the images show, in one line.
        classes, train, val: their numbers.
        download, disk: bytes to fetch and bytes of the tree, in words.
        licence: under which terms the images may be used.
        origin: where they come from.
        layout: the tree that preparing makes.
        command: how to get it.
        shown: whether the licence is printed whenever the images are used.
        cite: whom to cite.
        url, md5: of the archive, where torchvision fetches one; the same as torchvision's own.
    """

    about: str
    classes: int
    train: int
    val: int
    download: str
    disk: str
    licence: str
    origin: str
    layout: str
    command: str
    cite: str = ""
    shown: bool = False
    url: str = ""
    md5: str = ""

    @property
    def file(self) -> str:
        """Name of the archive's file."""
        return self.url.rsplit("/", 1)[-1]


SOURCES = {
    "textures": Source(
        about="procedural texture from edge to edge, 72 to 128 pixels; made on this machine",
        classes=10,
        train=1000,
        val=500,
        download="nothing",
        disk="4 MB",
        licence="MIT, as pcpad",
        origin="pcpad itself",
        layout="train/<texture>/NNNN.jpg, val/<texture>/NNNN.jpg",
        command="pcpad data prepare textures (or nothing: the first use makes them)",
    ),
    "elpv": Source(
        about="photographs of solar cells by electroluminescence, 300x300, grey; their defects touch the border",
        classes=2,
        train=1968,
        val=656,
        download="87 MB",
        disk="90 MB",
        licence="CC BY-NC-SA 4.0: attribution, no commercial use, share alike",
        origin="the PyPI package elpv-dataset (https://github.com/zae-bayern/elpv-dataset): pip install 'pcpad[elpv]'",
        layout="train/{defective,functional}/cellNNNN.png, val/{defective,functional}/cellNNNN.png",
        command="pcpad data prepare elpv",
        cite="Buerhop-Lutz et al., EU PVSEC 2018; Deitsch et al., Solar Energy 185 (2019)",
        shown=True,
    ),
    "cifar10": Source(
        about="small photographs, 32x32",
        classes=10,
        train=50_000,
        val=10_000,
        download="170 MB",
        disk="240 MB in 60,000 files",
        licence="none stated by its authors",
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz, through torchvision",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        layout="train/<class>/NNNNN.png, val/<class>/NNNNN.png; lossless, NNNNN is the place in the original order",
        command="pcpad data prepare cifar10",
        cite="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "imagenette": Source(
        about="photographs of ten easily told classes of ImageNet, shorter side 320",
        classes=10,
        train=9469,
        val=3925,
        download="340 MB",
        disk="350 MB",
        licence="Apache 2.0 for the collection; the photographs are ImageNet's: non-commercial research and education",
        origin="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz, through torchvision",
        url="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        md5="3df6f0d01a2c9592104656642f5e78a3",
        layout="train/<wnid>/*.JPEG, val/<wnid>/*.JPEG",
        command="pcpad data prepare imagenette",
        cite="Howard, https://github.com/fastai/imagenette",
    ),
    "imagenet": Source(
        about="ILSVRC 2012: photographs of 1000 classes, 400x350 on average",
        classes=1000,
        train=1_281_167,
        val=50_000,
        download="145 GB",
        disk="145 GB in 1.33 million files",
        licence="ImageNet's terms of access: non-commercial research and education",
        origin="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php, with an account",
        layout="train/<wnid>/*.JPEG, val/<wnid>/*.JPEG",
        command="pcpad data prepare imagenet --archives DIR --out DIR; an existing tree: --out DIR alone",
        cite="Russakovsky et al., IJCV 2015",
    ),
}
"""By name, in the order of the listing."""

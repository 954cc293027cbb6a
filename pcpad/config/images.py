"""Settings of the images: which, how they become tensors, how they are augmented."""

import re
from dataclasses import dataclass
from typing import Literal

from pcpad.config.fields import aside, check, later


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are read."""

    name: str = aside("auto")
    """`textures` (built in), `imagenet` (at $IMAGENET), or the path of a folder with train/<class>/ and val/<class>/;
    `auto` is imagenet where $IMAGENET is set, else textures."""
    loader: Literal["auto", "dali", "torchvision"] = "auto"
    """What decodes and augments; `auto` is dali where it imports."""
    workers: int | None = aside(None)
    """Threads or processes that decode; the number of cores, at most 16, if not given."""
    native: bool = False
    """In training: images keep their own aspect ratio, their shorter side is size, and batches are of mixed sizes; for
    zeros and partial padding."""
    check: Literal["auto", "all", "none"] = aside("auto")
    """Decode every image once before use, remembered by size and time of change: `auto` checks the validation images,
    and the training images up to 60,000; `all` every image."""
    exclude: str | None = aside(None)
    """In training: a file that names damaged training images, one a line, which are left out; `pcpad data check --out
    FILE` writes it, and every record states their number."""

    def __post_init__(self):
        check(self.workers is None or self.workers >= 1, "data.workers", self.workers, "at least 1")


@dataclass(frozen=True)
class PreprocessSettings:
    """How an image becomes a tensor; what is not given is what the model's library states for the model."""

    mean: tuple[float, float, float] | None = None
    """Per channel, of values in 0..1."""
    std: tuple[float, float, float] | None = None
    """Per channel, of values in 0..1."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Filter of the resize in evaluation."""
    crop_pct: float | None = None
    """Evaluation resizes to floor(size / crop_pct) and crops the centre."""
    crop_mode: Literal["center", "squash"] | None = None
    """timm's: `center` keeps the aspect ratio, `squash` does not."""

    def __post_init__(self):
        pct = self.crop_pct
        check(pct is None or 0 < pct <= 1, "preprocess.crop_pct", pct, "above 0 and at most 1")
        check(self.std is None or min(self.std) > 0, "preprocess.std", self.std, "positive")


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., arXiv:1909.13719): `number` operations an image, each of strength `magnitude`.

    Attributes:
        magnitude: 0 to 10.
        increasing: every operation gets stronger with the magnitude (timm's `inc1`, DALI's `monotonic_mag`).
        std: standard deviation of the magnitude, timm's `mstd`; None for none. DALI has none.
        prob: probability of each operation, timm's `p`; None for the library's own, which is 0.5 in timm and 1 in DALI.
    """

    magnitude: int
    number: int = 2
    increasing: bool = True
    std: float | None = None
    prob: float | None = None

    @property
    def text(self) -> str:
        """As timm writes it."""
        parts = {"m": self.magnitude, "n": self.number, "mstd": self.std, "p": self.prob, "inc": int(self.increasing)}
        return "-".join(["rand", *(f"{key}{value:g}" for key, value in parts.items() if value is not None)])


def parse_randaugment(text: str) -> RandAugment:
    """``"m9-n2"``, with timm's further parts ``mstd0.5``, ``p0.5`` and ``inc0``; a leading ``rand-`` may stand.

    Raises:
        ValueError: another text.

    >>> parse_randaugment("rand-m9-mstd0.5-inc1").text
    'rand-m9-n2-mstd0.5-inc1'
    """
    names = {"m": "magnitude", "n": "number", "mstd": "std", "p": "prob", "inc": "increasing"}
    found: dict = {}
    for part in text.removeprefix("rand-").split("-"):
        match = re.fullmatch(r"(mstd|m|n|p|inc)(\d+(?:\.\d+)?)", part)
        whole = match and match[1] in ("m", "n", "inc")
        ok = match and names[match[1]] not in found and not (whole and "." in match[2])
        wants = "such as m9-n2: magnitude 0 to 10 and number of operations; further parts are mstd0.5, p0.5 and inc0"
        check(bool(ok), "augment.randaugment", text, wants)
        found[names[match[1]]] = int(match[2]) if whole else float(match[2])
    check("magnitude" in found, "augment.randaugment", text, "one with a magnitude, such as m9-n2")
    check(found["magnitude"] <= 10, "augment.randaugment", text, "of a magnitude of at most 10")
    check(found.get("number", 2) >= 1, "augment.randaugment", text, "of at least 1 operation")
    check(found.get("prob", 0) <= 1, "augment.randaugment", text, "of a probability p of at most 1")
    check(found.get("increasing", 1) <= 1, "augment.randaugment", text, "inc0 or inc1 in its last part")
    return RandAugment(**(found | {"increasing": bool(found.get("increasing", 1))}))


@dataclass(frozen=True)
class AugmentSettings:
    """Training augmentation: random resized crop, horizontal flip, and what is asked for beyond."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Range of the crop's aspect ratio, width / height."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize."""
    randaugment: str | None = later(None)
    """RandAugment, such as m9-n2: magnitude 9 of 10, 2 operations. It is DALI's own in the DALI loader, timm's in the
    torchvision loader, and they are not alike: the run and its records name which. `mstd` and `p` are timm's alone."""
    color_jitter: float = later(0.0)
    """Brightness, contrast and saturation are each scaled by a factor from 1 - this to 1 + this; torchvision's in the
    torchvision loader, DALI's color_twist in the other."""
    erase: float = later(0.0)
    """Probability that a rectangle of an image is filled with noise (timm's RandomErasing, arXiv:1708.04896)."""
    erase_mode: Literal["pixel", "rand", "const"] = later("pixel")
    """Noise of each pixel, one random colour, or the mean colour."""

    def __post_init__(self):
        check(0 < self.scale[0] <= self.scale[1] <= 1, "augment.scale", self.scale, "a range within 0..1")
        check(0 < self.ratio[0] <= self.ratio[1], "augment.ratio", self.ratio, "a range above 0")
        check(0 <= self.hflip <= 1, "augment.hflip", self.hflip, "a probability")
        check(0 <= self.color_jitter <= 1, "augment.color_jitter", self.color_jitter, "in 0..1")
        check(0 <= self.erase <= 1, "augment.erase", self.erase, "a probability")
        if self.randaugment is not None:
            parse_randaugment(self.randaugment)


@dataclass(frozen=True)
class MixSettings:
    """Mixing images of a batch and their labels, by timm's Mixup; accuracy in training is against the larger label."""

    mixup: float = 0.0
    """Alpha of mixup (arXiv:1710.09412): images are blended; 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv:1905.04899): a rectangle comes from another image; 0 for none."""
    prob: float = 1.0
    """Probability that a batch, pair or image is mixed at all."""
    switch_prob: float = 0.5
    """Probability of CutMix where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """One draw for a batch, for each pair of images, or for each image."""

    def __post_init__(self):
        check(0 <= self.mixup < float("inf"), "mix.mixup", self.mixup, "at least 0 and finite")
        check(0 <= self.cutmix < float("inf"), "mix.cutmix", self.cutmix, "at least 0 and finite")
        check(0 <= self.prob <= 1, "mix.prob", self.prob, "a probability")
        check(0 <= self.switch_prob <= 1, "mix.switch_prob", self.switch_prob, "a probability")

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class ProgressiveSettings:
    """Progressive resizing: training images grow from epoch to epoch; evaluation is at `size` all along."""

    start: int | None = None
    """Side in pixels of the first training images; all are of `size` if not given."""
    end: int | None = None
    """Side in pixels of the last ones; `size` if not given. A smaller one makes up for the larger objects of random
    crops (Touvron et al., arXiv:1906.06423)."""
    epochs: tuple[float, float] | None = None
    """The side grows linearly from the first of these epochs to the second; from the first to the last if not given."""
    multiple: int = 32
    """In between the side is rounded to a multiple of this, in pixels."""

    def __post_init__(self):
        check(self.start is None or self.start >= 1, "progressive.start", self.start, "at least 1 pixel")
        check(self.end is None or self.end >= 1, "progressive.end", self.end, "at least 1 pixel")
        check(self.multiple >= 1, "progressive.multiple", self.multiple, "at least 1 pixel")
        if self.epochs is not None:
            ok = 0 <= self.epochs[0] <= self.epochs[1]
            check(ok, "progressive.epochs", self.epochs, "two numbers of epochs, the second not the smaller")
        if self.start is None and (self.end is not None or self.epochs is not None):
            raise ValueError("progressive.end and progressive.epochs need progressive.start, the first side in pixels")

    def side(self, epoch: int, epochs: int, size: int) -> int:
        """Side in pixels of the training images of one epoch, as in ffcv-imagenet.

        Args:
            epoch: 0 for the first.
            epochs: of the run.
            size: that of evaluation.

        >>> plan = ProgressiveSettings(start=160, end=192, epochs=(29, 34))
        >>> [plan.side(epoch, 40, 224) for epoch in (0, 29, 31, 32, 34, 39)]
        [160, 160, 160, 192, 192, 192]
        """
        if self.start is None:
            return size
        end = self.end or size
        first, last = self.epochs or (0, epochs - 1)
        if epoch <= first:
            return self.start
        if epoch >= last:
            return end
        side = self.start + (end - self.start) * (epoch - first) / (last - first)
        return max(round(side / self.multiple), 1) * self.multiple

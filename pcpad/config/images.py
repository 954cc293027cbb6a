"""Settings of the images: which, how they become tensors, how they are augmented."""

from dataclasses import dataclass
from typing import Literal

from pcpad.config.fields import aside, check, later


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are read."""

    name: str = aside("auto")
    """`textures` (built in), `imagenet` (at $IMAGENET), another name of `pcpad data list`, or the path of a folder with
    train/<class>/ and val/<class>/; `auto` is imagenet where $IMAGENET is set, else textures."""
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
class AugmentSettings:
    """Training augmentation: random resized crop and horizontal flip, and what is added to them."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Range of the crop's aspect ratio, width / height."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize."""
    randaugment: int = later(0)
    """Operations of RandAugment on each image (arXiv:1909.13719), DALI's or timm's as the loader is; 0 for none."""
    magnitude: int = later(9)
    """Their strength, 0 to 9 of timm's 10."""
    erase: float = later(0.0)
    """Probability that a rectangle is replaced by noise (timm's random erasing, arXiv:1708.04896)."""

    def __post_init__(self):
        check(self.randaugment >= 0, "augment.randaugment", self.randaugment, "at least 0")
        # At 10 timm's posterize keeps no bit of a pixel, which Pillow refuses.
        check(0 <= self.magnitude <= 9, "augment.magnitude", self.magnitude, "in 0..9")
        check(0 <= self.erase <= 1, "augment.erase", self.erase, "a probability")
        check(0 < self.scale[0] <= self.scale[1] <= 1, "augment.scale", self.scale, "a range within 0..1")
        check(0 < self.ratio[0] <= self.ratio[1], "augment.ratio", self.ratio, "a range above 0")
        check(0 <= self.hflip <= 1, "augment.hflip", self.hflip, "a probability")


@dataclass(frozen=True)
class MixSettings:
    """Mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899), timm's, on batches; labels are mixed too."""

    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 is off."""
    prob: float = 1.0
    """Probability that a batch (or pair, or image) is mixed at all."""
    switch_prob: float = 0.5
    """Probability of cutmix where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """Whether a batch, a pair of images or each image has its own share."""

    def __post_init__(self):
        check(self.mixup >= 0, "mix.mixup", self.mixup, "at least 0")
        check(self.cutmix >= 0, "mix.cutmix", self.cutmix, "at least 0")
        check(0 <= self.prob <= 1, "mix.prob", self.prob, "a probability")
        check(0 <= self.switch_prob <= 1, "mix.switch_prob", self.switch_prob, "a probability")

"""Settings of ``pcpad border``."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pcpad.config.commands import check_subject
from pcpad.config.fields import aside, check, check_size
from pcpad.config.images import DataSettings, PreprocessSettings


@dataclass(frozen=True)
class BorderSettings:
    """What padding does to features near the border: of a run, or of a model with weights; labels are not needed."""

    run: str | None = None
    """Folder of a run; its model, size, preprocessing and data are the defaults of all below."""
    model: str | None = None
    """Without a run: as in train."""
    weights: str | None = None
    """Without a run: a file, the name of the library's weights, or `pretrained`."""
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    """Without a run: as in train."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of the run."""
    ema: bool | None = None
    """The averaged weights of the run; where the run has them if not given."""
    paddings: str = "all"
    """Padding modes to compare: `zeros,partial`, or `all`."""
    power: float | None = None
    """Exponent on the ratio of partial padding; the run's, or 1, if not given."""
    on_small: Literal["raise", "replicate"] | None = None
    """What reflect and circular do where a feature map is smaller than its pad; as the run, or `raise`."""
    size: int | None = None
    """Side of the image that the network sees, in pixels; the run's, or the model's own, if not given."""
    margin: int | None = None
    """Pixels of true context on each side of it, a multiple of the network's stride; half the size, rounded up to
    one, if not given."""
    images: int = 200
    """How many images are looked at, drawn from the data set; all of them where it has fewer."""
    shifts: str = "1,2,4,8,16"
    """By how many pixels the crop window is moved to the right, down, and both."""
    seed: int = 0
    """Of the choice of images."""
    data: DataSettings = field(default_factory=DataSettings)
    """Which images: as in eval; a folder whose classes are unknown to the model, or without classes, will do."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor."""
    batch_size: int = aside(10)
    """Images of one step."""
    channels_last: bool = aside(True)
    """Memory format."""
    device: Literal["auto", "cuda", "cpu", "mps"] = aside("auto")
    """`auto` is cuda where there is an NVIDIA GPU, else cpu."""
    out: str | None = aside(None)
    """Where records, tables and plots go; a new folder in the run's, or below runs/, if not given."""
    redraw: str | None = aside(None)
    """Only draw the tables and plots of this folder's records again."""

    def __post_init__(self):
        check_size(self.size)
        check(self.margin is None or self.margin >= 1, "margin", self.margin, "at least 1 pixel")
        check(self.images >= 1, "images", self.images, "at least 1")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        check(0 <= self.seed < 2**31, "seed", self.seed, "in 0..2147483647")
        steps = [part.strip() for part in self.shifts.split(",")]
        ok = all(step.isdecimal() and int(step) > 0 for step in steps)
        check(ok, "shifts", self.shifts, "positive whole numbers of pixels with commas between them")
        if self.data.native:
            raise ValueError("--data.native has no meaning here: crops of one size are compared")
        if self.redraw is None:
            check_subject(self, "look at")
        elif self.run is not None or self.model is not None:
            raise ValueError("--redraw DIR draws records that are there: it goes without --run and --model")
        elif self.out is not None or self.paddings != "all":
            raise ValueError(
                "--redraw DIR draws what is there, into the same folder: it goes without --out and --paddings"
            )

"""Settings of eval, inspect and doctor."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pcpad.config.fields import aside, check, check_size
from pcpad.config.images import DataSettings, PreprocessSettings


def check_subject(settings, verb: str) -> None:
    """Raise ValueError unless the settings name one network with weights, and images that nothing is left out of."""
    if settings.data.exclude is not None:
        raise ValueError("--data.exclude is for training: validation images are never left out")
    if (settings.run is None) == (settings.model is None):
        raise ValueError(f"say what to {verb}: either --run DIR, or --model NAME with --weights")
    if settings.run is not None and settings.weights is not None:
        raise ValueError("--weights belongs to --model; a run has its own checkpoints (--checkpoint last|best)")
    if settings.run is not None and settings.model_kwargs:
        raise ValueError("--model_kwargs belongs to --model; the network of a run is the one that was trained")
    if settings.model is not None and (settings.checkpoint != "last" or settings.ema is not None):
        raise ValueError("--checkpoint and --ema choose among the weights of a run; those of --model are --weights")
    if settings.model is not None and settings.weights is None:
        raise ValueError(f"--model {settings.model} needs --weights: a file, a name, or `pretrained`")


@dataclass(frozen=True)
class EvalSettings:
    """One evaluation, or a grid of paddings and sizes: of a run, or of a model with weights."""

    run: str | None = None
    """Folder of a run; its model, padding, size, preprocessing and data are the defaults of all below."""
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
    padding: str | None = None
    """Padding mode to evaluate with; the run's, or zeros, if not given."""
    paddings: str | None = None
    """Several modes: `zeros,partial`, or `all`."""
    power: float | None = None
    """Exponent on the ratio of partial padding; the run's, or 1, if not given."""
    on_small: Literal["raise", "replicate"] | None = None
    """What reflect, symmetric and circular do where a feature map is smaller than its pad; as the run, or `raise`."""
    size: int | None = None
    """Side of the image in pixels; the run's, or the model's own, if not given."""
    sizes: str | None = None
    """Several sizes: `128,160,224`; `native:224` is the shorter side of images that keep their own aspect ratio;
    `cut:16@224` a variant of the square of 224 with its outer 16 pixels cut off; `blank`, `noise` and `blur` replace
    them, `shift:16@224` moves the window right and down."""
    data: DataSettings = field(default_factory=DataSettings)
    """Which images."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor."""
    batch_size: int = aside(64)
    """Images of one step."""
    again: bool = aside(False)
    """Compute cells anew that the folder has a record of."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision."""
    channels_last: bool = aside(True)
    """Memory format."""
    device: Literal["auto", "cuda", "cpu", "mps"] = aside("auto")
    """`auto` is cuda where there is an NVIDIA GPU, else cpu."""
    out: str | None = aside(None)
    """Where the records go; the run's folder, or a new one below runs/, if not given."""

    def __post_init__(self):
        check_size(self.size)
        check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        check_subject(self, "evaluate")
        if self.data.native:
            raise ValueError(
                "--data.native is for training: here images keep their aspect ratio with --sizes native:224"
            )
        for one, many in (("padding", "paddings"), ("size", "sizes")):
            if getattr(self, one) is not None and getattr(self, many) is not None:
                raise ValueError(f"give --{one} or --{many}, not both")
            listed = getattr(self, many)
            check(listed is None or listed.strip(), many, listed, "one or more with commas between them")


@dataclass(frozen=True)
class InspectSettings:
    """What a padding mode would do to a model: from its shapes alone, without weights or data."""

    model: str | None = None
    """`resnet50`, `torchvision/NAME` (detectors and segmentation too) or `timm/NAME`; or the first word of the call."""
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    """As in train."""
    padding: str = "partial"
    """Padding mode to look at."""
    size: int | None = None
    """Side of the image in pixels; the model's own if not given."""
    search: bool = True
    """Look for the smallest input that works, for each layer and for the model."""
    out: str | None = aside(None)
    """Also write the inspection as JSON to this file."""

    def __post_init__(self):
        check_size(self.size)
        if self.model is None:
            raise ValueError("say which model: pcpad inspect NAME")


@dataclass(frozen=True)
class DoctorSettings:
    """What is installed, whether it works, and what a training would use: on one screen, for a bug report."""

    data: str = "auto"
    """The images to look for, as in train."""
    loader: Literal["auto", "dali", "torchvision"] = "auto"
    """The loader to use, as in train; a problem if it does not import."""
    device: Literal["auto", "cuda", "cpu", "mps"] = "auto"
    """The device to try, as in train."""

"""Settings of ``pcpad export``."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pcpad.config.commands import check_subject
from pcpad.config.fields import aside, check, check_size
from pcpad.config.images import DataSettings, PreprocessSettings


@dataclass(frozen=True)
class ExportSettings:
    """A network in its padding mode for use elsewhere: a run's, or a model with weights."""

    run: str | None = None
    """Folder of a run; its model, padding, size and preprocessing are the defaults of all below."""
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
    format: Literal["timm", "onnx", "torch"] = "timm"
    """`timm` is a folder of weights and config.json that pcpad.load and timm read; `onnx` a file for ONNX runtimes;
    `torch` a file of torch.export, which needs torch alone."""
    padding: str | None = None
    """Padding mode; the run's, or zeros, if not given."""
    power: float | None = None
    """Exponent on the ratio of partial padding; the run's, or 1, if not given."""
    on_small: Literal["raise", "replicate"] | None = None
    """What reflect, symmetric and circular do where a feature map is smaller than its pad; as the run, or `raise`."""
    size: int | None = None
    """Side of the image in pixels, to which `onnx` and `torch` are fixed; as the run, or the model's own."""
    batch: int | None = None
    """Images of a batch, to which `onnx` and `torch` are fixed; any number if not given."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor: stated in what is written, not part of the network."""
    out: str | None = aside(None)
    """The folder or file to write, which must not exist; below exports/ if not given."""

    def __post_init__(self):
        check_size(self.size)
        check_subject(self, "export")
        check(self.batch is None or self.batch >= 1, "batch", self.batch, "at least 1")
        if self.format == "timm" and self.batch is not None:
            raise ValueError("--batch is for --format onnx and torch: a folder of weights takes any")

    @property
    def data(self) -> DataSettings:
        """No images are needed."""
        return DataSettings()

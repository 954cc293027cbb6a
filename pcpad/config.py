"""Settings: typed, documented, checked on construction; written as YAML; compared by digest."""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal


def aside(default, **kwargs):
    """A field that does not change a result (paths, workers, logging): it stays out of the digest."""
    return field(default=default, metadata={"result": False}, **kwargs)


def nearest(name: str, choices) -> str:
    """``"; did you mean 'x'?"`` for the choice nearest to `name`, or an empty string."""
    near = get_close_matches(name, list(choices), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(ok: bool, name: str, value, wants: str) -> None:
    """Raise ValueError naming the setting, what it must be and what it is, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} must be {wants}, not {value!r}")


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
class AugmentSettings:
    """Training augmentation: random resized crop and horizontal flip."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area."""
    ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Range of the crop's aspect ratio, width / height."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize."""

    def __post_init__(self):
        check(0 < self.scale[0] <= self.scale[1] <= 1, "augment.scale", self.scale, "a range within 0..1")
        check(0 < self.ratio[0] <= self.ratio[1], "augment.ratio", self.ratio, "a range above 0")
        check(0 <= self.hflip <= 1, "augment.hflip", self.hflip, "a probability")


@dataclass(frozen=True)
class OptimSettings:
    """SGD with momentum."""

    lr: float = 0.1
    """Peak learning rate, of a batch of any size, or of lr_batch_size."""
    lr_batch_size: int | None = None
    """Where given, the rate is lr * batch_size / lr_batch_size: the linear rule of Goyal et al., arXiv:1706.02677."""
    momentum: float = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """L2 coefficient."""
    decay: Literal["all", "weights"] = "all"
    """`all` parameters decay (the paper), or only the `weights` of convolutions and linear layers."""

    def __post_init__(self):
        check(0 < self.lr < float("inf"), "optim.lr", self.lr, "positive and finite")
        batch = self.lr_batch_size
        check(batch is None or batch >= 1, "optim.lr_batch_size", batch, "at least 1")
        check(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in 0..1, 1 excluded")
        check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "at least 0")
        check(not self.nesterov or self.momentum > 0, "optim.nesterov", self.nesterov, "false without momentum")


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rate against step: a linear warm-up, then steps or a cosine."""

    name: Literal["step", "cosine"] = "step"
    """`step` multiplies by gamma every step_epochs; `cosine` falls to min_lr at the last step."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises linearly to its peak."""
    step_epochs: float = 30.0
    """Epochs between two drops of `step`."""
    gamma: float = 0.1
    """Factor of each drop of `step`."""
    min_lr: float = 0.0
    """Where `cosine` ends."""

    def __post_init__(self):
        check(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "at least 0")
        check(self.step_epochs > 0, "schedule.step_epochs", self.step_epochs, "positive")
        check(0 < self.gamma <= 1, "schedule.gamma", self.gamma, "above 0 and at most 1")
        check(self.min_lr >= 0, "schedule.min_lr", self.min_lr, "at least 0")


@dataclass(frozen=True)
class SaveSettings:
    """Checkpoints: one after every epoch, and these."""

    every_minutes: float = 15.0
    """Also inside an epoch, this long after the last one."""
    every_steps: int | None = None
    """Also inside an epoch, after so many optimizer steps."""
    keep: int = 2
    """How many of the newest stay, beside the best and the last epoch's."""

    def __post_init__(self):
        check(self.every_minutes > 0, "save.every_minutes", self.every_minutes, "above 0")
        steps = self.every_steps
        check(steps is None or steps >= 1, "save.every_steps", steps, "at least 1")
        check(self.keep >= 1, "save.keep", self.keep, "at least 1")


def check_size(size: int | None) -> None:
    """Raise unless `size` is None or positive."""
    check(size is None or size >= 1, "size", size, "at least 1 pixel")


@dataclass(frozen=True)
class TrainSettings:
    """One run: model, padding, data, recipe, seed."""

    model: str = "resnet50"
    """`torchvision/NAME`, `timm/NAME` or a bare name (torchvision's where it has it, else timm's)."""
    padding: str = "partial"
    """Padding mode: zeros, partial, reflect, replicate, circular."""
    power: float = 1.0
    """Exponent on the ratio of partial padding; 1 is the paper's."""
    on_small: Literal["raise", "replicate"] = "raise"
    """What reflect and circular do where a feature map is smaller than its pad."""
    weights: str | None = aside(None)
    """Start from a file, from the library's weights of that name, or from `pretrained`; random if not given."""
    reset_head: bool = False
    """Start with a new classifier where the weights have another number of classes."""
    zero_init: bool = False
    """Start the residual branches of torchvision's ResNets at zero (Goyal et al., arXiv:1706.02677); timm's do."""
    data: DataSettings = field(default_factory=DataSettings)
    """Which images."""
    recipe: str | None = aside(None)
    """A file of configs/ by name, or a path; `paper` if not given, `textures` on the built-in textures."""
    size: int = 224
    """Side of the square image the network sees, in pixels."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Training augmentation."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 192
    """Images of one optimizer step, over all processes and all parts."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other, where memory is short."""
    eval_batch_size: int | None = aside(None)
    """Images of one evaluation step of a process; its share of batch_size if not given."""
    label_smoothing: float = 0.0
    """Of the cross-entropy."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    """The optimizer."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """The learning rate."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights (timm's), which is then what is evaluated."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision; fp16 with loss scaling."""
    seed: int = 0
    """Of initial weights, data order and augmentation."""
    channels_last: bool = aside(True)
    """Memory format of images and weights."""
    compile: bool = aside(False)
    """Train through torch.compile."""
    device: Literal["auto", "cuda", "cpu", "mps"] = aside("auto")
    """`auto` is cuda where there is an NVIDIA GPU, else cpu."""
    gpus: int = aside(1)
    """Processes of this machine, one for each GPU; more than one are started by torchrun."""
    nodes: int = aside(1)
    """Machines; the same command is given on each, with the same rendezvous."""
    rendezvous: str | None = aside(None)
    """Where the machines meet: host:port of one of them."""
    sync_bn: bool = False
    """Batch statistics over all processes, on GPUs."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, and an error where there is none; often slower on a GPU."""
    out: str | None = aside(None)
    """The run's folder; a new one below runs/ if not given."""
    resume: str | None = aside(None)
    """Continue the run in this folder after its last checkpoint, with its settings."""
    save: SaveSettings = field(default_factory=SaveSettings, metadata={"result": False})
    """When checkpoints are written, and how many are kept."""
    log_seconds: float = aside(10.0)
    """Seconds between two log lines where the output is no terminal."""

    def __post_init__(self):
        check_size(self.size)
        check(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        batch = self.eval_batch_size
        check(batch is None or batch >= 1, "eval_batch_size", batch, "at least 1")
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in 0..1, 1 excluded")
        check(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1")
        check(0 <= self.power < float("inf"), "power", self.power, "at least 0 and finite")
        check(0 <= self.seed < 2**31, "seed", self.seed, "in 0..2147483647")
        check(self.log_seconds >= 0, "log_seconds", self.log_seconds, "at least 0")
        total = self.schedule.warmup_epochs
        check(total <= self.epochs, "schedule.warmup_epochs", total, f"at most epochs ({self.epochs})")
        check(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        check(self.gpus >= 1, "gpus", self.gpus, "at least 1")
        check(self.nodes >= 1, "nodes", self.nodes, "at least 1")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes={self.nodes} need --rendezvous host:port, the same on each of them")


@dataclass(frozen=True)
class EvalSettings:
    """One evaluation, or a grid of paddings and sizes: of a run, or of a model with weights."""

    run: str | None = None
    """Folder of a run; its model, padding, size, preprocessing and data are the defaults of all below."""
    model: str | None = None
    """Without a run: as in train."""
    weights: str | None = None
    """Without a run: a file, the name of the library's weights, or `pretrained`."""
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
    """What reflect and circular do where a feature map is smaller than its pad; as the run, or `raise`."""
    size: int | None = None
    """Side of the image in pixels; the run's, or the model's own, if not given."""
    sizes: str | None = None
    """Several sizes: `128,160,224`; `native:224` is the shorter side of images that keep their own aspect ratio."""
    data: DataSettings = field(default_factory=DataSettings)
    """Which images."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor."""
    batch_size: int = aside(64)
    """Images of one step."""
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
        if self.data.exclude is not None:
            raise ValueError("--data.exclude is for training: validation images are never left out")
        if (self.run is None) == (self.model is None):
            raise ValueError("say what to evaluate: either --run DIR, or --model NAME with --weights")
        if self.run is not None and self.weights is not None:
            raise ValueError("--weights belongs to --model; a run has its own checkpoints (--checkpoint last|best)")
        if self.model is not None and self.weights is None:
            raise ValueError(f"--model {self.model} needs --weights: a file, a name, or `pretrained`")
        for one, many in (("padding", "paddings"), ("size", "sizes")):
            if getattr(self, one) is not None and getattr(self, many) is not None:
                raise ValueError(f"give --{one} or --{many}, not both")


@dataclass(frozen=True)
class InspectSettings:
    """What a padding mode would do to a model: from its shapes alone, without weights or data."""

    model: str | None = None
    """`resnet50`, `torchvision/NAME` (detectors and segmentation too) or `timm/NAME`; or the first word of the call."""
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


def to_dict(settings, *, result_only: bool = False) -> dict[str, Any]:
    """Settings as plain dicts and lists; `result_only` leaves out what does not change a result."""
    out = {}
    for f in fields(settings):
        if result_only and not f.metadata.get("result", True):
            continue
        value = getattr(settings, f.name)
        if is_dataclass(value):
            value = to_dict(value, result_only=result_only)
        out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def digest(content) -> str:
    """12 hexadecimal digits over the canonical JSON of settings (their result fields) or of any plain value."""
    plain = to_dict(content, result_only=True) if is_dataclass(content) else content
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Lines ``"key: old -> new"`` for every leaf in which two settings dicts differ."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def yaml_text(settings) -> str:
    """Settings as YAML that ``--config`` reads back."""
    import yaml

    return yaml.safe_dump(to_dict(settings), sort_keys=False, width=115)

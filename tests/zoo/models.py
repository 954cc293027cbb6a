"""The zoo: every model of timm and torchvision, built with random weights, and how to run each."""

from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

ALL_TOKENS = "timm/mvitv2_*_cls"
"""Models whose last block pools queries of patches that never reach the class token: no convolution there can move the
logits, so that the tokens of all patches are among their results."""
IN_FLOAT32 = ("timm/maxvit_xlarge_tf_512",)
"""Models that need more than 21 GB of memory in float64."""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo. `kind` is timm, classification, segmentation, detection or optical_flow."""

    name: str
    kind: str

    @property
    def bare(self) -> str:
        return self.name.partition("/")[2]


def all_models() -> list[Entry]:
    """Every model; not torchvision's quantized copies (the same networks) nor video (no Conv2d: Conv3d)."""
    import timm
    from torchvision import models

    entries = [Entry(f"timm/{name}", "timm") for name in timm.list_models()]
    for kind in ("classification", "segmentation", "detection", "optical_flow"):
        module = models if kind == "classification" else getattr(models, kind)
        entries += [Entry(f"torchvision/{name}", kind) for name in models.list_models(module=module)]
    return entries


def family(entry: Entry) -> str:
    """The source file that defines a model: timm's or torchvision's."""
    if entry.kind == "timm":
        import timm

        return f"timm.{timm.model_entrypoint(entry.bare).__module__.rpartition('.')[2]}"
    from torchvision import models

    return f"torchvision.{models.get_model_builder(entry.bare).__module__.partition('models.')[2]}"


@contextmanager
def without_init():
    """Skip the costly initialisation: every parameter is redrawn anyway."""
    names = ["kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_"]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


def build(entry: Entry, size: int | None = None) -> nn.Module:
    """A model in eval mode, with random weights, on the current default device and dtype."""
    with without_init():
        if entry.kind == "timm":
            import timm

            return timm.create_model(entry.bare, pretrained=False).eval()
        from torchvision import models

        extra = {}
        if entry.kind in ("segmentation", "detection"):
            extra = {"weights_backbone": None}
        if entry.kind == "detection":
            if "ssd" in entry.name or "fcos" in entry.name or "retinanet" in entry.name:
                extra["score_thresh"] = 0.0
            else:
                extra["box_score_thresh"] = 0.0
            extra["detections_per_img"] = 4
            if "ssd" not in entry.name:
                extra |= {"min_size": size or own_size(entry), "max_size": size or own_size(entry)}
        if entry.bare in ("googlenet", "inception_v3"):
            extra = {"init_weights": False, "aux_logits": True}
        return models.get_model(entry.bare, weights=None, **extra).eval()


def build_on_meta(entry: Entry) -> nn.Module:
    """A model without memory for its weights, for shapes only."""
    try:
        with torch.device("meta"):
            return build(entry)
    except NotImplementedError:  # some compute their widths with tensors
        return build(entry).to("meta")


def own_size(entry: Entry, model: nn.Module | None = None) -> int:
    """The side of the input that the model is published for; of a detector a small one, except SSD's fixed one."""
    if entry.kind == "timm":
        return model.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    special = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320, "raft_large": 128, "raft_small": 128}
    if entry.kind == "detection":
        return special.get(entry.bare, 64)
    return special.get(entry.bare, 224)


def dtype_of(entry: Entry) -> torch.dtype:
    """float64, but for RAFT, which makes float32 coordinates whatever its weights are, and the very largest."""
    return torch.float32 if entry.kind == "optical_flow" or entry.name in IN_FLOAT32 else torch.float64


def fixed_size(entry: Entry) -> bool:
    """Whether the model resizes every input to one size of its own."""
    return "ssd" in entry.name


def run(entry: Entry, model: nn.Module, size: int | tuple[int, int], device=None, seed: int = 1) -> list[torch.Tensor]:
    """The floating-point tensors of the result for one random image: `size` is its side, or (height, width)."""
    height, width = size if isinstance(size, tuple) else (size, size)
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.get_default_dtype()

    def image():
        channels = 3
        if entry.kind == "timm":
            channels = model.pretrained_cfg.get("input_size", (3, 224, 224))[0]
        if device == "meta":
            return torch.empty(1, channels, height, width, device="meta", dtype=dtype)
        return torch.randn(1, channels, height, width, generator=generator, dtype=dtype)

    parts = []  # submodules whose outputs are among the results
    if entry.kind == "detection":
        if not fixed_size(entry):
            model.transform.min_size, model.transform.max_size = (min(height, width),), max(height, width)
        parts = [getattr(model, "head", None)]  # boxes are clipped to the image: they do not show all that was computed
        if hasattr(model, "rpn"):
            parts = [model.rpn.head, *(m for n, m in model.roi_heads.named_children() if n.endswith("_predictor"))]
    elif fnmatch(entry.name, ALL_TOKENS):
        parts = [model.norm]
    seen = []
    handles = [part.register_forward_hook(lambda _, __, y: seen.append(y)) for part in parts]
    try:
        if entry.kind == "detection":
            result = model([image()[0]])
        elif entry.kind == "optical_flow":
            result = model(image(), image(), num_flow_updates=2)
        else:
            result = model(image())
    finally:
        for handle in handles:
            handle.remove()
    return [t for t in tree_leaves([result, seen]) if isinstance(t, torch.Tensor) and t.is_floating_point()]

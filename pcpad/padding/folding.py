"""Blocks that fold their convolutions into one (RepVGG's reparameterization and its kin), before and after surgery.

Folding builds a plain convolution from the weights of several. It would drop a filling mode without a word, and for
partial padding no folded kernel is right: the branches of a block have different kernels, hence different ratios.
"""

import inspect
from functools import cache

from torch import nn

from pcpad.padding.handlers import behaviour_of

FOLDING = ("fuse", "fuse_model", "reparameterize", "switch_to_deploy", "convert_to_deploy")
"""Names that timm, torchvision and the papers' code give to the method that folds."""

SELF_REPLACING = {"timm.models.repvit": "RepVggDw", "timm.models.shvit": "Conv2dNorm", "timm.models.iformer": "RepCPE"}
"""timm's files whose blocks with an identity branch turn into a plain convolution, to a class that is gone then."""


class Refusal:
    """What stands in the place of a folding method of a converted block. It is copied and pickled with the block."""

    def __init__(self, module: nn.Module, method: str):
        self.module, self.method = module, method

    def __call__(self, *args, **kwargs):
        kind = type(self.module)
        if not holds_converted(self.module):  # all of it is back at zeros by now
            return getattr(kind, self.method)(self.module, *args, **kwargs)
        raise ValueError(
            f"{kind.__qualname__}.{self.method}() is refused after pcpad.convert: it would build a convolution with "
            "zero padding (the mode would be lost), and with partial padding the folded branches have different "
            "ratios, so that no single kernel equals them. Keep the model as it is, or go back with "
            "pcpad.convert(model, 'zeros') and fold then"
        )


def holds_converted(module: nn.Module) -> bool:
    """Whether a convolution in a module is converted."""
    return any(behaviour_of(m) for m in module.modules() if isinstance(m, nn.Conv2d))


@cache
def folding_methods(kind: type) -> list[str]:
    """Names of the methods of a module class that fold it: of a known name, and taking the module alone.

    One that takes more, or any number of arguments, works on what it is given (a sum of maps, say).
    """
    found = []
    for name in FOLDING:
        method = inspect.getattr_static(kind, name, None)  # a static or a class method is no function there
        if inspect.isfunction(method):
            needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            if len([p for p in needed if p.kind is not p.VAR_KEYWORD]) <= 1:
                found.append(name)
    return found


def guard_folding(model: nn.Module) -> None:
    """Refuse the folding methods of every module that holds a converted convolution, allow those of the others."""
    for module in model.modules():
        for name in folding_methods(type(module)):
            own = vars(module).get(name)  # what a user has set on the instance is left alone
            if own is None and holds_converted(module):
                vars(module)[name] = Refusal(module, name)
            elif isinstance(own, Refusal) and not holds_converted(module):
                del vars(module)[name]


def folded(model: nn.Module) -> list[str]:
    """Names of the blocks that look folded already, identity and side branches included; ``""`` for the model."""
    sources = {type(module).__module__ for module in model.modules()}
    parts = {f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()}
    gone = any(source in sources and f"{source}.{part}" not in parts for source, part in SELF_REPLACING.items())
    return ([""] if gone else []) + [name for name, module in model.named_modules() if says_folded(module)]


def says_folded(module: nn.Module) -> bool:
    """Whether a block's own attributes say that it was folded in place."""
    own = vars(module)
    return (
        isinstance(getattr(module, "reparam_conv", None), nn.Module)  # RepVGG, MobileOne, FastViT
        or own.get("fused") is True  # EfficientViM
        or own.get("deploy") is True  # the papers' own code
        or (own.get("infer_mode") is True and not hasattr(module, "cheap_rpr_conv"))  # GhostNetV3
        or isinstance(own.get("fusion_conv"), list)  # RepGhost
        or (
            own.get("dw_conv_list", module) is None and isinstance(getattr(module, "dw_conv", None), nn.Conv2d)
        )  # LCNetV2
    )

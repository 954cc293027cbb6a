"""What a model is made of, so that surgery and its way back can be seen to have left the rest alone."""

from torch import nn

FOLDING = ("fuse", "fuse_model", "reparameterize", "switch_to_deploy", "convert_to_deploy")
"""Methods that surgery may refuse on an instance, and must allow again."""


def structure(model: nn.Module) -> dict:
    """What surgery can change of each module: its class, its parts and hooks; of a convolution all its attributes."""
    parts = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "forward", *FOLDING)
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        kept = {k: v for k, v in vars(module).items() if isinstance(module, nn.Conv2d) or k in parts}
        found[name] = [type(module), {k: dict(v) if isinstance(v, dict) else v for k, v in kept.items()}]
    return found


def changed(model: nn.Module, before: dict) -> list[str]:
    """Names of the modules that are not what they were: another class, other parts, or no longer there."""
    after = structure(model)
    names = [name for name in before if name not in after or not same(after[name], before[name])]
    return names + [name for name in after if name not in before]


def same(a, b) -> bool:
    """Whether two attributes are one object, equal plain values, or dicts or lists of such."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or (type(a) is type(b) and isinstance(a, (bool, int, float, str, tuple)) and a == b)

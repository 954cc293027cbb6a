"""Subclasses of Conv2d: how each pads and makes its weights, and the classes that convert puts on them.

A subclass with a forward of its own is dispatched on by its exact type. timm's six are known by name, so that timm is
never imported here; any other is added with `register_conv`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pcpad.padding.coverage import Pads, conv_pads, pair, same_pads
from pcpad.padding.filled import FilledConv2d, FilledPadding
from pcpad.padding.partial import PartialConv2d, PartialPadding

PLAIN = {PartialPadding: PartialConv2d, FilledPadding: FilledConv2d}
"""Behaviour to the class that an exact ``nn.Conv2d`` gets."""


@dataclass(frozen=True)
class ConvHandler:
    """What surgery must know of a subclass of ``nn.Conv2d``.

    Its forward must be the zero-padded convolution of its input with `weight`, plus ``conv.bias``, by its own stride,
    dilation and groups.

    Attributes:
        weight: function of the convolution to the weights that it convolves with, ``(C', C / groups, kh, kw)``; None
            for ``conv.weight``.
        pads: function of the convolution, its input's height and its width to ``(top, bottom, left, right)``; None
            where it pads by ``conv.padding``.
    """

    weight: Callable[[nn.Conv2d], Tensor] | None = None
    pads: Callable[[nn.Conv2d, int, int], Pads] | None = None


def standardized(conv: nn.Conv2d) -> Tensor:
    """Weights of timm's ``StdConv2d`` and ``StdConv2dSame``: mean 0 and variance 1 for each output channel.

    Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
    arXiv:1903.10520, equation 7.
    """
    flat = conv.weight.flatten(1)[None]
    return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=conv.eps).view_as(conv.weight)


def scaled_standardized(conv: nn.Conv2d) -> Tensor:
    """Weights of timm's ``ScaledStdConv2d`` and ``ScaledStdConv2dSame``: standardized, times gain / sqrt(fan in).

    Source: Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
    arXiv:2101.08692, section 4.
    """
    flat, scale = conv.weight.flatten(1)[None], (conv.gain * conv.scale).flatten()
    return F.batch_norm(flat, None, None, scale, training=True, momentum=0.0, eps=conv.eps).view_as(conv.weight)


def tf_same(conv: nn.Conv2d, height: int, width: int) -> Pads:
    """Pads of timm's ``Conv2dSame``; of a ``...StdConv2dSame`` its static ones where TF's do not depend on the size."""
    if not getattr(conv, "same_pad", True):
        return conv_pads(conv.padding, conv.kernel_size, conv.dilation)
    return same_pads((height, width), pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation))


def exported_same(conv: nn.Conv2d, height: int, width: int) -> Pads:
    """Pads of timm's ``Conv2dSameExport``, which keeps those of the first input it has ever seen."""
    if conv.pad is None:
        return tf_same(conv, height, width)
    left, right, top, bottom = conv.pad.padding
    return (top, bottom, left, right)


KNOWN: dict[str, ConvHandler] = {
    "torch.nn.modules.conv.Conv2d": ConvHandler(),
    "timm.layers.conv2d_same.Conv2dSame": ConvHandler(pads=tf_same),
    "timm.layers.conv2d_same.Conv2dSameExport": ConvHandler(pads=exported_same),
    "timm.layers.std_conv.StdConv2d": ConvHandler(standardized),
    "timm.layers.std_conv.StdConv2dSame": ConvHandler(standardized, tf_same),
    "timm.layers.std_conv.ScaledStdConv2d": ConvHandler(scaled_standardized),
    "timm.layers.std_conv.ScaledStdConv2dSame": ConvHandler(scaled_standardized, tf_same),
}
"""The libraries' classes by qualified name, so that timm need not be imported."""
REGISTERED: dict[type, ConvHandler] = {}
"""Classes that were registered. Two classes of one name, as a notebook makes them, are two classes."""


def handler_of(kind: type) -> ConvHandler | None:
    """What surgery must know of exactly this class; None if it is not known."""
    return REGISTERED.get(kind) or KNOWN.get(qualified(kind))


def register_conv(
    conv_class: type[nn.Conv2d],
    *,
    weight: Callable[[nn.Conv2d], Tensor] | None = None,
    pads: Callable[[nn.Conv2d, int, int], Pads] | None = None,
) -> None:
    """Teach `pcpad.convert` a subclass of ``nn.Conv2d`` with a forward of its own.

    Args:
        conv_class: the class. Its forward must be a zero-padded convolution plus ``conv.bias``, by its own stride,
            dilation and groups.
        weight: function of the convolution to the weights that it convolves with, where that is not ``conv.weight``.
        pads: function of the convolution, its input's height and its width (in pixels) to
            ``(top, bottom, left, right)``, where it does not pad by ``conv.padding``.

    Raises:
        TypeError: `conv_class` is not a subclass of ``nn.Conv2d``.
        ValueError: the class is known already.

    >>> class Doubled(nn.Conv2d):
    ...     def forward(self, x):
    ...         return F.conv2d(x, 2 * self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
    >>> register_conv(Doubled, weight=lambda conv: 2 * conv.weight)
    """
    if not (isinstance(conv_class, type) and issubclass(conv_class, nn.Conv2d)):
        raise TypeError(f"register_conv takes a subclass of torch.nn.Conv2d, not {conv_class!r}")
    if handler_of(conv_class) or issubclass(conv_class, tuple(PLAIN)):
        raise ValueError(f"{qualified(conv_class)} is known to pcpad already, or made from one of its layers")
    REGISTERED[conv_class] = ConvHandler(weight, pads)


def qualified(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def base_class(module: nn.Module) -> type:
    """The class of a module without torch's dynamic class for parametrizations."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def original_class(module: nn.Module) -> type:
    """The class that a module had before any conversion."""
    kind = base_class(module)
    return nn.Conv2d if kind in PLAIN.values() else getattr(kind, "pcpad_original", kind)


def behaviour_of(module: nn.Module) -> type | None:
    """What convert has added to a module's class; None for nothing, and for subclasses of ours."""
    kind = base_class(module)
    added = [b for b, plain in PLAIN.items() if kind is plain]
    return added[0] if added else vars(kind).get("pcpad_behaviour")


@cache
def derive(behaviour: type | None, conv_class: type) -> type:
    """The class that is `conv_class` with a padding behaviour: pickled by its parts, the same object each time.

    Raises:
        ValueError: `conv_class` is not known to pcpad (in a process that unpickles, say).
    """
    if behaviour is None:
        return conv_class
    if conv_class is nn.Conv2d:
        return PLAIN[behaviour]
    handler = handler_of(conv_class)
    if issubclass(conv_class, nn.Conv2d) and handler is None:
        raise ValueError(f"{qualified(conv_class)} is not known to pcpad here: call pcpad.register_conv for it first")
    handler = handler or ConvHandler()
    body = {
        "__module__": conv_class.__module__,
        "__doc__": f"{conv_class.__qualname__} with {behaviour.__name__}, made by pcpad.convert.",
        "__reduce_ex__": reduce_derived,
        "pcpad_original": conv_class,
        "pcpad_behaviour": behaviour,
        "pcpad_pads": handler.pads,
        "pcpad_weight": handler.weight,
        "pcpad_fresh": conv_class not in REGISTERED,
    }
    return type(behaviour.__name__.removesuffix("Padding") + conv_class.__name__, (behaviour, conv_class), body)


def reduce_derived(self, protocol):
    """How pickle and copy take a derived class apart: it cannot be found by name."""
    return blank, (self.pcpad_behaviour, self.pcpad_original), self.__getstate__()


def blank(behaviour: type, conv_class: type) -> nn.Module:
    """An empty object of a derived class, for pickle to fill."""
    kind = derive(behaviour, conv_class)
    return kind.__new__(kind)


def put_class(module: nn.Module, kind: type) -> None:
    """Give a module another class, below torch's dynamic class for parametrizations if it has one.

    The same object, not another one: hooks, references and optimizers stay valid.
    """
    if parametrize.is_parametrized(module):
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__", "__doc__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), own)
    module.__class__ = kind

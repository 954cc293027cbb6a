"""Sides of maps that differ from image to image, as a network's own code meets them when it reads a shape."""

import math
import operator
from numbers import Real


class RaggedError(ValueError):
    """Something that a mixed-size batch cannot go through, or its images do not agree in; names it and the way out."""


class RaggedAttributeError(RaggedError, AttributeError):
    """A tensor's method that a mixed-size batch does not have; ``hasattr`` sees that it is not there."""


class Length:
    """One number for each image of a batch that follows from its height or width; takes part in arithmetic.

    A network that reads ``x.shape`` of a mixed-size batch gets these. Where all images agree it is that number
    (``int(length)``, a comparison); where they do not, the error names the sizes. It is no ``int``, so that torch
    cannot take the canvas's side for the image's unnoticed.

    Attributes:
        values: a number for each image; None under ``torch.compile``, where they are not known.
        sizes: the image's own side for each of them, for the message.
        axis: the axis whose length it is; None for the result of arithmetic.
        canvas: the canvas's side along that axis.
    """

    def __init__(self, values: tuple | None, sizes: tuple | None, axis=None, canvas: int | None = None):
        self.values, self.sizes, self.axis, self.canvas = values, sizes, axis, canvas

    def agreed(self):
        """The number that all images have; raises RaggedError if they differ."""
        return self.one(self.known(), "a number that follows from the image size")

    def known(self) -> tuple:
        """The values; raises RaggedError where they are not known."""
        if self.values is None:
            raise RaggedError(
                "the network computes with the height or width of a map; under torch.compile, and by rule 'grow', a "
                "mixed-size batch has no such numbers: run it uncompiled by rule 'own'"
            )
        return self.values

    def one(self, values, what: str):
        """The value that all images share; raises RaggedError, with two sizes that clash, if they differ."""
        for value, size in zip(values, self.sizes, strict=True):
            if value != values[0]:
                raise RaggedError(
                    f"the images of one batch must agree in {what}, but it is {values[0]} for an image of "
                    f"{self.sizes[0]} pixels and {value} for one of {size} (TF-'same' convolutions, for one, pad by "
                    "the parity of their input): put such images into different batches, or round their sizes, to "
                    "multiples of 32 for most networks"
                )
        return values[0]

    def apply(self, function, *others) -> "Length":
        """The function of each image's number, and of the others' where they are Lengths."""
        values = self.known()
        columns = [other.known() if isinstance(other, Length) else (other,) * len(values) for other in others]
        return Length(tuple(function(*row) for row in zip(values, *columns, strict=True)), self.sizes)

    def decide(self, compare, other) -> bool:
        """The outcome of a comparison that all images share."""
        if not isinstance(other, (Real, Length)):
            return NotImplemented
        symbol = {operator.lt: "<", operator.le: "<=", operator.eq: "==", operator.ne: "!="}
        symbol |= {operator.gt: ">", operator.ge: ">="}
        with_what = other.values if isinstance(other, Length) else other
        return self.one(self.apply(compare, other).values, f"whether a side is {symbol[compare]} {with_what}")

    def __index__(self) -> int:
        return operator.index(self.agreed())

    def __int__(self) -> int:
        return int(self.agreed())

    def __float__(self) -> float:
        return float(self.agreed())

    def __bool__(self) -> bool:
        return self.one(self.apply(bool).values, "whether a side is 0")

    def __repr__(self) -> str:
        return f"Length({'unknown' if self.values is None else ', '.join(map(str, self.values))})"

    __hash__ = None


def arithmetic(function, swapped: bool = False):
    """A binary operator of `Length`."""

    def method(self, other):
        if not isinstance(other, (Real, Length)):
            return NotImplemented
        return self.apply((lambda a, b: function(b, a)) if swapped else function, other)

    return method


def comparison(function):
    """A comparison of `Length`."""
    return lambda self, other: self.decide(function, other)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_"):
    _short = _name.strip("_")
    setattr(Length, f"__{_short}__", arithmetic(getattr(operator, _name)))
    setattr(Length, f"__r{_short}__", arithmetic(getattr(operator, _name), swapped=True))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Length, f"__{_name}__", comparison(getattr(operator, _name)))
for _name, _function in (("neg", operator.neg), ("pos", operator.pos), ("abs", abs)):
    setattr(Length, f"__{_name}__", lambda self, f=_function: self.apply(f))
for _name, _function in (("ceil", math.ceil), ("floor", math.floor)):
    setattr(Length, f"__{_name}__", lambda self, f=_function: self.apply(f))
Length.__divmod__ = lambda self, other: (self // other, self % other)
Length.__trunc__ = lambda self: self.apply(math.trunc)
Length.__round__ = lambda self, digits=None: self.apply(lambda v: round(v, digits))

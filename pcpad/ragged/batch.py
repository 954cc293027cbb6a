"""RaggedBatch: images of different sizes on one canvas, which a network takes like a tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcpad.padding.debug import may_read
from pcpad.ragged.dispatch import HANDLERS, dispatch, refusal
from pcpad.ragged.extents import Axis, Extents
from pcpad.ragged.lengths import RaggedAttributeError, RaggedError

RULES = ("own", "grow")


class RaggedBatch:
    """Images (or features) of different sizes, each in the top left corner of one canvas.

    Any convolutional network takes it like a tensor: ``model(batch)`` gives a plain tensor of logits, of which row n
    equals, in eval mode, the network's on image n alone at its own size; features come as a RaggedBatch. What lies
    outside an image is never read. What cannot be followed (attention over positions, reshapes of the plane) raises
    `RaggedError`; pcpad/ragged/README.md has the list.

    Args:
        canvas: ``(N, C, H, W)``, any dtype and device.
        extents: int64 ``(N, 2)`` or a sequence of pairs: height and width of each image, in pixels. Given on the CPU
            they are checked without waiting for a GPU.
        rule: ``"own"``: each image keeps the extents that it has alone, and padding stands at its own edge.
            ``"grow"``: a position is valid once any tap of its window was, as the published mask update has it, so
            that extents grow into the canvas; for networks of partial convolutions.

    Raises:
        ValueError: shapes, an extent outside ``1..H`` or ``1..W``, an unknown rule.

    Source: Liu et al., arXiv:1811.11718, section 3, "images of different sizes"; arXiv:1804.07723, equation 2.

    >>> batch = RaggedBatch.from_images([torch.ones(3, 20, 30), torch.ones(3, 25, 16)])
    >>> batch
    RaggedBatch(2 images of 3 channels, 20x30 and 25x16, on a canvas of 25x30, torch.float32, cpu)
    >>> torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)(batch).extents.tolist()
    [[10, 15], [13, 8]]
    """

    def __init__(self, canvas: Tensor, extents: Tensor | Sequence[tuple[int, int]], rule: str = "own"):
        if not isinstance(canvas, Tensor) or canvas.dim() != 4:
            shape = tuple(canvas.shape) if isinstance(canvas, Tensor) else type(canvas).__name__
            raise ValueError(f"the canvas must be a tensor (N, C, H, W), not {shape}")
        if rule not in RULES:
            raise ValueError(f"rule={rule!r} is not one of {', '.join(map(repr, RULES))}")
        if not isinstance(extents, Tensor):
            extents = torch.tensor(extents, device="cpu").reshape(-1, 2)
        if extents.shape != (len(canvas), 2) or extents.dtype != torch.int64:
            raise ValueError(
                f"extents must be int64 of shape ({len(canvas)}, 2), a height and a width for each image, not "
                f"{extents.dtype} of shape {tuple(extents.shape)}"
            )
        if may_read(extents):
            limit = torch.tensor(canvas.shape[-2:], device=extents.device)
            wrong = ((extents < 1) | (extents > limit)).any(1).nonzero().flatten().tolist()
            if wrong:
                height, width = extents[wrong[0]].tolist()
                raise ValueError(
                    f"extent {height}x{width} of image {wrong[0]} must be at least 1x1 and within the canvas of "
                    f"{canvas.shape[-2]}x{canvas.shape[-1]}"
                )
        extents = extents.clone()  # what follows from it is remembered
        on_device = extents.to(canvas.device, non_blocking=True)
        axes = []
        for i in (0, 1):
            host = extents[:, i] if extents.device.type == "cpu" and canvas.device.type != "cpu" else None
            axes.append(Axis(on_device[:, i]).with_twin(host))
        self.canvas = canvas
        self.geometry = Extents(axes[0], axes[1], rule == "grow")
        self.plane = (2, 3)
        self.raw = True

    @classmethod
    def from_images(
        cls, images: Sequence[Tensor], *, rule: str = "own", canvas: tuple[int, int] | None = None, multiple: int = 1
    ) -> "RaggedBatch":
        """Stack images on one canvas, each in its top left corner; the rest of the canvas is 0.

        Args:
            images: ``(C, H_i, W_i)`` each, of one C, dtype and device.
            rule: see the class.
            canvas: height and width of the canvas; the smallest that holds all images if not given.
            multiple: the canvas's sides are rounded up to a multiple of this, so that fewer shapes of canvas occur.

        Raises:
            ValueError: no image; images that differ in channels, dtype or device, or are larger than the canvas.
        """
        images = list(images)
        if not images:
            raise ValueError("a mixed-size batch needs at least one image")
        first = images[0]
        for i, image in enumerate(images):
            if not isinstance(image, Tensor) or image.dim() != 3 or 0 in image.shape:
                what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise ValueError(f"image {i} must be a tensor (C, H, W), not {what}")
            for name in ("dtype", "device"):
                if getattr(image, name) != getattr(first, name):
                    raise ValueError(f"image {i} is {getattr(image, name)}, but image 0 is {getattr(first, name)}")
            if len(image) != len(first):
                raise ValueError(f"image {i} has {len(image)} channels, but image 0 has {len(first)}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        need = [max(side) for side in zip(*sizes, strict=True)]
        height, width = canvas or (-(-side // multiple) * multiple for side in need)
        if height < need[0] or width < need[1]:
            raise ValueError(f"images of up to {need[0]}x{need[1]} do not fit on a canvas of {height}x{width}")
        sheet = first.new_zeros(len(images), len(first), height, width)
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            sheet[i, :, :h, :w] = image
        batch = cls(sheet, sizes, rule)
        batch.raw = False
        return batch

    @property
    def extents(self) -> Tensor:
        """Height and width of each image: int64 ``(N, 2)``, on the canvas's device."""
        return self.geometry.sizes()

    @property
    def starts(self) -> Tensor:
        """First row and column of each image in the canvas: int64 ``(N, 2)``; 0 by rule ``"own"``."""
        return self.geometry.starts()

    @property
    def rule(self) -> str:
        """``"own"`` or ``"grow"``."""
        return "grow" if self.geometry.grow else "own"

    def images(self) -> list[Tensor]:
        """What belongs to each image, as views of the canvas without its batch axis: for maps ``(C, H_i, W_i)``."""
        rows, cols = self.plane
        pieces = []
        for sheet, (top, left), (height, width) in zip(
            self.canvas, self.starts.tolist(), self.extents.tolist(), strict=True
        ):
            pieces.append(sheet.narrow(rows - 1, top, height).narrow(cols - 1, left, width))
        return pieces

    def share_of_padding(self) -> float:
        """Share of the canvas that is no image's: 0 where all have one size."""
        rows, cols = self.plane
        area = self.canvas.shape[0] * self.canvas.shape[rows] * self.canvas.shape[cols]
        return 1 - int(self.extents.prod(1).sum()) / area

    def like(
        self,
        canvas: Tensor,
        geometry: Extents | None = None,
        plane: tuple[int, int] | None = None,
        raw: bool | None = None,
    ) -> "RaggedBatch":
        """Another canvas with the same extents, or other ones.

        Args:
            plane: indices of its rows and columns.
            raw: whether what lies outside the images may be infinite or NaN; as here if not given.
        """
        new = object.__new__(RaggedBatch)
        new.canvas = canvas
        new.geometry = self.geometry if geometry is None else geometry
        new.plane = self.plane if plane is None else plane
        new.raw = self.raw if raw is None else raw
        return new

    def inside(self) -> Tensor:
        """Where the canvas is an image: bool, of as many axes as the canvas, 1 long but for batch, rows and columns."""
        tests = []
        for axis, index in zip((self.geometry.rows, self.geometry.cols), self.plane, strict=True):
            length = self.canvas.shape[index]
            shape = [1] * self.canvas.dim()
            shape[0], shape[index] = self.canvas.shape[0], length
            tests.append(axis.test(length).view(shape))
        return tests[0] & tests[1]

    def filled(self, value: float = 0) -> Tensor:
        """The canvas with `value` outside the images; what lay there, NaN included, is not read."""
        if not self.canvas.is_floating_point() and abs(value) == float("inf"):
            limits = torch.iinfo(self.canvas.dtype)
            value = limits.max if value > 0 else limits.min
        return torch.where(self.inside(), self.canvas, value)

    def finite(self) -> Tensor:
        """The canvas, with 0 outside where that may be NaN: for what has weights, whose gradient is a sum over it."""
        return self.filled() if self.raw else self.canvas

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    @property
    def shape(self) -> tuple:
        """Like a tensor's; height and width are `Length`, since they differ from image to image."""
        sides: list = list(self.canvas.shape)
        for index, axis in zip(self.plane, (self.geometry.rows, self.geometry.cols), strict=True):
            sides[index] = axis.length(self.canvas.shape[index])
        return tuple(sides)

    def size(self, dim: int | None = None):
        """Like a tensor's."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Like a tensor's."""
        return self.canvas.dim()

    @property
    def ndim(self) -> int:
        """Like a tensor's."""
        return self.canvas.dim()

    def __len__(self) -> int:
        return self.canvas.shape[0]

    def __bool__(self) -> bool:
        raise refusal("bool", "its truth value is not defined")

    def __iter__(self):
        raise refusal("iter", "use .images()")

    @property
    def dtype(self) -> torch.dtype:
        """Like a tensor's."""
        return self.canvas.dtype

    @property
    def device(self) -> torch.device:
        """Like a tensor's."""
        return self.canvas.device

    @property
    def requires_grad(self) -> bool:
        """Like a tensor's."""
        return self.canvas.requires_grad

    @property
    def is_cuda(self) -> bool:
        """Like a tensor's."""
        return self.canvas.is_cuda

    @property
    def T(self):
        """Refused: it mixes the batch and the plane."""
        raise refusal("T", "it mixes the batch and the plane")

    def is_floating_point(self) -> bool:
        """Like a tensor's."""
        return self.canvas.is_floating_point()

    def is_contiguous(self, *args, **kwargs) -> bool:
        """Like a tensor's."""
        return self.canvas.is_contiguous(*args, **kwargs)

    def to(self, *args, **kwargs) -> "RaggedBatch":
        """Like a tensor's: another device, dtype or memory format."""
        canvas = self.canvas.to(*args, **kwargs)
        if canvas.device == self.canvas.device:
            return self.like(canvas)
        return moved(self, canvas)

    def cuda(self, *args, **kwargs) -> "RaggedBatch":
        """Like a tensor's."""
        return moved(self, self.canvas.cuda(*args, **kwargs))

    def cpu(self) -> "RaggedBatch":
        """Like a tensor's."""
        return moved(self, self.canvas.cpu())

    def pin_memory(self) -> "RaggedBatch":
        """The canvas in page-locked memory, for a data loader."""
        return self.like(self.canvas.pin_memory())

    def __repr__(self) -> str:
        sizes = [f"{h}x{w}" for h, w in self.extents.tolist()]
        shown = sizes if len(sizes) <= 4 else [*sizes[:2], "...", sizes[-1]]
        listed = ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1]
        rows, cols = self.plane
        what = f"{len(sizes)} images" if len(sizes) > 1 else "1 image"
        if self.plane == (2, 3) and self.canvas.dim() == 4:
            what += f" of {self.canvas.shape[1]} channels"
        rule = ", rule 'grow'" if self.geometry.grow else ""
        return (
            f"RaggedBatch({what}, {listed}, on a canvas of {self.canvas.shape[rows]}x{self.canvas.shape[cols]}, "
            f"{self.canvas.dtype}, {self.canvas.device}{rule})"
        )

    __array_ufunc__ = None  # a numpy number leaves arithmetic to the batch

    def requires_grad_(self, requires_grad: bool = True) -> "RaggedBatch":
        """Like a tensor's."""
        self.canvas.requires_grad_(requires_grad)
        return self

    def __getattr__(self, name: str):
        if not name.startswith("__") and callable(getattr(Tensor, name, None)):
            raise RaggedAttributeError(str(refusal(name)))
        raise AttributeError(f"RaggedBatch has no attribute {name!r}")


def moved(batch: RaggedBatch, canvas: Tensor) -> RaggedBatch:
    """A batch on another device; its extents start a new root there."""
    if batch.geometry.grow and batch.geometry.rows.start is not None:
        raise RaggedError("features by rule 'grow' cannot be moved between devices: move the batch, not its features")
    sizes = batch.geometry
    host = [axis.twin.stop if axis.twin is not None else axis.stop.cpu() for axis in (sizes.rows, sizes.cols)]
    cpu = canvas.device.type == "cpu"
    axes = [Axis(side.to(canvas.device, non_blocking=True)).with_twin(None if cpu else side) for side in host]
    new = object.__new__(RaggedBatch)
    new.canvas, new.geometry, new.plane = canvas, Extents(axes[0], axes[1], sizes.grow), batch.plane
    new.raw = batch.raw
    return new


def add_methods() -> None:
    """Give RaggedBatch the tensor methods and operators that are followed."""

    def method(name: str):
        def call(self, *args, **kwargs):
            return dispatch(getattr(Tensor, name), (self, *args), kwargs)

        call.__name__ = name
        return call

    def new(name: str):
        def call(self, *args, **kwargs):
            return getattr(self.canvas, name)(*args, **kwargs)

        call.__name__, call.__doc__ = name, "Like a tensor's: a plain tensor of the batch's dtype and device."
        return call

    for name in dir(Tensor):
        if name.strip("_") in HANDLERS and name not in vars(RaggedBatch):
            setattr(RaggedBatch, name, method(name))
    for name in ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"):
        setattr(RaggedBatch, name, new(name))

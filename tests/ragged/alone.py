"""The oracle of mixed-size batches: each image alone, through torch itself."""

import torch

from pcpad import RaggedBatch

SIZES = [(9, 12), (14, 7), (5, 5), (16, 13)]


def make_images(sizes=SIZES, channels=4, dtype=torch.float64, seed=0) -> list[torch.Tensor]:
    """Random images of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, h, w, generator=generator, dtype=dtype) for h, w in sizes]


def make_batch(images, rule="own", margin=(5, 2)) -> RaggedBatch:
    """The images on a canvas larger than it must be, with NaN wherever there is no image."""
    height, width = (max(image.shape[i] for image in images) for i in (1, 2))
    batch = RaggedBatch.from_images(images, rule=rule, canvas=(height + margin[0], width + margin[1]))
    poisoned = batch.canvas.masked_fill(~batch.inside(), torch.nan)
    return RaggedBatch(poisoned, batch.extents, rule)


def check(function, images, rtol=1e-10, together=None) -> None:
    """Compare ``function(batch)``, a batch or a plain tensor or a tuple of them, with each image's own result.

    Args:
        together: what the batch gave, if it is known already.
    """
    got = function(make_batch(images)) if together is None else together
    for i, image in enumerate(images):
        wanted = function(image[None])
        several = isinstance(wanted, (tuple, list))
        for part, mine in zip(wanted if several else [wanted], got if several else [got], strict=True):
            piece = mine.images()[i] if isinstance(mine, RaggedBatch) else mine[i]
            assert piece.shape == part[0].shape, f"image {i}: {tuple(piece.shape)}, not {tuple(part[0].shape)}"
            assert piece.dtype == part.dtype
            scale = part.detach().abs().max() if part.is_floating_point() and part.numel() else 1
            torch.testing.assert_close(piece, part[0], rtol=rtol, atol=float(scale) * rtol)

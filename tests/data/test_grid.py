"""Both loaders: several transforms of one decoding, and some rows only."""

import numpy as np
import pytest
import torch

from pcpad.data.native import NativeTransform
from tests.data.made import MEAN, STD, eval_loader, eval_transform, pixels
from tests.data.test_native import original_sizes

TRANSFORMS = [
    eval_transform(32),
    eval_transform(24, 1.0, "bicubic", "squash"),
    NativeTransform(32, 1.0, "bilinear", MEAN, STD),
]


def test_several_transforms_give_the_pixels_of_each_alone(loader, photo_files):
    sizes = original_sizes(photo_files)
    many = eval_loader(loader, photo_files, TRANSFORMS, batch_size=4, sizes=sizes)
    alone = {t.label: {} for t in TRANSFORMS}
    for transform in TRANSFORMS:
        for batch in eval_loader(loader, photo_files, transform, batch_size=4, sizes=sizes):
            for i, row in enumerate(batch.index.tolist()):
                alone[transform.label][row] = one_image(batch.images, i)
    rows = []
    for batch in many:
        assert list(batch.images) == ["32", "24", "native:32"]
        for i, row in enumerate(batch.index.tolist()):
            rows.append(row)
            for label, images in batch.images.items():
                assert torch.equal(one_image(images, i), alone[label][row])
    assert sorted(rows) == list(range(len(photo_files)))
    assert many.share_of_padding["32"] == 0 < many.share_of_padding["native:32"]


def one_image(images, i: int) -> torch.Tensor:
    """Image i of a batch, without what is no image's."""
    if isinstance(images, torch.Tensor):
        return images[i]
    height, width = images.extents[i].tolist()
    return images.canvas[i, :, :height, :width]


def test_some_rows_only(loader, flat_files):
    rows = [3, 60, 7, 8, 41]
    batches = list(eval_loader(loader, flat_files, batch_size=2, rows=rows, labels=np.arange(64)))
    assert [batch.index.tolist() for batch in batches] == [[3, 60], [7, 8], [41]]
    for batch in batches:
        assert batch.labels.tolist() == batch.index.tolist()
        grey = 4.0 * batch.index.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
        torch.testing.assert_close(pixels(batch.images), grey, atol=1e-3, rtol=0)
    assert list(eval_loader(loader, flat_files, rows=[])) == []


def test_two_transforms_of_one_size_are_refused(loader, flat_files):
    with pytest.raises(ValueError, match="must have different sizes, not 32, 32"):
        eval_loader(loader, flat_files, [eval_transform(32), eval_transform(32, 1.0)])

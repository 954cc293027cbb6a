"""RaggedBatch itself: making one, reading it, and what it says of mistakes."""

import copy
import pickle

import pytest
import torch

from pcpad import RaggedBatch, RaggedError
from tests.ragged.alone import SIZES, make_batch, make_images


def test_from_images_puts_each_in_its_corner():
    images = make_images()
    batch = RaggedBatch.from_images(images)
    assert batch.canvas.shape == (4, 4, 16, 13)
    assert batch.extents.tolist() == [list(size) for size in SIZES]
    for sheet, image, mine in zip(batch.canvas, images, batch.images(), strict=True):
        h, w = image.shape[1:]
        assert torch.equal(sheet[:, :h, :w], image)
        assert torch.equal(mine, image)
        assert sheet[:, h:].abs().sum() == sheet[:, :, w:].abs().sum() == 0
    area = sum(h * w for h, w in SIZES)
    assert batch.share_of_padding() == pytest.approx(1 - area / (4 * 16 * 13))


def test_extents_stay_on_the_cpu_whatever_the_default_device():
    """There they are looked at without waiting for a GPU; "meta" stands for one here."""
    with torch.device("meta"):
        batch = RaggedBatch(torch.ones(2, 3, 9, 9, device="cpu"), [(9, 9), (3, 3)])
    assert batch.extents.device.type == "cpu"
    with pytest.raises(RaggedError, match="image 1"):
        torch.nn.Conv2d(3, 8, 5)(batch)


def test_the_canvas_can_be_chosen():
    images = make_images()
    assert RaggedBatch.from_images(images, canvas=(20, 30)).canvas.shape[-2:] == (20, 30)
    assert RaggedBatch.from_images(images, multiple=8).canvas.shape[-2:] == (16, 16)
    with pytest.raises(ValueError, match="images of up to 16x13 do not fit on a canvas of 16x12"):
        RaggedBatch.from_images(images, canvas=(16, 12))


def test_a_tensor_of_any_dtype():
    batch = RaggedBatch.from_images([torch.full((3, 4, 5), 200, dtype=torch.uint8), torch.ones(3, 2, 2).byte()])
    assert batch.float().dtype == torch.float32
    scaled = (batch.float() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1)) / 0.25
    assert scaled.images()[0][2, 0, 0] == pytest.approx((200 / 255 - 0.3) / 0.25)
    assert batch.to(torch.float64, memory_format=torch.channels_last).is_contiguous(memory_format=torch.channels_last)


def test_copies_and_pickles():
    batch = make_batch(make_images())
    for twin in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(twin.canvas.nan_to_num(), batch.canvas.nan_to_num())
        assert torch.equal(twin.extents, batch.extents)
        assert twin.rule == batch.rule


def test_it_says_what_it_is():
    assert repr(make_batch(make_images([(9, 12)]))) == (
        "RaggedBatch(1 image of 4 channels, 9x12, on a canvas of 14x14, torch.float64, cpu)"
    )
    many = RaggedBatch.from_images(make_images([(9, 12)] * 9), rule="grow")
    assert "9 images of 4 channels, 9x12, 9x12, ... and 9x12, on a canvas of 9x12" in repr(many)
    assert "rule 'grow'" in repr(many)


def test_mistakes():
    images = make_images()
    for make, message in {
        lambda: RaggedBatch.from_images([]): "at least one image",
        lambda: RaggedBatch.from_images(
            [images[0][None]]
        ): r"image 0 must be a tensor \(C, H, W\), not \(1, 4, 9, 12\)",
        lambda: RaggedBatch.from_images([images[0], 3]): r"image 1 must be a tensor \(C, H, W\), not int",
        lambda: RaggedBatch.from_images([images[0], images[1][:3]]): "image 1 has 3 channels, but image 0 has 4",
        lambda: RaggedBatch.from_images([images[0], images[1].float()]): "image 1 is torch.float32, but image 0 is",
        lambda: RaggedBatch.from_images([torch.zeros(3, 0, 4)]): r"not \(3, 0, 4\)",
        lambda: RaggedBatch.from_images(images, rule="grown"): "rule='grown' is not one of 'own', 'grow'",
        lambda: RaggedBatch(torch.zeros(2, 3, 8, 8), [(8, 8)]): r"int64 of shape \(2, 2\)",
        lambda: RaggedBatch(torch.zeros(1, 3, 8, 8), torch.ones(1, 2)): "not torch.float32",
        lambda: RaggedBatch(torch.zeros(1, 3, 8, 8), [(8, 9)]): "extent 8x9 of image 0 .* canvas of 8x8",
        lambda: RaggedBatch(torch.zeros(1, 3, 8, 8), [(0, 8)]): "extent 0x8 of image 0 must be at least 1x1",
        lambda: RaggedBatch(torch.zeros(3, 8, 8), [(8, 8)]): r"must be a tensor \(N, C, H, W\), not \(3, 8, 8\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.gpu
def test_moves_to_a_gpu_and_back():
    batch = make_batch(make_images())
    there = batch.to("cuda")
    assert there.extents.is_cuda
    conv = torch.nn.Conv2d(4, 4, 3, stride=2, dtype=torch.float64)
    wanted, got = conv(batch), conv.cuda()(there).cpu()
    assert torch.equal(got.extents, wanted.extents)
    for a, b in zip(got.images(), wanted.images(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

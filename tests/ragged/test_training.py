"""Training on mixed-size batches: gradients, and batch statistics over what is valid."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pcpad import RaggedBatch
from tests.ragged import networks
from tests.ragged.alone import make_batch, make_images

SIZES = [(47, 60), (33, 41), (64, 35)]


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def with_canvas_grad(images) -> RaggedBatch:
    batch = make_batch(images)
    batch.canvas.requires_grad_()
    return batch


@pytest.mark.parametrize("mode", ["zeros", "partial"])
@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet", "torchvision/shufflenet_v2_x0_5"]
)
def test_gradients_are_the_sum_of_one_by_one(name, mode):
    model = networks.build(name, mode)
    images = [image.requires_grad_() for image in make_images(SIZES, channels=3)]
    losses = []
    for i, image in enumerate(images):
        y = model(image[None])
        weights = torch.linspace(-1, 1, y.numel()) * (i + 1)
        losses.append((y.flatten() * weights).sum())
    sum(losses).backward()
    wanted = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    batch = with_canvas_grad([image.detach() for image in images])
    y = model(batch)
    total = sum((row * torch.linspace(-1, 1, len(row)) * (i + 1)).sum() for i, row in enumerate(y))
    torch.testing.assert_close(total, sum(losses), rtol=1e-9, atol=1e-9)
    total.backward()
    assert len(wanted) > 20
    for key, p in model.named_parameters():
        if key in wanted:
            scale = float(wanted[key].abs().max())
            torch.testing.assert_close(p.grad, wanted[key], rtol=1e-9, atol=1e-9 * scale + 1e-300)
    inside = batch.inside().expand_as(batch.canvas)
    assert (batch.canvas.grad[~inside] == 0).all()
    for sheet, image in zip(batch.canvas.grad, images, strict=True):
        h, w = image.shape[1:]
        torch.testing.assert_close(sheet[:, :h, :w], image.grad, rtol=1e-9, atol=1e-9 * float(image.grad.abs().max()))


def test_batch_statistics_are_those_of_the_valid_positions():
    images = make_images()
    torch.manual_seed(0)
    norm, twin = nn.BatchNorm2d(4), None
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    twin = copy.deepcopy(norm)
    batch = with_canvas_grad(images)
    pixels = torch.cat([image.flatten(1) for image in images], 1).requires_grad_()  # (C, all positions)
    got = norm(batch)
    wanted = twin(pixels[None, :, :, None])[0, :, :, 0]
    flat = torch.cat([piece.flatten(1) for piece in got.images()], 1)
    torch.testing.assert_close(flat, wanted, rtol=1e-12, atol=1e-12)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(wanted)
    (flat * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    torch.testing.assert_close(norm.weight.grad, twin.weight.grad, rtol=1e-10, atol=1e-10)
    pieces = RaggedBatch(batch.canvas.grad, batch.extents).images()
    torch.testing.assert_close(torch.cat([p.flatten(1) for p in pieces], 1), pixels.grad, rtol=1e-10, atol=1e-10)
    assert (batch.canvas.grad[~batch.inside().expand_as(batch.canvas)] == 0).all()
    # the canvas's own statistics are others
    assert (F.batch_norm(batch.canvas.nan_to_num(), None, None, training=True).mean() - flat.mean()).abs() > 1e-3


def test_statistics_without_running_ones():
    norm = nn.BatchNorm2d(4, track_running_stats=False).eval()
    got = norm(make_batch(make_images()))
    flat = torch.cat([piece.flatten(1) for piece in got.images()], 1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(4), rtol=0, atol=1e-12)
    cumulative = nn.BatchNorm2d(4, momentum=None)
    cumulative(make_batch(make_images()))
    pixels = torch.cat([image.flatten(1) for image in make_images()], 1)
    torch.testing.assert_close(cumulative.running_mean, pixels.mean(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "partial"])
def test_a_few_steps_lower_the_loss(mode):
    torch.manual_seed(0)
    model = networks.build("timm/test_resnet", mode).train()
    images, labels = make_images(SIZES * 2, channels=3), torch.arange(6)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(make_batch(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.isfinite().all() for p in model.parameters())


def test_autocast_and_checkpointing():
    from torch.utils.checkpoint import checkpoint

    model = networks.build("timm/test_resnet", "partial").float()
    images = make_images(SIZES, channels=3, dtype=torch.float32)
    plain = model(make_batch(images))
    plain.sum().backward()
    wanted = model.conv1.weight.grad.clone() if hasattr(model.conv1, "weight") else model.conv1[0].weight.grad.clone()
    model.zero_grad()
    again = checkpoint(model, make_batch(images), use_reentrant=False)
    assert torch.equal(again, plain)
    again.sum().backward()
    got = model.conv1.weight.grad if hasattr(model.conv1, "weight") else model.conv1[0].weight.grad
    torch.testing.assert_close(got, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        half = model(make_batch(images))
    assert half.dtype == torch.bfloat16
    assert (half - plain).abs().max() < 0.1 * plain.abs().max()


def test_a_batch_that_was_evaluated_trains():
    model = networks.build("timm/test_resnet", "partial")
    batch = make_batch(make_images(SIZES, channels=3))
    with torch.inference_mode():
        wanted = model(batch)
    got = model(batch)
    assert torch.equal(got, wanted)
    got.sum().backward()

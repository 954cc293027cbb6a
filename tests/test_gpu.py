"""What only an NVIDIA GPU can show. DALI's GPU pixels are tested beside the loaders, in tests/data."""

import copy

import pytest
import torch
from torch import nn

import pcpad
from pcpad.environment import pick_device
from pcpad.padding.gpu import LARGE
from pcpad.training.guard import all_finite
from pcpad.training.loop import backward, optimizer_step
from pcpad.training.state import State

pytestmark = pytest.mark.gpu

MODES = list(pcpad.PADDING_MODES)


def network():
    """Strided, dilated, grouped, biased convolutions and a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


@pytest.mark.parametrize("mode", MODES)
def test_cpu_and_gpu_agree(mode):
    """float64 on both: outputs and gradients to 1e-10."""
    cpu = network().double()
    pcpad.convert(cpu, mode)
    gpu = copy.deepcopy(cpu).cuda()
    x = torch.randn(4, 3, 33, 29, dtype=torch.float64)
    a, b = cpu(x), gpu(x.cuda())
    torch.testing.assert_close(a, b.cpu(), rtol=1e-10, atol=1e-10)
    a.square().sum().backward()
    b.square().sum().backward()
    for p, q in zip(cpu.parameters(), gpu.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad.cpu(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_an_amp_channels_last_step(mode, amp):
    model = network().cuda().to(memory_format=torch.channels_last)
    pcpad.convert(model, mode)
    layouts = []
    model[3].register_forward_hook(
        lambda m, i, y: layouts.append((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cuda", enabled=amp == "fp16")
    images = torch.randn(16, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.arange(16, device="cuda") % 5
    state, losses = State(model, optimizer, scaler, None), []
    for _ in range(30):
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(model, images, labels, scaler, amp, 0.0)[0].item() / 16)
        optimizer_step(state)
    assert losses[-1] < losses[0]
    dtype = torch.bfloat16 if amp == "bf16" else torch.float16
    assert layouts[0][0] == dtype
    if mode != "circular":  # F.pad loses the layout there
        assert layouts[0][1]


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # the compiler's advice on speed
@pytest.mark.parametrize("mode", MODES)
def test_compile_gives_the_same(mode):
    model = network().cuda().eval()
    pcpad.convert(model, mode)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(4, 3, 48, 40, device="cuda")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)


def test_partial_interior_is_the_plain_convolution_bit_for_bit():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        plain = nn.Conv2d(8, 8, 3, padding=1, device="cuda", dtype=dtype)
        x = torch.randn(2, 8, 20, 20, device="cuda", dtype=dtype)
        partial = copy.deepcopy(plain)
        pcpad.convert(partial, "partial")
        y, z = plain(x), partial(x)
        assert z.dtype == dtype
        assert torch.equal(y[..., 1:-1, 1:-1], z[..., 1:-1, 1:-1])
        assert not torch.equal(y, z)


@pytest.mark.parametrize("value", [1.0, 1e18, float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_seen(value):
    large = torch.randn(1 << 20, device="cuda")
    large[-1] = value
    loss, rest = torch.tensor(0.5, device="cuda"), torch.ones(3, device="cuda", dtype=torch.bfloat16)
    assert bool(all_finite(loss, [rest, large])) == bool(torch.tensor(value).isfinite())


def test_a_bias_whose_numbers_lie_apart():
    size = (2, 64, 128, 130)
    x, conv = torch.randn(size, device="cuda"), pcpad.PartialConv2d(64, 64, 3, padding=1).cuda()
    assert x.numel() >= LARGE  # so that the kernel has it
    views = {"bias": torch.randn(128, device="cuda")[::2]}
    found = torch.func.functional_call(conv, views, (x,))
    expected = torch.func.functional_call(conv, {"bias": views["bias"].contiguous()}, (x,))
    torch.testing.assert_close(found, expected)


def test_auto_takes_the_gpu():
    assert pick_device("auto").type == "cuda"

"""What users do with a model after surgery: compile, export, copy, extract features, train, shrink."""

import copy
import io
import pickle

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import pcpad
from pcpad.padding.fillers import repeat_edges
from pcpad.padding.handlers import behaviour_of

MODES = ["partial", "reflect", "replicate", "circular"]
SIZES = {"test_resnet": 33, "test_efficientnet": 33, "every_kind": 13}
# One model for each kind of convolution: TF-same, standardized, scaled standardized, both at once.
LARGE = {"tf_efficientnet_lite0": 65, "resnetv2_50x1_bit": 33, "nf_resnet26": 33, "dm_nfnet_f0": 33}
SIZES |= LARGE


def every_kind():
    """A small network of the subclasses of Conv2d that timm's models use: all but Conv2dSameExport."""
    from timm import layers

    kinds = [layers.StdConv2d, layers.StdConv2dSame, layers.ScaledStdConv2d, layers.ScaledStdConv2dSame]
    convs = [kind(8, 8, 3, stride=1 + i % 2) for i, kind in enumerate([layers.Conv2dSame, *kinds])]
    plain = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(plain, nn.ReLU(), *convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def build(name, **extra):
    torch.manual_seed(0)
    if name == "every_kind":
        return every_kind()
    net = timm.create_model(name, num_classes=5, **extra).eval()
    with torch.no_grad():
        for key, p in net.named_parameters():
            if "gain" in key:
                p.uniform_(0.5, 1)  # skip gains of 0 would switch every branch off
    return net


def image(size, batch=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in SIZES])
def subject(request):
    """A model and an input; each test converts it as it needs."""
    net, x = build(request.param), image(SIZES[request.param])
    with torch.no_grad():
        plain = net(x)
    return net, x, plain


@pytest.mark.parametrize("mode", ["partial", "reflect"])
@torch.no_grad()
def test_copies_compile_and_export(subject, mode):
    net, x, plain = subject
    pcpad.convert(net, mode)
    y = net(x)
    assert not torch.equal(y, plain)
    assert torch.equal(copy.deepcopy(net)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), y)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), y)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(x), y)
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), y)


@torch.no_grad()
def test_export_with_a_size_that_varies():
    net, auto = build("test_resnet"), torch.export.Dim.AUTO
    pcpad.convert(net, "partial")
    exported = torch.export.export(net, (image(64, 2),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    # before, torch allows no width of 80 after one of 64, in an unconverted network either
    for width in (128, 80) if torch.__version__ >= "2.13" else (128,):
        other = torch.randn(3, 3, 96, width)
        torch.testing.assert_close(exported.module()(other), net(other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "mode"), [("every_kind", "partial"), ("every_kind", "circular")])
@torch.no_grad()
def test_onnx_gives_the_same_outputs(name, mode):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = build(name), image(SIZES[name])
    plain = net(x).numpy()
    pcpad.convert(net, mode)
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, net(x).numpy(), rtol=1e-3, atol=1e-4 * np.abs(y).max())
    assert np.abs(y - plain).max() > 1e-2 * np.abs(plain).max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["test_resnet", *LARGE])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_onnx_of_every_kind(name, mode):
    test_onnx_gives_the_same_outputs(name, mode)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(
            (name, mode)
            for name in [*SIZES, "convnext_atto", "repvgg_a0", "vgg11_bn"]
            for mode in ("partial", "reflect")
        ),
        *(("test_resnet", mode) for mode in ("replicate", "circular")),
    ],
)
def test_inductor(name, mode):
    """Real code is generated, for the forward and the backward pass; in float64, where no rounding opens a gate."""
    net = build(name).train(False).double()
    x = image(64 if name == "vgg11_bn" else SIZES.get(name, 129)).double()
    pcpad.convert(net, mode)
    y = net(x)
    y.sum().backward()
    wanted = {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    torch._dynamo.reset()
    got = torch.compile(net, fullgraph=True)(x)
    torch.testing.assert_close(got, y, rtol=1e-9, atol=1e-9 * float(y.detach().abs().max()))
    got.sum().backward()
    assert wanted
    for key, p in net.named_parameters():
        if key in wanted:
            torch.testing.assert_close(p.grad, wanted[key], rtol=1e-7, atol=1e-9 * float(wanted[key].abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", *MODES])
def test_inductor_trains_in_channels_last(mode):
    """Sides that differ, so that no stride is right by chance."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 8, 3, padding=1)]
    net = nn.Sequential(convs[0], nn.GELU(), convs[1], nn.GELU(), convs[2]).double()
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    pcpad.convert(net, mode)
    torch._dynamo.reset()
    grads = []
    for forward in (net, torch.compile(net, fullgraph=True)):
        net.zero_grad()
        forward(x).square().mean().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (2, 0, 0, 3), (0, 1, 4, 2), (0, 0, 0, 0)])
@pytest.mark.parametrize("size", [(4, 3), (1, 1)])
def test_repeated_edges(pads, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = repeat_edges(x, pads)
    top, bottom, left, right = pads
    wanted = np.pad(x.detach().numpy(), [(0, 0), (0, 0), (top, bottom), (left, right)], mode="edge")
    assert np.array_equal(y.detach().numpy(), wanted)
    incoming = torch.randn_like(y)
    rows, cols = (np.arange(-a, n + b).clip(0, n - 1) for n, a, b in zip(size, pads[::2], pads[1::2], strict=True))
    grad = np.zeros(x.shape)
    np.add.at(grad, (slice(None), slice(None), rows[:, None], cols[None]), incoming.numpy())
    np.testing.assert_allclose(torch.autograd.grad(y, x, incoming)[0].numpy(), grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0"])
@torch.no_grad()
def test_timms_features(name):
    x, whole = image(128), build(name)
    net = timm.create_model(name, features_only=True).eval()
    plain = net(x)
    report = pcpad.convert(net, "partial")
    assert report.converted
    y = net(x)
    assert [t.shape for t in y] == [t.shape for t in plain]
    assert not torch.equal(y[-1], plain[-1])
    assert net.feature_info.channels() == [t.shape[1] for t in y]
    # and on a model that was converted before: the last feature map is what its own forward computes
    pcpad.convert(whole, "partial")
    last, maps = whole.forward_intermediates(x)
    assert torch.equal(whole.forward_head(last), whole(x))
    assert len(maps) > 1


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_torchvisions_feature_extractor(mode):
    net, x = models.resnet18(weights=None).eval(), image(64)
    pcpad.convert(net, mode)
    maps = create_feature_extractor(net, ["layer2", "flatten"])(x)
    assert torch.equal(net.fc(maps["flatten"]), net(x))
    smaller = image(48)
    assert torch.equal(net.fc(create_feature_extractor(net, ["flatten"])(smaller)["flatten"]), net(smaller))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_memory_formats_and_dtypes(mode):
    net, x = build("tf_efficientnet_lite0"), image(65)
    pcpad.convert(net, mode)
    y = net(x)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    wide = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(wide), y, rtol=1e-3, atol=1e-5)
    conv = next(m for m in last.modules() if behaviour_of(m))
    assert conv(wide).is_contiguous(memory_format=torch.channels_last)
    for dtype, rtol in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        small = copy.deepcopy(net).to(dtype)(x.to(dtype))
        assert small.dtype is dtype
        assert (small.float() - y).abs().max() < rtol * y.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        kinds = set()
        handles = [
            m.register_forward_hook(lambda _, __, out: kinds.add(out.dtype)) for m in net.modules() if behaviour_of(m)
        ]
        mixed = net(x)
    assert kinds == {torch.bfloat16}  # no converted layer promotes its output
    assert (mixed.float() - y).abs().max() < 0.1 * y.abs().max()
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("mode", MODES)
def test_training_frozen_layers_hooks_and_checkpointing(mode):
    net, x = build("test_efficientnet").train(), image(32, 4)
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    first.weight.requires_grad_(False)
    seen = []
    first.register_forward_pre_hook(lambda *_: seen.append("before"))
    first.register_full_backward_hook(lambda *_: seen.append("back"))
    pcpad.convert(net, mode)
    x.requires_grad_()
    net(x).square().sum().backward()
    assert first.weight.grad is None
    assert seen == ["before", "back"]
    plain = {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    assert len(plain) == len(list(net.parameters())) - 1
    other = build("test_efficientnet").train()
    pcpad.convert(other, mode)
    other.set_grad_checkpointing(True)
    checkpoint(other, x.detach().requires_grad_(), use_reentrant=False).square().sum().backward()
    for key, p in other.named_parameters():
        if key in plain:
            torch.testing.assert_close(p.grad, plain[key], rtol=1e-3, atol=1e-3)


def test_state_dicts_move_between_modes():
    a, b, x = build("test_efficientnet"), build("test_efficientnet"), image(32)
    with torch.no_grad():
        for p in a.parameters():
            p.add_(0.1)
    pcpad.convert(a, "reflect")
    b.load_state_dict(a.state_dict())
    pcpad.convert(b, "reflect")
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize("build_model", [models.segmentation.lraspp_mobilenet_v3_large])
@torch.no_grad()
def test_segmentation(build_model):
    net = build_model(weights=None, weights_backbone=None).eval()
    x = image(128)
    plain = net(x)["out"]
    for mode in MODES:
        pcpad.convert(net, mode)
        assert net(x)["out"].shape == plain.shape
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x)["out"], plain)


@torch.no_grad()
def test_detection_runs_one_convolution_at_several_sizes():
    extra = {"weights": None, "weights_backbone": None, "min_size": 64, "max_size": 64, "box_score_thresh": 0.0}
    net = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(**extra).eval()
    sizes = []
    net.rpn.head.conv[0][0].register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-2:]))
    plain = net([image(64)[0]])[0]["boxes"]
    pcpad.convert(net, "partial")
    assert net([image(64)[0]])[0]["boxes"].shape[1] == 4
    assert len(set(sizes)) > 1
    pcpad.convert(net, "zeros")
    assert torch.equal(net([image(64)[0]])[0]["boxes"], plain)

"""The proof itself: it holds on a diverse handful of models, and breaks when something is wrong."""

import re

import pytest
import torch
from torch import nn

import pcpad
from pcpad.padding import PADDING_MODES, border, filled, handlers, partial, surgery
from tests.zoo import models, oracle, proof
from tests.zoo.redraw import redraw

MODES = list(PADDING_MODES)
# Each for a reason; the whole zoo is `make test-zoo`, one model of each family `make test-full`.
SUBSET = {
    "timm/test_resnet": "plain",
    "timm/test_efficientnet": "depthwise",
    "timm/test_nfnet": "scaled standardized weights",
    "timm/tf_mobilenetv3_small_minimal_100": "TF-same",
    "timm/resnetv2_18d": "biased stem",
    "timm/repvit_m0_9": "branches that fold",
    "timm/convnext_atto": "biased 7x7 depthwise, layer scale",
    "torchvision/shufflenet_v2_x0_5": "torchvision's own",
    "torchvision/lraspp_mobilenet_v3_large": "segmentation, dilation",
}


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in models.all_models()}


# These take seconds.
LONG = ("timm/repvit_m0_9", "torchvision/lraspp_mobilenet_v3_large")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SUBSET])
def test_subset_of_the_zoo(entries, name):
    found = proof.prove(entries[name], MODES)
    assert found.padded > 0
    assert set(found.layer_error) == set(found.result_error) == set(MODES)
    assert found.idle == []


@pytest.fixture
def without_cache():
    handlers.derive.cache_clear()
    yield
    handlers.derive.cache_clear()


@pytest.mark.usefixtures("without_cache")
@pytest.mark.parametrize(
    ("kind", "wrong", "name", "mode"),
    [
        ("std_conv.ScaledStdConv2d", handlers.ConvHandler(), "timm/test_nfnet", "reflect"),
        ("std_conv.ScaledStdConv2d", handlers.ConvHandler(handlers.standardized), "timm/test_nfnet", "replicate"),
        ("conv2d_same.Conv2dSame", handlers.ConvHandler(pads=lambda conv, h, w: (2, 1, 2, 1)), "tf", "replicate"),
        ("conv2d_same.Conv2dSame", handlers.ConvHandler(pads=lambda conv, h, w: (2, 0, 2, 0)), "tf", "partial"),
    ],
)
def test_a_wrong_handler_fails_the_proof(entries, monkeypatch, kind, wrong, name, mode):
    name = "timm/tf_mobilenetv3_small_minimal_100" if name == "tf" else name
    monkeypatch.setitem(handlers.KNOWN, f"timm.layers.{kind}", wrong)
    with pytest.raises(proof.ProofFailed, match=rf"{mode} at .*: layer '.*is off"):
        proof.prove(entries[name], ["zeros", mode], wide=(33, 34))


@pytest.mark.usefixtures("without_cache")
def test_a_wrong_ratio_fails_the_proof(entries, monkeypatch):
    right = border.cached_ratio

    def wrong(*args, **kwargs):
        return right(*args, **kwargs) * (1 + 1e-9)

    monkeypatch.setattr(border, "cached_ratio", wrong)
    monkeypatch.setattr(border, "strips", border.strips.__wrapped__)  # past the cache
    with pytest.raises(proof.ProofFailed, match=r"partial at \d+: layer '.*' \(PartialConv2d\) is off by"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


@pytest.mark.parametrize(("mode", "other"), [("circular", "replicate"), ("replicate", "reflect")])
def test_another_filling_fails_the_proof(entries, monkeypatch, mode, other):
    """On maps of one pixel they are all the same: the larger input must tell them apart."""
    right = filled.fill

    def wrong(x, pads, asked, on_small="raise", layer=""):
        return right(x, pads, other if asked == mode else asked, "replicate", layer)

    monkeypatch.setattr(filled, "fill", wrong)
    for name in ("timm/test_resnet", "timm/test_efficientnet"):
        with pytest.raises(proof.ProofFailed, match=rf"{mode} at .*: layer '.*' \(FilledConv2d\) is off by"):
            proof.prove(entries[name], ["zeros", mode, "reflect"])


def test_rows_taken_for_columns_fail_the_proof(entries, monkeypatch):
    right = handlers.same_pads

    def swapped(size, *geometry):
        return right(size[::-1], *geometry)

    monkeypatch.setattr(handlers, "same_pads", swapped)
    with pytest.raises((proof.ProofFailed, ValueError), match=r"partial at \(|pads of Conv2dSame: "):
        proof.prove(entries["timm/tf_mobilenetv3_small_minimal_100"], ["zeros", "partial", "reflect"])


def test_a_result_that_is_not_finite_proves_nothing(entries, monkeypatch):
    def overflowing(model, **options):
        redraw(model, **options)
        with torch.no_grad():
            model.fc.bias.fill_(float("inf"))

    monkeypatch.setattr(proof, "redraw", overflowing)
    with pytest.raises(proof.ProofFailed, match="not finite"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


def test_a_convolution_whose_weights_another_module_reads_fails_the_proof(entries, monkeypatch):
    right = models.build

    class Around(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return nn.functional.conv2d(x, self.conv.weight, None, self.conv.stride, self.conv.padding)

    def build(entry, size=None):
        model = right(entry, size)
        model.layer1[0].conv1 = Around(model.layer1[0].conv1)
        return model

    monkeypatch.setattr(models, "build", build)
    with pytest.raises(proof.ProofFailed, match=r"'layer1\.0\.conv1\.conv' are read by another module"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


def test_a_layer_left_out_fails_the_proof(entries, monkeypatch):
    right = surgery.may_pad

    def wrong(conv):
        return right(conv) and conv.stride == (1, 1)

    monkeypatch.setattr(surgery, "may_pad", wrong)
    with pytest.raises(proof.ProofFailed, match=r"reflect: converted \[.* differently"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "reflect"])


def test_a_missing_error_fails_the_proof(entries, monkeypatch):
    right = filled.fill

    def silent(x, pads, mode, on_small="raise", layer=""):
        return right(x, pads, mode, "replicate", layer)

    monkeypatch.setattr(filled, "fill", silent)
    with pytest.raises(proof.ProofFailed, match=r"reflect at \d+: no error, though a map is too small"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "reflect"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(r"layer '[^']*'", "layer 'layer1.0.conv1'"), (r"is \d+x\d+ ", "is 9x9 "), (r"least \d+x\d+", "least 0x0")],
)
def test_an_error_that_names_another_layer_or_map_fails_the_proof(entries, monkeypatch, right, wrong):
    fill = filled.fill

    def misleading(*args):
        try:
            return fill(*args)
        except ValueError as error:
            raise ValueError(re.sub(right, wrong, str(error))) from error

    monkeypatch.setattr(filled, "fill", misleading)
    with pytest.raises(proof.ProofFailed, match=r"reflect at \d+: the error does not name layer, map, pads and need"):
        proof.prove(entries["timm/resnetv2_18d"], ["zeros", "reflect"])


@pytest.mark.parametrize(("name", "biased"), [("timm/convnext_atto", True), ("timm/test_resnet", False)])
def test_a_border_that_is_wrong_under_a_gradient_fails_the_proof(entries, monkeypatch, name, biased):
    """With a bias it is changed in place by a function of its own, without one it is multiplied."""
    if biased:
        right = border.RescaleStrips.forward
        monkeypatch.setattr(border.RescaleStrips, "forward", staticmethod(lambda *args: right(*args).mul_(1.5)))
    else:
        right = partial.rescale_border
        monkeypatch.setattr(partial, "rescale_border", lambda y, *args: right(y, *args) * 1.5)
    with pytest.raises(proof.ProofFailed, match=r"partial at \d+: the result is off by"):
        proof.prove(entries[name], ["zeros", "partial", "reflect"])


def test_a_refusal_that_stays_at_zeros_fails_the_proof(entries, monkeypatch):
    monkeypatch.setattr(surgery, "guard_folding", lambda model: setattr(model.stem, "fuse", print))
    with pytest.raises(proof.ProofFailed, match="back at zeros, module 'stem' is not what it was"):
        proof.prove(entries["timm/repvit_m0_9"], ["zeros", "partial"])


def test_a_way_back_that_is_not_bit_exact_fails_the_proof(entries, monkeypatch):
    right = pcpad.convert

    def wrong(model, mode, **options):
        report = right(model, mode, **options)
        if mode == "zeros":
            with torch.no_grad():
                next(model.parameters()).mul_(1 + 2**-50)
        return report

    monkeypatch.setattr(proof.pcpad, "convert", wrong)
    with pytest.raises(proof.ProofFailed, match="bit for bit"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


@pytest.mark.parametrize(
    ("what", "name"), [("attribute", "layer1.0.conv1"), ("class", "bn1"), ("hook", "layer1.0.act1")]
)
def test_a_way_back_that_leaves_something_behind_fails_the_proof(entries, monkeypatch, what, name):
    """Also where no result shows it."""
    right = pcpad.convert

    def wrong(model, mode, **options):
        report = right(model, mode, **options)
        module = model.get_submodule(name)
        if what == "attribute":
            module.left_over = 1
        elif what == "class":
            module.__class__ = type("Other", (type(module),), {})
        else:
            module.register_forward_hook(lambda *_: None)
        return report

    monkeypatch.setattr(proof.pcpad, "convert", wrong)
    with pytest.raises(proof.ProofFailed, match=f"zeros: back at zeros, module '{name}' is not what it was"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


def test_a_conversion_that_changes_another_module_fails_the_proof(entries, monkeypatch):
    """The oracle runs on the untouched model, so that what the converted model does elsewhere is seen."""
    right = pcpad.convert

    def wrong(model, mode, **options):
        report = right(model, mode, **options)
        model.layer1[0].act1.__class__ = nn.ReLU if mode == "zeros" else nn.GELU
        return report

    def forward(self, x):
        return nn.functional.relu(x) if type(self) is nn.ReLU else nn.functional.gelu(x)

    monkeypatch.setattr(nn.GELU, "forward", forward)
    monkeypatch.setattr(proof.pcpad, "convert", wrong)
    with pytest.raises(proof.ProofFailed, match=r"partial at \d+: the result is off by"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


def test_a_model_that_ignores_its_convolutions_is_vacuous(entries, monkeypatch):
    def numb(model, **options):
        redraw(model, **options)
        with torch.no_grad():
            model.layer4[0].bn1.weight.zero_()

    monkeypatch.setattr(proof, "redraw", numb)
    with pytest.raises(proof.ProofFailed, match=r"vacuous: doubling the output of 'layer4\.0\.conv1'"):
        proof.prove(entries["timm/test_resnet"], ["zeros", "partial"])


def test_fresh_weights_would_prove_nothing(entries, monkeypatch):
    """Why everything is redrawn: as timm initialises it, most padded convolutions cannot move the result."""
    monkeypatch.setattr(proof, "redraw", lambda model, **_: None)
    monkeypatch.setattr(models, "without_init", __import__("contextlib").nullcontext)
    with pytest.raises(proof.ProofFailed, match="vacuous"):
        proof.prove(entries["timm/resnet18"], ["zeros", "partial"])


def test_redraw_reaches_every_parameter_and_buffer(entries):
    net = models.build(entries["timm/test_nfnet"]).double()
    plain = models.build(entries["timm/test_resnet"]).double()
    for model in (net, plain):
        before = {key: t.clone() for key, t in model.state_dict().items()}
        redraw(model)
        for key, t in model.state_dict().items():
            assert not t.is_floating_point() or (t != before[key]).all(), key
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                for t in (m.weight, m.running_var):
                    assert 0.5 <= t.min().item() <= t.max().item() <= 1.5


def test_all_models_are_there(entries):
    kinds = [entry.kind for entry in entries.values()]
    assert len(entries) == len(kinds)
    assert kinds.count("timm") > 1300
    assert {kind: kinds.count(kind) for kind in set(kinds) - {"timm"}} == {
        "classification": 80,
        "segmentation": 6,
        "detection": 12,
        "optical_flow": 2,
    }
    assert models.family(entries["timm/resnet50"]) == "timm.resnet"
    assert models.family(entries["torchvision/resnet50"]) == "torchvision.resnet"


def test_oracle_sees_padded_convolutions_only():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3), nn.MaxPool2d(3, 1, 1))
    assert list(oracle.padded_convs(net).values()) == ["1"]


@pytest.mark.parametrize("noise", [0.05, float("nan"), 1e-12])
def test_a_wrong_result_is_drowned_only_where_noise_moves_it_as_much(entries, monkeypatch, noise):
    """The layers are right, the result is off by 0.6: with noise within the bound that is a failure as any other."""
    right = proof.worst
    monkeypatch.setattr(proof, "worst", lambda got, wanted: right(got, wanted) + 0.6)
    monkeypatch.setattr(proof, "rounding", lambda *_: noise)
    with pytest.raises(proof.ProofFailed, match=r"zeros at 1: the result is off by 0\.6") as caught:
        proof.prove(entries["timm/test_resnet"], ["zeros"])
    assert isinstance(caught.value, proof.Drowned) == (not noise <= 1e-9)


def test_noise_that_explains_the_error_is_no_failure(entries, monkeypatch):
    right = proof.worst
    monkeypatch.setattr(proof, "worst", lambda got, wanted: right(got, wanted) + 1e-7)
    found = proof.prove(entries["timm/test_resnet"], ["zeros"])
    assert found.noise == pytest.approx({"zeros": 1e-7})  # made of 1e-7 and what noise of 1e-15 really moves


def test_one_draw_of_noise_that_happens_to_do_little_does_not_condemn(entries, monkeypatch):
    """The largest of several draws counts; without one that explains the error it is a failure."""
    right = proof.worst
    monkeypatch.setattr(proof, "worst", lambda got, wanted: right(got, wanted) + 1e-5)
    draws = iter([1e-7, 3e-6])
    monkeypatch.setattr(proof, "rounding", lambda *_: next(draws))
    assert proof.prove(entries["timm/test_resnet"], ["zeros"]).noise == {"zeros": 3e-6}
    monkeypatch.setattr(proof, "rounding", lambda *_: 1e-7)
    with pytest.raises(proof.Drowned, match="zeros at 1: the result is off by 1e-05"):
        proof.prove(entries["timm/test_resnet"], ["zeros"])


@pytest.fixture
def in_float64():
    """As `prove` runs a model: in float32 the noise, drawn in the default dtype, would be lost beside 1."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_noise_moves_a_result_that_amplifies_it(in_float64):
    """`rounding` against the same noise put through a network that takes a difference and magnifies it."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(3)]).double().requires_grad_(False)
    names = {module: name for name, module in net.named_modules() if name}
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    plain = [net(x)]
    moved = proof.rounding(net, names, lambda m: [m(x)], "zeros", plain, "raise")
    assert 1e-16 < moved < 1e-13
    cancelling = [lambda m, scale=scale: [scale * (m(x) - plain[0]) + 1] for scale in (1e5, 1e10)]
    gains = [proof.rounding(net, names, forward, "zeros", forward(net), "raise") for forward in cancelling]
    assert gains[1] == pytest.approx(1e5 * gains[0], rel=1e-3)
    assert gains[1] > 1e-8


@pytest.mark.parametrize("how", ["drowned", "noisy", "wrong"])
def test_what_nobody_can_tell_is_proved_at_another_side(entries, monkeypatch, how):
    """Partial padding and circular: both are moved to reflect's side, once; what is wrong stays a failure."""
    tried = []

    def prove_drawn(entry, model, modes, sizes, below, wide, scale):
        tried.append(dict(sizes))
        found = proof.Proof(sizes=sizes)
        small = [mode for mode in ("partial", "circular") if sizes[mode] < 33]
        if how == "noisy":
            found.noise = dict.fromkeys([*small, "reflect"], 1e-8)
        elif small:
            raise proof.ProofFailed("off") if how == "wrong" else proof.Drowned(small[0], "off")
        return found

    sides = {"zeros": 1, "partial": 1, "reflect": 33, "replicate": 1, "circular": 32}
    monkeypatch.setattr(proof, "find_sizes", lambda *_: (dict(sides), {}, None))
    monkeypatch.setattr(proof, "prove_drawn", prove_drawn)
    if how == "wrong":
        with pytest.raises(proof.ProofFailed, match="off"):
            proof.prove(entries["timm/test_resnet"])
        assert tried == [sides]
        return
    found = proof.prove(entries["timm/test_resnet"])
    assert found.sizes == sides | {"partial": 33, "circular": 33}
    assert len(tried) == {"drowned": 3, "noisy": 2}[how]


def test_a_mode_without_a_side_is_not_moved():
    sizes = {"partial": None, "circular": 1, "reflect": None}
    assert not proof.move(sizes, ["partial", "circular"])
    assert sizes == {"partial": None, "circular": 1, "reflect": None}


def test_all_tokens_are_among_the_results():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.pretrained_cfg = nn.Identity(), {}

        def forward(self, x):
            return self.norm(x)[:, 0]

    model = Pools()
    with_class = models.run(models.Entry("timm/mvitv2_small_cls", "timm"), model, 4)
    without = models.run(models.Entry("timm/mvitv2_small", "timm"), model, 4)
    assert [t.shape for t in with_class] == [(1, 4, 4), (1, 3, 4, 4)]
    assert [t.shape for t in without] == [(1, 4, 4)]
    assert not model.norm._forward_hooks

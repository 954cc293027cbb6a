"""Models by name, their preprocessing, and weights that are loaded by name or refused."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from pcpad import models, weights
from pcpad.config import PreprocessSettings
from pcpad.probe import probe


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("resnet50", "torchvision/resnet50"),  # both libraries have it: the paper's is torchvision's
        ("timm/resnet50", "timm/resnet50"),
        ("convnext_atto", "timm/convnext_atto"),
        ("resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("torchvision/vgg16_bn", "torchvision/vgg16_bn"),
    ],
)
def test_resolve(name, resolved):
    assert str(models.resolve(name)) == resolved


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", "unknown model 'resnet5O'; did you mean 'resnet50'?"),
        ("torchvision/convnext_atto", "unknown model 'torchvision/convnext_atto'"),
        ("timm/resnet50.a1_in2k", "timm has no weights 'a1_in2k' of resnet50: choose from .*did you mean 'a1_in1k'"),
        ("keras/resnet50", "unknown model library 'keras'"),
        ("", "unknown model ''"),
        (
            "raft_small",
            "torchvision/raft_small is no classification network.*`pcpad inspect` and pcpad.convert take it",
        ),
        ("torchvision/fcn_resnet50", "torchvision/fcn_resnet50 is no classification network"),
        ("quantized_resnet18", "torchvision/quantized_resnet18 is quantized.*use resnet18"),
        ("r3d_18", "torchvision/r3d_18 is a video network"),
        ("timm/r3d_18", "unknown model 'timm/r3d_18'"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        models.resolve(name)


def test_build_is_the_library_s_own_model():
    for name, own in (
        ("torchvision/resnet18", lambda: torchvision.models.resnet18(num_classes=7)),
        ("timm/convnext_atto", lambda: timm.create_model("convnext_atto", num_classes=7)),
    ):
        torch.manual_seed(3)
        built = models.build(models.resolve(name), 7).state_dict()
        torch.manual_seed(3)
        expected = own().state_dict()
        assert built.keys() == expected.keys()
        assert all(torch.equal(built[k], expected[k]) for k in expected)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_train_and_load(name, tmp_path):
    full = torchvision.models.get_model(name, weights=None, num_classes=5, aux_logits=True, init_weights=False)
    torch.save(full.state_dict(), tmp_path / "w.pth")
    model = models.build(models.resolve(name), 5, str(tmp_path / "w.pth")).train()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 5)  # a tensor, not a tuple of heads
    assert model.transform_input  # as torchvision sets it for its published weights
    assert not models.build(models.resolve(name), 5).transform_input


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_is_torchvision_s(name):
    torch.manual_seed(0)
    expected = torchvision.models.get_model(name, weights=None, zero_init_residual=True).state_dict()
    torch.manual_seed(0)
    model = models.build(models.resolve(name), 1000)
    assert not all(torch.equal(model.state_dict()[k], expected[k]) for k in expected)
    models.zero_init_residual(model)
    assert all(torch.equal(model.state_dict()[k], expected[k]) for k in expected)


def test_preprocessing_is_the_library_s():
    for name, own in (
        ("timm/tf_efficientnet_lite0", {"resize": 256, "mean": (0.5,) * 3, "interpolation": "bicubic"}),
        ("timm/resnet50.a1_in1k", {"resize": 235, "crop_pct": 0.95}),
        ("torchvision/resnet50", {"resize": 256, "mean": (0.485, 0.456, 0.406), "interpolation": "bilinear"}),
    ):
        transform = models.eval_transform(models.resolve(name), PreprocessSettings())
        assert {k: getattr(transform, k) for k in own} == own
    over = PreprocessSettings(crop_pct=1.0, mean=(0.0, 0.0, 0.0))
    transform = models.eval_transform(models.resolve("resnet50"), over, size=96)
    assert (transform.resize, transform.mean, transform.std) == (96, (0, 0, 0), (0.229, 0.224, 0.225))


def test_every_torchvision_weight_keeps_its_resize():
    """crop_pct is a quotient of rounded numbers; floor(size / crop_pct) must still be the published side."""
    seen = set()
    for name in models.torchvision_names():
        for entry in torchvision.models.get_model_weights(name):
            preset = entry.transforms()
            name_ = models.ModelName("torchvision", name)
            transform = models.eval_transform(name_, PreprocessSettings(), weights=entry.name)
            assert (transform.size, transform.resize) == (preset.crop_size[0], preset.resize_size[0])
            seen.add((preset.crop_size[0], preset.resize_size[0]))
    assert len(seen) > 20


def test_a_preprocessing_that_does_not_exist_is_named(monkeypatch):
    own = {
        "size": 224,
        "mean": (0,) * 3,
        "std": (1,) * 3,
        "interpolation": "lanczos",
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    monkeypatch.setattr(models, "timm_preprocessing", lambda name: dict(own))
    name = models.ModelName("timm", "x")
    with pytest.raises(ValueError, match=r"interpolation 'lanczos'.*--preprocess\.interpolation"):
        models.eval_transform(name, PreprocessSettings())
    models.eval_transform(name, PreprocessSettings(interpolation="bicubic"))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10)


@pytest.mark.parametrize("form", ["plain", "state_dict", "module", "both", "a part", "compiled", "safetensors"])
def test_files_load_whatever_they_are_wrapped_in(net, form, tmp_path):
    state = net.state_dict()
    path = tmp_path / "w.pth"
    if form == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        prefix = {"module": "module.", "both": "module.", "compiled": "_orig_mod."}.get(form, "")
        state = {prefix + k: v for k, v in state.items()}
        if form == "a part":  # the authors' own script does so with VGG: its features in parallel, its classifier not
            parts = copy.deepcopy(net)
            parts.layer1 = torch.nn.DataParallel(parts.layer1)
            state = parts.state_dict()
            assert "layer1.module.0.conv1.weight" in state
        torch.save({"state_dict": state, "epoch": 3} if form in ("state_dict", "both", "a part") else state, path)
    loaded = models.build(models.resolve("resnet18"), 10, str(path)).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in net.state_dict().items())


def test_another_network_is_refused_by_name(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pth")
    message = (
        r"w\.pth holds the weights of another network than this VGG: "
        r".*missing \(e\.g\. features.*unknown \(e\.g\. conv1"
    )
    with pytest.raises(ValueError, match=message):
        models.build(models.resolve("vgg11_bn"), 10, str(tmp_path / "w.pth"))
    wide = {k: v for k, v in net.state_dict().items() if k != "conv1.weight"}
    with pytest.raises(ValueError, match=r"1 missing \(e\.g\. conv1\.weight\)"):
        weights.load_state(net, wide, "w")
    twice = net.state_dict() | {"layer1.module.0.conv1.weight": torch.zeros(64, 64, 3, 3)}
    with pytest.raises(ValueError, match=r"1 unknown \(e\.g\. layer1\.module\.0\.conv1\.weight\)"):
        weights.load_state(net, twice, "w")
    other = net.state_dict() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(ValueError, match="of another shape"):
        weights.load_state(net, other, "w")


def test_files_from_before_num_batches_tracked_load(net, tmp_path):
    """Torchvision's first published files lack the counters."""
    old = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    loaded = models.build(models.resolve("resnet18"), 10, str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in old.items())


def test_a_timm_tag_given_as_weights_brings_its_own_preprocessing():
    name = models.resolve("timm/resnet50")
    default = models.eval_transform(name, PreprocessSettings())
    tagged = models.eval_transform(name, PreprocessSettings(), weights="tv_in1k")
    own = timm.get_pretrained_cfg("resnet50.tv_in1k")
    assert (tagged.crop_pct, tagged.interpolation) == (own.crop_pct, own.interpolation)
    assert tagged != default
    assert models.eval_transform(name, PreprocessSettings(), weights="pretrained") == default


def test_keys_that_are_no_names_are_another_network(net, tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="another network"):
        models.build(models.resolve("resnet18"), 10, str(tmp_path / "w.pth"))


def test_never_by_order(net, tmp_path):
    """The same shapes in the same order under other names are another network."""
    torch.save({f"x{i}": v for i, v in enumerate(net.state_dict().values())}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="another network"):
        models.build(models.resolve("resnet18"), 10, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "timm/resnet10t"])
def test_another_head_size_needs_reset_head(name, tmp_path):
    name = models.resolve(name)
    torch.save(models.create(name, 10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"has a head of 10 classes, the data 7: add --reset_head"):
        models.build(name, 7, str(tmp_path / "w.pth"))
    model = models.build(name, 7, str(tmp_path / "w.pth"), reset_head=True)
    assert weights.num_outputs(model) == 7
    first = next(iter(model.state_dict()))
    assert torch.equal(model.state_dict()[first], torch.load(tmp_path / "w.pth")[first])
    assert weights.num_outputs(models.build_as_published(name, str(tmp_path / "w.pth"))) == 10


class Evil:
    """A pickle that would run code when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_by_name(form, tmp_path):
    path, trace = tmp_path / "w.pth", tmp_path / "was-here"
    if form == "torch":
        torch.save({"state_dict": Evil(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ValueError, match=r"was refused: it holds more than tensors \((posix|os|nt)\.mkdir\)"):
        models.build(models.resolve("resnet18"), 10, str(path))
    assert not trace.exists()
    with path.open("rb") as file:  # the control: read without care, it does run
        torch.load(file, weights_only=False) if form == "torch" else pickle.load(file)
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_damaged_files_are_named(content, ending, tmp_path):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.{ending} is no intact"):
        models.build(models.resolve("resnet18"), 10, str(path))


def test_weights_that_are_not_there_are_named(tmp_path):
    name = models.resolve("resnet18")
    with pytest.raises(ValueError, match="no such file"):
        models.build(name, 10, "some/where.pth")
    with pytest.raises(ValueError, match="choose from IMAGENET1K_V1, pretrained; did you mean 'IMAGENET1K_V1'"):
        models.build(name, 1000, "IMAGENET1K_V9")
    with pytest.raises(ValueError, match=r"timm has no weights 'a9_in1k' of resnet50"):
        models.build(models.resolve("timm/resnet50"), 1000, "a9_in1k")
    torch.save([1], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds a list"):
        models.build(name, 10, str(tmp_path / "w.pth"))


def test_library_weights_go_through_the_library_s_loader(monkeypatch, tmp_path):
    """The hub's files are put where torchvision looks for them, so that its own loader runs without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(5)
    published = torchvision.models.resnet18()
    torch.save(published.state_dict(), tmp_path / "hub/checkpoints" / entry.url.rsplit("/", 1)[-1])
    for asked in ("pretrained", "IMAGENET1K_V1"):
        model = models.build(models.resolve("resnet18"), 1000, asked)
        assert torch.equal(model.conv1.weight, published.conv1.weight)
    with pytest.raises(ValueError, match="head of 1000 classes, the data 10"):
        models.build(models.resolve("resnet18"), 10, "pretrained")
    assert models.build(models.resolve("resnet18"), 10, "pretrained", reset_head=True).fc.out_features == 10


def test_a_failed_download_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded \(Name or service not known\).*--weights FILE"):
        models.download(models.ModelName("torchvision", "resnet18"), "pretrained")


def test_probe_names_what_a_model_cannot_take():
    import pcpad

    net = torchvision.models.resnet18(num_classes=3)
    pcpad.convert(net, "reflect")
    with pytest.raises(ValueError, match=r"r18 cannot run with reflect padding at size 32: .*'layer4\.0\.conv2'"):
        probe(net, "r18", "reflect", 32)
    assert net.training  # as it was
    with pytest.raises(ValueError, match="v cannot run at size 100"):
        probe(timm.create_model("vit_tiny_patch16_224"), "v", "zeros", 100)
    probe(nn.Sequential(nn.Conv2d(3, 1, 1)).double(), "d", "zeros", 8)

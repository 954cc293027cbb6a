"""convert: what it changes, what it must not change, and what it refuses."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import pcpad
from tests.padding.oracle import conv2d

MODES = list(pcpad.PADDING_MODES)


class Net(nn.Module):
    """Strided, grouped, dilated, biased and 1x1 convolutions, one of them registered twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.shared = self.depthwise
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(self.norm(self.stem(x)))
        x = self.pool(self.shared(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 17, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def oracle_forward(net, x, mode):
    """The network with every convolution replaced by loops, without any surgery."""

    def attach(conv):
        def hook(module, inputs, _):
            bias = None if conv.bias is None else conv.bias.detach().numpy()
            pads = (conv.padding[0], conv.padding[0], conv.padding[1], conv.padding[1])
            options = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups, "pads": pads}
            y = conv2d(inputs[0].detach().numpy(), conv.weight.detach().numpy(), bias, mode=mode, **options)
            return torch.from_numpy(y)

        return conv.register_forward_hook(hook)

    handles = [attach(m) for m in net.modules() if isinstance(m, nn.Conv2d)]
    try:
        return net(x)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("mode", MODES)
def test_equals_a_network_of_loops(net, x, mode):
    expected = oracle_forward(net, x, mode)
    untouched = net(x)
    pcpad.convert(net, mode)
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
    if mode != "zeros":
        assert (untouched - expected).abs().max() > 1e-4  # else the comparison above would prove nothing


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_power(net, x, power):
    untouched = net(x)
    pcpad.convert(net, "partial", power=power)
    assert net.stem.power == power
    assert torch.allclose(net(x), untouched, rtol=1e-12) == (power == 0)


def test_any_sequence_ending_in_zeros_is_the_original(net, x):
    untouched, keys = net(x), list(net.state_dict())
    kinds = {name: (type(m), vars(m).keys()) for name, m in net.named_modules()}
    for mode in [*MODES, *reversed(MODES), "circular", "partial", "partial", "zero"]:
        pcpad.convert(net, mode)
        assert list(net.state_dict()) == keys
    assert torch.equal(net(x), untouched)
    assert {name: (type(m), vars(m).keys()) for name, m in net.named_modules()} == kinds


def test_everything_but_the_padding_is_kept(net, x):
    seen = []
    net.stem.register_forward_hook(lambda *_: seen.append("hook"))
    net.stem.weight.requires_grad_(False)
    net.body.train()
    before = {name: (id(p), p.requires_grad) for name, p in net.named_parameters()}
    modules, training = dict(net.named_modules()), {n: m.training for n, m in net.named_modules()}
    pcpad.convert(net, "partial")
    net(x)
    assert seen == ["hook"]
    assert {name: (id(p), p.requires_grad) for name, p in net.named_parameters()} == before
    assert all(m is modules[n] for n, m in net.named_modules())
    assert {n: m.training for n, m in net.named_modules()} == training
    assert net.depthwise is net.shared


@pytest.mark.parametrize("mode", MODES[1:])
def test_copies_carry_the_padding(net, x, mode):
    pcpad.convert(net, mode)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
    fresh = Net().double().eval()
    fresh.load_state_dict(net.state_dict())
    pcpad.convert(fresh, mode)
    assert torch.equal(fresh(x), net(x))


def test_root_convolution(x):
    conv = nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64)
    plain = conv(x)
    report = pcpad.convert(conv, "partial")
    assert type(conv) is pcpad.PartialConv2d
    assert report.converted == [""]
    assert not torch.equal(conv(x), plain)


def test_include_and_exclude(net):
    assert pcpad.convert(net, "reflect", include="body.*").converted == ["body.0"]
    assert net.stem.padding_mode == "zeros"
    report = pcpad.convert(net, "partial", exclude=["body.*", "shared"])  # a shared module, by its other name
    assert report.converted == ["stem"]
    assert net.body[0].padding_mode == "reflect"
    with pytest.raises(ValueError, match=r"exclude='layer9\.\*' matches no convolution.*'stem'"):
        pcpad.convert(net, "partial", exclude="layer9.*")
    with pytest.raises(ValueError, match="include='norm'"):
        pcpad.convert(net, "partial", include="norm")


def test_globs_from_an_iterator(net):
    """Each is read once only, and none is lost by looking at it first."""
    assert pcpad.convert(net, "partial", exclude=(name for name in ["body.*", "shared"])).converted == ["stem"]
    assert pcpad.convert(net, "reflect", include=filter(None, ["body.*"])).converted == ["body.0"]
    with pytest.raises(ValueError, match=r"exclude='layer9\.\*' matches no convolution"):
        pcpad.convert(net, "partial", exclude=(name for name in ["body.*", "layer9.*"]))
    with pytest.raises(TypeError, match="include must be a glob over module names, or a list of them"):
        pcpad.convert(net, "zeros", include=iter(["body.*", 0]))


def test_pools(net, x):
    untouched = net(x)
    pcpad.convert(net, "partial")
    with_counting = net(x)
    report = pcpad.convert(net, "partial", pools=True)
    assert not net.pool.count_include_pad
    assert report.converted == ["pool"]
    assert not torch.allclose(net(x), with_counting)
    pcpad.convert(net, "partial", pools=True)  # again: still restorable
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x), untouched)
    own = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(3, padding=1, count_include_pad=False))
    pcpad.convert(own, "partial", pools=True)
    pcpad.convert(own, "zeros")
    assert not own[1].count_include_pad  # it never counted, so there was nothing to restore


def test_report(net):
    report = pcpad.convert(net, "partial")
    assert report.summary == "partial padding: 3 of 4 convolutions converted"
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["depthwise"].aliases == ("shared",)
    assert (by_name["body.2"].action, by_name["body.2"].reason) == ("left", "pads nothing")
    assert "counts its padding" in by_name["pool"].reason
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["kernel_size"] == [5, 5]
    assert all(layer.name in str(report) for layer in report.layers)
    again = pcpad.convert(net, "partial")
    assert again.converted == []
    assert by_name["stem"].kind == "Conv2d" == again.layers[0].kind


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_a_map_too_small_is_named(net, mode):
    tiny = torch.zeros(1, 3, 2, 9, dtype=torch.float64)  # body.0 sees 1x5 and pads 2
    pcpad.convert(net, mode)
    with pytest.raises(ValueError, match=rf"'{mode}' cannot fill layer '.*on_small='replicate'"):
        net(tiny)
    pcpad.convert(net, mode, on_small="replicate")
    assert torch.isfinite(net(tiny)).all()
    smallest = {"reflect": 3, "circular": 2}[mode]
    conv = pcpad_conv(mode)
    conv(torch.zeros(1, 1, smallest, smallest))
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest}"):
        conv(torch.zeros(1, 1, smallest - 1, smallest))


def pcpad_conv(mode):
    conv = nn.Conv2d(1, 1, 5, padding=2)
    pcpad.convert(conv, mode)
    return conv


class Strange(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 2


def test_unknown_subclass_is_an_error_that_changes_nothing(net, x):
    net.body.append(Strange(8, 8, 3, padding=1, dtype=torch.float64))
    untouched = net(x)
    with pytest.raises(ValueError, match=r"'body\.3' is a .*Strange.*exclude='body\.3'"):
        pcpad.convert(net, "partial")
    assert torch.equal(net(x), untouched)
    assert pcpad.convert(net, "zeros").converted == []  # zeros on an unconverted model is a no-op, whatever it holds
    assert "body.3" not in pcpad.convert(net, "partial", exclude="body.3").converted


def test_own_padding_mode_is_left_alone(x):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 3, 3, padding=1)).double()
    untouched = net(x)
    assert pcpad.convert(net, "partial").converted == ["1"]
    assert net[0].padding_mode == "circular"
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x), untouched)


def test_zeros_where_nothing_pads_is_fine():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    assert pcpad.convert(net, "zeros").converted == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.jit's own
def test_wrapped_models_are_refused(net, x):
    with pytest.raises(ValueError, match=r"compiled|wrapped"):
        pcpad.convert(torch.compile(net, backend="eager"), "partial")
    with pytest.raises(ValueError, match=r"model\.module"):
        pcpad.convert(nn.DataParallel(net), "partial")
    with pytest.raises(ValueError, match="scripted or traced"):
        pcpad.convert(torch.jit.trace(net, x), "partial")
    net.compile(backend="eager")
    with pytest.raises(ValueError, match="is compiled"):
        pcpad.convert(net, "partial")
    with pytest.raises(TypeError, match="not str"):
        pcpad.convert("resnet50", "partial")


def test_ddp_and_fsdp_are_refused(net, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        with pytest.raises(ValueError, match=r"DistributedDataParallel\): convert model\.module"):
            pcpad.convert(wrapped, "partial")
        mesh = init_device_mesh("cpu", (1,))
        sharded = fully_shard(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), mesh=mesh)
        with pytest.raises(ValueError, match=r"FSDP\w*\): convert before wrapping"):
            pcpad.convert(sharded, "partial")
        early = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
        pcpad.convert(early, "partial")
        plain = early(torch.ones(1, 3, 5, 5))
        torch.testing.assert_close(fully_shard(early, mesh=mesh)(torch.ones(1, 3, 5, 5)), plain)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "partail"}, r"unknown padding mode 'partail': choose from zeros, .*did you mean 'partial'"),
        ({"mode": "reflect", "power": 0.5}, "power=0.5"),
        ({"mode": "reflect", "pools": True}, "pools=True"),
        ({"mode": "partial", "power": -1.0}, "power"),
        ({"mode": "partial", "on_small": "ignore"}, "on_small='ignore'"),
    ],
)
def test_mistakes_are_named(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        pcpad.convert(net, **arguments)
    assert type(net.stem) is nn.Conv2d


def test_registry_refuses_a_second_of_a_name():
    from pcpad.padding.modes import PADDING_MODES, register

    with pytest.raises(ValueError, match="registered already"):
        register(PADDING_MODES["partial"])
    assert list(PADDING_MODES) == MODES

"""Steps in one kernel, against the formulas in float64 and torch's loop over parameters."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pcpad.config import OptimSettings
from pcpad.training.fused import is_fused
from pcpad.training.guard import only_if
from pcpad.training.optimizer import make_optimizer

LAYOUTS = [torch.contiguous_format, torch.channels_last]
RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01
on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def network(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)).to(memory_format=layout)


def settings(name: str = "sgd", **options) -> OptimSettings:
    return OptimSettings(
        name=name, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True, decay="all", options=options
    )


def gradients(net: nn.Module, number: int, layout: torch.memory_format | None = None) -> None:
    """Random ones, in a layout of their own."""
    generator = torch.Generator().manual_seed(number)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.device)
        if layout is not None and p.ndim == 4:
            p.grad = p.grad.contiguous(memory_format=layout)


def by_formula(p: Tensor, numbers: list[int], net: nn.Module, index: int) -> Tensor:
    """SGD with Nesterov's momentum, in float64, of one parameter."""
    w, velocity = p.detach().double().contiguous(), 0.0
    for number in numbers:
        gradients(net, number)
        g = list(net.parameters())[index].grad.double() + DECAY * w
        velocity = MOMENTUM * velocity + g
        w = w - RATE * (g + MOMENTUM * velocity)
    return w


@on_devices
@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_parameter", LAYOUTS)
def test_sgd_is_its_formula_in_any_layout(of_parameter, of_gradient, device):
    net = network(of_parameter).to(device)
    expected = [by_formula(p, [1, 2, 3], copy.deepcopy(net), i) for i, p in enumerate(net.parameters())]
    optimizer = make_optimizer(net, settings())
    assert is_fused(optimizer)
    for number in (1, 2, 3):
        gradients(net, number, of_gradient)
        optimizer.step()
    for p, w in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach().double(), w, rtol=1e-5, atol=1e-6)
        assert p.ndim < 4 or p.is_contiguous(memory_format=of_parameter)


def plain(net: nn.Module, name: str) -> torch.optim.Optimizer:
    """torch's own, parameter by parameter, as checkpoints from before are of."""
    if name == "sgd":
        return torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True, foreach=False)
    return torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY, foreach=False)


@on_devices
@pytest.mark.parametrize("after", LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("name", ["sgd", "adamw", "lookahead_adamw"])
def test_it_goes_on_from_a_checkpoint_of_another_layout_that_was_not_fused(name, before, after, device):
    """And one of a CPU, on a GPU."""
    whole = network(before)
    optimizer = plain(whole, name)
    for number in range(3):
        gradients(whole, number)
        optimizer.step()
    again = network(after).to(device)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    fused = make_optimizer(again, settings(name))
    fused.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert is_fused(getattr(fused, "_base_optimizer", fused))
    for number in range(3, 5):  # before timm's Lookahead looks back
        gradients(whole, number)
        optimizer.step()
        gradients(again, number)
        fused.step()
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_a_parameter_whose_first_gradient_comes_later(name):
    net = network()
    reference = copy.deepcopy(net)
    optimizer = make_optimizer(net, settings(name))
    other = plain(reference, "sgd") if name == "sgd" else make_optimizer(reference, settings(name, foreach=False))
    for number in range(4):
        for one in (net, reference):
            gradients(one, number)
            if number < 2:
                one[2].weight.grad = one[0].bias.grad = None
        optimizer.step()
        other.step()
    assert is_fused(optimizer)
    assert not is_fused(other)
    for a, b in zip(reference.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@on_devices
def test_the_first_step_may_be_left_out(device):
    """As a loss scale does; torch's own begins its momentum in that step."""
    ends = []
    for asked in (False, True):
        net = network().to(device)
        optimizer = make_optimizer(net, settings())
        if asked:
            gradients(net, 0)
            net[0].weight.grad[0] = math.nan
            with only_if(torch.tensor(False, device=device), optimizer):
                optimizer.step()
        for number in (1, 2):
            gradients(net, number)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*ends)


def test_dampening_does_not_hold_a_first_gradient_back():
    net = nn.Linear(1, 1)
    weight, bias = net.weight.item(), net.bias.item()
    optimizer = make_optimizer(net, OptimSettings(name="momentum", lr=0.5, weight_decay=0, options={"dampening": 0.5}))
    assert not is_fused(optimizer)
    net.weight.grad = torch.tensor([[2.0]])
    optimizer.step()
    assert net.weight.item() == pytest.approx(weight - 0.5 * 2.0)
    net.bias.grad = torch.tensor([3.0])
    optimizer.step()
    assert net.bias.item() == pytest.approx(bias - 0.5 * 3.0)


@pytest.mark.parametrize(
    ("name", "options", "fused"),
    [
        ("adamw", {"amsgrad": 1}, False),
        ("adamw", {"maximize": 1}, False),
        ("adamw", {"fused": False}, False),
        ("momentum", {"nesterov": 1}, False),
        ("adamw", {"betas": [0.0, 0.5], "eps": 1}, True),
        ("adamw", {"amsgrad": True, "fused": True}, True),
    ],
)
def test_any_form_of_an_option_that_torch_takes(name, options, fused):
    """Fused kernels take only truth values for some."""
    net = network()
    reference = copy.deepcopy(net)
    optimizer = make_optimizer(net, settings(name, **options))
    assert is_fused(optimizer) == fused
    other = make_optimizer(reference, settings(name, **{key: options[key] for key in options if key != "fused"}))
    for group in other.param_groups:
        group["fused"] = False
    for number in range(3):
        for one, by in ((net, optimizer), (reference, other)):
            gradients(one, number)
            by.step()
    for a, b in zip(reference.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_that_is_not_fused_stays_so_when_it_loads_the_state_of_one_that_is(monkeypatch):
    net = network(torch.channels_last)
    fused = make_optimizer(net, settings())
    gradients(net, 0)
    fused.step()
    again = network()
    again.load_state_dict(net.state_dict())
    monkeypatch.setattr("pcpad.training.optimizer.may_fuse", lambda *_: False)
    optimizer = make_optimizer(again, settings())
    optimizer.load_state_dict(copy.deepcopy(fused.state_dict()))
    assert not is_fused(optimizer)
    for one, by in ((net, fused), (again, optimizer)):
        gradients(one, 1)
        by.step()
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["option", "gap", "complex", "wrapped"])
def test_it_is_not_fused_where_a_kernel_would_not_do(how):
    net = nn.Linear(4, 3, bias=False)
    if how == "gap":
        net.weight = nn.Parameter(torch.randn(3, 8)[:, ::2])
    if how == "complex":
        net.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    name = {"option": "adamw", "wrapped": "lookahead_adamw"}.get(how, "sgd")
    optimizer = make_optimizer(net, settings(name, **({"foreach": True} if how == "option" else {})))
    assert not is_fused(optimizer)
    net.weight.grad = torch.ones_like(net.weight)
    before = net.weight.detach().clone()
    optimizer.step()
    if name == "sgd":
        torch.testing.assert_close(net.weight.detach(), before - RATE * (1 + MOMENTUM) * (1 + DECAY * before))
    else:
        assert not torch.equal(net.weight, before)

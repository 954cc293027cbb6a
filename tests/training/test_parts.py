"""Schedule, optimizer, checkpoint and log, each against values worked out by hand."""

import json
from math import cos, pi

import pytest
import torch
from torch import nn

from pcpad.config import OptimSettings, ScheduleSettings
from pcpad.lines import append_line, read_lines
from pcpad.training import checkpoint
from pcpad.training.distributed import World, this_world
from pcpad.training.logbook import Logbook
from pcpad.training.loop import backward, optimizer_step
from pcpad.training.optimizer import make_optimizer, parameter_groups
from pcpad.training.schedule import learning_rate
from pcpad.training.state import State, make_average


def test_step_schedule_is_the_papers():
    plan = ScheduleSettings(name="step", step_epochs=30, gamma=0.1)
    steps = 1000
    for epoch, expected in ((0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 0.001), (90, 0.0001), (99, 0.0001)):
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert learning_rate(step, plan, 0.1, 100, steps) == pytest.approx(expected, rel=1e-12)


def test_cosine_with_warmup():
    plan = ScheduleSettings(name="cosine", warmup_epochs=2, min_lr=0.02)
    rates = [learning_rate(s, plan, 1.0, 6, 5) for s in range(30)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02)
    assert rates[15] == pytest.approx(0.02 + 0.98 * (1 + cos(pi * 5 / 19)) / 2)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_cosine_that_is_all_warmup_does_not_divide_by_zero():
    plan = ScheduleSettings(name="cosine", warmup_epochs=1)
    assert learning_rate(9, plan, 1.0, 1, 10) == 1.0
    assert learning_rate(0, ScheduleSettings(name="cosine"), 1.0, 1, 1) == 1.0


class Scale(nn.Module):
    """A parameter that only a rule by name could take for a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def test_weight_decay_goes_by_module_type():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2), nn.LayerNorm(2), Scale(), nn.PReLU())
    decayed, rest = parameter_groups(net, 0.1, "weights")
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[2].weight)}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(rest["params"]) == len(list(net.parameters())) - 2
    (everything,) = parameter_groups(net, 0.1, "all")
    assert len(everything["params"]) == len(list(net.parameters()))
    net[0].weight.requires_grad_(False)
    assert len(parameter_groups(net, 0.1, "weights")[0]["params"]) == 1
    for p in net.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_optimizer(net, OptimSettings())


def test_resnet50_has_its_106_norm_parameters_without_decay():
    """ffcv-imagenet, which goes by name, misses 8 of them."""
    from torchvision.models import resnet50

    decayed, rest = parameter_groups(resnet50(), 1e-4, "weights")
    assert (len(decayed["params"]), len(rest["params"])) == (54, 107)  # 106 of BatchNorm and the head's bias


def test_one_sgd_step_by_hand():
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(1.0)
    optimizer = make_optimizer(net, OptimSettings(lr=0.5, momentum=0.9, weight_decay=0.1, decay="weights"))
    for _ in range(2):
        optimizer.zero_grad()
        (net(torch.tensor([[3.0]]))).sum().backward()  # gradients: 3 and 1
        optimizer.step()
    first = 3 + 0.1 * 2.0
    w = 2.0 - 0.5 * first
    second = 0.9 * first + 3 + 0.1 * w
    assert net.weight.item() == pytest.approx(w - 0.5 * second)
    assert net.bias.item() == pytest.approx(1 - 0.5 - 0.5 * 1.9)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_by_hand(amp):
    """Loss with label smoothing and hits from their formulas; one plain SGD step from autograd."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 2, 1, 1, 0])
    log_p = model(images).log_softmax(1)
    smooth = torch.full((5, 3), 0.1 / 3).scatter(1, labels[:, None], 0.9 + 0.1 / 3)
    loss = -(smooth * log_p).sum(1).mean()
    expected = model[1].weight - 0.1 * torch.autograd.grad(loss, model[1].weight)[0]
    hits = int((log_p.argmax(1) == labels).sum())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=amp == "fp16")
    total, correct = backward(model, images, labels, scaler, amp, 0.1)
    optimizer_step(State(model, optimizer, scaler, None))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if amp == "off" else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(total, 5 * loss.detach(), **tolerance)
    torch.testing.assert_close(model[1].weight.detach(), expected.detach(), **tolerance)
    assert not torch.equal(model[1].weight, torch.zeros(3, 12))
    if amp == "off":
        assert int(correct) == hits


def test_average_is_the_exponential_one():
    """timm's: the first updates copy, later ones are a lerp by hand."""
    model = nn.Linear(1, 1, bias=False)
    average = make_average(model, 0.75)
    values, expected = [4.0, 8.0, -2.0, 6.0], None
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model, step=step)
        decay = average.get_decay(step)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.get_decay(step) == 0.75
    assert average.module.weight.item() != values[-1]
    assert make_average(model, None) is None


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {"w": torch.arange(3.0)}, "loader": {"blob": b"\x00\x01"}, "best": {"top1": 3}})
    back = checkpoint.load(path)
    assert torch.equal(back["model"]["w"], torch.arange(3.0))
    assert back["loader"]["blob"] == b"\x00\x01"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch, kind):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def half(content, file):
        file.write(b"half")
        raise kind

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"last\.pt could not be written.*the checkpoints before it are untouched"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_checkpoints_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(ValueError, match=r"there is no checkpoint .*last\.pt"):
        checkpoint.load(path)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match="format 99"):
        checkpoint.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.pt is no intact checkpoint"):
        checkpoint.load(path)


def test_logbook_hides_what_was_written_after_the_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    book = Logbook(tmp_path, 0)
    for step in range(1, 6):
        book.scalars(step, {"train/loss": float(step)})
    book.close()
    book = Logbook(tmp_path, 3)  # resumed from step 3: 4 and 5 are done again
    for step in range(4, 7):
        book.scalars(step, {"train/loss": 10.0 * step})
    book.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(v["step"], v["train/loss"]) for v in lines] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    curve = {e.step: e.value for e in events}
    assert curve == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50, 6: 60}
    assert [e.step for e in events] == sorted(curve)


def test_logbook_hides_what_was_written_after_step_0(tmp_path):
    """A run that was stopped before its first step, and then once more."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for last in (5, 8):
        book = Logbook(tmp_path, 0)
        for step in range(1, last + 1):
            book.scalars(step, {"train/loss": float(last)})
        book.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(e.step, e.value) for e in events] == [(step, 8.0) for step in range(1, 9)]


@pytest.mark.parametrize("rest", ["", '{"step": 3, "a"', "[1, 2"])
def test_a_line_that_was_cut_off_makes_room_for_the_next(tmp_path, rest):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + rest)
    append_line(path, {"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4}\n'
    append_line(tmp_path / "new.jsonl", {"a": "ü"})
    assert read_lines(tmp_path / "new.jsonl") == [{"a": "ü"}]


def test_a_line_that_is_no_entry_is_named(tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"step": 1}\n7\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2, is damaged \(a int in place of an object\)"):
        read_lines(tmp_path / "lines.jsonl")


def test_a_file_that_cannot_be_appended_to_is_named(tmp_path):
    with pytest.raises(OSError, match=r"could not be written: .*Is a directory.* MiB free"):
        append_line(tmp_path, {"step": 1})


def test_a_log_whose_last_line_was_cut_off_can_be_continued(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "x": 2}\n{"step": 2, "x": ')
    Logbook(tmp_path, 5).close()
    assert log.read_text() == '{"step": 1, "x": 2}\n'
    log.write_text('{"step": 1, "x"\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1, is damaged"):
        Logbook(tmp_path, 5)


def test_a_world_of_one(monkeypatch):
    world = World()
    values = torch.tensor([3, 4])
    assert world.sum(values).tolist() == [3, 4]
    assert world.sum(values) is not values
    assert world.gather(values) is values
    assert world.collect("state") == ["state"]
    assert world.agree(3, 0) == (3, 0)
    assert world.on_main(lambda: 5) == 5
    world.share(None)
    with pytest.raises(OSError, match="mine"):
        world.share(OSError("mine"))
    monkeypatch.setenv("WORLD_SIZE", "1")  # as torchrun sets it for one process
    assert this_world(torch.device("cpu")) == world

"""What counts as finite, against math.isfinite of every number; and a step that is left out where it is not."""

import json
import math
import os
import signal

import pytest
import torch

from pcpad.training import loop
from pcpad.training.guard import all_finite, only_if

VALUES = [0.0, -1.5, 1e19, 1e-45, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("at", [0, 41, 76])
def test_one_number_in_many(value, dtype, at):
    tensors = [torch.ones(7, 11, dtype=dtype), torch.randn(3, 2, 5, 5).to(dtype), torch.randn(4)]
    tensors[0].view(-1)[at] = value
    found = all_finite(torch.tensor(0.25), tensors)
    assert bool(found) == all(math.isfinite(x) for tensor in tensors for x in tensor.flatten().tolist())
    assert (found.shape, found.dtype) == ((), torch.bool)


def test_infinities_of_both_signs_are_seen():
    assert not all_finite(torch.tensor(0.0), [torch.tensor([math.inf, -math.inf])])


@pytest.mark.parametrize(("value", "dtype"), [(3e38, torch.float32), (3e38, torch.bfloat16), (1e200, torch.float64)])
def test_a_gradient_whose_squares_have_no_number_is_too_large(value, dtype):
    assert not all_finite(torch.tensor(0.0), [torch.tensor([1.0, value], dtype=dtype)])


@pytest.mark.parametrize(("loss", "fine"), [(math.nan, False), (math.inf, False), (-2.5, True), (3e38, True)])
def test_the_loss_alone(loss, fine):
    assert bool(all_finite(torch.tensor(loss), [])) == fine
    assert bool(all_finite(torch.tensor(loss, dtype=torch.float64), [torch.ones(2)])) == fine


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_step_that_is_left_out(kind):
    """The step after it is that of an optimizer which was never asked."""
    ends = []
    for asked in (False, True):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = kind([p], lr=0.1, fused=True, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        for number, fine in enumerate([True, False, True]):
            p.grad = torch.full_like(p, 1.0 + number if fine else math.nan)
            if fine or asked:
                with only_if(torch.tensor(fine), optimizer):
                    optimizer.step()
        assert not hasattr(optimizer, "found_inf")
        ends.append(p.detach())
    assert torch.equal(*ends)
    assert ends[0].isfinite().all()


@pytest.fixture
def broken(monkeypatch):
    """Makes a number of one step's gradient NaN; the models of all steps, and the weights before that one."""

    def at(step):
        original, kept, steps = loop.backward, {}, []

        def backward(model, *args, **kwargs):
            found = original(model, *args, **kwargs)
            steps.append(model)
            if len(steps) == step:
                model.fc.weight.grad[0, 0] = math.nan
                kept.update({key: p.detach().clone() for key, p in model.named_parameters()})
            return found

        monkeypatch.setattr(loop, "backward", backward)
        return steps, kept

    return at


SMALL_BATCHES = {"batch_size": 1, "size": 64}
"""More than twenty steps an epoch, so that not every one is written to the log, which waits for it."""


@pytest.mark.parametrize(("name", "begun"), [("sgd", 5), ("adamw", 5), ("lamb", 4), ("lookahead_adamw", 4)])
def test_weights_stay_where_the_gradient_is_not_finite(call, broken, capsys, name, begun):
    """Of a fused optimizer the next step has begun before the GPU is waited for; it changes nothing either."""
    steps, kept = broken(4)
    assert call("train", **SMALL_BATCHES, **{"optim.name": name}) == 1
    assert "the gradient's norm is not finite at step 4 (epoch 1): training has diverged" in capsys.readouterr().err
    assert len(steps) == begun
    assert [key for key, p in steps[-1].named_parameters() if not torch.equal(p, kept[key])] == []


def test_no_checkpoint_is_made_of_a_step_that_is_not_finite(call, broken, capsys, tmp_path):
    steps, _ = broken(4)
    assert call("train", **SMALL_BATCHES, **{"save.every_steps": 1}) == 1
    err = capsys.readouterr().err
    assert "not finite at step 4 (epoch 1)" in err
    assert "the last checkpoint is kept (run/checkpoints/step-00000003.pt)" in err
    assert not list((tmp_path / "run" / "checkpoints").glob("step-00000004*"))
    assert len(steps) == 4


def test_no_curve_has_what_is_not_finite(call, broken, tmp_path):
    steps, _ = broken(3)
    assert call("train", **{"save.every_steps": 2}) == 1  # four steps an epoch: each is written
    assert len(steps) == 3
    curves = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in curves] == [1, 2]


def test_the_last_step_of_an_epoch_is_looked_at_in_it(call, broken, capsys, monkeypatch):
    evaluated = []
    monkeypatch.setattr(loop, "finish_epoch", evaluated.append)
    steps, _ = broken(4)
    assert call("train") == 1
    assert "not finite at step 4 (epoch 1)" in capsys.readouterr().err
    assert (len(steps), evaluated) == (4, [])


def test_a_signal_after_a_step_that_is_not_finite_saves_nothing(call, broken, capsys, tmp_path, monkeypatch):
    broken(4)
    original = loop.train_on

    def train_on(training, parts):
        original(training, parts)
        if training.state.step == 3:  # it counts after
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "train_on", train_on)
    assert call("train", **SMALL_BATCHES) == 1
    assert "not finite at step 4 (epoch 1)" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.pt"))

"""torch.compile: whole graphs, the same numbers, and no new compilation for new sizes on one canvas."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from pcpad import RaggedBatch, RaggedError
from tests.ragged import networks
from tests.ragged.alone import make_images


def batches(count=3, canvas=(100, 100)):
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(64, 100, (3, 2), generator=generator).tolist()
        yield RaggedBatch.from_images(make_images(sizes, 3, torch.get_default_dtype(), seed), canvas=canvas)


@pytest.fixture(autouse=True)
def float64():
    torch._dynamo.reset()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch._dynamo.reset()


def compare(name, mode, backend, training, fullgraph=True):
    model = networks.build(name, mode)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=fullgraph)
    for batch in batches():
        with torch.set_grad_enabled(training):
            got, wanted = compiled(batch), model(batch)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.detach().abs().max()))
        if training:
            grads = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (got, wanted)]
            for a, b in zip(*grads, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
    assert counter.frame_count == 1 if fullgraph else counter.frame_count > 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("timm/test_resnet", "partial"),
        pytest.param("timm/test_resnet", "zeros", marks=pytest.mark.slow),
        pytest.param("timm/test_convnext", "partial", marks=pytest.mark.slow),
        pytest.param("timm/test_convnext", "zeros", marks=pytest.mark.slow),
    ],
)
def test_one_graph_for_all_sizes(name, mode):
    compare(name, mode, "aot_eager", training=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "partial"])
@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/convnext_atto"])
def test_inductor(name, mode):
    compare(name, mode, "inductor", training=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext"])
def test_inductor_trains(name):
    compare(name, "partial", "inductor", training=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "partial"])
def test_graphs_break_at_hardswish(mode):
    """torch's compiler lets no class override F.hardswish: the numbers are the same, in more graphs."""
    compare("torchvision/mobilenet_v3_small", mode, "aot_eager", training=False, fullgraph=False)


def test_what_needs_the_sizes_is_refused_there():
    model = networks.build("timm/tf_efficientnetv2_b0")
    with pytest.raises(
        (RaggedError, torch._dynamo.exc.TorchDynamoException), match="mixed-size batch has no such numb"
    ):
        torch.compile(model, backend="eager", fullgraph=True)(next(batches(1, (128, 128))))

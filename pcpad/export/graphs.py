"""A network as a graph in a file, of one image size: by ONNX through torch's dynamo, and by torch.export."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3
"""Largest difference of an export's outputs, as a share of the largest: runtimes sum up in another order."""
LARGE = 1.8e9
"""Bytes of weights from which on ONNX keeps them in a file beside the graph: protobuf ends at 2 GiB."""
EXTRA = "pip install 'pcpad[export]'"


def check_onnx() -> None:
    """Raise ValueError, naming what to install, unless ONNX files can be written and run."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(f"--format onnx needs {package}, which does not import ({error}): {EXTRA}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings and printed graphs of their own insides."""
    loggers = [
        logging.getLogger(name)
        for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.fx.experimental.symbolic_shapes")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def traced(make: Callable, kind: str):
    """What `make` returns; what it raises becomes a ValueError in one line."""
    try:
        with quiet(), torch.no_grad():
            return make()
    except Exception as error:  # dynamo's and the exporters' errors have no common class
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{kind} cannot export this network: {lines[0] if lines else type(error).__name__}") from error


def shapes(free: bool) -> tuple[dict] | None:
    """The batch as a dimension that may vary."""
    return ({0: torch.export.Dim.DYNAMIC},) if free else None


def write_onnx(path: Path, model: nn.Module, x: Tensor, free: bool, facts: dict) -> None:
    """Write an ONNX file with the input ``images``, the output ``logits`` and `facts` as JSON in its metadata.

    Args:
        x: ``(B, 3, size, size)``, float32. free: whether the batch may have any size, else that of `x`.
    """
    program = traced(
        lambda: torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=shapes(free),
            input_names=["images"],
            output_names=["logits"],
        ),
        "torch.onnx",
    )
    program.model.metadata_props["pcpad"] = json.dumps(facts)
    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    with quiet():
        program.save(str(path), external_data=size > LARGE)


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The network in an ONNX file, run by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


def write_torch(path: Path, model: nn.Module, x: Tensor, free: bool, facts: dict) -> None:
    """Write a file of torch.export, with `facts` as JSON in its ``pcpad.json``; arguments as in `write_onnx`."""
    program = traced(lambda: torch.export.export(model, (x,), dynamic_shapes=shapes(free)), "torch.export")
    with quiet():
        torch.export.save(program, path, extra_files={"pcpad.json": json.dumps(facts)})


def read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    """The network in a file of torch.export."""
    with quiet():
        return torch.export.load(path).module()

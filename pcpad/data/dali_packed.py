"""DALI's reader of the packed form."""

from collections.abc import Sequence

from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from pcpad.data.native import NativeTrainTransform, NativeTransform
from pcpad.data.packed import COMPONENTS, Shards, place_of

BUFFER = 1024
"""Packed images out of which the next one is drawn; some 100 MB."""


def packed(files: Sequence[str], wanted: Sequence[int], transforms: Sequence) -> Shards | None:
    """Indexes of the wanted files, where these are in the packed form; None where each is a file.

    Raises:
        ValueError: images keep their own aspect ratio, which takes them in an order of its own.
    """
    if not len(files) or place_of(files[0]) is None:
        return None
    if any(isinstance(one, (NativeTransform, NativeTrainTransform)) for one in transforms):
        raise ValueError(
            "DALI reads packed images from front to back, and batches of images that keep their own aspect ratio need "
            "an order of their own: use --data.loader torchvision, or the tree that was packed"
        )
    return Shards(files, wanted)


def read_packed(shards: Shards, order: Sequence[int] | None = None, **settings) -> tuple[DataNode, DataNode]:
    """Bytes and row of each image, its tar files in an order."""
    order = range(len(shards.tars)) if order is None else order
    return fn.readers.webdataset(
        paths=[shards.tars[i] for i in order],
        index_paths=[shards.indexes[i] for i in order],
        ext=list(COMPONENTS),
        dtypes=[types.UINT8, types.INT32],
        missing_component_behavior="error",
        pad_last_batch=True,
        dont_use_mmap=True,  # mapped, a file on a network is read page by page
        name="reader",
        **settings,
    )

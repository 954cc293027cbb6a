"""Mixed-size batches: images of different sizes on one canvas, their extents carried through a whole network."""

from pcpad.ragged import pointwise, resampling, shapes, statistics, windows  # noqa: F401  they register their handlers
from pcpad.ragged.batch import RaggedBatch, add_methods
from pcpad.ragged.dispatch import fill_table
from pcpad.ragged.lengths import RaggedError

fill_table()
add_methods()

__all__ = ["RaggedBatch", "RaggedError"]

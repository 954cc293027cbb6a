"""Which loader reads the images: DALI where it imports, torchvision's otherwise."""

from types import ModuleType

from pcpad.environment import num_cores


def choose_loader(name: str) -> tuple[ModuleType, str, str]:
    """The module of a loader, its name, and one line that says what was chosen and why.

    Args:
        name: ``"auto"``, ``"dali"`` or ``"torchvision"``.

    Raises:
        ValueError: DALI was asked for and does not import.
    """
    from pcpad.data import reference

    if name == "torchvision":
        return reference, "torchvision", "loader: torchvision"
    try:
        from pcpad.data import dali
    except ImportError as error:
        if name == "dali":
            raise ValueError(
                f"data.loader dali: nvidia.dali does not import ({error}); use --data.loader torchvision, or install "
                "the harness on Linux: pip install 'pcpad[harness]'"
            ) from error
        return reference, "torchvision", "loader: torchvision (DALI does not import here)"
    return dali, "dali", "loader: DALI"


def default_workers() -> int:
    """Threads or processes that decode if nothing is said: the cores this process may use, at most 16."""
    return min(num_cores(), 16)

"""Settings of ``pcpad study run``, ``pcpad study table`` and ``pcpad report``."""

from dataclasses import dataclass
from pathlib import Path

from pcpad.config.fields import check


def check_study(study: str | None, command: str) -> None:
    """Raise ValueError unless a study is named."""
    if study is None:
        raise ValueError(f"say which study: pcpad study {command} NAME, a folder of experiments/ or a path")


@dataclass(frozen=True)
class StudyRunSettings:
    """Run what is missing of a study: one process a run, what is done is skipped, what fails is recorded."""

    study: str | None = None
    """A folder of experiments/ by name, or a path; or the first word of the call."""
    dry_run: bool = False
    """List the runs, their state and their cost, and start nothing."""
    jobs: int | None = None
    """Runs at the same time; one for each GPU, else 1, if not given."""
    gpus: int | None = None
    """GPUs to share the runs among, each run sees one; if not given, a run sees what this process sees."""
    only: str | None = None
    """Runs whose name matches this pattern, such as `*-partial-s0`."""
    data: str | None = None
    """Images, in place of the study's: as in train."""

    def __post_init__(self):
        check_study(self.study, "run")
        check(self.jobs is None or self.jobs >= 1, "jobs", self.jobs, "at least 1")
        check(self.gpus is None or self.gpus >= 1, "gpus", self.gpus, "at least 1")


@dataclass(frozen=True)
class StudyTableSettings:
    """Make a study's tables from its results: in its README and as table.csv."""

    study: str | None = None
    """A folder of experiments/ by name, or a path; or the first word of the call."""

    def __post_init__(self):
        check_study(self.study, "table")


@dataclass(frozen=True)
class ReportSettings:
    """Make one HTML page of tables and figures from records alone: of a study, or of all in experiments/."""

    study: str | None = None
    """A folder of experiments/ by name, or a path; or the first word of the call; all if nothing is given."""
    records: str | None = None
    """A folder with records of evaluations or of border, such as one of runs/; beside the study, or alone."""
    out: str | None = None
    """File of the page; reports/NAME.html if not given. Figures go into a folder beside it, as SVG and CSV."""

    def __post_init__(self):
        check(self.out is None or Path(self.out).suffix == ".html", "out", self.out, "a file that ends in .html")

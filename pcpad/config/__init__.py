"""Settings: typed, documented, checked on construction; written as YAML; compared by digest."""

from pcpad.config.adapt import AdaptSettings
from pcpad.config.border import BorderSettings
from pcpad.config.commands import DoctorSettings, EvalSettings, InspectSettings
from pcpad.config.data import DATA_NAMES, CheckSettings, ListSettings, PackSettings, PrepareSettings
from pcpad.config.export import ExportSettings
from pcpad.config.fields import nearest
from pcpad.config.images import AugmentSettings, DataSettings, MixSettings, PreprocessSettings
from pcpad.config.plain import differences, digest, result_part, to_dict, yaml_text
from pcpad.config.study import ReportSettings, StudyRunSettings, StudyTableSettings
from pcpad.config.train import OptimSettings, ProgressiveSettings, SaveSettings, ScheduleSettings, TrainSettings

__all__ = [
    "DATA_NAMES",
    "AdaptSettings",
    "AugmentSettings",
    "BorderSettings",
    "CheckSettings",
    "DataSettings",
    "DoctorSettings",
    "EvalSettings",
    "ExportSettings",
    "InspectSettings",
    "ListSettings",
    "MixSettings",
    "OptimSettings",
    "PackSettings",
    "PrepareSettings",
    "PreprocessSettings",
    "ProgressiveSettings",
    "ReportSettings",
    "SaveSettings",
    "ScheduleSettings",
    "StudyRunSettings",
    "StudyTableSettings",
    "TrainSettings",
    "differences",
    "digest",
    "nearest",
    "result_part",
    "to_dict",
    "yaml_text",
]

"""Settings: typed, documented, checked on construction; written as YAML; compared by digest."""

from pcpad.config.border import BorderSettings
from pcpad.config.commands import CheckSettings, EvalSettings, InspectSettings
from pcpad.config.fields import nearest
from pcpad.config.images import (
    AugmentSettings,
    DataSettings,
    MixSettings,
    PreprocessSettings,
    ProgressiveSettings,
    RandAugment,
    parse_randaugment,
)
from pcpad.config.plain import differences, digest, result_part, to_dict, yaml_text
from pcpad.config.study import ReportSettings, StudyRunSettings, StudyTableSettings
from pcpad.config.train import OptimSettings, SaveSettings, ScheduleSettings, TrainSettings

__all__ = [
    "AugmentSettings",
    "BorderSettings",
    "CheckSettings",
    "DataSettings",
    "EvalSettings",
    "InspectSettings",
    "MixSettings",
    "OptimSettings",
    "PreprocessSettings",
    "ProgressiveSettings",
    "RandAugment",
    "ReportSettings",
    "SaveSettings",
    "ScheduleSettings",
    "StudyRunSettings",
    "StudyTableSettings",
    "TrainSettings",
    "differences",
    "digest",
    "nearest",
    "parse_randaugment",
    "result_part",
    "to_dict",
    "yaml_text",
]

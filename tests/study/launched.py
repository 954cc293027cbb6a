"""What the tests of `study run` share: the small study is run, and what came of it is read."""

import json
from pathlib import Path

from pcpad.config import StudyRunSettings
from pcpad.study.launch import run_study
from pcpad.study.plan import load_plan
from pcpad.study.states import state_of

ZEROS, PARTIAL = "timm_test_byobnet-zeros-s0", "timm_test_byobnet-partial-s0"
DATA = {"data": "/some/images"}


def go(**settings) -> int:
    return run_study(StudyRunSettings("tiny", **settings))


def states() -> list[str]:
    return [state_of(run).kind for run in load_plan("tiny").runs]


def calls() -> list[dict]:
    return [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]

"""A study's runs before they are started: state, cost, and the commands that run them."""

import shlex
from collections import Counter

from pcpad import lock
from pcpad.progress import say
from pcpad.study.entries import FILE
from pcpad.study.grid import Run
from pcpad.study.plan import Plan, load_plan
from pcpad.study.results import missing_cells, results_of
from pcpad.study.states import CHANGED, DAMAGED, DONE, RECORDED, RUNNABLE, RUNNING, State


def show(plan: Plan, runs: list[Run], states: dict[str, State], results: dict[tuple, dict]) -> None:
    """Print every run with its state and what is left of its cost, and how to run what is missing."""
    say(f"{plan.name}: {plan.title}")
    width = max(len(run.name) for run in runs)
    total = 0.0
    for run in runs:
        state = states[run.name]
        hours = hours_left(plan, run, state, results)
        total += hours or 0.0
        cost = f"{hours:7.2f} {plan.cost.unit}" if hours else state.detail
        say(f"  {run.name:{width}}  {state.kind:11}  {cost}{last_failure(run, state, results)}".rstrip())
    counts = Counter(state.kind for state in states.values())
    say(f"{len(runs)} runs: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    if plan.source is not None:
        say(f"they are those of {plan.source_call}, which trains them")
    if plan.cost is not None:
        say(f"cost of what is to be run: {total:.{1 if total >= 1 else 2}f} {plan.cost.unit} ({plan.cost.how})")
    else:
        say("cost: not stated in the study")
    if plan.sizes:
        each, left = len(plan.cells(runs[0])), sum(len(missing_cells(plan, run, results)) for run in runs)
        say(f"{each} evaluations of each: paddings {', '.join(plan.paddings)}; sizes {', '.join(plan.sizes)}")
        say(f"{each * len(runs)} evaluations: {left} missing")
    first = next((run for run in runs if states[run.name].kind in RUNNABLE), None)
    if first is not None and plan.source is None:
        say(f"one of them: {shlex.join(['pcpad', 'train', *first.arguments, '--out', str(first.folder)])}")
        say(f"the study:   pcpad study run {plan.call}{plan.data_option}  (--jobs N or --gpus N at a time)")
        say(f"on Slurm:    python scripts/slurm/submit.py --study {plan.call}{plan.data_option}")


def last_failure(run: Run, state: State, results: dict[tuple, dict]) -> str:
    """How a run that is still to be done, or its evaluation, has failed before; empty if it has not."""
    kinds = ("run", "evaluation") if state.kind in RUNNABLE else ("evaluation",)
    entries = [results.get((kind, run.name, None, None), {}) for kind in kinds]
    failed = [entry for entry in entries if entry.get("status") == "failed"]
    return f"  failed before, exit code {failed[0]['exit_code']}: {failed[0]['error']}" if failed else ""


def notices(plan: Plan, runs: list[Run], states: dict[str, State], results: dict[tuple, dict]) -> list[str]:
    """A line for each run that is passed over although something of it is missing: why, and what to do."""
    lines = []
    for run in runs:
        state = states[run.name]
        if state.kind == CHANGED:
            lines.append(f"{run.folder} holds a run with other settings ({state.detail}): move it away to run this")
        elif state.kind == DAMAGED:
            lines.append(f"{run.folder} is damaged ({state.detail}): move it away to run this")
        elif state.kind == RUNNING:
            gone = f"if that is no more, remove {run.folder / lock.NAME}"
            lines.append(f"{run.name} is left to who has it ({state.detail}); {gone}")
        elif lost(plan, run, state, results):
            again = f"remove its line from {(plan.source or plan.folder) / FILE}"
            again += f", move {run.folder} away" if run.folder.exists() else ""
            lines.append(f"{run.name} cannot be evaluated: its weights are not here; to train it again, {again}")
        elif plan.source and state.kind in RUNNABLE and missing_cells(plan, run, results):
            lines.append(f"{run.name} is {state.kind}: pcpad study run {plan.source_call}{plan.data_option} trains it")
    return lines


def lost(plan: Plan, run: Run, state: State, results: dict[tuple, dict]) -> bool:
    """Whether a run was trained, has evaluations to be made, and has no weights here."""
    if state.kind not in (DONE, RECORDED) or (run.folder / "checkpoints/last.pt").is_file():
        return False
    return bool(plan.sizes and missing_cells(plan, run, results))


def trained_results(plan: Plan, results: dict[tuple, dict]) -> dict[tuple, dict]:
    """The results that a study's runs themselves are in: those of the study that trains them."""
    return results_of(load_plan(str(plan.source))) if plan.source else results


def hours_left(plan: Plan, run: Run, state: State, results: dict[tuple, dict]) -> float | None:
    """What is left of a run's cost, which is that of its evaluations where another study trains it.

    None where it is not stated or nothing is left.
    """
    if plan.cost is None:
        return None
    if plan.source is not None:
        return plan.cost.hours[run.model] * len(missing_cells(plan, run, results)) / len(plan.cells(run)) or None
    if state.kind not in RUNNABLE:
        return None
    return plan.cost.hours[run.model] * (1 - len(state.history) / run.settings.epochs)

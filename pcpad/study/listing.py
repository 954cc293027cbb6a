"""A study's runs before they are started: state, cost, and the commands that run them."""

from collections import Counter

from pcpad.progress import say
from pcpad.study.grid import NO_DATA, Run
from pcpad.study.plan import Plan
from pcpad.study.results import missing_cells
from pcpad.study.states import RUNNABLE, State


def show(plan: Plan, runs: list[Run], states: dict[str, State], results: dict[tuple, dict]) -> None:
    """Print every run with its state and what is left of its cost, and how to run what is missing."""
    say(f"{plan.name}: {plan.title}")
    width = max(len(run.name) for run in runs)
    total = 0.0
    for run in runs:
        state = states[run.name]
        hours = hours_left(plan, run, state)
        total += hours or 0.0
        cost = f"{hours:7.2f} {plan.cost.unit}" if hours else ""
        say(f"  {run.name:{width}}  {state.kind:11}  {cost or state.detail}".rstrip())
    counts = Counter(state.kind for state in states.values())
    say(f"{len(runs)} runs: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    if plan.source is not None:
        say(f"they are those of {plan.source}, which trains them")
    elif plan.cost is not None:
        say(f"cost of what is to be run: {total:.1f} {plan.cost.unit} ({plan.cost.how})")
    else:
        say("cost: not stated in the study")
    if plan.sizes:
        each, left = len(plan.cells(runs[0])), sum(len(missing_cells(plan, run, results)) for run in runs)
        say(f"{each} evaluations of each: paddings {', '.join(plan.paddings)}; sizes {', '.join(plan.sizes)}")
        say(f"{each * len(runs)} evaluations: {left} missing")
    first = next((run for run in runs if states[run.name].kind in RUNNABLE), None)
    if first is not None and plan.source is None:
        data = [] if plan.data else ["--data", NO_DATA]
        say(f"one of them: pcpad train {' '.join(first.arguments)} --out {first.folder}")
        say(f"the study:   {' '.join(['pcpad study run', plan.name, *data])}  (--jobs N or --gpus N at a time)")
        say(f"on Slurm:    {' '.join(['python scripts/slurm/submit.py --study', plan.name, *data])}")


def hours_left(plan: Plan, run: Run, state: State) -> float | None:
    """What is left of a run's cost; None where it is not stated or nothing is left."""
    if plan.cost is None or plan.source is not None or state.kind not in RUNNABLE:
        return None
    return plan.cost.hours[run.model] * (1 - len(state.history) / run.settings.epochs)

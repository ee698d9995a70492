"""One random program, compiled and compared with itself: several schedules, inputs, seeds, weights, and from a file."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..compiled import Compiled
from ..driver import compile as compile_
from ..driver import load
from ..errors import ScheduleError
from ..plan import Bits, Method, Plan, Schedule, Tolerance, in_a_row
from ..program import ArrayLoop, Chain, Recurrence
from ..runtime.recurrent import make_recurrent
from ..schedules import parse_schedule
from ..sweepable import obstacle
from .runs import TOLERANCE, Mismatch, Outcome, Trial
from .script import Program

SCHEDULES = ["jacobi", "sliding(3)", "gs-jacobi(4)", "growing(2)", "gauss-seidel", "sliding(1)", "captured"]
ARRAY_SCHEDULES = [*SCHEDULES, "wavefront", "jacobi+windows", "sliding(3)+windows", "wavefront+windows",
                   "gauss-seidel+windows"]  # fmt: skip
SCHEDULES_OF = {
    ArrayLoop: ARRAY_SCHEDULES,
    Recurrence: [*SCHEDULES, "wavefront"],
    Chain: [*SCHEDULES, "wavefront"],
}
"""By kind of system; of others there is ``jacobi`` only."""


def check(program: Program, rng: Random) -> Outcome:
    """Compile and compare; never raises for a fault of the compiler, which is the outcome."""
    started, outcome = time.perf_counter(), Outcome()
    with TemporaryDirectory(prefix="ffc-fuzz-") as folder:
        try:
            _check(program, rng, Path(folder), outcome)
        except Mismatch as found:
            outcome.verdict, outcome.detail = "mismatch", str(found)
        except Exception as error:  # anything else that a user would see is a fault too
            outcome.verdict, outcome.detail = "error", f"{type(error).__name__}: {error}"
            outcome.detail += "\n" + _where(error)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _where(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(lines[-6:]))


def _check(program: Program, rng: Random, folder: Path, outcome: Outcome) -> None:
    module = imported(program.source, folder)
    tolerant = rng.random() < 0.5
    equality = TOLERANCE if tolerant else Bits()
    outcome.equality = "tolerance" if tolerant else "bits"
    trial = Trial(program, module, outcome, tolerant)
    expected = trial.run(module.function, 0)
    try:
        compiled = _compiled(module, equality, rng)
    except Exception as error:
        if expected.raised is not None and type(error) is type(expected.raised):
            outcome.system, outcome.detail = f"the function raises {type(error).__name__}", str(error)
            return
        raise
    outcome.system = _system(compiled)
    str(compiled.explain()), str(compiled.plan)
    variants = dict(_variants(compiled, rng))
    for name, variant in variants.items():
        trial.compare(name, variant, seeds=(0, 1, 3))
    loaded = _loaded(variants, folder)
    for name, variant in loaded.items():
        trial.compare(f"{name}, saved and loaded", variant, (0, 2), from_file=True)
    if (captured := _step_by_step(compiled, folder)) is not None:
        trial.compare("the captured steps, one by one", captured, (0, 1, 2, 3, 4), from_file=True)
    for change in _changes(module, rng):
        for name, variant in variants.items():
            trial.compare(f"{name}, after {change}", variant, seeds=(0, 4))


def imported(source: str, folder: Path) -> Any:
    """The program as a module."""
    path = folder / f"program_{abs(hash(source)):x}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compiled(module: Any, equality: Bits | Tolerance, rng: Random) -> Compiled:
    """With a schedule by name, or seldom ``auto``, which takes longer."""
    wanted = rng.choice([*ARRAY_SCHEDULES, "jacobi", "jacobi", "sequential"])
    schedule = "auto" if rng.random() < 0.03 else wanted
    make = partial(
        compile_, module.function, module.arguments(0), equality=equality, on_unsupported="sequential", cache=False
    )
    torch.manual_seed(0)
    try:
        return make(schedule=schedule)
    except ScheduleError:  # there is none such for this kind of system
        return make(schedule="jacobi")


def _variants(compiled: Compiled, rng: Random) -> Iterator[tuple[str, Compiled]]:
    """As compiled, and with other schedules and no guard: with it, small systems are never swept."""
    yield f"{compiled.plan.schedule}", compiled
    names = list(dict.fromkeys(name for part in compiled.plan.parts for name in _schedules(part)))
    for name in rng.sample(names, min(3, len(names))):
        bold = _bold(compiled.plan, name)
        yield f"{name} without a guard", Compiled(bold, compiled.proofs, compiled.prove, compiled.live)


def _schedules(part: Plan) -> list[str]:
    """The names of the schedules that a part can be solved by."""
    if part.system is None or part.refusal is not None:
        return []
    names = SCHEDULES_OF.get(type(part.system), ["jacobi"])
    if isinstance(part.system, Recurrence) and _rounds(part.system, part):
        return ["wavefront"]  # by the recorded calls, level by level
    if isinstance(part.system, Chain) and isinstance(part.equality, Bits):
        return [*names, "jacobi-gs(2)", "jacobi-gs(3)"]
    return names


def _rounds(loop: Recurrence, part: Plan) -> bool:
    """Whether many steps at once have other bits than each alone, where bits were asked for."""
    return obstacle(make_recurrent(loop, torch.device(part.device)), part.equality) is not None


def _bold(plan: Plan, name: str) -> Plan:
    """``plan`` by the schedule of that name in each part that can be solved by it, and without a guard."""
    schedule = parse_schedule(name) if name in _schedules(plan) else plan.schedule
    assert schedule is not None
    rest = None if plan.rest is None else _bold(plan.rest, name)
    return replace(plan, schedule=schedule, costs=None, rest=rest)


def _loaded(variants: dict[str, Compiled], folder: Path) -> dict[str, Compiled]:
    """Two of them through files."""
    found = {}
    for k, (name, variant) in enumerate(list(variants.items())[:2]):
        if variant.plan.program is not None:
            variant.save(folder / f"{k}.ffc")
            found[name] = load(folder / f"{k}.ffc")
    return found


def _step_by_step(compiled: Compiled, folder: Path) -> Compiled | None:
    """The captured program without sweeps, which has the bits of the function whatever was asked for.

    None where nothing was captured, or layers by other operators than their own.
    """
    if compiled.live is None or compiled.live.captured.otherwise:
        return None
    plan = in_a_row([replace(part, schedule=Schedule(Method.SEQUENTIAL)) for part in compiled.plan.parts])
    Compiled(plan, compiled.proofs, compiled.prove, compiled.live).save(folder / "steps.ffc")
    return load(folder / "steps.ffc")


def _changes(module: Any, rng: Random) -> Iterator[str]:
    """Weights changed, in one of the ways that people do."""
    weights = [w for w in module.weights() if w.is_floating_point()]
    if not weights:
        return
    weight = rng.choice(weights)
    with torch.no_grad():
        how = rng.choice(["scaling", ".data", "dense", "zeros"])
        if how == "scaling":
            weight.mul_(0.5)
        elif how == ".data":
            weight.data -= 0.125
        elif how == "dense":
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
        else:
            weight.zero_()
    yield f"a change of a weight ({how})"


def _system(compiled: Compiled) -> str:
    """What kind of system, or the reason why there is none, without names and numbers; of several parts, of each."""
    return ", then ".join(map(_system_of, compiled.plan.parts))


def _system_of(plan: Plan) -> str:
    if plan.refusal is None:
        return type(plan.system).__name__ if plan.system is not None else "sequential"
    what = "not captured" if plan.program is None else "not parallel"
    return f"{what}: {plan.refusal}"

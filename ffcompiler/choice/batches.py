"""What the verdict would be with more samples at once: the costs of copies of a call, and the traces that are known.

So many copies of the example are so many times its batch. What a sweep and a step cost then is measured on the captured
program, every operator of which is evaluated for all copies at once, as sweeps evaluate many steps at once. Each copy
converges as the example did, so that the same fronts stand for all, and every candidate is predicted as it is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph import Graph, TensorType
from ..modes import as_recorded
from ..plan import Alternative, Costs, Schedule
from ..program import ArrayLoop, Chain, Program, Recurrence, Tables
from ..runtime.lift.lifted import Lifted
from ..runtime.lift.window import Window
from ..runtime.recurrent import needed_for
from ..runtime.runner import Execution, Runner
from .chain_copies import PASSES, ChainCopies
from .choose import JACOBI, Outlook
from .measure import Example
from .timing import median_seconds

BATCHES = (4, 16)
"""Times the batch of the example."""
CALLS = 12
"""A measurement evaluates a graph about so many times."""
MOST_BYTES = 2**30
"""No more memory than this is asked for."""


def with_larger_batches(
    outlook: Outlook,
    certifying: Mapping[bool, int],
    schedules: Sequence[Schedule],
    example: Example,
    left: Callable[[], float],
) -> tuple[Alternative, ...]:
    """The best of ``schedules`` at each of `BATCHES`, as far as there is time; none where costs cannot be told.

    The steps of a repeated map are those of the loop: with more samples what a run takes, and what the loop takes, grow
    alike.
    """
    if not isinstance(outlook.plan.system, ArrayLoop | Recurrence | Chain) or not outlook.traces or not schedules:
        return ()
    try:
        with torch.no_grad(), as_recorded(torch.device(outlook.plan.device)):
            return tuple(_larger(outlook, certifying, schedules, example, left))
    except AssertionError:  # our own logic
        raise
    except Exception:  # an operator that cannot be evaluated for several copies, or there is no memory for them
        return ()


def _larger(
    outlook: Outlook,
    certifying: Mapping[bool, int],
    schedules: Sequence[Schedule],
    example: Example,
    left: Callable[[], float],
) -> Iterator[Alternative]:
    needed = max((outlook.bytes_of(schedule) or 0 for schedule in schedules), default=0)
    copies: Copies | ChainCopies | None = None
    calls = 2 * PASSES if isinstance(outlook.plan.system, Chain) else CALLS
    for times in BATCHES:
        if calls * times * outlook.costs.sweep > left() or times * needed > MOST_BYTES:
            return
        copies = copies or _copies(outlook, example)
        costs = copies.costs(outlook.costs, times)
        reference = costs.step * copies.blocks
        there = replace(outlook, costs=costs, reference_seconds=reference, memory_limit=None)
        found = [c for schedule in schedules if (c := there.predict(schedule, certifying)) is not None]
        best = min(found, key=lambda c: c.seconds)
        change = f"a batch {times} times as large"
        yield Alternative(change, best.sweeps, best.seconds, reference, schedule=best.schedule)


# ---------------------------------------------------------------------------------------------------- costs of copies


@dataclass(frozen=True, slots=True)
class Lift:
    """A graph to be evaluated for several copies of what a call hands it, ``rows`` evaluations for each copy.

    ``given``: what differs from row to row, ``[rows, *shape]``; ``shared``: what does not.
    """

    graph: Graph
    tables: Tables
    rows: int
    given: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    device: torch.device

    def more(self, times: int, count: int) -> float:
        """Seconds that ``count`` evaluations of one copy take more if so many copies make as many."""
        kinds = {
            key: TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape[1:]), tuple(t.stride()[1:]))
            for key, t in self.given.items()
        }
        tables = tuple(row * times for row in self.tables)
        lifted = Lifted(self.graph, tables, self.device, times * self.rows, kinds)
        one, every = (self._seconds(lifted, n) for n in (count, times * count))
        return max(every - one, 0.0)

    def _seconds(self, lifted: Lifted, count: int) -> float:
        """Of the first so many evaluations, all at once."""
        given = {key: _repeated(t, -(-count // self.rows))[:count] for key, t in self.given.items()}
        return median_seconds(lambda: lifted(Window(0, count, self.shared, False, given)), self.device)


def _repeated(t: Tensor, times: int) -> Tensor:
    """So many copies one after the other, in the memory order of one."""
    order = sorted(range(t.dim()), key=lambda dim: -t.stride()[dim])
    back = sorted(range(t.dim()), key=order.__getitem__)
    return t.repeat(times, *(1,) * (t.dim() - 1)).permute(order).contiguous().permute(back)


@dataclass(frozen=True, slots=True)
class Copies:
    """What sweeps, steps and runs of a system consist in for the most part; ``once`` is computed ahead of all steps."""

    blocks: int
    sweep: Sequence[Lift]
    step: Lift
    once: Sequence[Lift] = ()

    def costs(self, here: Costs, times: int) -> Costs:
        """Those of so many copies: more by what their evaluations take more. Bookkeeping is taken not to grow."""
        sweep = here.sweep + sum(lift.more(times, lift.rows) for lift in self.sweep)
        step = here.step + self.step.more(times, 1)
        grown = sweep / here.sweep
        return replace(
            here,
            step=step,
            sweep=sweep,
            certify=here.certify * grown,
            once=here.once + sum(lift.more(times, lift.rows) for lift in self.once),
            windows=tuple((blocks, self._window(here, blocks, times, sweep)) for blocks, _ in here.windows),
            after=here.after * times,
            captured=None if here.captured is None else here.captured * step / here.step,
            fill=here.fill * grown,
            draws=here.draws * times,
            runs=tuple((run, blocks, seconds * grown) for run, blocks, seconds in here.runs),
            waves=tuple((blocks, seconds * grown) for blocks, seconds in here.waves),
        )

    def _window(self, here: Costs, blocks: int, times: int, sweep: float) -> float:
        """Of a recurrence, a window over so many steps of all copies is one over so many times as many steps."""
        if self.step.rows == 1:
            return here.window(blocks) * sweep / here.sweep
        beyond = (times * blocks - self.blocks) / (times * self.blocks - self.blocks)
        return here.sweep + (sweep - here.sweep) * beyond if beyond > 0 else here.window(times * blocks)


def _copies(outlook: Outlook, example: Example) -> Copies | ChainCopies:
    """Of the example's call, with its first states."""
    device, loop = torch.device(outlook.plan.device), outlook.plan.system
    runner = Runner(replace(outlook.plan, schedule=JACOBI), outlook.proof, device, guarded=False)
    known = example.replay
    execution = runner.begin(known.arguments, example.weights(), known.generators)
    if runner.chained is not None:
        return _of_chain(runner, execution)
    return _of_array(loop, runner, execution) if isinstance(loop, ArrayLoop) else _of_recurrence(runner, execution)


def _of_chain(runner: Runner, execution: Execution) -> ChainCopies:
    """Its blocks, with what comes before them."""
    assert runner.chained is not None
    program = runner.program
    moving = {leaf.name for leaf in program.signature.leaves if leaf.name is not None}
    moving |= {draw.name for draw in program.draws}
    return ChainCopies(runner.chained, program, execution.env, frozenset(moving), runner.device)


def _of_array(loop: ArrayLoop, runner: Runner, execution: Execution) -> Copies:
    """Its shared part, which every step of the function evaluates too, and the tails of all steps."""
    assert runner.system is not None
    env = {**execution.env, loop.carry.name: execution.init[0]}
    moving = _moving(runner.program, (loop.invariant,)) | {loop.carry.name}
    keys = {ref.key for node in loop.shared.nodes for ref in node.refs() if ref.key in env}
    given = {key: env[key].unsqueeze(0) for key in keys if key.partition(".")[0] in moving}
    shared = Lift(loop.shared, (), 1, given, env, runner.device)
    known = {**env, **runner.system.evaluate(env, execution.init[0])}
    handed = {one.value.name: env[one.stack.key] for one in loop.inputs}
    tail = Lift(loop.tail, loop.tables, loop.blocks, handed, known, runner.device)
    return Copies(loop.blocks, (shared, tail), shared)


def _of_recurrence(runner: Runner, execution: Execution) -> Copies:
    """Its body, of all steps."""
    recurrent = runner.recurrent
    assert recurrent is not None
    loop = recurrent.loop
    env, state = recurrent.prepare(execution.env), recurrent.start_from(execution.init)
    handed = {one.value.name: env[one.stack.key] for one in loop.inputs}
    given = handed | {ref.key: env[ref.key] for ref in loop.ahead.outputs}
    given |= {value.name: leaf[:-1] for value, leaf in zip(loop.carry, state, strict=True)}
    graph = needed_for(loop.body, loop.body.outputs[: len(loop.carry)])
    body = Lift(graph, loop.tables, loop.blocks, given, env, runner.device)
    ahead = Lift(loop.ahead, loop.tables, loop.blocks, handed, env, runner.device)
    return Copies(loop.blocks, (body,), body, (ahead,) if loop.ahead.nodes else ())


def _moving(program: Program, graphs: Sequence[Graph]) -> set[str]:
    """The names of what differs from call to call: arguments, random numbers, and what is computed from them."""
    names = {leaf.name for leaf in program.signature.leaves if leaf.name is not None}
    names |= {draw.name for draw in program.draws}
    for graph in (program.prologue, *graphs):
        for node in graph.nodes:
            if any(ref.name in names for ref in node.refs()):
                names.add(node.name)
    return names

"""A triangular system ready to run on one device: one sweep, one sequential step. Threads may share it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph import Ref
from ..plan import Bounded, Finite, Premise
from ..program import ArrayLoop
from ..proof import Proof, Unseen, Wave
from .blocks import Env, Values
from .compare import fetch
from .graphs import GraphCall, graph_call
from .positions import Indexed, Positions
from .premises import below, failed, really_finite, reduced_precision, totals, within_reduced_range
from .runs import ALONE, Runs
from .tail import Tail, Window
from .unseen import unsettled
from .watch import Watch
from .windowed.windowed import Windowed, windowed_by
from .windowed.workspace import Workspace


@dataclass(frozen=True, slots=True)
class System:
    """What the solve loop needs of an `ArrayLoop`."""

    loop: ArrayLoop
    device: torch.device
    invariant: GraphCall
    shared: GraphCall
    tail: Tail
    region: Positions
    finite: tuple[str, ...]  # values that every certifying sweep must find finite
    bounds: Mapping[str, float]  # those among them that must be smaller than a bound
    premises: tuple[Premise, ...] = ()
    reads: tuple[int, ...] = ()  # the last block that each block reads
    levels: tuple[int, ...] = ()  # where each level ends, if the blocks are sorted by level
    order: tuple[int, ...] = ()  # then, for each block, which step of the reference it is
    windowed: Windowed | None = None
    runs: Runs = ALONE
    besides: Tail | None = None  # the tail with what steps leave besides the array
    seen: GraphCall | None = None  # the shared part with all that those read
    unseen: tuple[Unseen, ...] = ()  # tests among them that the last array does not show

    @property
    def blocks(self) -> int:
        return self.loop.blocks

    @property
    def exact(self) -> bool:
        """Whether every whole sweep certifies, because no operator of the tail rounds by shape."""
        return self.tail.exact

    @property
    def ends_anywhere(self) -> bool:
        """Windows end where the schedule says."""
        return False

    @property
    def priced_by_width(self) -> bool:
        """The shared part is evaluated on the whole array, whatever the window."""
        return False

    def prepare(self, env: Env) -> Env:
        """Nothing is needed besides."""
        return env

    def constants(self, env: Env) -> Env:
        """``env`` with the work that depends on neither state nor step."""
        return self.invariant.extend(env)

    def final(self, known: int, computed: int) -> int:
        """How many leading blocks are final after a sweep computed those before ``computed`` from ``known`` final ones.

        A block is, if it reads final blocks only (docs/theory.md, lemma 1); in the run of the first changed block those
        before it are (docs/runs.md).
        """
        front = self.runs.end(known, computed)
        while front < computed and self.reads and self.reads[front] < known:
            front += 1
        return front

    def steps_done(self, blocks: int) -> int:
        """How many leading steps of the reference are among the first ``blocks`` blocks."""
        if not self.order or blocks == self.blocks:
            return blocks
        return min(self.order[blocks:])

    def evaluate(self, env: Env, state: Tensor, watch: Watch | None = None) -> dict[str, Tensor]:
        """The shared part on ``state``, by the recorded calls: same operators, shapes and strides."""
        values = self.shared.values({**env, self.loop.carry.name: state}, watch=watch)
        return dict(zip((ref.key for ref in self.shared.outputs), values, strict=True))

    def all_seen(self, env: Env, state: Tensor) -> dict[str, Tensor]:
        """The shared part on ``state``, with what of it only those values read that steps leave besides."""
        if self.seen is None:
            return self.evaluate(env, state)
        values = self.seen.values({**env, self.loop.carry.name: state})
        return dict(zip((ref.key for ref in self.seen.outputs), values, strict=True))

    def unmoved(self, lo: int, hi: int, compared: int) -> int:
        """Every block is compared."""
        return lo + compared

    def read(self, state: Tensor, lo: int, hi: int) -> Values:
        """What blocks ``lo .. hi - 1`` hold, in lifted form."""
        return (self.region.read(state, lo, hi),)

    def write(self, state: Tensor, lo: int, hi: int, values: Values) -> None:
        """Put values in lifted form in their places."""
        self.region.write(state, lo, hi, values[0])

    def update(
        self, env: Env, state: Tensor, lo: int, hi: int, exact: bool, watch: Watch | None = None
    ) -> tuple[Values, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1`` in lifted form, and the tensors whose finiteness is a premise."""
        if self.runs.size > 1 and hi - lo > 1:
            return self._in_runs(env, state, lo, hi, watch)
        values, operands = self._at(env, state, range(lo, hi), exact, watch)
        return (values,), operands

    def _at(
        self, env: Env, state: Tensor, blocks: range, exact: bool, watch: Watch | None
    ) -> tuple[Tensor, list[Tensor]]:
        """New values of some blocks, each from ``state``."""
        shared = self.evaluate(env, state, watch)
        everything = {**env, **shared, self.loop.carry.name: state}
        values = self.tail(Window(blocks.start, blocks.stop, everything, exact, every=blocks.step, watch=watch))
        if values.untyped_storage().data_ptr() == state.untyped_storage().data_ptr():
            values = values.clone()  # a step that only moves elements of the state: it is about to be written
        return values, [everything[name] for name in self.finite]

    def _in_runs(self, env: Env, state: Tensor, lo: int, hi: int, watch: Watch | None) -> tuple[Values, list[Tensor]]:
        """The same, one block of every run after the other, each from an array that holds those before it."""
        now, operands = self.start_from(state), list[Tensor]()
        for blocks in self.runs.turns(lo, hi):
            if operands and not self.premises_hold(operands, fetch(totals(operands))):
                break  # it certifies nothing, whatever the others hold
            values, operands = self._at(env, now, blocks, True, watch)
            self.region.write(now, blocks.start, blocks.stop, values, blocks.step)
        return (self.region.read(now, lo, hi),), operands

    def window(
        self, env: Env, workspace: Workspace, state: Tensor, lo: int, hi: int, watch: Watch | None = None
    ) -> Values:
        """New values of blocks ``lo .. hi - 1`` from the kept values of a workspace, in lifted form."""
        values = self.tail(Window(lo, hi, {**env, **workspace.kept, self.loop.carry.name: state}, False, watch=watch))
        storages = {t.untyped_storage().data_ptr() for t in (state, *workspace.kept.values())}
        return (values.clone() if values.untyped_storage().data_ptr() in storages else values,)

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        """Whether the values are finite, also once rounded to a reduced compute dtype, and within their bounds.

        ``sums`` are their totals.

        A sum that overflows by itself is looked at again.
        """
        if not all(math.isfinite(s) for s in sums) and not really_finite(values):
            return False
        if not below(dict(zip(self.finite, values, strict=True)), self.bounds):
            return False
        return not reduced_precision(self.device) or within_reduced_range(values)

    def failed(self, values: list[Tensor]) -> str:
        """Which premise the values do not meet, as text."""
        named = dict(zip(self.finite, values, strict=True))
        return failed(self.premises, named, reduced_precision(self.device))

    def step(self, env: Env, state: Tensor, k: int) -> Values:
        """One sequential step in place: the loop's own calls for block ``k``. What it leaves besides, ``[1, ..]``."""
        if self.besides is None:
            values, _ = self.update(env, state, k, k + 1, True)
            left: Values = ()
        else:
            made = self._with_besides(self.besides, env, state, k, k + 1)
            values, left = made[:1], made[1:]
        self.write(state, k, k + 1, values)
        return left

    def finish(self, env: Env, state: Tensor, init: Tensor, done: int) -> Values:
        """The array after all steps, in place, then what they left besides; the first ``done`` are in ``state``."""
        left = [self.collect(env, state, init, done)] if done else []
        left += [self.step(env, state, k) for k in range(done, self.blocks)]
        if not left:
            kinds = [(value.type.shape, getattr(torch, value.type.dtype)) for value in self.loop.collected]
            left = [tuple(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in kinds)]
        return (state, *map(torch.cat, zip(*left, strict=True)))

    def collect(self, env: Env, state: Tensor, init: Tensor, blocks: int) -> Values:
        """What the first ``blocks`` steps leave besides the array, from one that holds what they wrote.

        A test that it does not show, and that bounds do not settle either, counts as one that came out otherwise.
        """
        if self.besides is None:
            return ()
        left = self._with_besides(self.besides, env, state, 0, blocks)[1:]
        open_ = unsettled(self.loop, self.unseen, env, (init, state))
        shown = {test.name: test.holds is (test not in open_) for test in self.unseen}
        names = [value.name for value in self.loop.collected]
        return tuple(
            torch.full_like(t, shown[name]) if name in shown else t for name, t in zip(names, left, strict=True)
        )

    def _with_besides(self, besides: Tail, env: Env, state: Tensor, lo: int, hi: int) -> Values:
        """What blocks ``lo .. hi - 1`` write and leave, by the loop's own calls, in no memory of anything else."""
        everything = {**env, **self.all_seen(env, state), self.loop.carry.name: state}
        made = besides.all(Window(lo, hi, everything, True))
        others = {t.untyped_storage().data_ptr() for t in everything.values()}
        return tuple(t.clone() if t.untyped_storage().data_ptr() in others else t.contiguous() for t in made)

    def start_from(self, init: Tensor) -> Tensor:
        """A fresh state with the contents of ``init`` in the layout that the author's loop has."""
        kind = self.loop.carry.type
        return torch.empty_strided(kind.shape, kind.stride, dtype=init.dtype, device=init.device).copy_(init)

    def reset_from(self, state: Tensor, init: Tensor, front: int) -> Tensor:
        """A state whose blocks before ``front`` are those of ``state`` and whose others are as at the start."""
        fresh = self.start_from(init)
        if front:
            self.region.write(fresh, 0, front, self.region.read(state, 0, front))
        return fresh


def by_levels(system: System, wave: Wave, align: int = 1) -> System:
    """The same system with its blocks sorted by level."""
    loop = system.loop.in_order(wave.order)
    sorted_ = make_system(loop, wave.proof, system.device, align, wave.order)
    return replace(sorted_, levels=wave.ends)


def make_system(
    loop: ArrayLoop,
    proof: Proof,
    device: torch.device,
    align: int = 1,
    order: tuple[int, ...] = (),
    runs: Runs = ALONE,
) -> System:
    """``loop`` compiled for ``device``, for the sweeps that ``proof`` allows; its steps may be in another ``order``."""
    premises = proof.premises
    finite = tuple(dict.fromkeys(p.value for p in premises if isinstance(p, Finite | Bounded)))
    own = {node.name for node in loop.shared.nodes}
    extra = [ref for ref in map(Ref.of, finite) if ref.name in own]
    in_sweeps = {ref for node in loop.tail.nodes for ref in node.refs()} | {*loop.tail.outputs}
    shared = replace(loop.shared, outputs=tuple(ref for ref in loop.shared.outputs if ref in in_sweeps))
    axes = tuple(
        Indexed(axis.dim, tuple(int(v) for v in loop.tables[axis.table]), axis.length) for axis in loop.write.axes
    )
    return System(
        loop,
        device,
        graph_call(loop.invariant, device),
        graph_call(shared, device, extra, watched=True),
        Tail(loop, device, order),
        Positions(loop.carry.type.shape, axes),
        finite,
        {p.value: p.bound for p in premises if isinstance(p, Bounded)},
        premises,
        proof.reads,
        order=order,
        windowed=windowed_by(loop, proof.windows, device, align) if proof.windows is not None else None,
        runs=runs,
        besides=Tail(loop, device, besides=True) if loop.collected and not order else None,
        seen=graph_call(loop.shared, device, extra) if loop.collected else None,
        unseen=proof.unseen,
    )

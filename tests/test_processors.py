"""Schedules on so many workers: the arithmetic by hand, what must hold of any figures, and what is shown of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import SYSTEMS
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.choice.processors import (
    SIMULATED,
    Course,
    Simulation,
    critical_path,
    even_tasks,
    makespan,
    window_tasks,
)
from ffcompiler.cli import main
from ffcompiler.errors import UsageError
from ffcompiler.tell.explain import explain
from ffcompiler.tell.inspect import page
from ffcompiler.zoo.densenet import random_densenet

SECONDS = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=12).map(tuple)


def jacobi(seconds: tuple[float, ...], fronts: list[int]) -> Course:
    """The sweeps of Jacobi whose front moves as ``fronts`` say, from block 0 on."""
    return Course("jacobi", tuple(window_tasks(seconds, lo, len(seconds)) for lo in (0, *fronts[:-1])))


# ---------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("processors", "seconds"),
    [(1, 15.0), (2, 8.0), (3, 5.0), (4, 5.0), (5, 5.0), (100, 5.0)],
)
def test_the_longest_tasks_go_first_each_to_the_worker_that_is_free(processors: int, seconds: float) -> None:
    assert makespan((1.0, 2.0, 3.0, 4.0, 5.0), processors) == seconds


def test_tasks_of_one_length_take_turns() -> None:
    assert [makespan((2.0,) * 10, p) for p in (1, 3, 4, 10)] == [20.0, 8.0, 6.0, 2.0]


def test_no_tasks_take_no_time() -> None:
    assert makespan((), 3) == 0.0 and even_tasks(1.0, 0) == ()


def test_a_window_is_cut_into_runs_where_the_whole_chain_is() -> None:
    seconds = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    assert window_tasks(seconds, 0, 6, run=3) == (7.0, 56.0)
    assert window_tasks(seconds, 1, 5, run=3) == (6.0, 24.0)
    assert window_tasks(seconds, 2, 4) == (4.0, 8.0)
    assert window_tasks(seconds, 4, 4) == ()


def test_the_longest_way_goes_through_what_blocks_read() -> None:
    diamond = [(), (0,), (0,), (1, 2)]
    assert critical_path((1.0, 5.0, 2.0, 1.0), diamond) == 7.0
    assert critical_path((1.0, 2.0), [(), ()]) == 2.0 and critical_path((), []) == 0.0


def test_a_simulation_of_the_papers_kind_is_sweeps_times_the_slowest_block() -> None:
    """28 sweeps of DenseNet-201, each as long as its slowest layer: 2.13 times the speed (docs/processors.md)."""
    seconds = (0.467,) + ((27.855 - 0.467) / 97,) * 97
    course = Course("jacobi", (seconds,) * 28)
    (all_at_once,) = Simulation((98,), 98, sequential=sum(seconds), courses=(course,)).of(course)
    assert all_at_once.seconds == pytest.approx(28 * 0.467) and all_at_once.speedup == pytest.approx(2.13, abs=0.005)


def test_what_is_done_once_per_call_is_done_by_one_worker() -> None:
    course = Course("jacobi", (even_tasks(8.0, 8),))
    found = Simulation((1, 8), 8, sequential=20.0, once=1.0, courses=(course,)).of(course)
    assert [(m.seconds, m.speedup) for m in found] == [(9.0, 20 / 9), (2.0, 10.0)]


# ---------------------------------------------------------------------------------------------------- of any figures


@given(SECONDS, st.data())
def test_on_one_worker_sweeps_take_the_sum_of_their_blocks(seconds: tuple[float, ...], data: st.DataObject) -> None:
    n = len(seconds)
    fronts = sorted(data.draw(st.sets(st.integers(1, n), max_size=n)) | {n})
    course = jacobi(seconds, fronts)
    assert course.seconds(1) == pytest.approx(sum(sum(seconds[lo:]) for lo in (0, *fronts[:-1])))
    assert course.seconds(1) >= sum(seconds) * (1 - 1e-9)
    assert course.seconds(n) == pytest.approx(sum(max(seconds[lo:]) for lo in (0, *fronts[:-1])))


@given(SECONDS, st.integers(1, 15))
def test_a_makespan_lies_between_its_bounds_and_never_grows_with_workers(seconds: tuple[float, ...], p: int) -> None:
    now, bound = makespan(seconds, p), max(*seconds, sum(seconds) / p)
    assert bound * (1 - 1e-9) <= now <= (sum(seconds) / p + max(seconds)) * (1 + 1e-9)
    assert makespan(seconds, p + 1) <= now * (1 + 1e-9)


@given(SECONDS, st.data())
def test_levels_are_never_faster_than_the_critical_path(seconds: tuple[float, ...], data: st.DataObject) -> None:
    """Sweeps that iterate can be: that is what iteration is for."""
    n = len(seconds)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, n), max_size=n)) - {n}), n]
    level = [max(c for c in cuts if c <= k) for k in range(n)]
    reads = [data.draw(st.sets(st.integers(0, level[k] - 1))) if level[k] else set() for k in range(n)]
    waves = Course("wavefront", tuple(window_tasks(seconds, a, b) for a, b in pairwise(cuts)))
    path = critical_path(seconds, [sorted(r) for r in reads])
    for processors in (1, 2, n, 10 * n):
        assert waves.seconds(processors) >= path * (1 - 1e-9)
    assert path <= sum(seconds) * (1 + 1e-9)


# ---------------------------------------------------------------------------------------------------- of functions


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dense(images: Tensor) -> ffc.Compiled:
    """Five blocks: two dense layers, a transition, two dense layers."""
    model = random_densenet(layers=(2, 2), growth=4, classes=3)
    return ffc.compile(lambda images: model(images), (images,), cache=False)


def test_the_blocks_of_a_chain_are_measured_and_all_its_schedules_run(dense: ffc.Compiled) -> None:
    simulation = dense.explain(processors=(1, 2, 5)).simulated
    assert simulation is not None and simulation.blocks == 5 and simulation.path == pytest.approx(simulation.sequential)
    courses = {course.schedule: course for course in simulation.courses}
    assert set(courses) == {"jacobi", "jacobi-gs(3)"} and not any(course.stopped for course in courses.values())
    sweeps = courses["jacobi"].sweeps
    assert len(sweeps) <= 5 and len(sweeps[0]) == 5 and min(sweeps[0]) > 0.0
    assert sum(sweeps[0]) == pytest.approx(simulation.sequential)
    one, two, all_of_them = simulation.of(courses["jacobi"])
    assert one.seconds >= two.seconds >= all_of_them.seconds and one.speedup <= 1.0


@pytest.mark.parametrize("name", ["made_whole_then_sliced", "raster_2d"])
def test_steps_of_an_array_have_their_share_of_a_sweep(name: str) -> None:
    function, args = SYSTEMS[name].make()
    compiled = ffc.compile(function, args, schedule="jacobi")
    simulation = compiled.explain(processors=(1, SYSTEMS[name].blocks)).simulated
    assert simulation is not None and compiled.plan.costs is not None
    course = next(c for c in simulation.courses if c.schedule == "jacobi")
    costs, (one, many) = compiled.plan.costs, simulation.of(course)
    assert simulation.sequential == costs.step * SYSTEMS[name].blocks
    assert one.seconds == pytest.approx(costs.once + sum(map(sum, course.sweeps)))
    assert many.seconds == pytest.approx(costs.once + sum(map(max, course.sweeps)))


def test_a_repeated_map_has_nothing_for_a_second_worker() -> None:
    compiled = ffc.compile(halved, (torch.ones(3),), schedule="jacobi")
    simulation = compiled.explain(processors=(1, 9)).simulated
    assert simulation is not None
    one, nine = simulation.of(simulation.courses[0])
    assert one.seconds == nine.seconds and "nothing to do" in simulation.block


def halved(x: Tensor) -> Tensor:
    for _ in range(20):
        x = x / 2 + 1
    return x


def test_another_call_can_be_simulated_and_an_artifact_needs_one(
    dense: ffc.Compiled, images: Tensor, tmp_path: Path
) -> None:
    dense.save(tmp_path / "dense.ffc")
    loaded = ffc.load(tmp_path / "dense.ffc")
    with pytest.raises(UsageError, match="no example inputs"):
        loaded.explain(processors=(2,))
    for either in (dense, loaded):
        simulation = either.explain(processors=(2,), args=(images + 1,)).simulated
        assert simulation is not None and simulation.blocks == 5


def test_an_artifact_whose_proof_waits_for_arguments_is_proved_on_them(tmp_path: Path) -> None:
    def sample(noise: Tensor, weight: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = (torch.tanh(x @ weight.triu(1)) + noise)[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(noise))

    args = (torch.randn(2, 6), torch.randn(6, 6))
    ffc.compile(sample, args, schedule="jacobi").save(tmp_path / "x.ffc")
    simulation = ffc.load(tmp_path / "x.ffc").explain(processors=(1, 6), args=args).simulated
    assert simulation is not None and simulation.blocks == 6 and simulation.courses


def two_loops(noise: Tensor) -> Tensor:
    """Two array loops in a row."""
    weight = torch.ones(6, 6).triu(1) / 6

    def step(i: int, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, i] = (torch.tanh(x @ weight) + noise)[:, i]
        return x

    first = ffc.fori_loop(0, 6, step, torch.zeros_like(noise))
    return ffc.fori_loop(0, 4, step, first * 0.5)


def test_the_parts_of_a_function_are_simulated_one_by_one(tmp_path: Path) -> None:
    noise = torch.randn(2, 6)
    compiled = ffc.compile(two_loops, (noise,), cache=False)
    assert len(compiled.plan.parts) == 2
    compiled.save(tmp_path / "x.ffc")
    for found in (
        compiled.explain(processors=(1, 6)),
        compiled.explain(processors=(1, 6), args=(noise + 1,)),
        ffc.load(tmp_path / "x.ffc").explain(processors=(1, 6), args=(noise,)),
    ):
        simulations = [part.simulated for part in found.parts]
        assert [one and one.blocks for one in simulations] == [6, 4]
        assert str(found).count(SIMULATED) == 2


def test_a_function_that_stays_sequential_says_that_workers_have_nothing_to_do() -> None:
    function, args = SYSTEMS["leaking"].make()
    found = ffc.compile(function, args).explain(processors=(1, 8))
    assert SIMULATED in str(found) and "no parallel schedule is sound" in str(found)
    assert found.json["simulated"]["schedules"] == []


@pytest.mark.parametrize("processors", [(0,), (1, -2), (True,), (2.0,)])
def test_a_number_of_workers_that_is_none_is_refused(processors: tuple[int, ...]) -> None:
    function, args = SYSTEMS["one_step"].make()
    with pytest.raises(UsageError, match="whole numbers from 1 on"):
        ffc.compile(function, args).explain(processors=processors)


def test_a_schedule_that_takes_too_long_is_stopped_and_its_figures_are_bounds(
    dense: ffc.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffcompiler.choice.workers.BUDGET", -1.0)
    simulation = dense.explain(processors=(1, 5)).simulated
    assert simulation is not None
    course = next(c for c in simulation.courses if c.schedule == "jacobi")
    assert len(course.sweeps) == 1 and course.stopped.startswith("stopped at block 1 of 5: after")
    line = next(line for line in str(simulation).split("\n") if line.startswith("  jacobi "))
    assert line.count("> ") == 2 and line.count("< ") == 2


def test_simulating_leaves_the_random_state_as_it_is(dense: ffc.Compiled) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    dense.explain(processors=(2,))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------------- what is shown

SHOWN = """\
  - seconds of a block: measured one by one
  - workers wait for each other after every sweep; nothing is sent between them, nothing is compared
  - the sweeps are those of runs without the guard
  - one worker, block after block: 4 s; the longest way through the blocks: 4 s
  schedule   sweeps         P=1           P=4
  jacobi          2   7 s 0.57x     2 s 2.00x
  sliding(2)      1  > 2 s < 2.00x  > 1 s < 4.00x  stopped at block 1 of 4: raised"""


def simulation() -> Simulation:
    ones = (1.0,) * 4
    stopped = Course("sliding(2)", (ones[:2],), "stopped at block 1 of 4: raised")
    return Simulation((1, 4), 4, "measured one by one", 4.0, 0.0, 4.0, (jacobi(ones, [1, 4]), stopped))


def test_the_text_is_a_table_that_says_what_it_assumes() -> None:
    assert [line.split() for line in str(simulation()).split("\n")] == [line.split() for line in SHOWN.split("\n")]


def test_text_and_data_of_an_explanation_say_that_it_is_a_simulation() -> None:
    function, args = SYSTEMS["one_step"].make()
    plan = ffc.compile(function, args).plan
    text, data = str(explain(plan, simulated=[simulation()])), explain(plan, simulated=[simulation()]).json
    assert f"\n\n{SIMULATED}\n" in text and data["simulated"]["what"] == SIMULATED
    (jacobi_data, stopped) = json.loads(json.dumps(data))["simulated"]["schedules"]
    assert jacobi_data["simulated"][1] == {"processors": 4, "seconds": 2.0, "speedup": 2.0}
    assert stopped["stopped"].startswith("stopped at") and stopped["sweeps"] == 1
    assert explain(plan).json["simulated"] is None and SIMULATED not in str(explain(plan))


def test_nothing_took_no_time_at_all() -> None:
    course = Course("jacobi", ())
    assert Simulation((1,), courses=(course,)).of(course)[0].speedup == math.inf


def test_the_page_says_so_too_and_escapes_what_it_shows() -> None:
    function, args = SYSTEMS["one_step"].make()
    plan = ffc.compile(function, args, cache=False).plan
    html = page(plan, simulated=[simulation()])
    assert HEADING in html and "&gt; 2 s &lt; 2.00x" in html
    assert HEADING not in page(plan)


SOURCE = """
import torch
from ffcompiler.zoo.densenet import random_densenet

model = random_densenet(layers=(2, 2), growth=4, classes=3)

def classify(images):
    return model(images)

classify.example_inputs = lambda: (torch.ones(1, 3, 32, 32),)
"""
HEADING = "Simulated on P workers, not measured"
TARGET = "dense_for_the_cli:classify"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module in it."""
    (tmp_path / "dense_for_the_cli.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_shows_the_simulation(
    here: Path, capsys: pytest.CaptureFixture[str], golden: Callable[[str], None]
) -> None:
    """Golden text, its figures taken out."""
    assert main(["explain", TARGET, "--processors", "1,8,98", "--quiet"]) == 0
    out = capsys.readouterr().out
    section = out[out.index(SIMULATED) : out.index("what would change")]
    golden(re.sub(r" +", " ", re.sub(r"\d[\d.e-]*(?= s|x)", "#", section.strip())))
    assert main(["explain", TARGET, "--processors", "2", "--json", "--quiet"]) == 0
    (jacobi_data, *_) = json.loads(capsys.readouterr().out)["simulated"]["schedules"]
    assert jacobi_data["simulated"][0]["processors"] == 2


def test_inspect_writes_it_into_its_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", TARGET, "--processors", "1,8", "-o", "page.html", "--quiet"]) == 0
    assert HEADING in (here / "page.html").read_text(encoding="utf-8")
    assert main(["inspect", TARGET, "--processors", "1,8", "--quiet"]) == 2
    assert "for a page" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["1,0", "one", "1,,2", ""])
def test_numbers_of_workers_that_are_none_are_a_usage_error(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", TARGET, "--processors", words]) == 2
    assert "usage:" in capsys.readouterr().err

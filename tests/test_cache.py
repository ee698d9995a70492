"""The plan cache: a choice is found again in the same circumstances only, and no file can make a compilation fail."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import ALL, MADE, RECURRENCE, TWO_PARTS

import ffcompiler as ffc
from ffcompiler import deciding, doctor
from ffcompiler.cli import main
from ffcompiler.plan import Candidate, Costs, Method, Plan, Schedule, Tolerance
from ffcompiler.stored import cache, circumstances
from ffcompiler.stored.cache import Asked, Circumstances, PlanCache, plan_cache, usual_folder

NOW = Circumstances((("wanted", "None"),), "0" * 64, (("versions: torch", "2.13.0"),))
JACOBI = Schedule(Method.JACOBI)


def undecided(plan: Plan) -> Plan:
    """The plan as capture and proof give it."""
    rest = None if plan.rest is None else undecided(plan.rest)
    return replace(plan, **cache.UNDECIDED, rest=rest)


def decided(plan: Plan) -> Plan:
    """The plan with a choice made."""
    costs = Costs(0.5, 0.25, 0.25, 0.125, ((2, 0.1), (4, 0.2)))
    tried = (Candidate(Schedule(Method.SEQUENTIAL), 6.0, 0, "the reference"), Candidate(JACOBI, 1.5, 6, "fine", 6))
    return replace(plan, schedule=JACOBI, why="it is the fastest", costs=costs, candidates=tried)


ASKED = Asked(undecided(MADE), NOW)
CHOSEN = decided(ASKED.plan)


@pytest.fixture
def plans(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


@pytest.fixture
def kept(plans: PlanCache) -> Path:
    """The one file of `plans`."""
    plans.keep(ASKED, CHOSEN, "made:sample", "0.10 on 2 cores")
    (path,) = plans.folder.iterdir()
    return path


# ---------------------------------------------------------------------------------------------------- found


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_choice_comes_back_as_it_was_made(name: str, plans: PlanCache) -> None:
    asked = Asked(undecided(ALL[name]), NOW)
    chosen = decided(asked.plan) if ALL[name].array and ALL[name].refusal is None else replace(asked.plan, why="told")
    plans.keep(asked, chosen, "made:sample", "")
    found = plans.look_up(asked)
    assert found is not None
    assert found.plan == chosen
    assert str(found.plan) == str(chosen)


def test_a_choice_for_several_parts_comes_back_whole(plans: PlanCache) -> None:
    asked = Asked(undecided(TWO_PARTS), NOW)
    plans.keep(asked, TWO_PARTS, "", "")
    found = plans.look_up(asked)
    assert found is not None
    assert found.plan == TWO_PARTS
    assert found.plan.parts[1].costs is not None


def moved(plan: Plan) -> Plan:
    """The same plan, captured from a file in which every line stands elsewhere."""
    assert plan.array is not None and plan.program is not None
    nodes = tuple(replace(n, source=f"other.py:{k}") for k, n in enumerate(plan.array.shared.nodes))
    loop = replace(plan.array, shared=replace(plan.array.shared, nodes=nodes))
    return replace(plan, program=replace(plan.program, loop=loop))


def test_lines_of_the_users_file_may_move_and_stay_those_of_now(plans: PlanCache, kept: Path) -> None:
    asked = Asked(moved(ASKED.plan), NOW)
    found = plans.look_up(asked)
    assert asked.plan != ASKED.plan
    assert found is not None
    assert found.plan == decided(asked.plan)


def test_a_choice_says_when_and_how_busy(plans: PlanCache, kept: Path) -> None:
    found = plans.look_up(ASKED)
    assert found is not None
    assert abs(time.time() - found.head.measured) < 60
    assert found.head.day.endswith(" UTC")
    assert (found.head.function, found.head.load, found.head.schedule) == ("made:sample", "0.10 on 2 cores", "jacobi")
    assert found.head.speedup == 4.0


def test_a_choice_made_again_replaces_the_last(plans: PlanCache, kept: Path) -> None:
    other = replace(CHOSEN, schedule=Schedule(Method.WAVEFRONT))
    plans.keep(ASKED, other, "", "")
    found = plans.look_up(ASKED)
    assert list(plans.folder.iterdir()) == [kept]
    assert found is not None
    assert found.plan == other


# ---------------------------------------------------------------------------------------------------- not found


def renamed(plan: Plan) -> Plan:
    assert plan.program is not None
    return replace(plan, program=replace(plan.program, result=replace(plan.program.result, tree="[*]")))


OTHERS: dict[str, Asked] = {
    "program": Asked(renamed(ASKED.plan), NOW),
    "equality": Asked(replace(ASKED.plan, equality=Tolerance(1e-3, 1e-3)), NOW),
    "device": Asked(replace(ASKED.plan, device="cuda"), NOW),
    "premises": Asked(replace(ASKED.plan, premises=ASKED.plan.premises[1:]), NOW),
    "align": Asked(replace(ASKED.plan, align=16), NOW),
    "padded": Asked(replace(ASKED.plan, padded=True), NOW),
    "refusal": Asked(replace(ASKED.plan, refusal="no"), NOW),
    "rest": Asked(replace(ASKED.plan, rest=undecided(RECURRENCE)), NOW),
    "options": Asked(ASKED.plan, replace(NOW, options=(("wanted", "jacobi"),))),
    "weights": Asked(ASKED.plan, replace(NOW, weights="1" * 64)),
    "settings": Asked(ASKED.plan, replace(NOW, settings=(("versions: torch", "2.12.0"),))),
}


@pytest.mark.parametrize("what", sorted(OTHERS))
def test_another_question_is_not_answered(what: str, plans: PlanCache, kept: Path) -> None:
    assert plans.look_up(OTHERS[what]) is None
    assert plans.look_up(ASKED) is not None


def test_every_field_of_a_plan_is_either_asked_for_or_decided() -> None:
    assert {f.name for f in fields(Plan)} == {*cache.UNDECIDED, "program", *OTHERS} - {"options", "weights", "settings"}


@pytest.mark.parametrize("what", sorted(OTHERS))
def test_a_file_under_another_name_is_passed_over(
    what: str, plans: PlanCache, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the name says: what is asked for is compared with what is in the file."""
    kept.rename(plans.folder / f"{OTHERS[what].key}.plan")
    assert plans.look_up(OTHERS[what]) is None
    assert "another plan than its name says" in caplog.text


def test_what_calibration_refused_is_not_kept(plans: PlanCache) -> None:
    wrong = replace(ASKED.plan, premises=(), refusal="on the example inputs a parallel run went wrong")
    plans.keep(ASKED, wrong, "", "")
    assert plans.entries() == []


def test_a_choice_expires(plans: PlanCache, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for days, found in ((29, True), (31, False), (-2, False)):
        monkeypatch.setattr(cache, "now", lambda days=days: now + days * cache.DAY)
        assert (plans.look_up(ASKED) is not None) == found
        assert plans.entries()[0].head.expired != found


# ---------------------------------------------------------------------------------------------------- damage


def cut(data: bytes) -> bytes:
    return data[:-20]


def flipped(at: float) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        k = int(at * (len(data) - 1))
        return data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]

    return flip


def signed(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def changed(*texts: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    """The file with other content and the right SHA-256."""

    def change(data: bytes) -> bytes:
        content = data.partition(b"\n")[2]
        for old, new in texts:
            assert old in content
            content = content.replace(old, new)
        return signed(content)

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"hello\n",
    "cut": cut,
    "longer": lambda data: data + b"\n",
    **{f"bit at {at}": flipped(at) for at in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)},
    "no plan": lambda data: signed(b"{}\n"),
    "not JSON": lambda data: signed(b"\xff\n\xff\n"),
    "other format": changed((b'"format":1', b'"format":2')),
    "unknown schedule": changed((b'"jacobi"', b'"jacoby"')),
    "impossible schedule": changed((b'"method":"jacobi","block":null', b'"method":"jacobi","block":7')),
    "infinite costs": changed((b'"sweep":0.25', b'"sweep":{"float":"inf"}')),
    "negative costs": changed((b'"sweep":0.25', b'"sweep":-0.25')),
    "another equality": changed((b'"Bits":{}', b'"Tolerance":{"rtol":1.0,"atol":1.0}')),
    "a refusal": changed((b'"refusal":null', b'"refusal":"no"')),
    "another program": changed((b"aten.exp.default", b"aten.sin.default")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_passed_over_with_one_line_and_replaced(
    damage: Callable[[bytes], bytes], plans: PlanCache, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.write_bytes(damage(kept.read_bytes()))
    assert plans.look_up(ASKED) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert kept.name in line and "will be replaced" in line
    assert line.isprintable()
    plans.keep(ASKED, CHOSEN, "", "")
    assert plans.look_up(ASKED) is not None


def test_a_file_that_is_too_large_is_not_read(
    plans: PlanCache, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 100)
    assert plans.look_up(ASKED) is None
    assert "no file of the plan cache" in caplog.text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_passed_over(make: Callable[[Path], None], plans: PlanCache, kept: Path) -> None:
    kept.unlink()
    make(kept)
    assert plans.look_up(ASKED) is None
    plans.keep(ASKED, CHOSEN, "", "")  # cannot be replaced, and is no error


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ffcompiler")
    (tmp_path / "file").write_text("")
    nowhere = PlanCache(tmp_path / "file" / "plans")
    nowhere.keep(ASKED, CHOSEN, "", "")
    assert nowhere.look_up(ASKED) is None
    assert "cannot be cached" in caplog.text


def test_a_plan_that_no_file_can_hold_is_not_kept(plans: PlanCache) -> None:
    huge = Asked(replace(ASKED.plan, align=2**70), NOW)
    assert plans.look_up(huge) is None
    plans.keep(huge, decided(huge.plan), "", "")
    assert plans.entries() == []


# ---------------------------------------------------------------------------------------------------- the folder


def numbered(k: int) -> Asked:
    return Asked(ASKED.plan, replace(NOW, weights=f"{k:064x}"))


def keep_numbered(plans: PlanCache, k: int, used: float) -> None:
    plans.keep(numbered(k), CHOSEN, f"made:sample{k}", "")
    os.utime(plans.folder / f"{numbered(k).key}.plan", (used, used))


def test_the_least_recently_used_go_first(plans: PlanCache, kept: Path) -> None:
    size = kept.stat().st_size
    small = replace(plans, limit_bytes=int(3.5 * size))
    kept.unlink()
    for k in range(3):
        keep_numbered(small, k, time.time() - 100 + k)
    assert small.look_up(numbered(0)) is not None  # used now
    keep_numbered(small, 3, time.time())
    assert [small.look_up(numbered(k)) is not None for k in range(4)] == [True, False, True, True]


def test_what_alone_is_above_the_limit_is_not_kept(plans: PlanCache) -> None:
    tiny = replace(plans, limit_bytes=10)
    tiny.keep(ASKED, CHOSEN, "", "")
    assert tiny.entries() == []


def test_what_was_not_used_for_a_month_goes(plans: PlanCache) -> None:
    keep_numbered(plans, 0, time.time() - 31 * cache.DAY)
    keep_numbered(plans, 1, time.time())
    assert [entry.key for entry in plans.entries()] == [numbered(1).key]


def test_entries_are_listed_damaged_ones_too(plans: PlanCache, kept: Path) -> None:
    (plans.folder / "notes.txt").write_text("not ours")
    (plans.folder / f"{'0' * 32}.plan").write_bytes(b"damaged")
    good, bad = plans.entries()
    assert (good.key, good.head is not None, good.bytes) == (ASKED.key, True, kept.stat().st_size)
    assert (bad.key, bad.head, bad.bytes) == ("0" * 32, None, 7)


def test_clearing_removes_plans_and_nothing_else(plans: PlanCache, kept: Path) -> None:
    notes, temporary, fresh = (plans.folder / name for name in ("notes.txt", ".ffc-a-1-0.tmp", ".ffc-b-2-0.tmp"))
    for path in (notes, temporary, fresh):
        path.write_text("")
    os.utime(temporary, (0, 0))  # of a process that ended long ago
    assert plans.clear() == 1
    assert sorted(plans.folder.iterdir()) == sorted([notes, fresh])
    assert plans.clear() == 0


def test_clearing_by_key(plans: PlanCache) -> None:
    for k in range(3):
        keep_numbered(plans, k, time.time())
    assert plans.clear([numbered(1).key[:10]]) == 1
    assert [plans.look_up(numbered(k)) is not None for k in range(3)] == [True, False, True]
    with pytest.raises(ffc.UsageError, match="no plan has a key that begins with 'xyz'"):
        plans.clear([numbered(0).key, "xyz"])
    with pytest.raises(ffc.UsageError, match="2 plans have keys"):
        plans.clear([""])
    assert len(plans.entries()) == 2


def test_a_folder_that_does_not_exist_is_an_empty_cache(plans: PlanCache) -> None:
    assert plans.look_up(ASKED) is None
    assert plans.entries() == []
    assert plans.clear() == 0


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_cache import ASKED, CHOSEN, numbered
from ffcompiler.stored.cache import PlanCache
plans = PlanCache(Path(sys.argv[1]), limit_bytes=int(sys.argv[3]))
for k in range(30):
    plans.keep(numbered(k % 4), CHOSEN, "", "")
    found = plans.look_up(numbered((k + 1) % 4))
    assert found is None or found.plan == CHOSEN
    if k % 10 == 9:
        plans.clear()
"""


def test_processes_share_a_folder(plans: PlanCache, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files come, are replaced, trimmed and cleared at once: each is found whole or not at all, and nothing is left."""
    limit = str(3 * kept.stat().st_size)
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(plans.folder), str(Path(__file__).parent), limit]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        for k in range(4):
            found = plans.look_up(numbered(k))
            assert found is None or found.plan == CHOSEN
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert caplog.records == []
    assert all(path.suffix == ".plan" for path in plans.folder.iterdir())


def test_threads_share_a_folder(plans: PlanCache) -> None:
    wrong: list[object] = []

    def work() -> None:
        for k in range(20):
            plans.keep(numbered(k % 3), CHOSEN, "", "")
            found = plans.look_up(numbered(k % 3))
            if found is None or found.plan != CHOSEN:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------------------------------------------- where


@pytest.fixture
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FFCOMPILER_CACHE")


def test_the_folder_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_folder() == tmp_path / "ffcompiler"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for odd in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", odd)
        assert usual_folder() == tmp_path / "home" / ".cache" / "ffcompiler"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert usual_folder() == tmp_path / "home" / ".cache" / "ffcompiler"


@pytest.mark.usefixtures("_switched_on")
def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert plan_cache(True) is None
    assert main(["cache", "path"]) == 2


def test_the_argument_and_the_environment_say_which_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for switch in ("", "1"):
        monkeypatch.setenv("FFCOMPILER_CACHE", switch)
        assert plan_cache(True) == PlanCache(Path(os.environ["XDG_CACHE_HOME"]) / "ffcompiler")
        assert plan_cache(str(tmp_path)) == plan_cache(tmp_path) == PlanCache(tmp_path)
        assert plan_cache(False) is None
    monkeypatch.setenv("FFCOMPILER_CACHE", "0")
    assert plan_cache(True) is plan_cache(tmp_path) is None
    monkeypatch.setenv("FFCOMPILER_CACHE", "off")
    with pytest.raises(ffc.UsageError, match="FFCOMPILER_CACHE is 'off'"):
        plan_cache(True)


@pytest.mark.usefixtures("_switched_on")
def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for odd in (tmp_path / "file", 7):
        with pytest.raises(ffc.UsageError, match="folder"):
            plan_cache(odd)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- compile

DIMS = 6


class Sampler(torch.nn.Module):
    """Small, and its example is drawn anew whenever it is asked for."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.triu(torch.randn(DIMS, DIMS), 1) * scale, requires_grad=False)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        def step(i: int, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[:, i] = (torch.tanh(x @ self.weight) + noise)[:, i]
            return x

        return ffc.fori_loop(0, DIMS, step, torch.zeros_like(noise))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sampler]:
    """A sampler that was compiled once, with a cache of its own."""
    monkeypatch.delenv("FFCOMPILER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = Sampler()
    assert compiled(model).measured is None
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield model
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


def compiled(model: Callable[..., Any], batch: int = 3, **options: Any) -> ffc.Compiled:
    return ffc.compile(model, (torch.randn(batch, DIMS, dtype=torch.float32),), **options)


def test_the_second_compilation_measures_nothing_and_gives_the_same_plan(
    model: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same bits, on inputs that neither has seen."""
    noise = torch.randn(3, DIMS)
    options = {"schedule": "jacobi", "cache": tmp_path / "own"}
    first = compiled(model, **options)

    def measure(*_: object) -> None:
        raise AssertionError("it is measured again")

    monkeypatch.setattr(deciding, "calibrate", measure)
    second = compiled(model, **options)
    assert second.measured is not None
    assert second.plan == first.plan
    assert str(second.plan) == str(first.plan)
    assert torch.equal(second(noise), model(noise))
    assert torch.equal(second(noise), first(noise))
    assert second.verify(noise).equal


def test_every_choice_that_is_made_is_kept(model: Sampler, tmp_path: Path) -> None:
    """Whatever calibration decides is among the fields that a file may give: otherwise nothing would be kept."""

    def recurrence(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 5, lambda i, h: torch.tanh(h + i * x), torch.zeros_like(x))

    def repeated(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 5, lambda i, h: torch.tanh(h + x), torch.zeros_like(x))

    def in_a_row(x: torch.Tensor) -> torch.Tensor:
        return model(model(x) + x)

    for function in (model, recurrence, repeated, in_a_row):
        for options in ({}, {"equality": ffc.tolerance()}):
            first, second = (compiled(function, cache=tmp_path / "own", **options) for _ in range(2))
            assert first.measured is None
            if any(part.refusal is None for part in first.plan.parts):
                assert second.measured is not None
                assert second.plan == first.plan
    assert len(first.plan.parts) == 2


def test_the_values_of_the_example_are_no_part_of_the_question(model: Sampler) -> None:
    assert compiled(model).measured is not None


def test_inputs_that_were_given_to_calibrate_on_are(model: Sampler) -> None:
    given = [(torch.zeros(3, DIMS),), (torch.ones(3, DIMS),)]
    assert compiled(model, calibration=given).measured is None
    assert compiled(model, calibration=given).measured is not None
    assert compiled(model, calibration=given[:1]).measured is None
    assert compiled(model, calibration=given[::-1]).measured is None


def test_explain_says_that_the_choice_was_made_before(model: Sampler) -> None:
    again = compiled(model)
    assert f"from the plan cache, measured on {again.measured}" in str(again.explain())
    assert any("plan cache" in line for line in again.explain().json["why"])
    assert "plan cache" not in str(compiled(model, cache=False).explain())


def test_other_signatures_are_found_too(model: Sampler) -> None:
    first, second = compiled(model), compiled(model)
    noise = torch.randn(5, DIMS)
    assert first.warm(noise).measured is None
    assert second.warm(noise).measured is not None


@pytest.mark.parametrize(
    "options",
    [{"schedule": "jacobi"}, {"equality": ffc.tolerance()}, {"batch": 4}, {"budget": 2.0}, {"memory_limit": 2**40}],
    ids=["schedule", "equality", "shape", "budget", "memory limit"],
)
def test_another_option_is_measured(options: dict[str, Any], model: Sampler) -> None:
    assert compiled(model, **options).measured is None


def test_another_weight_is_measured_be_it_by_one_bit(model: Sampler) -> None:
    bits = model.weight.view(torch.int32)
    bits[0, 1] ^= 1
    assert compiled(model).measured is None
    bits[0, 1] ^= 1
    assert compiled(model).measured is not None


def test_another_function_is_measured(model: Sampler) -> None:
    assert compiled(lambda noise: model(noise) * 2).measured is None


def test_another_number_of_threads_is_measured(model: Sampler) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)
    assert compiled(model).measured is None


def test_another_setting_of_torch_is_measured(model: Sampler) -> None:
    torch.set_float32_matmul_precision("medium")
    assert compiled(model).measured is None


@pytest.mark.parametrize("name", ["torch", "ffcompiler"])
def test_another_version_is_measured(name: str, model: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda asked: "99.0" if asked == name else real(asked))
    assert compiled(model).measured is None


def test_another_processor_is_measured(model: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_processor", lambda: "another one")
    assert compiled(model).measured is None


def test_another_build_of_this_package_is_measured(model: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "_own_source", lambda: "0" * 64)
    assert compiled(model).measured is None


def test_a_compilation_for_the_cpu_does_not_wake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that did, the children that it forks cannot use CUDA."""

    def wake() -> bool:
        raise AssertionError("CUDA is asked for")

    monkeypatch.setattr(torch.cuda, "is_available", wake)
    monkeypatch.setattr(torch.cuda, "device_count", wake)
    assert doctor.surroundings("cpu")


def test_a_compilation_for_cuda_counts_its_devices_and_settings() -> None:
    known = {f"{f.group}: {f.name}" for f in doctor.surroundings("cuda")}
    assert {"settings that decide bits: TF32 in matmul", "settings that decide bits: cudnn.benchmark"} <= known
    assert any(name.startswith("devices: cuda") for name in known)


def test_the_load_of_the_machine_does_not_matter(model: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    assert compiled(model).measured is not None


def test_nothing_is_looked_up_or_kept_where_the_cache_is_off(
    model: Sampler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert compiled(model, cache=False).measured is None
    monkeypatch.setenv("FFCOMPILER_CACHE", "0")
    assert compiled(model).measured is None
    assert compiled(model, cache=tmp_path / "own").measured is None
    assert not (tmp_path / "own").exists()


def test_a_damaged_file_does_not_disturb_a_compilation(model: Sampler, caplog: pytest.LogCaptureFixture) -> None:
    folder = usual_folder()
    assert folder is not None
    (path,) = folder.iterdir()
    path.write_bytes(b"damaged")
    noise = torch.randn(3, DIMS)
    again = compiled(model)
    assert again.measured is None
    assert torch.equal(again(noise), model(noise))
    assert "will be replaced" in caplog.text
    assert compiled(model).measured is not None


def test_a_schedule_that_is_not_sound_is_not_made_so_by_a_file(model: Sampler, tmp_path: Path) -> None:
    """What the proof refuses now is refused, whatever is in the folder: a plan with a refusal is not looked up."""
    sound = compiled(model, schedule="jacobi", cache=tmp_path)
    with torch.no_grad():
        model.weight.copy_(torch.ones(DIMS, DIMS))
    with pytest.raises(ffc.CausalityError):
        compiled(model, schedule="jacobi", cache=tmp_path)
    assert sound.plan.schedule == JACOBI


PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_cache import Sampler, compiled
print(compiled(Sampler(), cache=sys.argv[2]).measured)
"""


@pytest.mark.usefixtures("_switched_on")
def test_another_process_finds_the_choice(tmp_path: Path) -> None:
    """Names, orders of sets and the seed of hashes are no part of the question."""
    told = []
    for seed in ("1", "2"):
        command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(Path(__file__).parent), str(tmp_path)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        told.append(done.stdout.strip())
    assert told[0] == "None"
    assert told[1].endswith("UTC")


# ---------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_is_of_every_bit_and_every_name() -> None:
    plain = torch.arange(6.0).reshape(2, 3)
    known = circumstances.fingerprint({"a": plain})
    assert known == circumstances.fingerprint({"a": plain.clone().t().contiguous().t()})
    zero = plain.clone()
    zero[0, 0] = -0.0
    others = [{"b": plain}, {"a": plain, "c": plain}, {"a": zero}, {"a": plain + 1}, {}]
    assert len({known, *map(circumstances.fingerprint, others)}) == 6


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float64, torch.complex64])
def test_a_fingerprint_is_made_of_any_dtype(dtype: torch.dtype) -> None:
    ones, zeros = torch.ones(2, 3, dtype=dtype), torch.zeros(2, 3, dtype=dtype)
    made = {circumstances.fingerprint({"a": t}) for t in (ones, zeros, ones[0, 0], ones[:0], ones.expand(4, 2, 3))}
    assert len(made) == 5


def test_a_conjugate_is_another_value() -> None:
    z = torch.tensor([1 + 2j])
    assert circumstances.fingerprint({"a": z}) != circumstances.fingerprint({"a": z.conj()})


# ---------------------------------------------------------------------------------------------------- the command


TINY = f"""
import torch
from test_cache import Sampler

sample = Sampler()
sample.example_inputs = lambda: torch.randn(2, {DIMS})
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function that can be named on the command line, in a folder of its own; the cache is empty."""
    monkeypatch.delenv("FFCOMPILER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny_for_the_cache.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "tiny_for_the_cache:sample"


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    got = main(words)
    out, err = capsys.readouterr()
    assert got == code, out + err
    return out + err


def test_compile_tells_that_the_choice_was_made_before(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plan cache" not in printed(capsys, "compile", tiny)
    assert "from the plan cache" in printed(capsys, "compile", tiny, "--force")
    assert json.loads(printed(capsys, "compile", tiny, "--force", "--json"))["measured"].endswith("UTC")
    assert json.loads(printed(capsys, "compile", tiny, "--force", "--json", "--no-cache"))["measured"] is None
    assert "from the plan cache" in printed(capsys, "explain", tiny)
    assert "plan cache" not in printed(capsys, "explain", tiny, "--no-cache")


def test_cache_ls_clear_and_path(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(usual_folder())
    assert printed(capsys, "cache", "ls") == f"0 plans, 0 B, in {folder}\n"
    printed(capsys, "compile", tiny)
    head, row, total = printed(capsys, "cache", "ls").splitlines()
    assert head.split() == ["key", "measured", "size", "device", "speed", "schedule", "function"]
    assert "test_cache:Sampler" in row and " cpu " in row
    assert total.startswith("1 plan, ") and total.endswith(folder)
    (plan,) = json.loads(printed(capsys, "cache", "ls", "--json"))["plans"]
    assert plan["key"].startswith(row.split()[0])
    assert plan["readable"] and not plan["expired"] and plan["settings"]["versions: torch"] == torch.__version__
    assert printed(capsys, "cache", "path") == f"{folder}\n"
    assert "no plan has a key" in printed(capsys, "cache", "clear", "nonsense", code=2)
    assert printed(capsys, "cache", "clear", row.split()[0]) == f"removed 1 plan from {folder}\n"
    assert json.loads(printed(capsys, "cache", "clear", "--json"))["removed"] == 0


def test_cache_ls_shows_what_cannot_be_read_and_what_has_expired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = PlanCache(tmp_path)
    own.keep(ASKED, CHOSEN, "made:\x1b[31msample", "")
    (tmp_path / f"{'0' * 32}.plan").write_bytes(b"damaged")
    later = time.time() + 40 * cache.DAY
    monkeypatch.setattr(cache, "now", lambda: later)
    shown = printed(capsys, "cache", "ls", "--folder", str(tmp_path))
    assert "cannot be read" in shown and "(expired)" in shown and "4.0x" in shown
    assert "\x1b" not in shown
    listed = json.loads(printed(capsys, "cache", "ls", "--json", "--folder", str(tmp_path)))["plans"]
    assert [plan["readable"] for plan in listed] == [True, False]


@pytest.mark.parametrize(
    "words", [["cache"], ["cache", "rm"], ["cache", "ls", "extra"], ["cache", "ls", "--folder", __file__]]
)
def test_cache_refuses_what_it_does_not_know(words: list[str]) -> None:
    assert main(words) == 2


def test_cache_ls_does_not_load_torch() -> None:
    code = "import sys; from ffcompiler.cli import main; main(['cache', 'ls']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

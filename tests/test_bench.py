"""The harness: interleaving, raw numbers, and a busy machine that is found out. No time is asserted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from ffcompiler.bench import capture as captures
from ffcompiler.bench import harness, recurrences, samplers
from ffcompiler.bench.harness import Clock, Load, Moment, load_between, measure, pinned_threads
from ffcompiler.bench.rewrites import fold_masks
from ffcompiler.cli import main
from ffcompiler.cli.parser import BENCHMARKS, RECURRENCES
from ffcompiler.cli.terminal import to_json
from ffcompiler.zoo import made, pixelcnn
from ffcompiler.zoo.made import MADE, MaskedLinear, logistic_noise
from ffcompiler.zoo.pixelcnn import MaskedConv2d, PixelCNN

CPU = torch.device("cpu")
QUIET = Moment(0.0, 0.01, 0.1)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "moment", lambda: QUIET)
    monkeypatch.setattr(samplers, "moment", lambda: QUIET)
    monkeypatch.setattr("ffcompiler.runtime.guard.SLACK", 1e9)  # a tiny model is rarely worth a sweep
    monkeypatch.setattr("ffcompiler.cli.bench.moment", lambda: QUIET)


def tiny() -> MADE:
    torch.manual_seed(0)
    return MADE(16, (8, 8)).eval().requires_grad_(False)


def tiny_pixelcnn() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(4, (3, 3), levels=4).eval().requires_grad_(False)


def small_subject(name: str, load: Any, sample: Any, noise: Any) -> samplers.Subject:
    return samplers.Subject(name, f"a small {name}", load, sample, noise)


SMALL = {
    "made": small_subject("made", tiny, made.sample, lambda batch: logistic_noise(batch, 0, 16)),
    "pixelcnn": small_subject("pixelcnn", tiny_pixelcnn, pixelcnn.sample, lambda b: pixelcnn.gumbel_noise(b, 0, 5, 4)),
}


def test_variants_are_interleaved_and_every_time_is_kept():
    calls: list[str] = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "AB"}
    measurement = measure(variants, 3, CPU, warm_up={"A": 2})
    assert "".join(calls) == "AAB" + "ABABAB"
    assert {name: len(times) for name, times in measurement.seconds.items()} == {"A": 3, "B": 3}


def test_a_ratio_is_the_median_over_pairs():
    measurement = measure({"A": int, "B": int}, 1, CPU)
    measurement.seconds = {"A": [2.0, 90.0, 4.0], "B": [1.0, 1.0, 1.0]}
    assert measurement.ratio("A", "B") == 4.0 and measurement.median("A") == 4.0


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (QUIET, QUIET, None),
        (QUIET, Moment(0.0, 0.012, 9.0), None),  # the load average afterwards is our own
        (Moment(1.7, 0.01, 0.1), QUIET, "other programs used 1.70 cores before"),
        (QUIET, Moment(0.9, 0.01, 0.1), "other programs used 0.90 cores after"),
        (QUIET, Moment(0.0, 0.02, 0.1), "took 100 % longer"),
        (Moment(0.0, 0.02, 0.1), QUIET, "took 100 % longer"),
        (
            Moment(0.0, 0.01, 0.1, Clock(10.0, 5.0, 50.0)),
            Moment(0.0, 0.01, 0.1, Clock(20.0, 20.0, 80.0)),
            "other programs used 1.50 cores during",
        ),
        (
            Moment(0.0, 0.01, 0.1, Clock(10.0, 5.0, 50.0)),
            Moment(0.0, 0.01, 0.1, Clock(20.0, 20.0, 65.0)),
            None,
        ),
        (Moment(None, 0.01, 50.0), Moment(None, 0.01, 50.0), "the load average was 50.00"),
    ],
)
def test_a_busy_machine_is_found_out(before, after, fault):
    load: Load = load_between(before, after)
    assert load.to_json()["loaded"] == (fault is not None)
    assert fault is None or any(fault in text for text in load.faults())


def test_threads_are_pinned_and_given_back():
    before = torch.get_num_threads()
    with pinned_threads(1) as count:
        assert count == torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_the_machine_can_be_watched():
    seen = harness.busy_cores(0.01)
    assert seen is None or seen >= 0


def test_folding_the_masks_changes_no_bit():
    model = tiny()
    x = logistic_noise(4, 0, 16)
    folded = fold_masks(model)
    assert not any(isinstance(m, MaskedLinear) for m in folded.modules())
    assert all(torch.equal(a, b) for a, b in zip(model(x), folded(x), strict=True))
    assert isinstance(model.layer1, MaskedLinear)


def test_the_made_benchmark_reports_all_that_its_figures_need():
    seen: list[str] = []
    report = samplers.run(SMALL["made"], 3, 2, 1, progress=lambda what, done, of: seen.append(what))
    data = json.loads(to_json(report.to_json()))
    solved = (samplers.CACHED, samplers.JACOBI, samplers.AUTO)
    assert set(data["raw_seconds"]) == {samplers.LOOP, samplers.FOLDED, *solved, samplers.SWEEPS, samplers.ONCE}
    assert all(len(times) == 2 for times in data["raw_seconds"].values()) and data["pairs"] == 2
    assert data["bits_equal"] == dict.fromkeys((samplers.LOOP, samplers.FOLDED, *solved), True)
    assert data["equations"] == 16 and 1 <= data["sweeps"]["jacobi"] <= 17 and data["threads"] == 1
    assert {"versions", "machine", "settings that decide bits"} <= set(data["machine"])
    assert data["load"]["loaded"] is False and "pairs" in seen
    assert "overhead" in str(report) and "LOADED" not in str(report)


def test_folding_the_masks_of_convolutions_changes_no_bit():
    model = tiny_pixelcnn()
    x = torch.rand(2, 1, 5, 5)
    folded = fold_masks(model)
    assert not any(isinstance(m, MaskedConv2d) for m in folded.modules())
    assert torch.equal(model(x), folded(x))


def test_the_pixelcnn_benchmark_runs_every_variant_to_equal_bits():
    report = samplers.run(SMALL["pixelcnn"], 2, 1, 1)
    assert all(report.bits_equal.values()) and set(report.variants) >= set(samplers.BASELINES)
    assert report.sweeps[samplers.CACHED] >= 25 and report.proof_seconds > 0
    assert "cached loop" in str(report)


def test_the_command_knows_the_benchmarks_that_there_are():
    assert set(BENCHMARKS) == set(samplers.SUBJECTS)
    assert set(RECURRENCES) == set(recurrences.CASES)


@pytest.mark.parametrize("name", captures.CASES)
def test_the_capture_of_a_loop_is_measured(name: str) -> None:
    assert " 40 steps" in captures.one(name, 40) and " 40 found" in captures.one(name, 40)


@pytest.mark.parametrize("name", RECURRENCES)
def test_a_recurrence_is_measured_beside_its_loop_and_the_fused_module(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrences, "STEPS", 40)
    report = recurrences.run(name, pairs=2, threads=1)
    assert report.right and "40 steps" in report.case.title
    assert report.errors["fused module"] < 1e-5
    data = report.to_json()
    assert {len(seconds) for seconds in data["raw_seconds"].values()} == {2}
    assert set(data["speedup"]) == {"eager loop", "fused module"}
    assert str(report.case.equality) in str(report)


@pytest.fixture
def small_bench(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(samplers, "SUBJECTS", SMALL)
    monkeypatch.chdir(tmp_path)


ARGV = ["bench", "made", "--pairs", "1", "--batch", "2", "--threads", "1"]


def test_bench_writes_its_raw_numbers(small_bench, capsys, tmp_path):
    assert main([*ARGV, "--output", "raw.json"]) == 0
    assert "wrote raw.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "raw.json").read_text())["benchmark"] == "made"
    assert main([*ARGV, "--output", "raw.json"]) == 2


def test_a_busy_machine_is_said_and_with_strict_refused(small_bench, capsys, monkeypatch):
    monkeypatch.setattr("ffcompiler.cli.bench.moment", lambda: Moment(1.5, 0.01, 0.1))
    assert main(ARGV) == 0
    assert "LOADED      other programs used 1.50 cores before the run" in capsys.readouterr().out
    assert main([*ARGV, "--strict"]) == 1
    assert "the machine is busy" in capsys.readouterr().err

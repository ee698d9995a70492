"""Random programs: compiled under several schedules they give what they give eagerly; and the checker can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.cli import main
from ffcompiler.compiled import Compiled
from ffcompiler.fuzz import campaign as campaigns
from ffcompiler.fuzz.campaign import campaign, category, trial
from ffcompiler.fuzz.check import check, imported
from ffcompiler.fuzz.generate import KINDS, generate
from ffcompiler.fuzz.script import Program

pytestmark = pytest.mark.usefixtures("one_thread")

few = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@pytest.mark.parametrize("kind", ["recurrence", "array", "others"])
@few
@given(rng=st.randoms(use_true_random=False))
def test_random_programs_give_what_they_give_eagerly(kind: str, rng: Random) -> None:
    kinds = (kind,) if kind in KINDS else tuple(k for k in KINDS if k not in ("recurrence", "array"))
    program = generate(rng, kinds)
    outcome = check(program, rng)
    assert outcome.verdict == "same", f"{outcome.detail}\n\n{program.source}"


def test_the_seeds_of_a_campaign_reach_every_kind_of_system_and_end_by_sweeps() -> None:
    lines = [trial(seed) for seed in range(50)]
    assert [line for line in lines if line["verdict"] != "same"] == []
    assert {"ArrayLoop", "Recurrence", "RepeatedMap"} <= {line["system"] for line in lines}
    assert {line["kind"] for line in lines} == set(KINDS)
    assert {line["equality"] for line in lines} >= {"bits", "tolerance"}
    assert sum(line["swept"] for line in lines) > 0.2 * sum(line["runs"] for line in lines)


# ---------------------------------------------------------------------------------------------------- can it fail?


ARRAY = Program(
    "array",
    """\
import torch
import ffcompiler as ffc

weight = torch.triu(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), 1)


def function(u):
    x = torch.zeros_like(u)
    for i in range(6):
        x[:, i] = (torch.tanh(x @ weight) + u)[:, i]
    return x


def arguments(seed):
    return (torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)),)


def weights():
    return [weight]
""",
    True,
    True,
)


BITS = 0
"""A seed with which the check compiles for the same bits."""


def _spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> str:
    """What the check says of results that ``spoil`` has had its hands on."""
    honest = Compiled.run

    def run(self: Compiled, *args: Any) -> Any:
        return spoil(*honest(self, *args))

    monkeypatch.setattr(Compiled, "run", run)
    outcome = check(ARRAY, Random(BITS))
    assert (outcome.verdict, outcome.equality) == ("mismatch", "bits")
    return outcome.detail


def test_one_wrong_bit_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(x: Tensor, record: Any) -> Any:
        x[1, 2] = torch.nextafter(x[1, 2], torch.tensor(9.0))
        return x, record

    assert "differs at (1, 2)" in _spoiled(monkeypatch, spoil)


def test_another_form_of_result_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the result has the form" in _spoiled(monkeypatch, lambda x, record: ([x], record))


def test_another_state_of_the_generator_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(x: Tensor, record: Any) -> Any:
        torch.rand(1)
        return x, record

    assert "generator" in _spoiled(monkeypatch, spoil)


def test_a_certificate_of_fewer_blocks_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(x: Tensor, record: Any) -> Any:
        record.certificate = replace(record.certificate, certified_blocks=2, sequential_blocks=1)
        return x, record

    assert "a certificate of other blocks" in _spoiled(monkeypatch, spoil)


def test_an_exception_of_the_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Compiled, *args: Any) -> Any:
        raise KeyError("h3")

    monkeypatch.setattr(Compiled, "run", run)
    outcome = check(ARRAY, Random(0))
    assert outcome.verdict == "error" and "KeyError: 'h3'" in outcome.detail and "test_fuzz.py" in outcome.detail


def test_a_mask_that_leaks_after_a_change_of_weights_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense weights make the proof stale; a compiler that did not look would be found out."""
    monkeypatch.setattr("ffcompiler.runtime.runner.Runner.broken_patterns", lambda self, execution: [])
    verdicts = {check(ARRAY, Random(seed)).verdict for seed in range(4)}
    assert "mismatch" in verdicts


# ---------------------------------------------------------------------------------------------------- found before


def array_and_last_value(x: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.ones(5, 2, 3)
    for t in range(5):
        h = torch.sigmoid(x[:, t] @ W)
        out[t] = x[:, t] @ W
    return h, out


def loop_that_leaves_nothing(x: Tensor) -> Tensor:
    for _ in range(3):
        torch.sin(x @ W.t())
    return x * 2


def no_steps(x: Tensor) -> Tensor:
    h = x.sum(1)
    for entry in x[:, :0].unbind(1):
        h = torch.tanh(h + entry)
    return h


def weight_itself_as_the_first_state(x: Tensor) -> Tensor:
    h = ROW.expand(1, 3).contiguous()
    for t in range(5):
        h *= 0.5
        h += x[:1, t].sum()
    return h


def no_products(x: Tensor) -> Tensor:
    return torch.cumsum(x, 1).sin().relu() + 1


W = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
ROW = torch.nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("equality", ["bits", ffc.tolerance(1e-6, 1e-6)], ids=str)
@pytest.mark.parametrize(
    "function",
    [array_and_last_value, loop_that_leaves_nothing, no_steps, weight_itself_as_the_first_state, no_products],
    ids=lambda f: f.__name__,
)
def test_what_random_programs_once_broke_works(function: Any, equality: Any) -> None:
    compiled = ffc.compile(function, (_noise(0),), schedule="jacobi", equality=equality, on_unsupported="sequential")
    for seed in (0, 1):
        with torch.no_grad():
            ROW.fill_(1.0)
            expected = function(_noise(seed))
            ROW.fill_(1.0)
        got = compiled(_noise(seed))
        for a, b in zip(_tensors(got), _tensors(expected), strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=0.0, atol=0.0 if equality == "bits" else 1e-4)


def _noise(seed: int) -> Tensor:
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed))


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


# ---------------------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("seed", range(40))
def test_a_seed_is_always_the_same_program_and_it_is_python(seed: int, tmp_path: Path) -> None:
    program = generate(Random(seed))
    assert program == generate(Random(seed))
    module = imported(program.source, tmp_path)
    first, again = module.arguments(3), module.arguments(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(isinstance(w, Tensor) for w in module.weights())


# ---------------------------------------------------------------------------------------------------- campaigns


def test_a_campaign_goes_on_where_its_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(campaigns, "trial", lambda seed: made.append(seed) or _line(seed))
    path = tmp_path / "runs.jsonl"
    first = campaign(3, 5, path, _quiet)
    path.write_text(path.read_text() + '{"seed": 8, "ver')  # the process ended while it wrote
    both = campaign(6, 5, path, _quiet)
    assert made == [5, 6, 7, 8, 9, 10]
    assert (first.programs, both.programs, both.verdicts["same"]) == (3, 6, 6)
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == made


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("hello\n")
    with pytest.raises(ffc.UsageError, match="not the file of a campaign"):
        campaign(1, 0, path, _quiet)
    assert path.read_text() == "hello\n"


def test_what_was_found_is_shown_with_its_source_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = _line(7) | {"verdict": "mismatch", "detail": "result: output 0 differs", "source": "def function(x): ..."}
    monkeypatch.setattr(campaigns, "trial", lambda seed: found if seed == 7 else _line(seed))
    report = tmp_path / "report.json"
    assert main(["bench", "fuzz", "--programs", "3", "--seed", "6", "--output", str(report)]) == 1
    shown = capsys.readouterr().out
    assert "seed 7: mismatch" in shown and "def function(x): ..." in shown and "1 mismatches, 0 errors" in shown
    data = json.loads(report.read_text())
    assert (data["programs"], data["mismatches"], data["failures"][0]["seed"]) == (3, 1, 7)


def test_the_command_checks_programs_and_says_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fuzz", "--programs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "2 programs (seeds 0 to 1): 0 mismatches, 0 errors" in shown and "systems" in shown


def test_reasons_are_counted_without_names_and_numbers() -> None:
    one = "not captured: aten.copy_.default at /tmp/a_1/b.py:12 in step writes x[:, 3] (0, 1)\n more"
    other = "not captured: aten.fill_.Scalar at /tmp/z/c.py:7 in step writes x[:, 5] (2, 1)"
    assert category(one) == category(other)


def _line(seed: int) -> dict[str, Any]:
    return {"seed": seed, "kind": "array", "verdict": "same", "system": "ArrayLoop", "equality": "bits", "detail": "",
            "runs": 2, "swept": 1, "endings": {"SWEEPS": 2}, "seconds": 0.1}  # fmt: skip


def _quiet(what: str, done: int, of: int) -> None:
    """No progress."""

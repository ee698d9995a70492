"""Loops whose array grows are compiled over a padded one: the same tokens, or a refusal that names the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from growing import (
    GPT,
    VOCABULARY,
    Convolutions,
    Sampler,
    categorical,
    cropped,
    fused_open,
    generator,
    in_a_list,
    in_a_stack,
    likeliest,
    masked_afterwards,
    masked_scores,
    one_of_three,
    sliding,
)
from systems import bold, randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.capture.growing import rules as growing_rules
from ffcompiler.capture.growing.facts import Factor, Grown, Hidden, dims_of, regrouped
from ffcompiler.capture.spelling import set_item
from ffcompiler.plan import Costs
from ffcompiler.program import ArrayLoop
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.guard import Handover
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.runner import Runner
from ffcompiler.written.text import parse

LOOSE = ffc.tolerance(1e-4, 1e-4)
STEPS = 7
MINUS_INF = float("-inf")


def prompt(batch: int = 2, length: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def compiled(sample: Sampler, schedule: str = "jacobi", example: Tensor | None = None) -> ffc.Compiled:
    example = prompt() if example is None else example
    return ffc.compile(sample, (example,), equality=LOOSE, schedule=schedule, cache=False, budget=0.5)


def same_tokens(solved: ffc.Compiled, sample: Sampler, seeds: range, batch: int = 2, length: int = 3) -> RunRecord:
    """Both from the same seeds give the same tokens, and leave the generator in the same state."""
    for seed in seeds:
        tokens = prompt(batch, length, seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            expected, state = sample(tokens), torch.get_rng_state()
        torch.manual_seed(seed)
        found, record = solved.run(tokens)
        assert torch.equal(found, expected), seed
        assert torch.equal(torch.get_rng_state(), state)
    return record


def refusal(sample: Sampler) -> str:
    with pytest.raises(ffc.CaptureError) as refused:
        compiled(sample)
    return str(refused.value)


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "fused, drawn": lambda: generator(GPT(), STEPS, longest=16),
    "fused, likeliest": lambda: generator(GPT(), STEPS, likeliest),
    "fused, top-k": lambda: generator(GPT(last=True), STEPS, one_of_three),
    "mask, drawn, last logits": lambda: generator(GPT(masked_scores(MINUS_INF), last=True), STEPS),
    "mask of -1e9, top-k": lambda: generator(GPT(masked_scores(-1e9)), STEPS, one_of_three),
    "Categorical": lambda: generator(GPT(), STEPS, categorical),
    "a list": lambda: in_a_list(GPT(), STEPS),
    "a list that is stacked": lambda: in_a_stack(GPT(), STEPS),
    "an array that is cropped": lambda: cropped(GPT(), STEPS),
    "padded convolutions": lambda: generator(Convolutions(False), STEPS),
    "convolutions that are cut": lambda: generator(Convolutions(True), STEPS),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sweeps_over_the_padded_array_give_the_tokens_of_the_growing_one(name: str) -> None:
    sample = SAMPLERS[name]()
    solved = bold(compiled(sample))
    assert isinstance(solved.plan.array, ArrayLoop)
    record = same_tokens(solved, sample, range(12))
    assert (record.certified, record.blocks) == (STEPS, STEPS)
    assert record.ending is Ending.SWEEPS


@pytest.mark.parametrize("schedule", ["jacobi", "gauss-seidel+windows", "sliding(3)+windows", "gs-jacobi(2)"])
def test_every_schedule_gives_them(schedule: str) -> None:
    sample = generator(GPT(layers=2), STEPS)
    assert same_tokens(bold(compiled(sample, schedule)), sample, range(8)).certified == STEPS


def test_a_longer_prompt_or_another_batch_is_another_signature() -> None:
    sample = generator(GPT(), 4)
    solved = compiled(sample, "auto")
    same_tokens(solved, sample, range(3), batch=1, length=5)
    same_tokens(solved, sample, range(3))
    assert len(solved.variants) == 2


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_give_them_too(steps: int) -> None:
    sample = generator(GPT(), steps)
    same_tokens(compiled(sample, "auto"), sample, range(5))


# ---------------------------------------------------------------------------------------------------- sliding contexts


@pytest.mark.parametrize("always", [False, True])
def test_steps_whose_window_has_moved_run_as_they_are_after_those_that_were_solved(always: bool) -> None:
    model = GPT(longest=8)
    sample = sliding(model, 9, 8) if always else generator(model, 9, longest=8)
    solved = bold(compiled(sample))
    assert solved.plan.array is not None and solved.plan.array.blocks == 6  # of lengths 3 to 8
    assert same_tokens(solved, sample, range(8)).certified == 6


def test_a_window_that_moves_from_the_beginning_on_is_refused() -> None:
    message = refusal(sliding(GPT(longest=3), STEPS, 3))
    assert "growing.py" in message and "nothing in common" in message


# ---------------------------------------------------------------------------------------------------- refusals


def looking(at: Callable[[Tensor], Tensor]) -> Sampler:
    """A sampler with ``at`` in place of the last entry of the logits."""
    model = GPT()

    def generate(idx: Tensor) -> Tensor:
        for _ in range(STEPS):
            idx = torch.cat((idx, likeliest(at(model(idx)))), dim=1)
        return idx

    return generate


LAST = torch.tensor([-1])
PLACES = randn(32, 32, seed=90)


def _of_places(t: int) -> Tensor:
    return F.softmax(PLACES[:t, :t].masked_fill(torch.ones(t, t).tril() == 0, MINUS_INF), dim=-1)


LEAKS: dict[str, tuple[Callable[[], Sampler], str]] = {
    "no mask": (lambda: generator(GPT(fused_open), STEPS), "is_causal is not set"),
    "a mask with a later key": (lambda: generator(GPT(masked_scores(MINUS_INF, 1)), STEPS), "_softmax.default"),
    "a first row without keys": (lambda: generator(GPT(masked_scores(-1e9, -1)), STEPS), "_softmax.default"),
    "a mask after the softmax": (lambda: generator(GPT(masked_afterwards), STEPS), "no mask hides"),
    "a mean": (lambda: looking(lambda logits: logits.mean(1)), "aten.mean.dim"),
    "a maximum": (lambda: looking(lambda logits: logits.amax(1)), "aten.amax.default"),
    "a number that is the length": (lambda: looking(lambda x: (x / x.shape[1])[:, -1]), "differs from step to step"),
    "an array that is flipped": (lambda: looking(lambda logits: logits.flip(1)[:, -1]), "aten.flip.default"),
    "positions from the end": (
        lambda: looking(lambda x: (x * torch.arange(-x.shape[1], 0)[None, :, None])[:, -1]),
        "differs from step to step",
    ),
    "an index that is a weight": (
        lambda: looking(lambda x: x[:, LAST][:, 0]),
        "by an index that is computed",
    ),
    "weights of weights alone": (
        lambda: looking(lambda x: (_of_places(x.shape[1]) @ x)[:, -1]),
        "of weights alone",
    ),
    "every other entry": (lambda: looking(lambda logits: logits[:, ::2].cumsum(1)[:, -1]), "every other entry"),
    "a batch norm over it": (
        lambda: looking(lambda x: F.batch_norm(x, None, None, training=True)[:, -1]),
        "has no rule",
    ),
    "convolutions that see what comes": (
        lambda: looking(lambda x: F.conv1d(x.mT, torch.ones(VOCABULARY, VOCABULARY, 3), padding=1)[..., -1]),
        "whose end depends on how long it is",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_is_not_the_beginning_of_a_longer_array_is_refused_with_its_line(name: str) -> None:
    make, why = LEAKS[name]
    message = refusal(make())
    assert why in message
    assert "growing.py:" in message.splitlines()[-2], "then comes what to do"
    sample = make()
    same_tokens(compiled(sample, "auto"), sample, range(2))  # runs as it is


def test_a_second_array_that_grows_or_what_steps_leave_besides_runs_as_it_is() -> None:
    model = GPT()

    def masked(idx: Tensor) -> Tensor:
        mask = torch.ones_like(idx)
        for _ in range(STEPS):
            new = likeliest(model(idx * mask)[:, -1])
            idx, mask = torch.cat((idx, new), 1), torch.cat((mask, torch.ones_like(new)), 1)
        return idx

    def scored(idx: Tensor) -> Tensor:
        scores = []
        for _ in range(STEPS):
            logits = model(idx)[:, -1]
            scores.append(logits.amax(-1))
            idx = torch.cat((idx, likeliest(logits)), 1)
        return idx + torch.stack(scores, 1).sum().to(torch.long) * 0

    for sample, why in ((masked, "the loop's state is 2 tensors"), (scored, "is read after the loop")):
        runs = compiled(sample, "auto")
        assert why in str(runs.explain())
        same_tokens(runs, sample, range(2))


def test_writing_in_place_into_the_array_that_grows_is_refused() -> None:
    model = GPT()

    def generate(idx: Tensor) -> Tensor:
        idx = idx.clone()
        for _ in range(STEPS):
            idx = torch.cat((idx, likeliest(model(idx)[:, -1])), dim=1)
            idx[:, 0] += 1
            idx[:, 0] %= VOCABULARY
        return idx

    assert "writes in place into the array that grows" in refusal(generate)


def test_what_is_written_in_place_element_by_element_is_followed() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        t = q.shape[-2]
        scores = q @ k.transpose(-2, -1)
        scores.mul_(0.3).masked_fill_(bias.tril()[:, :, :t, :t] == 0, MINUS_INF)
        return F.softmax(scores, dim=-1) @ v

    sample = generator(GPT(attend), STEPS)
    assert same_tokens(bold(compiled(sample)), sample, range(6)).certified == STEPS


def test_an_index_that_is_written_out_anew_in_each_step_is_followed() -> None:
    sample = looking(lambda x: x[:, torch.tensor([x.shape[1] - 1])][:, 0] * 2.0)
    assert same_tokens(bold(compiled(sample)), sample, range(4)).certified == STEPS


@pytest.mark.parametrize("place", [(), (3,), (3, 4)])
def test_a_number_written_under_a_mask_has_the_bits_of_the_assignment(place: tuple[int, ...]) -> None:
    x, rows = randn(*place, 5, seed=3), randn(*place, 5, seed=4) > 0
    for mask in (rows, rows[..., 0]) if place else (rows,):
        expected, found = x.clone(), x.clone()
        expected[mask] = -1.5
        set_item(found, mask, -1.5)
        assert same_bits(found, expected)


def test_bits_are_refused_with_what_they_would_cost_and_what_to_ask_for() -> None:
    sample = generator(GPT(), STEPS)
    runs = ffc.compile(sample, (prompt(),), cache=False)
    told = str(runs.explain())
    assert "certifying them costs what the loop costs" in told and "equality=ffc.tolerance(" in told
    same_tokens(runs, sample, range(2))
    with pytest.raises(ffc.CaptureError, match="works on a larger array"):
        ffc.compile(sample, (prompt(),), schedule="jacobi", cache=False)


def test_a_wrong_rule_is_seen_in_the_values_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {**growing_rules.RULES, "aten.flip.default": lambda case: case.of("self")}
    monkeypatch.setattr("ffcompiler.capture.growing.loop.RULES", rules)
    message = refusal(looking(lambda logits: logits.flip(1)[:, -1]))
    assert "gives other values on the padded array" in message and "aten.flip.default" in message


# ---------------------------------------------------------------------------------------------------- plans and runs


def test_the_explanation_the_certificate_and_the_text_of_the_plan_say_that_it_is_padded() -> None:
    solved = bold(compiled(generator(GPT(), STEPS)))
    assert "padded to its last length" in str(solved.explain())
    assert parse(str(solved.plan)) == solved.plan and solved.plan.padded
    _, record = solved.run(prompt())
    assert record.certificate is not None and "padded array" in str(record.certificate)


def test_an_artifact_gives_the_same_tokens(tmp_path: Path) -> None:
    sample = generator(GPT(), STEPS)
    compiled(sample).save(tmp_path / "gpt.ffc")
    loaded = ffc.load(tmp_path / "gpt.ffc")
    assert loaded.plan.padded
    same_tokens(loaded, sample, range(6))


def with_costs(solved: ffc.Compiled, costs: Costs) -> ffc.Compiled:
    """``solved`` with other costs for its guard to go by."""
    solved.plan = replace(solved.plan, costs=costs)
    part = solved.parts[0]
    part.plan = solved.plan
    part.runner = Runner(solved.plan, solved.proof, solved.device, handover=part.handover)
    return solved


def test_where_the_guard_stops_the_rest_goes_on_in_windows_of_one_block() -> None:
    sample = generator(GPT(layers=2), 12)
    costs = Costs(1.0, 3.5, 3.5, 0.0, windows=((1, 0.01), (12, 0.02)), captured=2.0, fill=3.5)
    solved = with_costs(compiled(sample), costs)
    assert solved.parts[0].handover is Handover.CACHED
    record = same_tokens(solved, sample, range(6))
    assert record.ending is Ending.GUARD and "in windows, block after block" in record.detail
    assert record.certified == 12 and record.sweeps[0].certified and not record.sweeps[1].certified


def test_where_a_mask_hides_no_longer_by_its_size_the_function_begins_anew() -> None:
    model = GPT(masked_scores(-1e4))
    sample = generator(model, STEPS)
    solved = bold(compiled(sample))
    part = solved.parts[0]
    part.runner = Runner(solved.plan, solved.proof, solved.device, handover=part.handover)
    same_tokens(solved, sample, range(2))
    with torch.no_grad():
        model.blocks[0].qkv.weight.mul_(300.0)
    record = same_tokens(solved, sample, range(6))
    assert record.ending is Ending.PREMISE and "began anew" in record.detail


def test_weights_may_change_and_a_mask_that_leaks_from_then_on_is_noticed() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        t = q.shape[-2]
        scores = (q @ k.transpose(-2, -1)).masked_fill(bias[:, :, :t, :t] == 0, MINUS_INF)
        return F.softmax(scores, dim=-1) @ v

    model = GPT(attend)
    model.blocks[0].bias.tril_()
    sample = generator(model, STEPS)
    solved = bold(compiled(sample))
    with torch.no_grad():
        model.head.weight.copy_(randn(*model.head.weight.shape, seed=77))
    assert same_tokens(solved, sample, range(4)).certified == STEPS
    model.blocks[0].bias.fill_(1.0)
    assert same_tokens(solved, sample, range(4)).ending is Ending.STALE


# ---------------------------------------------------------------------------------------------------- axes


def test_axes_that_are_merged_and_split_again_are_followed() -> None:
    shapes = [(2, t, 6) for t in (3, 4, 5)]
    fact = Grown(dims_of(shapes))
    merged = regrouped(fact, [(2 * t, 6) for t in (3, 4, 5)])
    assert merged is not None and merged.dims[0] == (Factor((2, 2, 2)), Factor((3, 4, 5)))
    assert merged.alone(0) is None and merged.grows(0)
    split = regrouped(merged, [(2, t, 2, 3) for t in (3, 4, 5)])
    assert split is not None and split.alone(1) == Factor((3, 4, 5))
    assert regrouped(fact, [(t, 2, 6) for t in (3, 4, 5)]) is None  # the same elements in another order


def test_what_is_hidden_stays_so_along_the_axes_that_keep_their_factors() -> None:
    shapes = [(2, 3, t, t) for t in (4, 5)]
    fact = Grown(dims_of(shapes), Hidden(2, 3, zero=True))
    found = regrouped(fact, [(6, t, t) for t in (4, 5)])
    assert found is not None and found.hidden == Hidden(1, 2, zero=True)
    lost = regrouped(fact, [(2, 3, t * t) for t in (4, 5)])
    assert lost is not None and lost.hidden is None

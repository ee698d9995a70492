"""Weights that the loop's steps write: captured where writing again changes nothing, else refused with the line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from systems import bold, randn
from test_catalogue import assert_same
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.artifact import read_artifact, save_artifact
from ffcompiler.runtime.record import Ending
from ffcompiler.written.text import parse

SIZE = 4
HERE = "test_capture_writes.py:"


pytestmark = pytest.mark.usefixtures("one_thread")


Write = Callable[["MaskedConv"], None]


class MaskedConv(nn.Conv2d):
    """The masked convolution of many PixelCNNs: ``forward`` masks the weight itself. Its weights come unmasked."""

    mask: Tensor

    def __init__(self, kind: str, inner: int, outer: int, write: Write, seed: int) -> None:
        super().__init__(inner, outer, 3, padding=1)
        mask = torch.zeros(3, 3)
        mask[0], mask[1, 0] = 1, 1
        mask[1, 1] = float(kind == "B")
        self.register_buffer("mask", mask.expand(outer, inner, 3, 3).clone())
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(outer))
        self.write = write
        self.fill(seed)

    def fill(self, seed: int) -> None:
        with torch.no_grad():
            self.weight.copy_(randn(*self.weight.shape, seed=seed) * 0.7)
            assert self.bias is not None
            self.bias.copy_(randn(*self.bias.shape, seed=seed + 1) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        self.write(self)
        return super().forward(x)


class PixelCnn(nn.Module):
    def __init__(self, write: Write, seed: int = 0) -> None:
        super().__init__()
        self.first = MaskedConv("A", 1, 8, write, seed)
        self.second = MaskedConv("B", 8, 2, write, seed + 10)

    def fill(self, seed: int) -> None:
        self.first.fill(seed)
        self.second.fill(seed + 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.tanh(x))))


def sampler(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            row, column = divmod(i, SIZE)
            mean, log_scale = model(x).chunk(2, dim=1)
            x = x.clone()
            scale = torch.exp(0.3 * torch.tanh(log_scale[:, :, row, column]))
            x[:, :, row, column] = mean[:, :, row, column] + scale * u[:, :, row, column]
            return x

        return ffc.fori_loop(0, SIZE * SIZE, step, torch.zeros_like(u))

    return sample


def noise(seed: int = 0) -> Tensor:
    return randn(2, 1, SIZE, SIZE, seed=seed)


def by_a_twin(model: nn.Module, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the loop gives with the model as it is now, and the weights that it leaves behind."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        return sampler(twin)(u), twin.state_dict()


def assert_call_is_the_reference(compiled: ffc.Compiled, model: nn.Module, u: Tensor, ending: Ending) -> None:
    """The same bits, and the same weights afterwards."""
    expected, left_behind = by_a_twin(model, u)
    result, record = compiled.run(u)
    assert record.ending is ending, record
    assert_same(result, expected)
    assert_same(dict(model.state_dict()), dict(left_behind))


# ---------------------------------------------------------------------------------------------------- spellings


def multiplies_data(conv: MaskedConv) -> None:
    conv.weight.data *= conv.mask


def multiplies_data_in_place(conv: MaskedConv) -> None:
    conv.weight.data.mul_(conv.mask)


def blanks_slices(conv: MaskedConv) -> None:
    first = int(conv.in_channels == 1)
    conv.weight.data[:, :, 1, 2 - first :].zero_()
    conv.weight.data[:, :, 2:] = 0


def multiplies_without_gradients(conv: MaskedConv) -> None:
    with torch.no_grad():
        conv.weight.mul_(conv.mask)


def replaces_data(conv: MaskedConv) -> None:
    conv.weight.data = conv.weight.data * conv.mask


def fills_where_masked(conv: MaskedConv) -> None:
    conv.weight.data.masked_fill_(conv.mask == 0, 0.0)


def copies_the_product(conv: MaskedConv) -> None:
    conv.weight.data.copy_(conv.weight * conv.mask)


def clamps_and_masks(conv: MaskedConv) -> None:
    conv.weight.data.clamp_(-0.9, 0.9)
    conv.weight.data *= conv.mask


def replaces_then_clamps(conv: MaskedConv) -> None:
    conv.weight.data = conv.weight * conv.mask
    conv.weight.data.clamp_(-0.9, 0.9)


SPELLINGS = [
    multiplies_data, multiplies_data_in_place, blanks_slices, multiplies_without_gradients, replaces_data,
    fills_where_masked, copies_the_product, clamps_and_masks, replaces_then_clamps,
]  # fmt: skip
spellings = pytest.mark.parametrize("write", SPELLINGS, ids=lambda f: f.__name__)


def compiled_for(model: nn.Module) -> ffc.Compiled:
    return bold(ffc.compile(sampler(model), (noise(),), schedule="jacobi"))


@spellings
def test_a_masking_write_is_solved_by_sweeps_and_leaves_masked_weights(write: Write) -> None:
    model = PixelCnn(write)
    expected, left_behind = by_a_twin(model, noise())
    compiled = compiled_for(model)
    program = compiled.plan.program
    assert program is not None and len(program.overwrites) == 2
    assert all(HERE in overwrite.source and write.__name__ in overwrite.source for overwrite in program.overwrites)
    result, record = compiled.run(noise())
    assert record.ending is Ending.SWEEPS and record.certified == SIZE * SIZE
    assert_same(result, expected)
    assert_same(dict(model.state_dict()), dict(left_behind))
    for seed in (1, 2):
        assert_call_is_the_reference(compiled, model, noise(seed), Ending.SWEEPS)


@spellings
def test_weights_that_are_filled_anew_without_masks_give_the_reference_bits_and_are_masked(write: Write) -> None:
    model = PixelCnn(write)
    compiled = compiled_for(model)
    model.fill(30)
    assert bool((model.first.weight * (1 - model.first.mask)).abs().max() > 0.1), "the new weights are not masked"
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)
    assert bool((model.first.weight * (1 - model.first.mask) == 0).all())


@spellings
def test_parameters_that_are_replaced_by_unmasked_ones_are_seen(write: Write) -> None:
    model = PixelCnn(write)
    compiled = compiled_for(model)
    model.second.weight = nn.Parameter(randn(2, 8, 3, 3, seed=8))
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)
    model.load_state_dict(PixelCnn(write, seed=5).state_dict())
    assert_call_is_the_reference(compiled, model, noise(2), Ending.SWEEPS)


@spellings
def test_the_weight_keeps_its_memory_exactly_where_the_function_keeps_it(write: Write) -> None:
    model = PixelCnn(write)
    compiled = compiled_for(model)
    model.fill(30)
    memory = model.first.weight.data_ptr()
    held = model.first.weight.detach()  # so that its memory is not given to the next tensor
    compiled(noise())
    replaced = write in (replaces_data, replaces_then_clamps)
    assert (model.first.weight.data_ptr() != memory) == replaced
    assert (held * (1 - model.first.mask)).abs().max() > 0.1 or not replaced


def test_a_plan_with_overwrites_reads_back_and_explains_itself() -> None:
    compiled = compiled_for(PixelCnn(multiplies_data))
    assert parse(str(compiled.plan)) == compiled.plan
    text = str(compiled.explain())
    assert "model.first.weight" in text and "multiplies_data" in text


def test_a_model_whose_mask_leaks_is_refused_all_the_same() -> None:
    def write(conv: MaskedConv) -> None:
        conv.weight.data *= conv.mask

    model = PixelCnn(write)
    model.first.mask[:, :, 1, 1] = 1
    expected, _ = by_a_twin(model, noise())
    with pytest.raises(ffc.CausalityError, match="may read"):
        ffc.compile(sampler(model), (noise(),), schedule="jacobi")
    assert_same(ffc.compile(sampler(model), (noise(),))(noise()), expected)


def test_a_mask_that_is_opened_later_is_seen() -> None:
    model = PixelCnn(multiplies_data)
    compiled = compiled_for(model)
    model.fill(30)
    model.second.mask[:, :, 2] = 1
    assert_call_is_the_reference(compiled, model, noise(1), Ending.STALE)


def test_a_mask_that_is_no_longer_one_of_zeros_and_ones_runs_as_it_is() -> None:
    """Halved in every step: the write is idempotent no more, though every zero is where it was."""
    model = PixelCnn(multiplies_data)
    compiled = compiled_for(model)
    model.second.mask *= 0.5
    expected, left_behind = by_a_twin(model, noise(1))
    result, record = compiled.run(noise(1))
    assert record.ending is Ending.STALE and HERE in record.detail and "multiplies_data" in record.detail
    assert_same(result, expected)
    assert_same(dict(model.state_dict()), dict(left_behind))


def test_a_module_that_is_called_twice_in_a_step_writes_twice() -> None:
    class Twice(PixelCnn):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.1 * super().forward(0.5 * x)

    model = Twice(multiplies_data)
    compiled = compiled_for(model)
    model.fill(30)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)


def test_one_weight_in_two_layers_is_written_by_both() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = MaskedConv("A", 1, 2, multiplies_data, 0)
            self.b = MaskedConv("A", 1, 2, replaces_data, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x.tanh()) + self.b(x.sin())

    model = Tied()
    compiled = compiled_for(model)
    model.a.fill(30)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)


def test_a_weight_that_is_restored_from_another_in_every_step_follows_the_other() -> None:
    def restores(conv: MaskedConv) -> None:
        conv.weight.data.copy_(conv.kept * conv.mask if conv.in_channels == 1 else conv.kept)

    model = PixelCnn(restores)
    for conv in (model.first, model.second):
        conv.register_buffer("kept", conv.weight.detach() * conv.mask)
    compiled = compiled_for(model)
    with torch.no_grad():
        model.first.kept.normal_(generator=torch.Generator().manual_seed(3))
        model.second.kept.mul_(-1.5)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)
    model.fill(30)
    assert_call_is_the_reference(compiled, model, noise(2), Ending.SWEEPS)


def test_calls_from_several_threads_leave_the_weights_masked_once() -> None:
    model = PixelCnn(multiplies_data)
    compiled = compiled_for(model)
    model.fill(30)
    expected = [by_a_twin(model, noise(seed))[0] for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda seed: compiled(noise(seed)), range(8)))
    for a, b in zip(got, expected, strict=True):
        assert_same(a, b)


# ---------------------------------------------------------------------------------------------------- old values


class ReadsFirst(PixelCnn):
    """Reads the weight before it is masked: in the first step it sees what the others do not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.3 * F.softplus(self.first.weight[:, :, 0].sum())

    def __init__(self) -> None:
        super().__init__(multiplies_data)
        self.first.mask[:, :, 0, 0] = 0


class ReadsAllFirst(PixelCnn):
    def forward(self, x: Tensor) -> Tensor:
        before = 0.3 * F.softplus(self.first.weight[:, :, 0].sum())
        return super().forward(x) + before


def test_a_read_before_the_write_is_right_whether_or_not_the_weights_are_masked_yet() -> None:
    model = ReadsAllFirst(multiplies_data)
    model.first.mask[:, :, 0, 0] = 0
    compiled = compiled_for(model)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)
    model.fill(30)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.STALE)  # the first step sees other weights
    assert_call_is_the_reference(compiled, model, noise(2), Ending.SWEEPS)  # by now they are masked


def test_a_read_after_the_write_sees_what_was_written() -> None:
    model = ReadsFirst()
    compiled = compiled_for(model)
    model.fill(30)
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)


def test_reads_before_and_after_the_loop_see_the_weight_as_it_is_there() -> None:
    model = PixelCnn(multiplies_data)
    model.first.mask[:, :, 0, 0] = 0

    def around(twin: PixelCnn) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def sample(u: Tensor) -> tuple[Tensor, ...]:
            before = twin.first.weight.sum()
            x = sampler(twin)(u * before.tanh())
            return x, before, twin.first.weight.sum()

        return sample

    compiled = bold(ffc.compile(around(model), (noise(),), schedule="jacobi"))
    for seed in (30, 31):
        model.fill(seed)
        with torch.no_grad():
            expected = around(copy.deepcopy(model))(noise(1))
        result, record = compiled.run(noise(1))
        assert record.ending is Ending.SWEEPS
        assert not torch.equal(expected[1], expected[2])
        assert_same(result, expected)


# ---------------------------------------------------------------------------------------------------- refusals


def fades(conv: MaskedConv) -> None:
    conv.weight.data *= 0.999


def fades_by_replacing(conv: MaskedConv) -> None:
    conv.weight.data = conv.weight.data * 0.999


def counts_calls(conv: MaskedConv) -> None:
    conv.calls += 1


def normalises_the_weight(conv: MaskedConv) -> None:
    conv.weight.data /= conv.weight.data.abs().sum() * 1.01


def turns_the_weight(conv: MaskedConv) -> None:
    conv.weight.data = conv.weight.data.flip(2).contiguous()


def draws_the_weight(conv: MaskedConv) -> None:
    conv.weight.data.normal_()


REFUSED: list[tuple[Write, str]] = [
    (fades, "writing it again changes it once more"),
    (fades_by_replacing, "writing it again changes it once more"),
    (counts_calls, "writing it again changes it once more"),
    (normalises_the_weight, "writing it again changes it once more"),
    (turns_the_weight, "writing it again changes it once more"),
    (draws_the_weight, "depends on random numbers"),
]


@pytest.mark.parametrize(("write", "says"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_a_write_that_is_not_the_same_twice_is_refused_with_its_line_and_runs_right(write: Write, says: str) -> None:
    assert_refused(PixelCnn(write), says, HERE, write.__name__)


def assert_refused(model: nn.Module, *says: str) -> None:
    """By name an error; by itself the function as it is; and compilation leaves the weights as they were."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ffc.CaptureError) as caught:
        ffc.compile(sampler(model), (noise(),), schedule="jacobi")
    for words in says:
        assert words in str(caught.value), caught.value
    compiled = ffc.compile(sampler(model), (noise(),))
    assert_same(dict(model.state_dict()), dict(before))
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected, left_behind = by_a_twin(model, noise(seed))
        torch.manual_seed(seed)
        result, record = compiled.run(noise(seed))
        assert record.ending is Ending.SEQUENTIAL
        assert_same(result, expected)
        assert_same(dict(model.state_dict()), dict(left_behind))


class Stateful(PixelCnn):
    """Does something in ``forward`` with the array that it is given."""

    def __init__(self, act: Callable[[PixelCnn, Tensor], None]) -> None:
        super().__init__(multiplies_data)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        self.act(self, x)
        return super().forward(x)


def keeps_a_running_mean(model: PixelCnn, x: Tensor) -> None:
    model.second.mean.mul_(0.9).add_(0.1 * x.mean())


def keeps_the_last_input(model: PixelCnn, x: Tensor) -> None:
    model.first.calls.copy_(x.sum())


def replaces_a_buffer_by_the_state(model: PixelCnn, x: Tensor) -> None:
    model.first.calls.data = x.sum() + 0 * model.first.calls


@pytest.mark.parametrize(
    "act",
    [keeps_a_running_mean, keeps_the_last_input, replaces_a_buffer_by_the_state],
    ids=lambda f: f.__name__,
)
def test_what_is_written_from_the_state_is_refused(act: Callable[[PixelCnn, Tensor], None]) -> None:
    assert_refused(Stateful(act), "depends on the loop's state", HERE, act.__name__)


def test_data_that_is_replaced_and_never_read_is_not_lost() -> None:
    def by_the_state(model: PixelCnn, x: Tensor) -> None:
        model.first.calls.data = x.sum()

    def by_a_weight(model: PixelCnn, x: Tensor) -> None:
        model.first.mean.data = model.first.mask.sum((1, 2, 3))

    assert_refused(Stateful(by_the_state), "depends on the loop's state", HERE, "by_the_state")
    model = Stateful(by_a_weight)
    compiled = compiled_for(model)
    model.first.mean.zero_()
    assert_call_is_the_reference(compiled, model, noise(1), Ending.SWEEPS)
    assert model.first.mean.any()


def test_batch_norm_in_training_mode_is_refused_for_its_statistics() -> None:
    class Normed(PixelCnn):
        def __init__(self) -> None:
            super().__init__(multiplies_data)
            self.norm = nn.BatchNorm2d(1, momentum=0.3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.norm(x))

    assert_refused(Normed(), "outside the loop", HERE)

    class Undeclared(PixelCnn):
        """The operator's schema does not say that it writes its statistics."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.batch_norm(x, self.first.mean[:1], self.first.mean[1:2], training=True))

    assert_refused(Undeclared(multiplies_data), "outside the loop", HERE)


def test_what_is_written_from_an_argument_or_the_step_number_is_refused() -> None:
    model = PixelCnn(multiplies_data)

    def from_argument(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            model.first.calls.copy_(u[0, 0, 0, 0])
            return x.select_scatter(model(x)[:, :1, :, 0] + u[:, :, :, 0], 3, i)

        return ffc.fori_loop(0, SIZE, step, torch.zeros_like(u))

    def from_step(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            model.first.calls.fill_(i)
            return x.select_scatter(model(x)[:, :1, :, 0] + u[:, :, :, 0], 3, i)

        return ffc.fori_loop(0, SIZE, step, torch.zeros_like(u))

    for function, says in ((from_argument, "depends on arguments"), (from_step, "depends on the step's number")):
        with pytest.raises(ffc.CaptureError, match=says):
            ffc.compile(function, (noise(),), schedule="jacobi")
        with torch.no_grad():
            assert_same(ffc.compile(function, (noise(),))(noise(1)), function(noise(1)))


def test_a_weight_that_is_also_read_under_another_name_is_refused() -> None:
    class Views(PixelCnn):
        def __init__(self) -> None:
            super().__init__(multiplies_data)
            self.view = self.first.weight.detach()[:2]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.view.sum()

    model = Views()
    with torch.no_grad():
        expected = sampler(model)(noise())
    model.fill(0)
    with pytest.raises(ffc.CaptureError, match=r"(?s)shares its memory.*read it under one name") as caught:
        ffc.compile(sampler(model), (noise(),), schedule="jacobi")
    assert HERE in str(caught.value)
    assert_same(ffc.compile(sampler(model), (noise(),))(noise()), expected)


def test_a_view_of_the_weight_that_is_made_before_the_loop_is_refused() -> None:
    model = PixelCnn(multiplies_data)

    def sample(u: Tensor) -> Tensor:
        corner = model.first.weight[:, :, 2, 2]

        def step(i: int, x: Tensor) -> Tensor:
            return x.select_scatter((model(x) * corner.sum())[:, :1, :, 0] + u[:, :, :, i], 3, i)

        return ffc.fori_loop(0, SIZE, step, torch.zeros_like(u))

    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = sample(noise())
    model.load_state_dict(before)
    with pytest.raises(ffc.CaptureError, match="outside the loop's state"):
        ffc.compile(sample, (noise(),), schedule="jacobi")
    assert_same(dict(model.state_dict()), dict(before))
    assert_same(ffc.compile(sample, (noise(),))(noise()), expected)


def test_data_that_is_replaced_by_what_the_step_has_not_computed_is_refused() -> None:
    other = randn(8, 1, 3, 3, seed=9)

    def from_outside(conv: MaskedConv) -> None:
        if conv.in_channels == 1:
            conv.weight.data = other

    def from_numpy(conv: MaskedConv) -> None:
        conv.weight.data = torch.from_numpy(conv.weight.detach().numpy() * 1)

    def new_parameter(conv: MaskedConv) -> None:
        conv.weight = nn.Parameter(conv.weight * conv.mask)

    for write in (from_outside, from_numpy, new_parameter):
        model = PixelCnn(write)
        compiled = ffc.compile(sampler(model), (noise(),))
        expected, _ = by_a_twin(model, noise(1))
        assert_same(compiled(noise(1)), expected)
        with pytest.raises((ffc.CaptureError, ffc.CausalityError)):
            ffc.compile(sampler(model), (noise(),), schedule="jacobi")


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_write_outside_the_loop_is_refused_with_its_line(where: str) -> None:
    model = PixelCnn(multiplies_data)

    def sample(u: Tensor) -> Tensor:
        if where == "before":
            u = model(u)[:, :1]
        x = sampler(model)(u)
        return model(x) if where == "after" else x

    with pytest.raises(ffc.CaptureError, match=HERE):
        ffc.compile(sample, (noise(),), schedule="jacobi")
    compiled = ffc.compile(sample, (noise(),))
    model.fill(30)
    got = compiled(noise(1))
    model.fill(30)
    with torch.no_grad():
        assert_same(got, sample(noise(1)))


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("masked", [True, False])
def test_a_saved_plan_gives_the_same_bits_whether_its_weights_were_masked_yet(tmp_path: Path, masked: bool) -> None:
    model = PixelCnn(multiplies_data)
    compiled = compiled_for(model)
    model.fill(30)
    if masked:
        compiled(noise())
    expected, _ = by_a_twin(model, noise(1))
    compiled.save(tmp_path / "p.ffc")
    loaded = bold(ffc.load(tmp_path / "p.ffc"))
    for _ in range(2):
        result, record = loaded.run(noise(1))
        assert record.ending is Ending.SWEEPS
        assert_same(result, expected)
    assert_same(loaded.reference(noise(1)), expected)


def test_weights_for_which_the_write_is_not_idempotent_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    model = PixelCnn(multiplies_data)
    compiled = compiled_for(model)
    compiled.save(tmp_path / "good.ffc")
    model.second.mask *= 0.5
    with pytest.raises(ffc.FFCompilerError, match=HERE):
        compiled.save(tmp_path / "p.ffc")
    plan, (weights,) = read_artifact(tmp_path / "good.ffc")
    assert plan.program is not None
    name = next(w.name for w in plan.program.weights if w.path.endswith("second.mask"))
    save_artifact(plan, [{**weights, name: weights[name] * 0.5}], tmp_path / "bad.ffc", force=False)
    with pytest.raises(ffc.ArtifactError, match="not the same in all steps"):
        ffc.load(tmp_path / "bad.ffc")


def test_a_sequential_plan_with_overwrites_survives_a_file(tmp_path: Path) -> None:
    """The same map in every step, run sequentially: the loaded body reads what the prologue wrote."""
    model = PixelCnn(multiplies_data)

    def run(u: Tensor) -> Tensor:
        return ffc.fori_loop(0, 5, lambda i, x: torch.tanh(model(x)[:, :1] + u), torch.zeros_like(u))

    compiled = ffc.compile(run, (noise(),), schedule="sequential")
    assert compiled.plan.program is not None and compiled.plan.program.overwrites
    model.fill(30)
    compiled.save(tmp_path / "p.ffc")
    with torch.no_grad():
        expected = run(noise(1))
    assert_same(ffc.load(tmp_path / "p.ffc")(noise(1)), expected)


# ---------------------------------------------------------------------------------------------------- not marked


def plain_sampler(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The same as `sampler`, in plain Python."""

    def sample(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(SIZE * SIZE):
            row, column = divmod(i, SIZE)
            mean, log_scale = model(x).chunk(2, dim=1)
            scale = torch.exp(0.3 * torch.tanh(log_scale[:, :, row, column]))
            x[:, :, row, column] = mean[:, :, row, column] + scale * u[:, :, row, column]
        return x

    return sample


@spellings
def test_in_a_plain_loop_weights_are_written_as_in_a_marked_one(write: Write, tmp_path: Path) -> None:
    model = PixelCnn(write)
    before = model.first.weight.data_ptr()
    compiled = bold(ffc.compile(plain_sampler(model), (noise(),), schedule="jacobi"))
    program = compiled.plan.program
    assert program is not None and len(program.overwrites) == 2
    assert all(HERE in overwrite.source and write.__name__ in overwrite.source for overwrite in program.overwrites)
    for seed in (1, 2, 3):
        if seed < 3:  # else as the call before left them
            model.fill(seed * 10)
        assert_call_is_the_reference(compiled, model, noise(seed), Ending.SWEEPS)
    if write in (replaces_data, replaces_then_clamps):
        assert model.first.weight.data_ptr() != before
    model.fill(50)
    expected, _ = by_a_twin(model, noise(4))
    compiled.save(tmp_path / "p.ffc")
    assert_same(ffc.load(tmp_path / "p.ffc")(noise(4)), expected)


@pytest.mark.parametrize(("write", "says"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_in_a_plain_loop_too_a_write_that_is_not_the_same_twice_is_refused(write: Write, says: str) -> None:
    model = PixelCnn(write)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ffc.CaptureError, match=says) as caught:
        ffc.compile(plain_sampler(model), (noise(),), schedule="jacobi")
    assert HERE in str(caught.value) and write.__name__ in str(caught.value)
    assert_same(dict(model.state_dict()), dict(before))


class Squares(nn.Module):
    """A masked product whose forward is ``act``."""

    mask: Tensor

    def __init__(self, act: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        self.weight, self.other = nn.Parameter(randn(4, 4, seed=1)), nn.Parameter(randn(4, 4, seed=2))
        self.register_buffer("mask", torch.ones(4, 4).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x)


def runs(model: nn.Module) -> Callable[[Tensor], Any]:
    def sample(u: Tensor) -> Any:
        before, x = model.weight.sum() * 1, torch.zeros_like(u)
        for i in range(4):
            x[:, i] = torch.tanh(model(x)[:, i]) + u[:, i]
        return x, before, model.weight[:2] * 1

    return sample


def after_the_last_read(m: Any, x: Tensor) -> Tensor:
    y = x @ (m.weight * m.mask)
    m.weight.data = m.weight.data * m.mask
    return y


def beside_a_view_of_its_old_memory(m: Any, x: Tensor) -> Tensor:
    old = m.weight.data[:2]
    m.weight.data = m.weight.data * m.mask
    return x @ m.weight + torch.tanh(old.sum())


def from_another_weight(m: Any, x: Tensor) -> Tensor:
    m.weight.data = m.other * m.mask
    return x @ m.weight


@pytest.mark.parametrize(
    "act", [after_the_last_read, beside_a_view_of_its_old_memory, from_another_weight], ids=lambda f: f.__name__
)
def test_when_and_from_what_data_is_replaced_in_a_plain_loop(act: Any) -> None:
    model = Squares(act)
    compiled = bold(ffc.compile(runs(model), (randn(2, 4),), schedule="jacobi"))
    endings = []
    for seed in range(4):
        if seed < 2:
            with torch.no_grad():
                model.weight.copy_(randn(4, 4, seed=seed + 5))
        twin = copy.deepcopy(model)
        with torch.no_grad():
            expected = runs(twin)(randn(2, 4, seed=seed))
        result, record = compiled.run(randn(2, 4, seed=seed))
        assert_same(result, expected)
        assert_same(dict(model.state_dict()), dict(twin.state_dict()))
        endings.append(record.ending)
    assert endings[2:] == [Ending.SWEEPS] * 2  # before, the first step may find what no later one does


def of_what_the_function_has_made(m: Any, x: Tensor) -> Tensor:
    y = x @ (m.weight * m.mask)
    y.data = y.data * 2
    return y


def by_the_state(m: Any, x: Tensor) -> Tensor:
    m.weight.data = m.weight * m.mask + 0 * x.sum()
    return x @ m.weight


def exchanged(m: Any, x: Tensor) -> Tensor:
    m.weight.data, m.other.data = m.other.data, m.weight.data
    return x @ (m.weight * m.mask)


def read_as_a_number(m: Any, x: Tensor) -> Tensor:
    m.weight.data = m.weight.data * m.mask
    assert bool(m.weight.data.isfinite().all())
    return x @ m.weight * m.weight.sum().item()


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (of_what_the_function_has_made, "the .data of a tensor that the function has made"),
        (by_the_state, "depends on the loop's state"),
        (exchanged, "is replaced"),
        (read_as_a_number, "becomes a Python number"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_data_that_is_replaced_otherwise_in_a_plain_loop_is_refused_and_runs_right(act: Any, says: str) -> None:
    model = Squares(act)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ffc.CaptureError, match=says) as caught:
        ffc.compile(runs(model), (randn(2, 4),), schedule="jacobi")
    assert HERE in str(caught.value)
    assert_same(dict(model.state_dict()), dict(before))
    compiled, twin = ffc.compile(runs(model), (randn(2, 4),)), copy.deepcopy(model)
    with torch.no_grad():
        assert_same(compiled(randn(2, 4, seed=1)), runs(twin)(randn(2, 4, seed=1)))
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))


def masked_in_place(m: Any, x: Tensor) -> Tensor:
    m.weight.data *= m.mask
    return x @ m.weight + torch.tanh(m.corner.sum())


def masked_in_place_then_moved(m: Any, x: Tensor) -> Tensor:
    m.weight.data *= m.mask
    m.weight.data = m.weight.data.clone()
    return x @ m.weight + torch.tanh(m.corner.sum())


@pytest.mark.parametrize("act", [masked_in_place, masked_in_place_then_moved], ids=lambda f: f.__name__)
def test_a_weight_that_shares_its_memory_since_compilation_is_seen_under_both_names(act: Any) -> None:
    model = Squares(act)
    model.corner = torch.ones(2, 4)
    compiled = bold(ffc.compile(runs(model), (randn(2, 4),), schedule="jacobi"))
    assert compiled.run(randn(2, 4))[1].ending is Ending.SWEEPS
    with torch.no_grad():
        model.weight.copy_(randn(4, 4, seed=9))
    model.corner = model.weight.detach()[2:]
    twin = copy.deepcopy(model)
    twin.corner = twin.weight.detach()[2:]
    with torch.no_grad():
        expected = runs(twin)(randn(2, 4, seed=1))
    result, record = compiled.run(randn(2, 4, seed=1))
    assert record.ending is Ending.STALE and "shares its memory with" in record.detail
    assert_same(result, expected)


def test_a_view_of_a_weight_that_steps_write_in_place_is_refused_in_a_plain_loop() -> None:
    model = Squares(lambda m, x: x @ m.weight)

    def sample(u: Tensor) -> Tensor:
        x, corner = torch.zeros_like(u), model.weight.data[2:, 2:]
        for i in range(4):
            model.weight.data *= model.mask
            x[:, i] = torch.tanh(model(x)[:, i]) + u[:, i] + corner.sum()
        return x

    with pytest.raises(ffc.CaptureError):
        ffc.compile(sample, (randn(2, 4),), schedule="jacobi")


# ---------------------------------------------------------------------------------------------------- random forwards


class Scripted(nn.Module):
    """A forward made of random writes into, and reads of, two weights and earlier views of them."""

    mask: Tensor
    part: Tensor

    def __init__(self, script: list[tuple[str, str]]) -> None:
        super().__init__()
        self.script = script
        self.a, self.b = nn.Parameter(randn(4, 4, seed=1)), nn.Parameter(randn(4, 4, seed=2))
        self.register_buffer("mask", torch.ones(4, 4).triu(1))
        self.register_buffer("part", (randn(4, 4, seed=5) > 0).float())

    def fill(self, seed: int) -> None:
        with torch.no_grad():
            self.a.copy_(randn(4, 4, seed=seed))
            self.b.copy_(randn(4, 4, seed=seed + 1))

    def forward(self, x: Tensor) -> Tensor:
        total, views = x @ (self.mask * 0.5), [self.a.data[:1]]
        for act, name in self.script:
            weight = getattr(self, name)
            if act == "view":
                views.append(weight.data[:2])
            elif act == "transposed view":
                views.append(weight.data.t())
            elif act == "read views":
                total = total + sum(torch.tanh(v.sum()) for v in views)
            elif act == "write views":
                for v in views:
                    v.mul_(0.0)
            elif act == "read":
                total = total + x @ (weight * self.mask)
            elif act == "read all":
                total = total + torch.tanh(weight.sum())
            else:
                self.write(act, weight, self.b if name == "a" else self.a)
        return total

    def write(self, act: str, weight: Tensor, other: Tensor) -> None:
        match act:
            case "mask":
                weight.data *= self.mask
            case "replace":
                weight.data = weight.data * self.mask
            case "replace by clamped":
                product = weight * self.part
                product.clamp_(-1, 1)
                weight.data = product
            case "transpose":
                weight.data = weight.data.t()
            case "clamp":
                weight.data.clamp_(-0.7, 0.7)
            case "blank":
                weight.data[1:, :2].zero_()
            case "copy":
                weight.data.copy_(other)
            case "negate":
                weight.data.neg_()
            case "abs":
                weight.data.abs_()


ACTS = [
    "mask", "replace", "replace by clamped", "transpose", "clamp", "blank", "copy", "negate", "abs",
    "view", "transposed view", "read views", "write views", "read", "read", "read all",
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from("ab")), min_size=1, max_size=7), st.booleans())
@example([("copy", "a"), ("mask", "b")], True)  # the copy of a weight that another write changes settles a step later
@example([("replace", "a"), ("write views", "a"), ("read views", "a"), ("read all", "a")], False)
@settings(max_examples=40)
def test_random_writes_and_reads_give_the_reference_bits_and_weights(
    script: list[tuple[str, str]], marked: bool
) -> None:
    model = Scripted(script)

    def sampled_by(net: Scripted) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def sample(u: Tensor) -> tuple[Tensor, ...]:
            def step(i: int, x: Tensor) -> Tensor:
                return x.select_scatter(torch.tanh(net(x))[:, i] + u[:, i], 1, i)

            x = torch.zeros_like(u)
            if marked:
                x = ffc.fori_loop(0, 4, step, x)
            else:
                for i in range(4):
                    x = step(i, x)
            return x, net.a.sum() * 1, net.b.t()[0] * 1

        return sample

    compiled = bold(ffc.compile(sampled_by(model), (randn(2, 4),)))
    if compiled.plan.refusal is None:
        compiled = bold(ffc.compile(sampled_by(model), (randn(2, 4),), schedule="jacobi"))
    for seed, anew in ((20, True), (21, True), (22, False)):  # the last time as the call before left it
        if anew:
            model.fill(seed)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            expected = sampled_by(twin)(randn(2, 4, seed=seed))
        assert_same(compiled(randn(2, 4, seed=seed)), expected)
        assert_same(dict(model.state_dict()), dict(twin.state_dict()))

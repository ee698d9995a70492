"""Nothing is certified that is not the reference's: wrong masks, violated conditions, odd values, stale premises."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from systems import Made, affine, bold, conv_1d_sampler, ordered, randn, raster
from test_catalogue import assert_same, unguarded
from torch import Tensor, nn

import ffcompiler as ffc

pytestmark = pytest.mark.usefixtures("one_thread")


def eager(function: Callable[..., Any], *args: Any) -> Any:
    with torch.no_grad():
        return function(*args)


def compiled_for(function: Callable[..., Any], *args: Any, schedule: str = "jacobi") -> ffc.Compiled:
    """Compiled by name if that is sound, else by ``auto``: either way its bits must be the function's."""
    try:
        return bold(ffc.compile(function, args, schedule=schedule))
    except (ffc.CausalityError, ffc.CaptureError):
        return bold(ffc.compile(function, args))


def assert_sound(function: Callable[..., Any], *calls: tuple[Tensor, ...]) -> ffc.Compiled:
    """The function's bits on the first arguments (compiled for them) and on all others, guarded and unguarded."""
    compiled = compiled_for(function, *calls[0])
    for args in calls:
        assert_same(compiled(*args), eager(function, *args))
        if compiled.plan.array is not None and compiled.plan.refusal is None and compiled.proof is not None:
            results, _ = unguarded(compiled, "jacobi", list(args))
            assert_same(results[0], eager(function, *args))
    return compiled


def assert_refused(function: Callable[..., Any], *args: Any, says: tuple[str, ...] = ()) -> None:
    """By name an error that says why; by itself sequential, with the right result."""
    with pytest.raises((ffc.CausalityError, ffc.CaptureError)) as caught:
        ffc.compile(function, args, schedule="jacobi")
    for words in says:
        assert words in str(caught.value), str(caught.value)
    result, record = ffc.compile(function, args).run(*args)
    assert record.certificate is None or record.certificate.certified_blocks == 0
    assert_same(result, eager(function, *args))


# ---------------------------------------------------------------------------------------------------- wrong masks


def test_a_first_layer_that_sees_itself_is_refused_with_operator_line_and_position() -> None:
    model = Made(8, last=1)  # output mask >= for >
    assert_refused(affine(model, 8), randn(4, 8), says=("addmm", "systems.py:", "in forward", "[:, 0]", "step 0"))


def test_an_off_by_one_in_the_hidden_degrees_is_refused_with_operator_line_and_position() -> None:
    model = Made(8)
    model.fc.mask[:, 1:] = model.fc.mask[:, :-1].clone()  # degree k reads inputs 0 .. k + 1
    assert_refused(affine(model, 8), randn(4, 8), says=("addmm", "systems.py:", "in forward", "[:, 1]", "step 1"))


def test_causality_errors_are_the_documented_class() -> None:
    with pytest.raises(ffc.CausalityError):
        ffc.compile(affine(Made(8, last=1), 8), (randn(4, 8),), schedule="sliding(2)")


@pytest.mark.parametrize("make", [lambda: conv_1d_sampler(leak=True), lambda: raster(1, 4, 2, leak=True)])
def test_a_convolution_mask_with_a_weight_at_its_centre_is_refused(make: Any) -> None:
    function, args = make()
    assert_refused(function, *args, says=("aten.convolution", "systems.py:"))


def test_a_random_order_looped_in_the_wrong_direction_is_refused() -> None:
    order = [3, 1, 4, 0, 5, 2]
    model = Made(6, order=order)
    back = order[::-1]

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, back[i]] = (mean + noise)[:, back[i]]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(noise))

    assert_refused(sample, randn(3, 6))


def test_attention_whose_first_row_is_uniformly_masked_is_refused() -> None:
    n, width = 6, 4
    q, k, v = (randn(1, width, seed=s) for s in range(3))
    bias = torch.where(torch.ones(n, n).tril(-1) > 0, 0.0, -1e10)  # row 0: softmax over equal scores

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            h = x[..., None]
            scores = (h @ q) @ (h @ k).transpose(1, 2) + bias
            mean = (torch.softmax(scores, -1) @ (h @ v)).sum(-1)
            x = x.clone()
            x[:, i] = mean[:, i] + noise[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.ones_like(noise))

    assert_refused(sample, randn(2, n))


# ---------------------------------------------------------------------------------------------------- the conditions

LOWER = torch.ones(6, 6).triu(1)  # x @ LOWER: position i sums positions before i


def looped(body: Callable[[int, Tensor, Tensor], Tensor], n: int = 6) -> Callable[[Tensor], Tensor]:
    def sample(u: Tensor) -> Tensor:
        return ffc.fori_loop(0, n, lambda i, x: body(i, x, u), torch.zeros_like(u))

    return sample


def _changes_more(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER + u
    x = x * 0.5  # condition 1
    x[:, i] = y[:, i]
    return x


def _writes_twice(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER + u
    x = x.clone()
    x[:, i // 2] = y[:, i // 2] + y[:, i] * 0.1  # condition 2
    return x


def _reads_old_content_of_another_place(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER + u
    old = x[:, (i + 1) % 6]  # condition 3: not the written position
    x = x.clone()
    x[:, i] = y[:, i] + old.exp()
    return x


def _shared_part_depends_on_the_step(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = torch.tanh(x * (i + 1)) @ LOWER + u  # condition 4
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _reads_itself(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ torch.ones(6, 6).triu(0) + u  # condition 5
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _mixes_the_batch(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER + u
    x = x.clone()
    x[:, i] = y[:, i] + x.mean()  # condition 5 by way of the batch: every entry, later ones included
    return x


def _cumulates(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x.cumsum(1) + u
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _flips(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x.flip(1) * 0.5 + u
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _sorts(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x.sort(1).values + u
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _batch_statistics(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = F.batch_norm(x, None, None, training=True) + u
    x = x.clone()
    x[:, i] = y[:, i]
    return x


def _batch_mean_of_the_past(i: int, x: Tensor, u: Tensor) -> Tensor:
    """Sound: rows are mixed, positions are not (condition 7)."""
    y = (x - x.mean(0, keepdim=True)) @ LOWER + u
    x = x.clone()
    x[:, i] = y[:, i].tanh()
    return x


VIOLATIONS = [
    _changes_more, _writes_twice, _reads_old_content_of_another_place, _reads_itself,
    _mixes_the_batch, _cumulates, _flips, _sorts, _batch_statistics,
]  # fmt: skip


@pytest.mark.parametrize("body", VIOLATIONS, ids=lambda f: f.__name__)
def test_a_program_that_violates_one_condition_is_refused_and_runs_right(body: Any) -> None:
    assert_refused(looped(body), randn(4, 6))


@pytest.mark.parametrize("body", [_shared_part_depends_on_the_step, _batch_mean_of_the_past], ids=lambda f: f.__name__)
def test_what_the_conditions_allow_at_a_price_is_right_whatever_is_decided(body: Any) -> None:
    assert_sound(looped(body), (randn(4, 6),), (randn(4, 6, seed=1),))


def test_later_positions_hold_the_first_state_in_the_reference() -> None:
    """A read of a later position is a read of ``init`` in the author's loop; an iterate there would be wrong."""
    assert_refused(looped(_reads_old_content_of_another_place), randn(4, 6))


# ---------------------------------------------------------------------------------------------------- odd values


@pytest.mark.parametrize("scale", [1.0, 8.0, 50.0, 1e4])
@pytest.mark.parametrize("batch", [1, 16])
def test_noise_scaled_until_values_overflow_still_gives_the_reference_bits(scale: float, batch: int) -> None:
    model = Made(16, gain=3.0)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = (mean + (log_scale * noise).exp() * noise)[:, i]  # no clamp
            return x

        return ffc.fori_loop(0, 16, step, torch.zeros_like(noise))

    model.forward = lambda x: model.out(torch.relu(model.mid(torch.relu(model.fc(x)))))  # type: ignore[method-assign]
    noise = randn(batch, 16, seed=3)
    assert_sound(sample, (noise,), (noise * scale,), (-noise * scale,))


def test_example_inputs_on_which_the_reference_itself_overflows_are_no_proof_of_interference() -> None:
    """What is not finite in the reference says nothing of kernels: the function is still compiled, or not, rightly."""

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = (x @ LOWER).exp() + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    wild, tame = torch.full((2, 6), 3.0), torch.full((2, 6), -3.0)
    compiled = compiled_for(sample, wild)
    assert_same(compiled(wild), eager(sample, wild))
    assert_same(compiled(tame), eager(sample, tame))
    assert "rounding depends" not in (compiled.plan.refusal or "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0, 1e38, 1e-44])
def test_odd_values_in_the_noise_or_the_first_state_give_the_reference_bits(value: float) -> None:
    model = Made(8)

    def sample(noise: Tensor, start: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] + F.softplus(log_scale[:, i]) * noise[:, i]
            return x

        return ffc.fori_loop(0, 7, step, start)  # position 7 is never written

    plain = (randn(3, 8), torch.zeros(3, 8))
    odd_noise, odd_start = randn(3, 8), torch.zeros(3, 8)
    odd_noise[1, 4] = odd_start[2, 7] = odd_start[0, 3] = value
    everywhere = (torch.full((3, 8), value), torch.full((3, 8), value))
    assert_sound(sample, plain, (odd_noise, plain[1]), (plain[0], odd_start), everywhere)


def test_a_zero_of_either_sign_behind_a_multiplied_mask_is_not_taken_for_the_other() -> None:
    """``0 * x`` is -0 for negative x: the sign of a masked product depends on what is masked."""
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = (x * mask).roll(-3, 1) if i < 0 else torch.cat([(x * mask)[:, 3:], (x * mask)[:, :3]], 1)
            x = x.clone()
            x[:, i] = torch.where(y[:, i] == 0, 1 / y[:, i], y[:, i]).clamp(-2, 2) + u[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    assert_sound(sample, (randn(4, 6),), (randn(4, 6, seed=3) - 3,))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_bias_of_minus_zero_does_not_let_masked_inputs_choose_the_sign(batch: int) -> None:
    """Where a kernel starts from the bias, -0 + 0 * x is -0 until one x is positive, masked or not."""
    n = 3
    weight, bias = torch.zeros(n, n), torch.full((n,), -0.0)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = 1 / F.linear(x, weight, bias)
            x = x.clone()
            x[:, i] = y[:, i].clamp(-2, 2) + u[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.full_like(u, -1.0))

    mixed = torch.tensor([-9.0, -9.0, 9.0]).expand(batch, n).contiguous()
    assert_sound(sample, (randn(batch, n) - 9,), (mixed,), (-mixed,))


def test_a_block_that_reads_nothing_is_not_final_while_the_sign_of_what_it_masks_counts() -> None:
    """Blocks that read none of the last sweep's are final at once, so that nothing else may have a say in them."""
    nothing, minus_zero = torch.zeros(1, 2), torch.full((1,), -0.0)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = torch.cat([u[:, :7], (1 / F.linear(x[:, :2], nothing, minus_zero)).clamp(-2, 2)], 1)
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 8, step, torch.full_like(u, -1.0))

    below = -randn(3, 8).abs() - 0.1  # the signs of the first state
    assert_sound(sample, (below,), (-below,))


def test_a_matrix_of_one_column_does_not_let_masked_inputs_choose_the_sign() -> None:
    weight = torch.tensor([[0.0], [1.0]])

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = 1 / F.linear(x[:, 1:], weight)  # output 0 is 0 * x[1], output 1 is unused at step 0
            first = torch.cat([y[:, :1].clamp(-2, 2), x[:, :1]], 1)
            x = x.clone()
            x[:, i] = first[:, i] + u[:, i]
            return x

        return ffc.fori_loop(0, 2, step, torch.zeros_like(u))

    assert_sound(sample, (randn(3, 2),), (randn(3, 2, seed=1) - 9,), (randn(3, 2, seed=1) + 9,))


def test_the_bits_that_steps_count_are_those_of_signed_zeros_too() -> None:
    """maximum and minimum of zeros of two signs: the vector body and the scalar tail of a kernel choose differently."""

    def sample(a: Tensor, b: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            before = F.pad(x, (1, 0))[:, :-1]
            x = x.clone()
            x[:, i] = torch.maximum(a[:, i], b[:, i]) + torch.minimum(a[:, i], b[:, i]) + 0 * before[:, i]
            x[:, i] = torch.maximum(a[:, i], b[:, i])
            return x

        return ffc.fori_loop(0, 37, step, torch.ones_like(a))

    zeros = torch.where(torch.arange(3 * 37).reshape(3, 37) % 2 == 0, 0.0, -0.0)
    assert_sound(sample, (randn(3, 37), randn(3, 37)), (zeros, -zeros), (-zeros, zeros))


@pytest.mark.parametrize("op", [torch.maximum, torch.minimum, lambda a, b: a.clamp(min=b)], ids=["max", "min", "clamp"])
def test_extrema_of_signed_zeros_have_the_reference_bits(op: Any) -> None:
    def sample(a: Tensor, b: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = op(a[:, i], b[:, i])
            return x

        return ffc.fori_loop(0, 41, step, torch.ones_like(a))

    zeros = torch.where(torch.arange(3 * 41).reshape(3, 41) % 2 == 0, 0.0, -0.0)
    assert_sound(sample, (randn(3, 41), randn(3, 41, seed=1)), (zeros, -zeros), (-zeros, zeros))


@pytest.mark.parametrize("op", [torch.mul, torch.div], ids=["mul", "div"])
def test_complex_products_have_the_reference_bits(op: Any) -> None:
    def sample(a: Tensor, b: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = op(a[:, i], b[:, i])
            return x

        return ffc.fori_loop(0, 17, step, torch.zeros_like(a))

    def draw(seed: int) -> Tensor:
        return torch.complex(randn(3, 17, seed=seed), randn(3, 17, seed=seed + 9))

    # the scalar form is contracted to fused multiply-adds, the vector form is not: complex products are not EXACT
    assert_sound(sample, (draw(0), draw(1)), (draw(2), draw(3)))


# ------------------------------------------------------------------------------------ dtypes of lifted numbers


def chain(tail: Callable[[Tensor, int], Tensor], n: int, fill: Any = 0) -> Callable[[Tensor], Tensor]:
    """``x[:, i] = tail(u[:, i] + x[:, i - 1], i)``."""

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            before = F.pad(x, (1, 0))[:, :-1] + u
            x = x.clone()
            x[:, i] = tail(before[:, i], i)
            return x

        return ffc.fori_loop(0, n, step, torch.full_like(u, fill))

    return sample


TENTH = [1.0, 1.0, 0.1, 0.3, 0.7, 1.0, 0.9, 0.2, 0.6, 1.0]  # exact in float32 where capture looks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float_numbers_of_the_step_are_not_rounded_to_another_dtype(dtype: torch.dtype) -> None:
    function = chain(lambda v, i: v * TENTH[i], 10)
    assert_sound(function, (randn(3, 10, dtype=dtype),), (randn(3, 10, seed=4, dtype=dtype),))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_integer_arrays_wrap_as_the_author_s_do(dtype: torch.dtype) -> None:
    big = torch.iinfo(dtype).max - 20
    function = chain(lambda v, i: ((v + big + i) > 3).to(dtype), 12)
    u = torch.arange(36).reshape(3, 12).remainder(23).to(dtype)
    assert_sound(function, (u,), (u.flip(0),))


@pytest.mark.parametrize(
    ("array", "table"),
    [(torch.float32, torch.float64), (torch.bfloat16, torch.float32), (torch.int32, torch.int64)],
    ids=["f64-into-f32", "f32-into-bf16", "i64-into-i32"],
)
def test_a_scalar_tensor_of_a_wider_dtype_does_not_promote_the_lifted_tail(array: Any, table: Any) -> None:
    """``schedule[i]`` has no dimension and so does not decide the dtype in the author's code."""
    schedule = torch.tensor(TENTH, dtype=torch.float64)
    schedule = schedule.to(table) if table.is_floating_point else (schedule * 10).to(table)
    function = chain(lambda v, i: v * schedule[i], 10)
    u = (randn(3, 10) * 9).to(array)
    assert_sound(function, (u,), (u.flip(0),))


@pytest.mark.parametrize(
    "tail",
    [
        lambda v, i: (v > i).to(v.dtype),
        lambda v, i: v.clamp(-i, i),
        lambda v, i: v.clamp(max=i / 7),
        lambda v, i: (v.abs() + 0.5) ** (i + 1),
        lambda v, i: v.masked_fill(v > 0, float(i)),
        lambda v, i: v + torch.full_like(v, i),
        lambda v, i: torch.add(v, v, alpha=i),
        lambda v, i: i - v,
        lambda v, i: v / (i + 1),
    ],
    ids=["gt", "clamp", "clamp_max", "pow", "masked_fill", "full_like", "alpha", "rsub", "div"],
)
def test_the_step_number_may_stand_in_any_operator_of_the_tail(tail: Any) -> None:
    assert_sound(chain(tail, 9), (randn(3, 9),), (randn(3, 9, seed=2),))


def test_slices_that_begin_before_the_array_are_clamped_as_torch_does() -> None:
    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = F.pad(x, (1, 0))[:, :-1] + u
            x = x.clone()
            x[:, i] = y[:, i] + u[:, i - 100 : 3].sum(1)
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(u))

    assert_sound(sample, (randn(3, 8),), (randn(3, 8, seed=1),))


def test_zeros_in_a_head_that_is_applied_to_one_position_are_no_trouble() -> None:
    """A premise about a value of the tail: a sparse linear head on ``h[:, i]``."""
    head = randn(1, 4)
    head[0, 2] = 0.0
    up = randn(1, 4, seed=3)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            h = torch.tanh(F.pad(x, (1, 0))[:, :-1, None] * up)
            x = x.clone()
            x[:, i] = F.linear(h[:, i], head)[:, 0] + u[:, i]
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(u))

    assert_sound(sample, (randn(3, 8),), (randn(3, 8, seed=1) * 1e30,))


def test_levels_kept_as_floats_and_looked_up_do_not_break_compilation() -> None:
    """The non-interference check puts values where they never occur: the lookup raises there, and must be contained."""
    table = randn(5, 1)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            h = F.embedding(x.long(), table)[..., 0] @ LOWER
            x = x.clone()
            x[:, i] = (h[:, i] + u[:, i]).round().clamp(0, 4)
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    assert_sound(sample, (randn(3, 6) * 3,), (randn(3, 6, seed=1) * 3,))


def test_an_empty_batch_is_no_trouble() -> None:
    function = affine(Made(6), 6)
    assert_sound(function, (torch.zeros(0, 6),))


def test_an_empty_batch_of_several_positions_at_a_time_is_no_trouble() -> None:
    mask = torch.arange(6)[:, None] // 2 < torch.arange(6) // 2
    weight = randn(6, 6) * mask

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean = torch.tanh(x @ weight)
            x = x.clone()
            x[:, 2 * i : 2 * i + 2] = mean[:, 2 * i : 2 * i + 2] + torch.softmax(u[:, 2 * i : 2 * i + 2], 1)
            return x

        return ffc.fori_loop(0, 3, step, torch.zeros_like(u))

    assert_sound(sample, (torch.zeros(0, 6),))


def test_constants_that_differ_only_in_the_sign_of_zero_are_kept_apart() -> None:
    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            before = F.pad(x, (1, 0))[:, :-1] + u
            x = x.clone()
            x[:, i] = before[:, i] * torch.tensor(0.0) + torch.tensor(-0.0) * before[:, i].abs()
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    assert_sound(sample, (randn(3, 6),), (-randn(3, 6).abs(),))


def test_a_step_number_that_is_zero_of_another_sign_is_kept_apart() -> None:
    function = chain(lambda v, i: v.abs() * (-0.0 if i == 5 else 0.0), 12, fill=1.0)
    assert_sound(function, (randn(3, 12),))


# ---------------------------------------------------------------------------------------------------- aliasing


def test_an_in_place_body_whose_result_is_read_through_the_first_state_survives_a_handover() -> None:
    """The author ignores what the loop returns: the array was changed in place."""
    model = Made(8)

    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)

        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x[:, i] = mean[:, i] + log_scale[:, i].tanh() * noise[:, i]
            return x

        ffc.fori_loop(0, 8, step, x)
        return x

    broken = randn(3, 8)
    broken[:, 4] = float("inf")
    assert_sound(sample, (randn(3, 8),), (randn(3, 8, seed=1),), (broken,))


def test_a_state_that_is_a_window_of_a_larger_array_keeps_its_layout() -> None:
    def sample(u: Tensor) -> Tensor:
        buffer = torch.zeros(u.shape[0], u.shape[1] + 3)

        def step(i: int, x: Tensor) -> Tensor:
            y = F.softplus(x) @ LOWER[:5, :5] + u
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 5, step, buffer[:, :5]) + 0

    compiled = assert_sound(sample, (randn(7, 5),), (randn(7, 5, seed=2),))
    if compiled.plan.array is not None and compiled.plan.refusal is None:
        assert compiled.plan.array.carry.type.stride == (8, 1)


def test_arguments_and_weights_are_never_written() -> None:
    model = Made(8)
    noise = randn(3, 8)
    start = randn(3, 8, seed=2)

    def sample(noise: Tensor, start: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] + noise[:, i] + start[:, i]
            return x

        return ffc.fori_loop(0, 8, step, start)

    kept = [t.clone() for t in (noise, start, *model.state_dict().values())]
    assert_sound(sample, (noise, start), (noise.flip(0), start.flip(0)))
    for now, then in zip((noise, start, *model.state_dict().values()), kept, strict=True):
        assert_same(now, then)


def test_a_body_that_writes_into_its_argument_runs_as_it_is() -> None:
    def sample(x: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x[:, i] = (x @ LOWER)[:, i] + 1
            return x

        return ffc.fori_loop(0, 6, step, x)

    with pytest.raises(ffc.CaptureError, match="outside the loop's state"):
        ffc.compile(sample, (randn(3, 6),), schedule="jacobi")
    compiled = ffc.compile(sample, (randn(3, 6),))
    a, b = randn(3, 6), randn(3, 6)
    assert_same(compiled(a), eager(sample, b))
    assert_same(a, b)


def test_the_epilogue_may_read_the_first_state() -> None:
    def sample(start: Tensor) -> tuple[Tensor, Tensor]:
        first = start * 2

        def step(i: int, x: Tensor) -> Tensor:
            y = x @ LOWER + start
            x = x.clone()
            x[:, i] = y[:, i] + x[:, i]
            return x

        x = ffc.fori_loop(0, 6, step, first)
        return x - first, first

    compiled = compiled_for(sample, randn(3, 6))
    assert_same(compiled(randn(3, 6, seed=1)), eager(sample, randn(3, 6, seed=1)))


def test_a_view_of_the_first_state_that_an_in_place_body_changes_is_refused() -> None:
    def sample(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        column = x[:, 2]

        def step(i: int, x: Tensor) -> Tensor:
            x[:, i] = (x @ LOWER + u)[:, i] + column
            return x

        return ffc.fori_loop(0, 6, step, x)

    assert_refused(sample, randn(3, 6))


# ---------------------------------------------------------------------------------------------------- stale premises


def _open_a_masked_weight(model: Made) -> None:
    with torch.no_grad():
        model.out.mask[0, -1] = 1.0


def _through_data(model: Made) -> None:
    model.out.mask.data[0] = 1.0


def _through_numpy(model: Made) -> None:
    model.out.mask.numpy()[0] = 1.0


def _replaced_mask(model: Made) -> None:
    model.out.mask = torch.ones_like(model.out.mask)


def _replaced_parameter(model: Made) -> None:
    model.fc.weight = nn.Parameter(model.fc.weight.detach() * 1.5 + 0.1)


def _changed_in_place(model: Made) -> None:
    with torch.no_grad():
        model.fc.weight.mul_(-1.3)


def _changed_through_data(model: Made) -> None:
    model.mid.weight.data *= 0.5


def _loaded(model: Made) -> None:
    model.load_state_dict(Made(8, seed=5).state_dict())


def _loaded_leaking(model: Made) -> None:
    model.load_state_dict(Made(8, seed=5, last=1).state_dict())


def _assigned(model: Made) -> None:
    model.load_state_dict(Made(8, seed=6).state_dict(), assign=True)


def _replaced_layer(model: Made) -> None:
    model.mid = Made(8, seed=9).mid


def _transposed_storage(model: Made) -> None:
    model.mid.weight = nn.Parameter(model.mid.weight.detach().t().contiguous().t())


def _double(model: Made) -> None:
    model.mid.weight = nn.Parameter(model.mid.weight.detach().clone())
    model.mid.weight.data = model.mid.weight.data * 2


CHANGES = [
    _open_a_masked_weight, _through_data, _through_numpy, _replaced_mask, _replaced_parameter, _changed_in_place,
    _changed_through_data, _loaded, _loaded_leaking, _assigned, _replaced_layer, _transposed_storage, _double,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("schedule", ["jacobi", "gs-jacobi(3)"])
def test_after_a_change_of_weights_the_bits_are_those_of_the_changed_function(change: Any, schedule: str) -> None:
    model = Made(8)
    function, noise = affine(model, 8), randn(3, 8)
    compiled = bold(ffc.compile(function, (noise,), schedule=schedule))
    before = compiled(noise)
    change(model)
    now = compiled(noise)
    assert_same(now, eager(function, noise))
    assert not torch.equal(before, now) or change is _transposed_storage
    assert_same(compiled(noise * 2), eager(function, noise * 2))


def test_a_mask_that_leaks_for_a_while_and_is_mended_is_proved_again() -> None:
    model = Made(8)
    function, noise = affine(model, 8), randn(3, 8)
    compiled = bold(ffc.compile(function, (noise,), schedule="jacobi"))
    kept = model.out.mask.clone()
    for mask in (torch.ones_like(kept), kept, kept * 2, kept * 0, kept):
        model.out.mask.copy_(mask)
        assert_same(compiled(noise), eager(function, noise))


def test_unmasked_weights_with_a_pattern_of_zeros_are_watched_too() -> None:
    """No mask in the graph: the zeros are those of the weight itself."""
    weight = randn(6, 6).triu(1)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ weight) + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    compiled = bold(ffc.compile(sample, (randn(3, 6),), schedule="jacobi"))
    for row, column, value in ((0, 3, 0.0), (4, 4, 1e-42), (4, 4, 0.0), (5, 0, float("nan")), (5, 0, 0.0)):
        weight.numpy()[row, column] = value
        assert_same(compiled(randn(3, 6)), eager(sample, randn(3, 6)))


def test_train_mode_with_dropout_is_seen() -> None:
    model = Made(8)
    drop = nn.Dropout(0.5).eval()

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = drop(model(x)).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = (mean + noise)[:, i]
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    noise = randn(3, 8)
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    drop.train()
    torch.manual_seed(3)
    got = compiled(noise)
    torch.manual_seed(3)
    assert_same(got, eager(sample, noise))
    drop.eval()
    assert_same(compiled(noise), eager(sample, noise))


def test_a_weight_behind_data_that_is_replaced_later_is_seen() -> None:
    layer = nn.Linear(6, 6, bias=False)

    def sample(u: Tensor) -> Tensor:
        weight = layer.weight.data.t()

        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ (weight * LOWER)) + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    assert_same(compiled(u), eager(sample, u))
    layer.weight = nn.Parameter(randn(6, 6, seed=8))
    assert_same(compiled(u), eager(sample, u))


def test_weights_that_were_tied_and_are_no_longer_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ (self.a.weight * LOWER)) @ (self.b.weight * torch.ones(6, 6).triu(0))

    net = Net()
    function, u = looped(lambda i, x, u: x.select_scatter(net(x)[:, i] + u[:, i], 1, i)), randn(3, 6)
    compiled = compiled_for(function, u)
    net.b.weight = nn.Parameter(randn(6, 6, seed=8))
    assert_same(compiled(u), eager(function, u))


def test_a_model_in_an_object_that_is_replaced_later_is_seen() -> None:
    class Sampler:
        def __init__(self) -> None:
            self.net = Made(8)

        def sample(self, noise: Tensor) -> Tensor:
            return affine(self.net, 8)(noise)

    sampler, noise = Sampler(), randn(3, 8)
    compiled = compiled_for(sampler.sample, noise)
    sampler.net = Made(8, seed=4)
    assert_same(compiled(noise), eager(sampler.sample, noise))


def test_a_tensor_in_a_list_of_a_module_that_is_replaced_later_is_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [randn(6, 6)]

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.parts[0] * LOWER)

    net = Net()
    function, u = looped(lambda i, x, u: x.select_scatter(net(x)[:, i].tanh() + u[:, i], 1, i)), randn(3, 6)
    compiled = compiled_for(function, u)
    net.parts[0] = randn(6, 6, seed=8)
    assert_same(compiled(u), eager(function, u))


@pytest.mark.parametrize("where", ["closure", "module", "global"])
def test_a_number_that_the_function_reads_from_outside_and_that_changes_is_seen(where: str) -> None:
    model = Made(8)
    model.temperature = 1.0  # type: ignore[assignment]
    box = {"temperature": 1.0}
    global TEMPERATURE  # noqa: PLW0603
    TEMPERATURE = 1.0

    def temperature() -> float:
        return {"closure": box["temperature"], "module": float(model.temperature), "global": TEMPERATURE}[where]

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] + noise[:, i] * temperature()
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    noise = randn(3, 8)
    compiled = compiled_for(sample, noise)
    box["temperature"] = model.temperature = TEMPERATURE = 0.5  # type: ignore[assignment]
    assert_same(compiled(noise), eager(sample, noise))


TEMPERATURE = 1.0


def test_weights_that_the_prologue_clips_in_place_are_clipped_in_later_calls_too() -> None:
    layer = nn.Linear(6, 6, bias=False)

    def sample(u: Tensor) -> Tensor:
        layer.weight.data.clamp_(-0.2, 0.2)

        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ (layer.weight * LOWER)) + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    new = randn(6, 6, seed=8) * 3
    layer.weight.data.copy_(new)
    got = compiled(u)
    layer.weight.data.copy_(new)
    assert_same(got, eager(sample, u))


def test_numpy_arrays_that_change_are_seen() -> None:
    table = np.ones(6, dtype=np.float32)

    def sample(u: Tensor) -> Tensor:
        scale = torch.from_numpy(table)

        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ LOWER) * scale + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    table[:] = 2.0
    assert_same(compiled(u), eager(sample, u))
    table = np.full(6, 3.0, dtype=np.float32)
    assert_same(compiled(u), eager(sample, u))


def test_a_hook_that_is_added_later_is_seen() -> None:
    model = Made(8)
    function, noise = affine(model, 8), randn(3, 8)
    compiled = compiled_for(function, noise)
    model.out.register_forward_hook(lambda module, given, out: out * 2)
    assert_same(compiled(noise), eager(function, noise))


class _Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.act, self.scales = Made(8), torch.tanh, SimpleNamespace(out=1.0)
        self.hook = self.net.out.register_forward_hook(lambda module, given, out: out * 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.net(x)) * self.scales.out


def _hooked_otherwise(model: _Chosen) -> None:
    model.hook.remove()
    model.net.out.register_forward_hook(lambda module, given, out: out * 0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "act", torch.sigmoid),
        lambda model: setattr(model.scales, "out", 0.5),
        _hooked_otherwise,
    ],
    ids=["function", "namespace", "hook"],
)
def test_code_and_settings_that_take_the_place_of_others_are_seen(change: Any) -> None:
    model = _Chosen()
    function, noise = affine(model, 8), randn(3, 8)
    compiled = compiled_for(function, noise)
    change(model)
    assert_same(compiled(noise), eager(function, noise))


def test_a_test_of_a_tensor_whose_data_was_replaced_is_not_taken_for_a_constant() -> None:
    def sample(u: Tensor) -> Tensor:
        seen = torch.zeros(3, 6)
        seen.data = u.clone()
        if seen.abs().max() > 50:
            return u
        return ffc.fori_loop(0, 6, lambda i, x: x.select_scatter((x @ LOWER + u)[:, i], 1, i), torch.zeros(3, 6))

    u = randn(3, 6)
    with pytest.raises(ffc.CaptureError, match="the function has made"):
        ffc.compile(sample, (u,), on_unsupported="raise")


def test_augmented_assignment_to_the_position_is_ordinary_in_place_slicing() -> None:
    """``x[:, i] += v`` writes twice: the sum into the view, the view onto itself."""

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x[:, i] += torch.tanh(x @ LOWER)[:, i]
            return x

        return ffc.fori_loop(0, 6, step, noise.clone())

    compiled = assert_sound(sample, (randn(3, 6),), (randn(3, 6, seed=1),))
    assert compiled.plan.refusal is None


def test_no_warning_is_given_on_the_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function, args = ordered([2, 0, 1])
        assert_sound(function, args)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_bias_of_negative_zero_lets_a_zero_weight_cut_nothing(batch: int) -> None:
    """``-0 + 0 * x`` has the sign of ``-x``, and a division shows it: the zero is a dependence after all."""
    n = 4
    weight = torch.zeros(n, n)
    weight[1:, 0] = -1.0
    bias = torch.full((n,), -0.0)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = (1 / F.linear(x, weight, bias)).clamp(-2, 2)
            x = x.clone()
            x[:, i] = y[:, i] * u[:, i + n] + u[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.full((u.shape[0], n), -1.0))

    example = torch.rand(batch, 2 * n, generator=torch.Generator().manual_seed(0)) + 0.1
    compiled = ffc.compile(sample, (example,))
    assert compiled.plan.refusal is not None and "aten.addmm.default" in compiled.plan.refusal
    for first in (2.0, -2.0):
        other = example.clone()
        other[:, 0], other[:, n] = first, 1.0
        assert_same(compiled(other), sample(other))

"""What must hold on CUDA: the same bits, the assumption behind certificates, and moving between devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ffcompiler as ffc
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.premises import LARGEST_REDUCED
from ffcompiler.zoo.made import load, logistic_noise, sample

pytestmark = pytest.mark.gpu


def made_sampler(device: str) -> Callable[[Tensor], Tensor]:
    model = load().to(device)
    return lambda noise: sample(model, noise)


@pytest.mark.parametrize("batch", [1, 16, 100])
def test_made_has_the_bits_of_its_own_loop(batch: int) -> None:
    function, noise = made_sampler("cuda"), logistic_noise(batch, 0).cuda()
    compiled = ffc.compile(function, (noise,))
    other = logistic_noise(batch, 1).cuda()
    assert compiled.verify(other).equal


@pytest.mark.parametrize("schedule", ["jacobi", "sliding(98)", "gs-jacobi(196)"])
def test_schedules_asked_for_by_name_have_the_same_bits(schedule: str) -> None:
    function, noise = made_sampler("cuda"), logistic_noise(16, 0).cuda()
    assert ffc.compile(function, (noise,), schedule=schedule).verify(noise).equal


def test_an_artifact_made_on_the_cpu_runs_on_cuda(tmp_path) -> None:  # type: ignore[no-untyped-def]
    noise = logistic_noise(4, 0)
    ffc.compile(made_sampler("cpu"), (noise,)).save(tmp_path / "made.ffc")
    loaded = ffc.load(tmp_path / "made.ffc", device="cuda")
    assert loaded.verify(noise.cuda()).equal


def test_a_model_that_moves_to_another_device_is_not_run_with_the_old_plan() -> None:
    model, noise = load(), logistic_noise(4, 0)
    compiled = ffc.compile(lambda noise: sample(model, noise), (noise,))
    model.cuda()
    with pytest.raises((RuntimeError, ffc.FFCompilerError)):
        compiled(noise)


@pytest.mark.parametrize(("here", "there"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_plan_says_what_it_would_take_on_the_other_device(here: str, there: str) -> None:
    torch.ones(1).cuda()
    function, noise = made_sampler(here), logistic_noise(4, 0).to(here)
    plan = ffc.compile(function, (noise,), budget=60.0, cache=False).plan
    (told,) = (one for one in plan.alternatives if one.change == f"on {there}")
    assert told.seconds > 0.0 and told.reference > 0.0


SHARED_OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, _lower(x.shape[-1]).to(x)),
    "linear with bias": lambda x: F.linear(x, _lower(x.shape[-1]).to(x), torch.ones(x.shape[-1]).to(x)),
    "conv1d": lambda x: F.conv1d(x[:, None], _causal_kernel().to(x), padding=2)[..., : x.shape[-1]],
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
}


def _lower(n: int) -> Tensor:
    return torch.tril(torch.randn(n, n, generator=torch.Generator().manual_seed(0)))


def _causal_kernel() -> Tensor:
    return torch.tensor([[[0.3, -0.7, 1.1]]])


@pytest.mark.parametrize("name", SHARED_OPERATORS)
@pytest.mark.parametrize("batch", [1, 16, 100])
@pytest.mark.parametrize("filling", [0.0, -0.0, -3.0, 1e4, LARGEST_REDUCED / 1e6])
def test_later_positions_do_not_change_the_rounding_of_earlier_ones(name: str, batch: int, filling: float) -> None:
    x = torch.randn(batch, 784, device="cuda")
    disturbed = x.clone()
    disturbed[:, 400:] = filling
    before = SHARED_OPERATORS[name](x)[..., :400]
    assert same_bits(SHARED_OPERATORS[name](disturbed)[..., :400], before)

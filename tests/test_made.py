"""The main job: the shipped MADE has the bits of its own loop, at several batches and under settings that move bits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import ffcompiler as ffc
from ffcompiler.compiled import Compiled
from ffcompiler.zoo.made import logistic_noise, sampler

IN_ANOTHER_PROCESS = """
import ffcompiler as ffc
from ffcompiler.zoo.made import logistic_noise, sampler
compiled = ffc.compile(sampler(), (logistic_noise(8, 0),), schedule="jacobi")
verification = compiled.verify(logistic_noise(8, 1))
print("equal" if verification.equal else verification)
"""


def without_guard(compiled: Compiled) -> Compiled:
    """The same plan without costs, so that the sweeps run to the end whatever they cost on this machine."""
    return Compiled(replace(compiled.plan, costs=None), compiled.proofs, compiled.prove, compiled.live)


@pytest.mark.parametrize("batch", [1, 16, 100])
def test_bits_are_those_of_the_loop_and_the_sweeps_are_few(batch: int) -> None:
    function = sampler()
    compiled = without_guard(ffc.compile(function, (logistic_noise(batch, 0),), schedule="jacobi"))
    verification = compiled.verify(logistic_noise(batch, 1))
    assert verification.equal, str(verification)
    assert verification.record.certified == 784
    assert len(verification.record.sweeps) < 60
    fronts = verification.record.fronts
    assert fronts == sorted(fronts)


@pytest.mark.parametrize("branch", ["COMPATIBLE", "AVX2", "AVX512,STRICT"])
def test_bits_are_those_of_the_loop_whatever_the_kernels_are_told(branch: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        env={**os.environ, "MKL_CBWR": branch},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stdout + done.stderr


def test_noise_scaled_until_values_overflow_still_gives_the_bits_of_the_loop() -> None:
    function = sampler()
    compiled = without_guard(ffc.compile(function, (logistic_noise(4, 0),), schedule="jacobi"))
    for scale in (8.0, 1e30, float("inf")):
        verification = compiled.verify(logistic_noise(4, 1) * scale)
        assert verification.equal, str(verification)


def test_nan_in_the_noise_gives_the_bits_of_the_loop() -> None:
    compiled = without_guard(ffc.compile(sampler(), (logistic_noise(4, 0),), schedule="jacobi"))
    noise = logistic_noise(4, 1)
    noise[2, 300] = torch.nan
    assert compiled.verify(noise).equal

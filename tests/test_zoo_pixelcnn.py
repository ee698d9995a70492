"""The zoo's PixelCNN: what a pixel reads, the density, the sampler, the shipped weights, the training."""

from __future__ import annotations

import gzip
import itertools
import struct
from math import log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from systems import bold
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.zoo import mnist, pixelcnn, train

SMALL = (3, 3, 3)  # a pixel reads 3 rows and columns away


def random_pixelcnn(kernels: tuple[int, ...] = SMALL, levels: int = 4, gain: float = 1.0) -> pixelcnn.PixelCNN:
    torch.manual_seed(0)
    model = pixelcnn.PixelCNN(filters=4, kernels=kernels, levels=levels).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model.requires_grad_(False)


def pixels_read(model: pixelcnn.PixelCNN, row: int, column: int, side: int) -> Tensor:
    """Bool [side, side]: the pixels that the logits at (row, column) have a derivative for."""
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, side, side, generator=draw, dtype=torch.float64).requires_grad_()
    logits = model(image)[0, :, row, column]
    (logits * torch.rand(logits.shape, generator=draw, dtype=torch.float64)).sum().backward()
    assert image.grad is not None
    return image.grad[0, 0] != 0


def images(count: int) -> Tensor:
    """Smooth blobs, so that there is something to learn: uint8 [count, 28, 28]."""
    coarse = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0] * 255).to(torch.uint8)


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 30, 28, 28)
    (folder / f"{mnist.IMAGES}.gz").write_bytes(gzip.compress(header + bytes(images(30).flatten().tolist())))
    return folder


@pytest.fixture(scope="module")
def shipped_digits() -> tuple[Tensor, Tensor, int]:
    """Noise, the digits that the shipped model makes of it, and the sweeps that took: 784 calls are too many here."""
    model, noise = pixelcnn.load(), pixelcnn.gumbel_noise(2, seed=0)
    x = torch.zeros(2, 1, 28, 28)
    for sweep in range(1, 785):
        before, x = x, (model(x) + noise).argmax(1, keepdim=True).float() / 15
        if torch.equal(before, x):
            return noise, x, sweep
    raise AssertionError("no fixed point: a pixel reads itself or a later one")


# The model


def test_masks_keep_the_rows_above_and_the_columns_to_the_left() -> None:
    assert pixelcnn.rows_above(3, centre=False).tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert pixelcnn.rows_above(3, centre=True).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert pixelcnn.columns_left(3, centre=False).tolist() == [[True, False, False]]
    assert pixelcnn.columns_left(3, centre=True).tolist() == [[True, True, False]]


def test_a_weight_outside_the_mask_has_no_effect() -> None:
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    layer = pixelcnn.MaskedConv2d(2, 3, mask)
    x = torch.rand(1, 2, 6, 6)
    before = layer(x)
    with torch.no_grad():
        layer.weight.masked_fill_(~mask, 7.0)
        assert torch.equal(layer(x), before)
        layer.weight.masked_fill_(mask, 7.0)
    assert not torch.equal(layer(x), before)


@pytest.mark.parametrize("kernels", [(3,), (5, 3), (3, 5), SMALL])
def test_each_pixel_reads_every_earlier_pixel_in_reach_and_no_other(kernels: tuple[int, ...]) -> None:
    """Above: a full rectangle, without the blind spot of a single stack. Left: the row. Never itself, or later ones."""
    model, side = random_pixelcnn(kernels), 9
    reach = sum(kernel // 2 for kernel in kernels)
    for row, column in ((0, 0), (0, 8), (4, 4), (5, 0), (8, 8)):
        expected = torch.zeros(side, side, dtype=torch.bool)
        expected[max(0, row - reach) : row, max(0, column - reach) : column + reach + 1] = True
        expected[row, max(0, column - reach) : column] = True
        assert torch.equal(pixels_read(model, row, column, side), expected), (row, column)


def test_the_shipped_model_reads_no_later_pixel() -> None:
    model = pixelcnn.load()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before = model(x).flatten(2)
    for pixel in (0, 27, 28, 405, 783):
        changed = x.clone().flatten(2)
        changed[..., pixel:] = 1 - changed[..., pixel:]
        after = model(changed.view_as(x)).flatten(2)
        assert torch.equal(before[..., : pixel + 1], after[..., : pixel + 1])
        assert pixel == 783 or not torch.equal(before[..., pixel + 1 :], after[..., pixel + 1 :])


def test_probabilities_of_all_images_add_up_to_one() -> None:
    model = random_pixelcnn((3, 3), levels=3, gain=3.0)
    every = torch.tensor(list(itertools.product(range(3), repeat=6)), dtype=torch.float64).view(-1, 1, 2, 3) / 2
    log_prob = model.log_prob(every)
    assert log_prob.std() > 0.3, "not all images alike"
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_log_prob_is_that_of_the_level_that_stands_there() -> None:
    model = random_pixelcnn(levels=16)
    level = torch.arange(16).repeat(4)[:60].view(1, 1, 6, 10)
    x = mnist.to_levels((level * 16).to(torch.uint8)[0]).double()
    expected = model(x).log_softmax(1).gather(1, level).sum()
    assert torch.allclose(model.log_prob(x), expected)


def test_bits_per_pixel_of_a_model_that_knows_nothing_are_those_of_a_level() -> None:
    model = random_pixelcnn(levels=16, gain=0.0)
    assert pixelcnn.bits_per_pixel(model, torch.zeros(2, 1, 5, 5).double()).tolist() == pytest.approx([4, 4])


# The sampler


def test_samples_are_levels_and_the_fixed_point_of_their_equations() -> None:
    model, noise = random_pixelcnn(gain=2.0), pixelcnn.gumbel_noise(5, seed=1, side=7, levels=4).double()
    x = pixelcnn.sample(model, noise)
    assert x.shape == (5, 1, 7, 7) and set(x.mul(3).flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(x, (model(x) + noise).argmax(1, keepdim=True).double() / 3)


def test_samples_depend_on_the_noise_alone() -> None:
    model, noise = random_pixelcnn(gain=2.0), pixelcnn.gumbel_noise(3, seed=1, side=5, levels=4).double()
    torch.manual_seed(1)
    first = pixelcnn.sample(model, noise)
    torch.manual_seed(2)
    assert torch.equal(first, pixelcnn.sample(model, noise))
    assert not torch.equal(first, pixelcnn.sample(model, noise.flip(0)))


def test_samples_follow_the_probabilities_of_the_model() -> None:
    model = random_pixelcnn(levels=2, gain=2.0)
    x = pixelcnn.sample(model, pixelcnn.gumbel_noise(4000, seed=0, side=2, levels=2).double()).flatten(1)
    every = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.float64)
    seen = (x[None] == every[:, None]).all(2).double().mean(1)
    assert (seen - model.log_prob(every.view(-1, 1, 2, 2)).exp()).abs().max() < 0.03


def test_noise_depends_on_the_seed_alone_and_scales_with_temperature() -> None:
    noise = pixelcnn.gumbel_noise(2, seed=3, side=40)
    assert noise.shape == (2, 16, 40, 40) and noise.dtype == torch.float32 and noise.isfinite().all()
    assert torch.equal(noise, pixelcnn.gumbel_noise(2, seed=3, side=40))
    assert not torch.equal(noise, pixelcnn.gumbel_noise(2, seed=4, side=40))
    assert torch.equal(noise / 2, pixelcnn.gumbel_noise(2, seed=3, side=40, temperature=0.5))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02) and noise.exp().neg().exp().mean() < 0.5


def test_the_sampler_compiles_to_a_proof() -> None:
    model, noise = random_pixelcnn(gain=2.0).float(), pixelcnn.gumbel_noise(2, seed=0, side=5, levels=4)
    compiled = ffc.compile(lambda noise: pixelcnn.sample(model, noise), (noise,), schedule="jacobi")
    assert compiled.plan.refusal is None
    verification = bold(compiled).verify(pixelcnn.gumbel_noise(2, seed=1, side=5, levels=4))
    assert verification.equal, str(verification)
    assert verification.record.certified == 25


# What is shipped


def test_shipped_weights_load_ready_to_sample() -> None:
    model = pixelcnn.load()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_shipped_sampler_names_its_inputs_and_loads_its_model_once() -> None:
    (noise,) = pixelcnn.example_inputs()
    assert noise.shape == (1, 16, 28, 28) and noise.dtype == torch.float32
    assert pixelcnn.sample_digits.example_inputs is pixelcnn.example_inputs  # type: ignore[attr-defined]
    assert pixelcnn._shipped() is pixelcnn._shipped()


def test_shipped_weights_need_more_than_a_handful_of_sweeps_and_far_fewer_than_steps(
    shipped_digits: tuple[Tensor, Tensor, int],
) -> None:
    assert 10 < shipped_digits[2] < 300


def test_the_shipped_sampler_gives_the_fixed_point_of_its_equations(
    shipped_digits: tuple[Tensor, Tensor, int],
) -> None:
    """The first rows only, of which the model sees nothing below: the loop over them is short."""
    noise, x, _ = shipped_digits
    assert x[:1, :, :7].any(), "not all background"
    assert torch.equal(pixelcnn.sample_digits(noise[:1, :, :7]), x[:1, :, :7])


def test_shipped_samples_are_ink_on_a_dark_ground(shipped_digits: tuple[Tensor, Tensor, int]) -> None:
    digits = mnist.to_grey(shipped_digits[1]).float() / 255
    assert digits[:, 0].mean() < 0.05, "the first row is background"
    assert digits[:, 8:20, 8:20].mean() > 0.15, "the middle has ink"
    assert 0.2 < (digits[digits > 0] > 0.5).float().mean() < 0.95, "strokes have soft edges"


def test_shipped_model_finds_a_digit_likelier_than_the_same_pixels_upside_down(
    shipped_digits: tuple[Tensor, Tensor, int],
) -> None:
    model, x = pixelcnn.load(), shipped_digits[1]
    upright, upside_down = (pixelcnn.bits_per_pixel(model, image).mean() for image in (x, x.flip(2)))
    assert upright < 1 and upright < 0.9 * upside_down


# Data


def test_levels_are_the_high_bits_of_the_pixels_and_come_back_as_grey() -> None:
    bytes_ = torch.arange(256).repeat(49)[: 16 * 784].reshape(16, 28, 28).to(torch.uint8)
    x = mnist.to_levels(bytes_)
    assert x.shape == (16, 1, 28, 28) and x.dtype == torch.float32
    assert torch.equal((x[:, 0] * 15).round().to(torch.uint8), bytes_ // 16)
    assert torch.equal(mnist.to_grey(x), bytes_ // 16 * 17)


# Training


def test_training_writes_weights_that_the_model_takes(
    tiny_mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pixelcnn.safetensors"
    assert train.main(["pixelcnn", "--mnist", str(tiny_mnist), "--epochs", "2", "--output", str(output)]) == 0
    model = pixelcnn.PixelCNN()
    model.load_state_dict(load_file(output))
    shown = capsys.readouterr()
    bits = pixelcnn.bits_per_pixel(model, mnist.to_levels(images(30))[-3:]).mean().item()
    assert bits < 4, "better than knowing nothing"
    assert f"held-out NLL {bits:.4f} bits per pixel" in shown.out and "epoch 2/2" in shown.err


def test_training_again_gives_the_same_weights() -> None:
    recipe = train.Recipe(epochs=1, seed=7)
    first, second = (train.train_pixelcnn(images(20), recipe)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_held_out_likelihood_is_in_nats_of_an_image() -> None:
    model, nats = train.train_pixelcnn(images(20), train.Recipe(epochs=1))
    bits = pixelcnn.bits_per_pixel(model, mnist.to_levels(images(20))[-2:]).mean().item()
    assert nats == pytest.approx(bits * 784 * log(2), rel=1e-5)

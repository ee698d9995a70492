"""The zoo: its models, its data loader, and the command that trains its weights."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ffcompiler.zoo import char_gru, made, mnist, train

TINY = (24, 24)


def idx(array: torch.Tensor, kind: int = 8) -> bytes:
    """``array`` as an IDX file of unsigned bytes."""
    header = struct.pack(f">BBBB{array.dim()}I", 0, 0, kind, array.dim(), *array.shape)
    return header + bytes(array.flatten().int().tolist())


def digits(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / f"{mnist.IMAGES}.gz").write_bytes(gzip.compress(idx(digits(40))))
    return folder


def random_made(dims: int = 12) -> made.MADE:
    torch.manual_seed(0)
    return made.MADE(dims, TINY)


# The model


def test_made_gives_a_mean_and_a_log_scale_per_pixel() -> None:
    mean, log_scale = random_made()(torch.zeros(3, 12))
    assert mean.shape == log_scale.shape == (3, 12)


@pytest.mark.parametrize("output", [0, 1], ids=["mean", "log_scale"])
def test_each_pixel_reads_all_the_pixels_before_it_and_no_other(output: int) -> None:
    model = random_made()
    for layer in (model.layer1, model.layer2, model.output):  # no unit off, no two paths that cancel
        torch.nn.init.uniform_(layer.weight, 0.01, 0.02)
        torch.nn.init.ones_(layer.bias)
    reads = torch.func.jacrev(lambda x: model(x[None])[output][0])(torch.zeros(12)) != 0
    assert torch.equal(reads, torch.ones(12, 12, dtype=torch.bool).tril(-1))


def test_the_shipped_model_does_not_see_later_pixels() -> None:
    model, x = made.load(), made.logistic_noise(2, seed=0)
    for pixel in (0, 300, 783):
        changed = x.clone()
        changed[:, pixel:] += 5
        for before, after in zip(model(x), model(changed), strict=True):
            assert torch.equal(before[:, : pixel + 1], after[:, : pixel + 1])


def test_log_prob_integrates_to_one() -> None:
    model = random_made(dims=1)
    grid = torch.linspace(-200, 200, 400_001)[:, None]
    assert model.log_prob(grid).exp().sum().item() * 1e-3 == pytest.approx(1, abs=1e-3)


def test_log_prob_is_finite_far_out() -> None:
    x = torch.tensor([-1e3, 0.0, 1e3])[:, None].expand(3, 12)
    assert random_made().log_prob(x).isfinite().all()


# The sampler


def test_samples_are_the_fixed_point_of_their_equations() -> None:
    model, noise = random_made(), made.logistic_noise(4, seed=1, dims=12)
    with torch.no_grad():
        x = made.sample(model, noise)
        mean, log_scale = model(x)
    assert torch.allclose(x, mean + log_scale.exp() * noise, atol=1e-5)


def test_noise_depends_on_the_seed_alone_and_scales_with_temperature() -> None:
    noise = made.logistic_noise(2, seed=3, dims=5)
    assert noise.shape == (2, 5) and noise.dtype == torch.float32
    assert torch.equal(noise, made.logistic_noise(2, seed=3, dims=5))
    assert not torch.equal(noise, made.logistic_noise(2, seed=4, dims=5))
    assert torch.equal(noise / 2, made.logistic_noise(2, seed=3, dims=5, temperature=0.5))


def test_shipped_weights_load_ready_to_sample() -> None:
    model = made.load()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_shipped_sampler_names_its_inputs_and_loads_its_model_once() -> None:
    (noise,) = made.example_inputs()
    assert noise.shape == (100, 784) and noise.dtype == torch.float32
    assert made.sample_mnist.example_inputs is made.example_inputs  # type: ignore[attr-defined]
    assert made._shipped() is made._shipped()


def test_shipped_samples_are_ink_on_a_dark_ground() -> None:
    images = mnist.to_pixels(made.sample_mnist(made.logistic_noise(4, seed=0))).float() / 255
    assert images[:, 0].mean() < 0.1, "the first row is background"
    assert images[:, 8:20, 8:20].mean() > 0.15, "the middle has ink"


@torch.no_grad()
def test_a_random_made_is_coupled_as_a_trained_one_is() -> None:
    """With PyTorch's initial weights two or three sweeps would do, and prove nothing."""
    model, noise = made.random_made(300, seed=0), made.logistic_noise(4, seed=0, dims=300)
    x, sweeps = torch.zeros_like(noise), 0
    while sweeps < 300:
        mean, log_scale = model(x)
        before, x, sweeps = x, mean + log_scale.exp() * noise, sweeps + 1
        if torch.equal(before, x):
            break
    assert 10 < sweeps < 100 and x.isfinite().all()


def test_a_random_made_depends_on_its_seed_alone_and_leaves_the_random_state() -> None:
    state = torch.get_rng_state()
    first = made.random_made(12, seed=1, hidden=TINY).layer2.weight
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, made.random_made(12, seed=1, hidden=TINY).layer2.weight)
    assert torch.equal(2 * first, made.random_made(12, seed=1, gain=4.0, hidden=TINY).layer2.weight)
    assert not torch.equal(first, made.random_made(12, seed=2, hidden=TINY).layer2.weight)


# Data


def test_pixels_survive_the_round_trip_through_logits() -> None:
    images = torch.arange(256).repeat(49)[: 16 * 784].reshape(16, 28, 28).to(torch.uint8)
    uniform = 0.01 + 0.98 * torch.rand(16, 784, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mnist.to_pixels(mnist.to_logits(images, uniform)), images)


def test_logits_are_finite_at_the_ends_of_the_range() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1).expand(2, 28, 28)
    assert mnist.to_logits(images, torch.zeros(2, 784)).isfinite().all()
    assert mnist.to_pixels(torch.full((1, 784), 1e4)).eq(255).all()


@pytest.mark.parametrize("name", [mnist.IMAGES, f"mnist-{mnist.IMAGES}.gz"])
def test_images_are_found_under_their_usual_names(tmp_path: Path, name: str) -> None:
    content = idx(digits(2))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert torch.equal(mnist.load_images(tmp_path), digits(2))


GOOD = idx(digits(1))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an IDX file"),
        (b"PNG, perhaps", "not an IDX file"),
        (idx(digits(1), kind=0x0D), "IDX type 0x0d"),
        (GOOD[:8], "header is cut short"),
        (GOOD[:-1], "783 bytes of data, but shape"),
        (GOOD + b"x", "785 bytes of data, but shape"),
        (gzip.compress(GOOD)[:-9], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (idx(torch.zeros(1, 8, 8)), "expected [N, 28, 28]"),
        (idx(torch.zeros(784)), "expected [N, 28, 28]"),
    ],
)
def test_a_bad_image_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / mnist.IMAGES).write_bytes(content)
    with pytest.raises(mnist.DataError) as caught:
        mnist.load_images(tmp_path)
    assert mnist.IMAGES in str(caught.value) and complaint in str(caught.value)


# Training


def test_training_writes_weights_that_the_model_takes(
    tiny_mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "made.safetensors"
    assert train.main(["made", "--mnist", str(tiny_mnist), "--epochs", "1", "--output", str(output)]) == 0
    made.MADE().load_state_dict(load_file(output))
    assert [path.name for path in output.parent.iterdir()] == ["made.safetensors"]
    shown = capsys.readouterr()
    assert "held-out NLL" in shown.out and "epoch 1/1" in shown.err


def test_training_on_a_text_writes_weights_of_half_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, output = tmp_path / "text", tmp_path / "char_gru.safetensors"
    text.write_text("To be, or not to be: that is the question.\n" * 30)
    assert train.main(["char_gru", "--text", str(text), "--epochs", "1", "--output", str(output)]) == 0
    weights = load_file(output)
    char_gru.CharGRU().load_state_dict(weights)
    assert {t.dtype for t in weights.values()} == {torch.float16}
    assert "bits per character" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "complaint"), [("short", "at least 1000"), ("é" * 2000, "no character 'é'")])
def test_a_text_that_cannot_be_trained_on_says_why(
    content: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text(content, encoding="utf-8")
    command = ["char_gru", "--text", str(tmp_path / "text"), "--output", str(tmp_path / "x")]
    assert train.main(command) == 2 and complaint in capsys.readouterr().err


def test_training_keeps_an_existing_output_unless_forced(
    tiny_mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made.safetensors"
    output.write_text("precious")
    command = ["made", "--mnist", str(tiny_mnist), "--epochs", "1", "--output", str(output)]
    assert train.main(command) == 2
    assert output.read_text() == "precious" and "--force" in capsys.readouterr().err
    assert train.main([*command, "--force"]) == 0
    assert load_file(output)


def test_training_again_gives_the_same_weights() -> None:
    first, second = (train.train_made(digits(20), train.Recipe(epochs=1, seed=7))[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("arguments", [[], ["--epochs", "0"]], ids=["no data", "no epochs"])
def test_a_training_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    output = tmp_path / "made.safetensors"
    assert train.main(["made", "--mnist", str(tmp_path / "none"), "--output", str(output), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not output.exists()

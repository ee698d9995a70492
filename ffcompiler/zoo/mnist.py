"""MNIST from its IDX files, and the map between pixels and the unbounded space the models work in."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FFCompilerError

IMAGES = "t10k-images-idx3-ubyte"
SIDE = 28
PIXELS = SIDE * SIDE
LAMBDA = 1e-6
LEVELS = 16
_UNSIGNED_BYTE = 0x08


class DataError(FFCompilerError):
    """A data file that is missing or is not what its name says."""


def load_images(directory: Path) -> Tensor:
    """The 10,000 test-set digits, uint8 [N, 28, 28], from ``directory``.

    The usual names are accepted: with or without ``.gz``, and with or without the prefix ``mnist-``.

    Raises: DataError when no such file is there, or it is not an IDX file of 28x28 bytes.
    """
    names = [prefix + IMAGES + suffix for prefix in ("", "mnist-") for suffix in ("", ".gz")]
    found = [directory / name for name in names if (directory / name).is_file()]
    if not found:
        raise DataError(f"{directory}: no MNIST images; expected one of {', '.join(names)}")
    images = read_idx(found[0])
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{found[0]}: holds an array of shape {list(images.shape)}, expected [N, {SIDE}, {SIDE}]")
    return images


def read_idx(path: Path) -> Tensor:
    """The array of unsigned bytes in an IDX file, gzipped or not (format: LeCun and Cortes, the MNIST page).

    Raises: DataError when the file cannot be read, is cut short, or holds another type.
    """
    content = _contents(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file (it must begin with two zero bytes)")
    kind, rank = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise DataError(f"{path}: IDX type 0x{kind:02x}, expected 0x{_UNSIGNED_BYTE:02x} (unsigned byte)")
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise DataError(f"{path}: IDX header is cut short ({len(content)} bytes, rank {rank})")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise DataError(f"{path}: {len(content) - start} bytes of data, but shape {shape} needs {math.prod(shape)}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)


def _contents(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read: {error}") from error


def to_logits(images: Tensor, uniform: Tensor) -> Tensor:
    """Dequantised logits [N, 784] of uint8 ``images`` [N, 28, 28], by noise ``uniform`` [N, 784] in [0, 1).

    ``p = (pixel + u) / 256`` and ``x = logit(lambda + (1 - 2 lambda) p)`` (Papamakarios et al., 2017, section 4.2).
    """
    p = (images.reshape(len(images), -1) + uniform) / 256
    return torch.logit(LAMBDA + (1 - 2 * LAMBDA) * p)


def to_pixels(x: Tensor) -> Tensor:
    """Images, uint8 [B, 28, 28], of logits ``x`` [B, 784]: the inverse of `to_logits`."""
    p = (torch.sigmoid(x) - LAMBDA) / (1 - 2 * LAMBDA)
    return (p * 256).floor().clamp(0, 255).to(torch.uint8).reshape(-1, SIDE, SIDE)


def to_levels(images: Tensor) -> Tensor:
    """Images, float32 [N, 1, 28, 28], of uint8 ``images`` [N, 28, 28]: 16 grey levels, scaled to 0 .. 1."""
    return ((images // (256 // LEVELS)).float() / (LEVELS - 1))[:, None]


def to_grey(x: Tensor) -> Tensor:
    """Images, uint8 [B, 28, 28], of ``x`` [B, 1, 28, 28] with levels scaled to 0 .. 1; black is 0, white is 255."""
    return (x[:, 0] * 255).round().to(torch.uint8)

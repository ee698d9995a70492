"""Functions of a state ``x`` ([3, 12]) for the rules of windows: varieties that boxes cut in several ways."""

from __future__ import annotations

import torch
from rule_cases import BATCH, PAIRS, ROW, Case, aten, classes, image, masked, seeded, volume, whole
from torch import Tensor
from torch.nn import functional as F

ONE, TWO = torch.ones(1), torch.ones(2)
WIDE_2D = seeded(2, 3, 2, 3)
PAIR_1D, PAIR_2D, LONE_1D, SQUARES = seeded(1, 2, 2), seeded(2, 1, 2, 1), seeded(3, 1, 2), seeded(2, 3, 2)
TOP = masked(seeded(1, 2, 3, 3), ..., slice(2, None), slice(None))
MASK, HEAD_MASK, KEY_MASK = seeded(6, 6), seeded(2, 6, 6), seeded(1, 1, 1, 6)
CAUSAL = torch.ones(6, 6).tril().bool()
DEEP_3D = masked(seeded(1, 2, 2, 3, 2), ..., 0, slice(None))
COLUMNS = torch.tensor([[0, 2, 1], [1, 1, 0]])


def tall(x: Tensor) -> Tensor:
    """[batch, 12] as one channel of a 6 x 2 image."""
    return x.reshape(x.shape[0], 1, 6, 2)


def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: [batch, 2 heads, 6, 1 or 3]."""
    rows = x.reshape(x.shape[0], 2, 6, 1)
    return rows * 0.7, rows.flip(1) + 0.1, rows * torch.tensor([1.0, -0.5, 2.0])


def attended(x: Tensor, **options: object) -> Tensor:
    return F.scaled_dot_product_attention(*heads(x), **options)  # type: ignore[arg-type]


def grouped(x: Tensor) -> Tensor:
    """Two heads of queries share one of keys and values."""
    q, k, v = heads(x)
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True)


TRANSPOSED: dict[str, Case] = {
    "transposed, stride 2, kernel 2 x 3": lambda x: F.conv_transpose2d(image(x), WIDE_2D, torch.ones(3), stride=2),
    "transposed, cropped": lambda x: F.conv_transpose2d(image(x), WIDE_2D, stride=2, output_padding=1)[:, :, :-1, 1:-1],
    "transposed, padded": lambda x: F.conv_transpose2d(image(x), WIDE_2D, stride=2, padding=1, output_padding=(1, 0)),
    "transposed, padded beyond its kernel": lambda x: F.conv_transpose1d(x[:, None], PAIR_1D, padding=4),
    "transposed, gaps between its kernels": lambda x: F.conv_transpose1d(x[:, None], PAIR_1D, TWO, stride=4),
    "transposed, dilated and strided": lambda x: F.conv_transpose2d(tall(x), WIDE_2D[:1], stride=(3, 2), dilation=2),
    "transposed, grouped": lambda x: F.conv_transpose2d(
        image(x), WIDE_2D[:, :2], torch.ones(4), stride=2, groups=2, padding=1, output_padding=1
    ),
    "transposed, rows of zeros": lambda x: F.conv_transpose2d(
        tall(x), TOP, stride=(2, 1), padding=1
    ),
    "transposed, three axes": lambda x: F.conv_transpose3d(volume(x), DEEP_3D, TWO, stride=2, padding=(0, 1, 0)),
    "transposed, as one call": whole(
        lambda x: (
            F.conv_transpose2d(image(x), WIDE_2D[:, :2], stride=2, groups=2, padding=1, output_padding=1),
            F.conv_transpose1d(x, LONE_1D, stride=2),  # no batch: taken whole
        )
    ),
    "down and up again": lambda x: F.conv_transpose2d(
        F.conv2d(tall(x), PAIR_2D, stride=(2, 1)), PAIR_2D, ONE, stride=(2, 1)
    ),
}  # fmt: skip

INDEXED: dict[str, Case] = {
    "index beside axes that stay": lambda x: (
        image(x)[:, :, :, COLUMNS], image(x)[:, COLUMNS % 2], tall(x)[:, 0, PAIRS[1]],
    ),
    "index of several axes": lambda x: (
        image(x)[:, :, COLUMNS % 2, COLUMNS], image(x)[:, COLUMNS[0] % 2, :, COLUMNS],
        image(x)[:, COLUMNS[:, :1], COLUMNS[0] % 2], image(x)[classes(x)[:, :2] % 3, :, 1],
    ),
    "put beside axes that stay": lambda x: (
        aten.index_put.default(tall(x), (None, None, COLUMNS[0]), torch.ones(1)),
        aten.index_put.default(image(x), (None, COLUMNS[0, :1] * 0), image(x)[:, :1]),
        aten.index_put.default(image(x), (None, None, None, COLUMNS[0]), image(x).flip(3), True),
        aten.index_put.default(image(x), (PAIRS[0], None, COLUMNS[0] % 2), image(x)[:, :, 0]),
    ),
    "scatter to a part": lambda x: (
        image(x).scatter(3, COLUMNS[:, None, None].repeat(1, 2, 1, 1), 2.0),
        image(x).scatter_add(2, torch.zeros(2, 1, 1, 3, dtype=torch.long), image(x).flip(0)),
    ),
    "gather a part": lambda x: image(x).gather(3, COLUMNS[:, None, None].repeat(1, 2, 1, 1)),
    "search for a few": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), image(x).contiguous(), right=True),
}  # fmt: skip

PLACED: dict[str, Case] = {
    "every second": lambda x: (x[:, 1::2], x[:, :-1:3], image(x)[..., ::2]),
    "roll both ways": lambda x: (image(x).roll((1, 1), (3, 3)), tall(x).roll(-2, 2), tall(x).roll(1, 2)),
    "repeat rows": lambda x: (image(x).repeat(1, 1, 3, 2), x[:, None].repeat(2, 1, 3, 1)),
    "turn an image": lambda x: (image(x).rot90(1, (2, 3)), tall(x).rot90(2, (2, 3)), tall(x).rot90(-1, (1, 2))),
    "diagonals of an image": lambda x: (
        tall(x).diagonal(-1, 2, 3), torch.diag_embed(image(x), 1, 1, 3),
        image(x).diagonal_scatter(x[:, None, :2].expand(-1, 2, -1), 0, 2, 3),
    ),
    "parts of a slice": lambda x: tall(x).slice_scatter(tall(x).flip(2)[:, :, :2], 2, 1, 6, 3),
    "wide borders": lambda x: (
        F.pad(tall(x), (1, 1, 5, 4), mode="reflect"), F.pad(tall(x), (3, 3, 5, 4), mode="replicate"),
    ),
    "triangle of wide rows": lambda x: (tall(x).mT.tril(-2), tall(x).triu(1)),
}  # fmt: skip

SAMPLED: dict[str, Case] = {
    "average pool of rows": lambda x: (
        F.avg_pool2d(tall(x), (2, 1)), F.avg_pool2d(tall(x), (3, 2), (1, 2), (1, 0)),
        F.avg_pool2d(tall(x), 2, 2, 1, ceil_mode=True, count_include_pad=False), F.avg_pool2d(tall(x)[0], (3, 1), 1),
    ),
    "maximum pool of rows": lambda x: (
        *aten.max_pool2d_with_indices.default(tall(x), [2, 1]),
        *aten.max_pool2d_with_indices.default(tall(x), [2, 2], [2, 1], [1, 1], [2, 1], True),
    ),
    "rows of blocks as columns": lambda x: (
        F.unfold(tall(x), (3, 1)), F.unfold(tall(x), (2, 2), (2, 1), (1, 1), (2, 1)), F.unfold(image(x), 2),
    ),
    "adaptive pool of rows": lambda x: (F.adaptive_avg_pool2d(tall(x), (3, 1)), F.adaptive_avg_pool2d(tall(x), (4, 2))),
    "down- and up-sampling": lambda x: (
        F.interpolate(tall(x), size=(2, 6)), F.interpolate(tall(x), scale_factor=(0.5, 2)),
        F.interpolate(tall(x), size=(2, 6), mode="nearest-exact"), F.interpolate(x[:, None], scale_factor=0.25),
        F.interpolate(x[:, None], scale_factor=2.05), F.interpolate(volume(x), size=(4, 1, 6), mode="nearest-exact"),
    ),
}  # fmt: skip

ALONG: dict[str, Case] = {
    "safe softmax": lambda x: (
        aten._safe_softmax.default(image(x), 2), aten._safe_softmax.default(image(x), -1, torch.float64),
    ),
    "standard deviation of rows": lambda x: (image(x).std((1, 2)), image(x).std(3, keepdim=True), image(x).var(1)),
    "sum of products": lambda x: torch.addbmm(
        torch.zeros(2, 1), image(x)[:, 0], image(x)[:, 1].transpose(1, 2)
    ),
    "vectors and matrices": whole(
        lambda x: (
            torch.matmul(image(x), ROW[:3]), torch.matmul(ROW[:2], image(x)), torch.mv(x, ROW), image(x) @ SQUARES,
        )
    ),
    "slope by channel": lambda x: (F.prelu(image(x), TWO * 0.3), F.prelu(x, ONE * 0.3)),
    "slope by channel, as one call": whole(lambda x: (F.prelu(image(x), TWO * 0.3), F.prelu(x, ONE * 0.3))),
    "made like another": lambda x: (image(x).new_full((3, 5), 2.0), x.new_zeros(7) + 1, x.new_ones(2, 2)),
}  # fmt: skip

ATTENTION: dict[str, Case] = {
    "attention": attended,
    "attention, causal": lambda x: attended(x, is_causal=True),
    "attention, boolean mask": lambda x: attended(x, attn_mask=CAUSAL),
    "attention, a mask for each head": lambda x: attended(x, attn_mask=HEAD_MASK, scale=0.3),
    "attention, the same for all rows": lambda x: attended(x, attn_mask=KEY_MASK),
    "attention with more keys than queries": lambda x: F.scaled_dot_product_attention(
        heads(x)[0][:, :, :4], *heads(x)[1:], is_causal=True
    ),
    "fused attention": lambda x: aten._scaled_dot_product_flash_attention_for_cpu.default(
        *(t.contiguous() for t in (heads(x)[0], heads(x)[1], heads(x)[0])), 0.0, True, scale=0.4
    ),
    "attention kept whole": whole(
        lambda x: (attended(x), attended(x, is_causal=True, scale=0.2), attended(x, attn_mask=MASK), grouped(x))
    ),
}  # fmt: skip

WINDOW_CASES: dict[str, Case] = {**TRANSPOSED, **INDEXED, **PLACED, **SAMPLED, **ALONG, **ATTENTION}
assert BATCH == 3

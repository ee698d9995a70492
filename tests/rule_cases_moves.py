"""More functions for the rules of operators: moves, indexing, reductions, normalisations (see `rule_cases`)."""

from __future__ import annotations

import torch
from rule_cases import (
    BATCH,
    CONVOLUTIONS,
    EDGES,
    ELEMENTWISE,
    MEAN,
    ONES,
    ORDER,
    PAIRS,
    PLACES,
    POSITIONS,
    PRODUCTS,
    ROW,
    TABLE,
    VAR,
    Case,
    aten,
    classes,
    image,
    seeded,
    volume,
    whole,
)  # fmt: skip
from torch.nn import functional as F

MOVES: dict[str, Case] = {
    "slice": lambda x: x[:, 2:9:2],
    "slice from the end": lambda x: x[:, -5:],
    "select": lambda x: x[:, 5],
    "select from the end": lambda x: x[:, -3],
    "narrow": whole(lambda x: (x.narrow(1, 2, 3), x.narrow(1, -4, 3))),
    "select scatter": lambda x: (x.select_scatter(x[:, 3], 1, -2), torch.zeros(3, 12).select_scatter(x[1], 0, 2)),
    "slice scatter": lambda x: (x.slice_scatter(x[:, :3], 1, 2, 8, 2), x.slice_scatter(torch.zeros(3, 2), 1, -2)),
    "write a slice": lambda x: torch.zeros(3, 12).copy_(x).index_fill_(0, torch.tensor([1]), 0.0),
    "transpose": lambda x: x.t(),
    "transpose of one axis": lambda x: x[0].t(),
    "permute": lambda x: image(x).permute(0, 3, 1, 2),
    "move an axis": lambda x: (image(x).movedim(1, 3), image(x).swapaxes(1, -1)),
    "move an axis, kept whole": whole(lambda x: aten.movedim.int(image(x), 1, 3)),
    "view": lambda x: x.view(BATCH, 3, 4),
    "view over the batch": lambda x: x.view(-1),
    "view with a compact axis": lambda x: x[:, None].expand(BATCH, 2, POSITIONS).reshape(BATCH, 2, 3, 4).flatten(2),
    "view that splits a compact axis": lambda x: image(x).sum(1, True).expand(-1, 4, -1, -1).reshape(3, 2, 2, 6),
    "reshape kept whole": whole(lambda x: aten.reshape.default(x.t(), (6, 6))),
    "unsqueeze and expand": lambda x: x[:, None].expand(BATCH, 4, POSITIONS),
    "squeeze": lambda x: (x[:, None].squeeze(1), x[None].squeeze(), x[None, None].squeeze((0, 1))),
    "repeat": lambda x: (x.repeat(2, 1, 2), x.repeat_interleave(2, 1), x[:, :1].repeat(1, 5)),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: (x.roll(1, 1), image(x).roll((1, -1), (2, 3))),
    "roll of all": lambda x: x.roll(5),
    "rotate": lambda x: x.rot90(),
    "triangles": lambda x: (x.tril(), x.triu(1), x.tril(-1), image(x).triu(-1)),
    "diagonals": lambda x: (
        x.diagonal(), x.diagonal(2), image(x).diagonal(0, 3, 1), torch.diag_embed(x), torch.diag_embed(x, -1, 0, 2),
        x.diagonal_scatter(x[:, 0], 1),
    ),
    "unfold": lambda x: (x.unfold(1, 3, 2), image(x).unfold(3, 2, 1), x[:, :1].expand(3, 6).unfold(1, 2, 2)),
    "columns of an image": lambda x: F.unfold(image(x), 2, padding=1),
    "cat": lambda x: torch.cat([x[:, :4], torch.zeros(BATCH, 2), x[:, 6:]], 1),
    "cat along the batch": lambda x: torch.cat([x, x + 1], 0),
    "stack": lambda x: (torch.stack([x, x.flip(1)], -1), torch.stack([x[0], torch.zeros(12)])),
    "pad": lambda x: F.pad(x, (2, 1)),
    "crop": lambda x: F.pad(x, (-2, 3)),
    "pad an image": lambda x: F.pad(image(x), (1, 0, 1, 0)),
    "reflect": lambda x: (
        F.pad(x[:, None], (2, 1), mode="reflect"), F.pad(image(x), (1, 2, 0, 1), mode="reflect"),
        F.pad(volume(x), (1, 1, 1, 0, 0, 1), mode="reflect"), F.pad(image(x)[0], (1, 1, 0, 1), mode="reflect"),
    ),
    "replicate": lambda x: (
        F.pad(x[:, None], (2, 1), mode="replicate"), F.pad(image(x), (1, 2, 0, 1), mode="replicate"),
        F.pad(volume(x), (1, 1, 1, 0, 0, 1), mode="replicate"),
    ),
    "shuffles": lambda x: (
        F.pixel_shuffle(x.reshape(3, 4, 1, 3), 2), F.pixel_unshuffle(image(x)[..., :2], 2),
        F.channel_shuffle(x.reshape(3, 4, 1, 3), 2),
    ),
    "chunk": lambda x: x.chunk(2, 1)[1] * 2,
}  # fmt: skip

INDEXING: dict[str, Case] = {
    "embedding": lambda x: F.embedding(classes(x), TABLE),
    "embedding of a constant": lambda x: F.embedding(ORDER, x.t()),
    "rows of an identity": lambda x: torch.eye(5)[classes(x)],
    "index by constants": lambda x: (x[:, ORDER], x[PAIRS], image(x)[:, [1, 0]], image(x)[PAIRS[0], :, :, [2, 0, 1]]),
    "index by the state": lambda x: (x[:, classes(x)[0]], x[:, classes(x)], x[PAIRS[0], classes(x)[:, 0]]),
    "index apart by the state": lambda x: image(x)[PAIRS[0], :, classes(x)[:, 0] % 2],
    "index select": lambda x: (x.index_select(1, ORDER), x.index_select(1, classes(x)[0])),
    "gather": lambda x: (x.gather(1, PLACES), x[:, :5].gather(1, classes(x)), x.gather(0, PLACES % 3)),
    "take": lambda x: (x.take(PLACES), x.take(classes(x)), x.take_along_dim(PLACES, 1)),
    "index put": lambda x: (
        x.index_put(PAIRS, x[:, 0]), x.index_put(PAIRS, torch.ones(())), x.index_put(PAIRS, x[:, 0], accumulate=True),
        x.index_put((PAIRS[0], classes(x)[:, 1]), x[:, 0]), x.index_put((PAIRS[1],), x[0]) if len(x) > 5 else x,
    ),
    "scatter": lambda x: (
        x.scatter(1, PLACES, x.flip(1)), x.scatter(1, PLACES, 1.5), x.scatter_add(1, PLACES, x),
        torch.zeros(3, 5).scatter(1, classes(x)[:, :1], 1.0),
        torch.zeros(3, 12, 5).scatter(2, classes(x)[:, :, None], 1), x.scatter(0, classes(x)[:2, :7] % 3, 2.0),
    ),
    "index copy, add, fill": lambda x: (
        x.index_copy(1, ORDER[:3], x[:, :3]), x.index_add(1, ORDER[3:6], x[:, :3]), x.index_fill(1, ORDER[:2], 0.5),
        x.index_fill(1, ORDER[:2], x[0, 0]), x.index_fill(1, classes(x)[0, :2], 0.5),
    ),
    "masked scatter": lambda x: (x.masked_scatter(x > 0, x.flip(1)), x.masked_scatter(ROW > 0, x.flip(1))),
    "search": lambda x: (torch.bucketize(x, EDGES), torch.searchsorted(x.sort(1)[0].contiguous(), x)),
    "one hot, by comparison": lambda x: (classes(x)[..., None] == torch.arange(5)).float(),
}  # fmt: skip

REDUCTIONS: dict[str, Case] = {
    "softmax": lambda x: torch.softmax(image(x), 1),
    "log softmax": lambda x: torch.log_softmax(image(x), -1),
    "softmax kept whole": whole(lambda x: (torch.softmax(image(x), 1), torch.log_softmax(x, 1))),
    "sum": lambda x: (image(x).sum(1), image(x).sum((1, -1), keepdim=True), x.sum(), aten.nansum.default(x, [1])),
    "mean": lambda x: (image(x).mean((1, 2), keepdim=True), x.mean(), x[0].mean(-1)),
    "extremes": lambda x: (
        image(x).amax(3), image(x).amin((1, 2)), x.amax(), x.max(), x.min(), image(x).argmax(1), x.argmin(),
        image(x).argmin(1, keepdim=True), *image(x).max(1), *image(x).min(-1, keepdim=True), *x.aminmax(),
        *torch.aminmax(image(x), dim=2),
    ),
    "order statistics": lambda x: (
        *image(x).median(3), *image(x).kthvalue(2, 3), *x.sort(1), *image(x).sort(1, descending=True),
        *torch.sort(x, stable=True, dim=1), *image(x).topk(2, 3),
    ),
    "products along axes": lambda x: (image(x).prod(1), x.prod()),
    "truth": lambda x: (
        (x > 0).any(), (image(x) > 0).any(1), (x > 0).all(), (image(x) > 0).all(-1, keepdim=True),
        torch.any(image(x) > 0, (1, 2)), torch.all(image(x) > 0, (1, 2)), x.count_nonzero(),
        image(x).count_nonzero((1, 2)),
    ),
    "deviations": lambda x: (
        image(x).var((1, 2)), x.std(), *torch.var_mean(image(x), 1), *torch.std_mean(x, 1, keepdim=True),
        image(x).norm(), image(x).norm(dim=(2, 3)), aten.norm.Scalar(x, 2), aten.norm.ScalarOpt_dim(image(x), 1, [1]),
        torch.linalg.vector_norm(image(x), float("inf"), (1, 2), keepdim=True),
    ),
    "logsumexp": lambda x: (image(x).logsumexp(1), x - x.logsumexp(1, keepdim=True)),
    "running": lambda x: (
        x.cumsum(1), image(x).cumprod(-1), x.logcumsumexp(1), *x.cummax(1), *image(x).cummin(2), x[0].cumsum(0),
        x[:, :1].expand(3, 4).cumsum(1),
    ),
    "glu": lambda x: (F.glu(x, 1), F.glu(image(x), 1), F.glu(x.sum(1, keepdim=True).expand(3, 4), 1)),
}  # fmt: skip

NORMS: dict[str, Case] = {
    "layer norm": lambda x: F.layer_norm(x, (12,), ONES, ROW),
    "layer norm over channels": lambda x: F.layer_norm(image(x).permute(0, 2, 3, 1), (2,), MEAN),
    "layer norm, all results": lambda x: aten.native_layer_norm.default(image(x), [2, 3], None, None, 1e-5),
    "layer norm kept whole": whole(lambda x: F.layer_norm(image(x), (3,))),
    "rms norm": lambda x: F.rms_norm(image(x), (3,)),
    "rms norm, all results": whole(lambda x: aten._fused_rms_norm.default(image(x), [3], ROW[:3], 1e-5)),
    "group norm": lambda x: (
        F.group_norm(image(x), 1), F.group_norm(image(x), 2, MEAN, VAR), F.group_norm(x.reshape(3, 4, 3), 2),
        F.group_norm(image(x).sum(1, keepdim=True).expand(-1, 4, -1, -1), 2),
    ),
    "group norm, all results": lambda x: aten.native_group_norm.default(image(x), MEAN, VAR, 3, 2, 6, 2, 1e-5),
    "group norm kept whole": whole(lambda x: F.group_norm(image(x), 2, MEAN, VAR)),
    "batch norm": lambda x: F.batch_norm(image(x), MEAN, VAR, VAR, MEAN),
    "batch norm kept whole": whole(lambda x: F.batch_norm(image(x), MEAN, VAR)),
    "batch norm in training": lambda x: F.batch_norm(image(x), None, None, training=True),
    "batch norm, other operators": lambda x: (
        aten._native_batch_norm_legit_no_training.default(image(x), None, MEAN, MEAN, VAR, 0.1, 1e-5)[0],
        aten._batch_norm_no_update.default(x, ONES, ROW, ROW, ONES, 0.1, 1e-5)[0],
    ),
    "instance norm": lambda x: F.instance_norm(image(x)),
    "normalized": lambda x: F.normalize(x, dim=1),
}  # fmt: skip

CELL = (seeded(12, 6), seeded(12, 4), seeded(12), ROW)  # of gru: 3 gates of 4
SHORT, SQUARE = seeded(12, 3), seeded(6, 6)
HIDDEN, MEMORY = seeded(BATCH, 4), seeded(BATCH, 4)

CELLS: dict[str, Case] = {
    "gru cell": whole(lambda x: torch.gru_cell(x[:, :6], x[:, 8:], *CELL)),
    "gru cell without biases": whole(lambda x: torch.gru_cell(x[:, :6], HIDDEN, *CELL[:2])),
    "gru cell, weights from the state": whole(
        lambda x: torch.gru_cell(HIDDEN, x[:, :4], x[:1].t() @ x[1:2, :4], CELL[1]),
    ),
    "lstm cell": whole(lambda x: torch.lstm_cell(x[:, :6], (x[:, 9:], x[:, 6:9]), CELL[0], SHORT, *CELL[2:])),
    "rnn cells": whole(
        lambda x: (
            torch.rnn_tanh_cell(x[:, :6], x[:, 6:], SQUARE, SQUARE),
            torch.rnn_relu_cell(x[:, :6], x[:, 6:], SQUARE, SQUARE, CELL[2][:6], ROW[:6]),
        )
    ),
}

CASES: dict[str, Case] = {
    **ELEMENTWISE, **PRODUCTS, **CONVOLUTIONS, **MOVES, **INDEXING, **REDUCTIONS, **NORMS, **CELLS,
}  # fmt: skip

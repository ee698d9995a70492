"""Pictures without a drawing library: the front of a run as SVG, images as PNG. No torch in here."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# ---------------------------------------------------------------------------------------------------- PNG


def png(image: Bytes) -> bytes:
    """A greyscale PNG of ``image``, uint8 [height, width] (PNG specification, 3rd edition: IHDR, IDAT, IEND)."""
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grid(images: Bytes, columns: int = 10, scale: int = 3, gap: int = 2) -> Bytes:
    """``images``, uint8 [N, height, width], in rows of ``columns``, each pixel ``scale`` pixels wide."""
    count, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 40, np.uint8)
    for k, image in enumerate(images):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


# ---------------------------------------------------------------------------------------------------- fronts


@dataclass(frozen=True, slots=True)
class Fronts:
    """``after[k]``: how many leading blocks of ``blocks`` were final after sweep ``k + 1``."""

    after: tuple[int, ...]
    blocks: int

    @property
    def sweeps(self) -> int:
        return len(self.after)

    def final_in(self) -> list[int]:
        """The sweep, from 1, in which each block became final, for good; 0 for one that the sweeps did not reach."""
        result = [0] * self.blocks
        reached = 0
        for sweep, front in enumerate(self._settled(), 1):
            result[reached:front] = [sweep] * (front - reached)
            reached = max(reached, front)
        return result

    def _settled(self) -> list[int]:
        """The fronts with those that were later withdrawn left out: the least of each and all after it."""
        least, settled = self.blocks, []
        for front in reversed(self.after):
            least = min(least, front)
            settled.append(least)
        return settled[::-1]


def front_svg(fronts: Fronts, columns: int | None = None, what: str = "block") -> str:
    """Two panels: the sweep in which each block became final, and the front after each sweep.

    ``columns``: blocks in a row of the first panel (28 for the pixels of a digit); without it, a strip.
    """
    width = columns or max(fronts.blocks, 1)
    map_svg, map_height = _heat_map(fronts, width, what)
    height = max(map_height, _CHART_HEIGHT if columns else 0)
    chart_at = (_MAP_WIDTH + 2 * _MARGIN, 0) if columns else (0, map_height)
    total_width = _MAP_WIDTH + _CHART_WIDTH + 3 * _MARGIN if columns else _MAP_WIDTH + 2 * _MARGIN
    total_height = height if columns else map_height + _CHART_HEIGHT
    chart = _chart(fronts, what, _CHART_WIDTH if columns else _MAP_WIDTH)
    size = f'viewBox="0 0 {total_width} {total_height}" width="{total_width}" height="{total_height}"'
    font = 'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13"'
    label = f"{what} became final in sweep k of {fronts.sweeps}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(label)} {font}>',
            f"<title>{escape(label)}</title>",
            f'<rect width="{total_width}" height="{total_height}" fill="#ffffff"/>',
            f'<g transform="translate({_MARGIN} 0)">',
            map_svg,
            "</g>",
            f'<g transform="translate({_MARGIN + chart_at[0]} {chart_at[1]})">',
            chart,
            "</g>",
            "</svg>\n",
        ]
    )


_MARGIN, _MAP_WIDTH, _CHART_WIDTH, _CHART_HEIGHT = 24, 448, 470, 560
_INK, _FAINT, _GRID, _REST = "#1f2430", "#5b6270", "#e3e6eb", "#c9ccd3"
_VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")


def colour(share: float) -> str:
    """A colour from dark violet (0) to yellow (1), of even steps in lightness."""
    at = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    a, b = (_channels(_VIRIDIS[k]) for k in (low, low + 1))
    return "#" + "".join(f"{round(p + (q - p) * (at - low)):02x}" for p, q in zip(a, b, strict=True))


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def _text(x: float, y: float, text: str, **style: object) -> str:
    attributes = "".join(f" {key.replace('_', '-')}={quoteattr(str(v))}" for key, v in ({"fill": _INK} | style).items())
    return f'<text x="{x:.4g}" y="{y:.4g}"{attributes}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, **style: object) -> str:
    attributes = "".join(f" {key.replace('_', '-')}={quoteattr(str(v))}" for key, v in style.items())
    return f'<line x1="{x1:.5g}" y1="{y1:.5g}" x2="{x2:.5g}" y2="{y2:.5g}"{attributes}/>'


# ---------------------------------------------------------------------------------------------------- heat map


def _heat_map(fronts: Fronts, columns: int, what: str) -> tuple[str, int]:
    """The first panel, with its legend, and its height."""
    rows = -(-fronts.blocks // columns)
    cell = _MAP_WIDTH / columns
    tall = cell if rows > 1 else 48
    top, legend = 56, 56 + rows * tall + 24
    final = fronts.final_in()
    parts = [_text(0, 34, f"{what} became final in sweep k of {fronts.sweeps}", font_size=17, font_weight=600)]
    for start, stop in _runs(final, columns):
        x, y = (start % columns) * cell, top + (start // columns) * tall
        fill = _shade(final[start], fronts.sweeps)
        wide = (stop - start) * cell
        parts.append(
            f'<rect x="{x:.6g}" y="{y:.6g}" width="{wide:.6g}" height="{tall:.6g}" fill="{fill}" '
            f'stroke="{fill}" stroke-width="0.4"><title>{_cell_title(final[start], start, stop, what)}</title></rect>'
        )
    parts += _legend(legend, fronts.sweeps, 0 in final)
    return "\n".join(parts), math.ceil(legend + 62)


def _runs(final: Sequence[int], columns: int) -> Iterable[tuple[int, int]]:
    """Blocks ``start .. stop - 1`` that became final together and stand in one row."""
    start = 0
    for k in range(1, len(final) + 1):
        if k == len(final) or final[k] != final[start] or k % columns == 0:
            yield start, k
            start = k


def _cell_title(sweep: int, start: int, stop: int, what: str) -> str:
    which = f"{what} {start}" if stop - start == 1 else f"{what}s {start} to {stop - 1}"
    return escape(f"{which}: sweep {sweep}" if sweep else f"{which}: run by the sequential steps")


def _shade(sweep: int, sweeps: int) -> str:
    return colour((sweep - 1) / max(sweeps - 1, 1)) if sweep else _REST


def _legend(y: float, sweeps: int, handed_over: bool) -> list[str]:
    wide = _MAP_WIDTH / max(sweeps, 1)
    parts = [
        f'<rect x="{k * wide:.6g}" y="{y:.6g}" width="{wide + 0.4:.6g}" height="12" fill="{_shade(k + 1, sweeps)}"/>'
        for k in range(sweeps)
    ]
    parts += [_text((k - 0.5) * wide, y + 28, str(k), text_anchor="middle", fill=_FAINT) for k in _ticks(1, sweeps, 7)]
    note = "sweep in which it became final" + ("; grey: run by the sequential steps" if handed_over else "")
    return [*parts, _text(_MAP_WIDTH / 2, y + 48, note, text_anchor="middle", fill=_FAINT)]


# ---------------------------------------------------------------------------------------------------- line chart


def _chart(fronts: Fronts, what: str, width: int) -> str:
    """The front after each sweep, against sequential execution: one block per step."""
    left, top, right, bottom = 52, 56, width - 12, _CHART_HEIGHT - 60
    sweeps, blocks = max(fronts.sweeps, 1), max(fronts.blocks, 1)

    def x(k: float) -> float:
        return left + (right - left) * k / sweeps

    def y(n: float) -> float:
        return bottom - (bottom - top) * n / blocks

    parts = [_text(0, 34, f"final {what}s after each sweep", font_size=17, font_weight=600)]
    for n in _ticks(0, fronts.blocks, 6):
        parts.append(_line(left, y(n), right, y(n), stroke=_GRID))
        parts.append(_text(left - 8, y(n) + 4, str(n), text_anchor="end", fill=_FAINT))
    parts += [_text(x(k), bottom + 20, str(k), text_anchor="middle", fill=_FAINT) for k in _ticks(0, sweeps, 8)]
    parts.append(_text((left + right) / 2, bottom + 42, "sweep, or sequential step", text_anchor="middle", fill=_FAINT))
    end = min(sweeps, blocks)
    parts.append(_line(x(0), y(0), x(end), y(end), stroke=_FAINT, stroke_width=1.6, stroke_dasharray="5 4"))
    parts += _front_line([(x(0), y(0)), *((x(k), y(n)) for k, n in enumerate(fronts.after, 1))])
    return "\n".join([*parts, *_keys(left + 14, top + 8, fronts.blocks, what)])


def _front_line(points: list[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{px:.5g},{py:.5g}" for px, py in points)
    dots = [f'<circle cx="{px:.5g}" cy="{py:.5g}" r="2.6" fill="#21918c"/>' for px, py in points[1:]]
    return [f'<polyline points="{path}" fill="none" stroke="#21918c" stroke-width="2.4"/>', *dots]


def _keys(x: float, y: float, blocks: int, what: str) -> list[str]:
    lines = (
        ({"stroke": "#21918c", "stroke_width": 2.4}, "this run"),
        ({"stroke": _FAINT, "stroke_width": 1.6, "stroke_dasharray": "5 4"}, f"one {what} per step, {blocks} steps"),
    )
    box = f'<rect x="{x - 6:.5g}" y="{y - 8:.5g}" width="236" height="48" rx="3" fill="#ffffff" fill-opacity="0.88"/>'
    parts = [box]
    for k, (style, text) in enumerate(lines):
        at = y + 6 + 20 * k
        parts += [_line(x, at, x + 26, at, **style), _text(x + 34, at + 4, text)]
    return parts


def _ticks(low: int, high: int, about: int) -> list[int]:
    """Round numbers between ``low`` and ``high``, both included, of which there are ``about`` that many."""
    span = max(high - low, 1)
    raw = span / about
    power = 10 ** math.floor(math.log10(raw)) if raw >= 1 else 1
    step = next(s for s in (power, 2 * power, 5 * power, 10 * power) if s >= raw)
    inner = [k for k in range(0, high + 1, step) if k > low + 0.4 * step and k < high - 0.6 * step]
    return sorted({low, *inner, high})

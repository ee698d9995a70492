"""Pictures: valid files that say what the run did."""

from __future__ import annotations

import io
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import plans
import pytest

from ffcompiler.errors import UsageError
from ffcompiler.runtime.record import Certificate, Ending, RunRecord, Sweep
from ffcompiler.tell.inspect import front_picture, page, write_page
from ffcompiler.tell.pictures import Fronts, colour, front_svg, grid, png


def unpack(data: bytes) -> np.ndarray:
    """The greyscale image in a PNG, every checksum checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    stream, chunks = io.BytesIO(data[8:]), {}
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        chunks[kind] = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + chunks[kind])
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 0, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_a_png_holds_its_image():
    image = np.arange(15, dtype=np.uint8).reshape(3, 5)
    np.testing.assert_array_equal(unpack(png(image)), image)


def test_a_grid_holds_every_image_once():
    images = np.stack([np.full((4, 3), 10 * k + 50, np.uint8) for k in range(5)])
    sheet = grid(images, columns=2, scale=2, gap=1)
    assert sheet.shape == (2 * (3 * 5 + 1), 2 * (2 * 4 + 1))
    assert [int((sheet == 10 * k + 50).sum()) for k in range(5)] == [4 * 3 * 4] * 5


@pytest.mark.parametrize(
    ("after", "final"),
    [
        ((1, 3, 4), [1, 2, 2, 3]),
        ((4,), [1, 1, 1, 1]),
        ((2,), [1, 1, 0, 0]),  # the rest was handed over
        ((3, 2, 4), [1, 1, 3, 3]),  # a certifying sweep withdrew a working front
        ((), [0, 0, 0, 0]),
    ],
)
def test_a_block_is_final_from_the_sweep_that_no_later_one_withdrew(after, final):
    assert Fronts(after, 4).final_in() == final


@pytest.mark.parametrize("after", [(1, 8, 96, 400, 784), (1, 2), (), tuple(range(1, 785))])
@pytest.mark.parametrize("columns", [28, None])
def test_the_front_is_valid_svg_with_a_white_ground(after, columns):
    root = ET.fromstring(front_svg(Fronts(after, 784), columns, "pixel"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[1].attrib["fill"] == "#ffffff"
    assert root[0].text == f"pixel became final in sweep k of {len(after)}"
    assert "nan" not in ET.tostring(root, encoding="unicode").lower().replace("final", "")


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 12])
def test_small_systems_have_a_picture_too(blocks):
    ET.fromstring(front_svg(Fronts(tuple(range(1, blocks + 1)), blocks)))


def test_text_in_a_picture_is_escaped():
    root = ET.fromstring(front_svg(Fronts((1, 2), 2), None, '<b>"&'))
    assert root[0].text == '<b>"& became final in sweep k of 2'


def test_colours_run_from_dark_to_light():
    assert (colour(-1), colour(0), colour(1), colour(2)) == ("#440154", "#440154", "#fde725", "#fde725")
    assert all(re.fullmatch("#[0-9a-f]{6}", colour(k / 50)) for k in range(51))


# ---------------------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a browser would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href", "data", "action") and v]


def record() -> RunRecord:
    sweeps = [Sweep(0, plans.DIMS, front, True, 0.01) for front in (1, 5, plans.DIMS)]
    certificate = Certificate("bits", "by sweeps", plans.DIMS, 0, 3)
    return RunRecord("jacobi", plans.DIMS, Ending.SWEEPS, sweeps, plans.DIMS, 0.03, certificate=certificate)


PLANS = [value for value in vars(plans).values() if type(value).__name__ == "Plan"]


@pytest.mark.parametrize("plan", PLANS, ids=[str(k) for k in range(len(PLANS))])
@pytest.mark.parametrize("run", [None, record()], ids=["plan", "run"])
def test_the_page_of_a_plan_needs_nothing_from_outside(plan, run):
    shown = Page(page(plan, run))
    assert shown.outside == [] and "script" not in shown.tags
    assert ("svg" in shown.tags) == (run is not None and plan.rest is None)


def test_the_page_of_several_parts_has_the_run_and_the_program_of_each():
    run = replace(record(), rest=replace(record(), schedule="sliding(2)"))
    shown = page(plans.TWO_PARTS, run)
    assert Page(shown).tags.count("svg") == 2
    for what in (
        "Part 1 of 2: sliding(4)",
        "Part 2 of 2: sequential: its steps run one by one",
        "sliding(2): the sweeps",
    ):
        assert what in shown
    assert "bits in each of 2 parts" in shown and "0.06 s" in shown
    for plan in plans.TWO_PARTS.parts:
        assert str(plan.program) in unescape(shown)


def test_seconds_that_were_only_predicted_stand_in_brackets():
    ran, told = (replace(plans.MADE.candidates[0], seconds=s, measured=m) for s, m in ((0.25, True), (0.75, False)))
    shown = page(replace(plans.MADE, candidates=(ran, told)), None)
    assert ">0.25<" in shown and ">(0.75)<" in shown


def test_a_run_that_was_not_made_part_by_part_is_shown_as_one():
    why = RunRecord("sequential", 18, Ending.STALE, certificate=Certificate("bits", "this is the reference", 0, 18, 0))
    shown = page(plans.TWO_PARTS, why)
    assert shown.count("One run") == 1 and "weights or settings have changed" in shown


def test_what_the_users_code_says_is_escaped():
    plan = plans.replace(PLANS[0], why="<script>alert(1)</script>")
    assert "script" not in Page(page(plan)).tags


def test_the_page_says_what_was_predicted_of_a_candidate_that_was_run():
    told = replace(plans.MADE.candidates[0], seconds=0.25, predicted=0.125)
    assert 'class="number">0.125</td>' in page(replace(plans.MADE, candidates=(told,)), None)


def test_an_existing_page_is_kept(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_page(PLANS[0], path, None, force=False)
    write_page(PLANS[0], path, None, force=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_raster_scan_is_drawn_in_its_rows():
    rows, columns = 3, 7
    table = (tuple(k // columns for k in range(21)), tuple(k % columns for k in range(21)))
    write = plans.Region((plans.Axis(2, 0, None), plans.Axis(3, 1, None)))
    loop = plans.replace(plans.MADE_LOOP, hi=21, tables=table, write=write)
    run = RunRecord("jacobi", rows * columns, sweeps=[Sweep(0, 21, 21, True, 0.1)])
    cells = [r for r in ET.fromstring(front_picture(run, loop)).iter() if r.tag.endswith("rect") and len(r)]
    assert len(cells) == rows


def test_fronts_of_levels_are_drawn_as_a_strip_because_blocks_are_not_in_rows() -> None:
    plan, record = PLANS[0], RunRecord("wavefront", 64, sweeps=[Sweep(0, 64, 64, True, 0.1)])
    rows = replace(record, schedule="jacobi")
    assert front_picture(record, plan.array) != front_picture(rows, plan.array)

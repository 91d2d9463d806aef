"""Labelled grids: what is where on the pages, whatever the sizes; nothing is lost where a page
ends.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pulid_extract.shared.captions import font_of, wrap
from pulid_generate.pictures import sheet_layout, sheet_page
from pulid_generate.pictures.sheet import is_page, pages, write_sheet
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail, flow

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255), "sea": (0, 130, 130)}


def plain(name, width=96, height=96) -> np.ndarray:
    return np.full((height, width, 3), COLOURS[name], np.uint8)


def box_of(page, name) -> tuple[int, int, int, int] | None:
    """(left, top, width, height) of what has this very colour on a page, None if nothing has."""
    ys, xs = np.nonzero((page == COLOURS[name]).all(axis=2))
    return (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) if len(xs) else None


def dark(page, *, below=0, left_of=None) -> int:
    return int((page[below:, :left_of].max(axis=2) < 100).sum())


def test_identities_down_prompts_across():
    cells = [
        [[Thumbnail(plain("red"))], [Thumbnail(plain("green"))]],
        [[Thumbnail(plain("blue"))], [Thumbnail(plain("sea"))]],
    ]
    [page] = pages(
        SheetGrid(
            cells, [Heading("in the rain"), Heading("at night")], [Heading("ada"), Heading("bob")]
        )
    )
    red, green, blue, sea = (box_of(page, name) for name in COLOURS)
    assert red[2:] == green[2:] == (192, 192)  # 96 pixels, doubled
    assert red[1] == green[1] < blue[1] == sea[1]
    assert red[0] == blue[0] < green[0] == sea[0]
    assert dark(page[: red[1] - 2]) > 50  # columns' heads
    assert dark(page, left_of=red[0] - 2) > 50
    [bare] = pages(SheetGrid(cells))
    assert dark(bare) == 0
    assert bare.shape[1] < page.shape[1]
    [again] = pages(
        SheetGrid(
            cells, [Heading("in the rain"), Heading("at night")], [Heading("ada"), Heading("bob")]
        )
    )
    np.testing.assert_array_equal(page, again)


def test_several_tiles_of_a_cell_stay_together_and_captions_stand_under_them():
    many = [Thumbnail(plain("red"), f"seed {seed}") for seed in range(4)]
    [page] = pages(
        SheetGrid([[many, [Thumbnail(plain("blue"), "seed 0")]]], [Heading("a"), Heading("b")])
    )
    left, _, width, height = box_of(page, "red")
    assert width == 2 * 192 + sheet_layout.GAP  # two by two
    assert height > 2 * 192 + 15
    assert box_of(page, "blue")[0] > left + width
    [without] = pages(
        SheetGrid(
            [[[Thumbnail(plain("red"))] * 4, [Thumbnail(plain("blue"))]]],
            [Heading("a"), Heading("b")],
        )
    )
    assert without.shape[0] < page.shape[0]


def test_a_missing_tile_says_why_and_an_unreadable_file_too(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")

    def ink(tile):
        [page] = pages(flow([tile, Thumbnail(plain("red"))]))
        alarm = np.abs(page.astype(int) - sheet_page.ALARM).sum(axis=2) < 60
        assert box_of(page, "red")[2:] == (192, 192)
        return int(alarm.sum()), int((page == sheet_page.EMPTY).all(axis=2).sum())

    for tile in (
        Thumbnail(None, reason="no room left"),
        Thumbnail(tmp_path / "broken.png"),
        Thumbnail(tmp_path / "gone.png"),
    ):
        told, empty = ink(tile)
        assert told > 20
        assert empty > 15_000
    assert ink(Thumbnail(None))[0] == 0
    assert ink(Thumbnail(plain("blue"))) == (0, 0)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(16, 16, (192, 192)), (64, 128, (128, 256)), (1024, 512, (384, 192))],
)
def test_small_pictures_are_scaled_up_and_large_ones_down(width, height, expected):
    [page] = pages(flow([Thumbnail(plain("red", width, height))]))
    got = box_of(page, "red")[2:]
    assert got == (expected if max(width, height) != 128 else (128, 256))


def test_sizes_may_be_mixed():
    [page] = pages(
        flow(
            [
                Thumbnail(plain("red", 512, 512)),
                Thumbnail(plain("blue", 256, 512)),
                Thumbnail(plain("green", 1024, 256)),
            ]
        )
    )
    assert box_of(page, "red")[2:] == (384, 384)
    assert box_of(page, "blue")[2:] == (192, 384)
    assert box_of(page, "green")[2:] == (384, 96)
    red, blue = box_of(page, "red"), box_of(page, "blue")
    assert red[1] + red[3] == blue[1] + blue[3]  # they stand on one line


def test_a_portrait_before_its_row(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what is 40x80 in the file is 80x40
    Image.fromarray(plain("sea", 40, 80)).save(tmp_path / "me.png", exif=exif)
    [page] = pages(
        SheetGrid([[[Thumbnail(plain("red"))]]], rows=[Heading("me", tmp_path / "me.png")])
    )
    left, _, width, height = box_of(page, "sea")
    assert (width, height) == (160, 80)
    assert left + width < box_of(page, "red")[0]


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of a quarter of the area: as many of them with fewer pictures."""
    monkeypatch.setattr(sheet_layout, "PAGE", sheet_layout.PAGE // 2)


def test_pages_hold_everything_once_with_its_heads(small_pages):
    rows = 12
    seen = [(name, row) for row in range(rows) for name in ("red", "blue")]
    cells = [
        [[Thumbnail(plain(name, 512, 512), f"{row}")] * 5 for name in ("red", "blue")]
        for row in range(rows)
    ]
    found = list(
        pages(
            SheetGrid(
                cells,
                [Heading("left"), Heading("right")],
                [Heading(f"row {row}") for row in range(rows)],
                "all",
            )
        )
    )
    assert len(found) > 1
    tile = box_of(
        next(pages(SheetGrid([cells[0]], [Heading("a"), Heading("b")], [Heading("c")]))), "red"
    )
    assert tile is not None
    side = sheet_layout.PAGED_SIDE
    area = sum(
        int((page == COLOURS[name]).all(axis=2).sum()) for page in found for name in ("red", "blue")
    )
    assert area == len(seen) * 5 * side * side
    for page in found:
        assert max(page.shape[:2]) <= sheet_layout.PAGE
        assert dark(page[: box_of(page, "red")[1] - 2]) > 50  # title and heads are on every page


def test_a_cell_larger_than_a_page_and_columns_beyond_its_edge(small_pages):
    tall = list(pages(flow([Thumbnail(plain("red", 512, 512))] * 180)))
    wide = list(
        pages(
            SheetGrid(
                [[[Thumbnail(plain("red", 512, 512))] for _ in range(30)]], rows=[Heading("one")]
            )
        )
    )
    for found, count in ((tall, 180), (wide, 30)):
        assert len(found) > 1
        assert all(max(page.shape[:2]) <= sheet_layout.PAGE for page in found)
        sides = {sheet_layout.PAGED_SIDE, *sheet_layout.SIDES}
        area = sum(int((page == COLOURS["red"]).all(axis=2).sum()) for page in found)
        assert area in {count * side * side for side in sides}


def test_pages_are_files_and_it_is_said(small_pages, tmp_path):
    said: list[str] = []
    path = tmp_path / "grid.png"
    assert write_sheet(path, flow([Thumbnail(plain("red"), "a")]), said.append, 0o600) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not said
    written = write_sheet(path, flow([Thumbnail(plain("red", 512, 512))] * 180), said.append)
    assert written == [
        path,
        *(tmp_path / f"grid-{number}.png" for number in range(2, len(written) + 1)),
    ]
    assert len(written) > 1
    assert [f"{len(written)} pages" in line for line in said] == [True]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert all(is_page(name, path) for name in written)
    assert not [
        name
        for name in ("grid.jpg", "grid-2-3.png", "grid-x.png", "x/grid.png")
        if is_page(tmp_path / name, path)
    ]


def test_a_long_prompt_ends_in_dots_and_an_empty_grid_is_a_sheet():
    assert wrap("word " * 50, 100, font_of(), 3)[-1].endswith("..")
    assert len(wrap("word " * 50, 100, font_of(), 3)) == 3
    assert wrap("a word", 100, font_of(), 3) == ["a word"]
    [long] = pages(SheetGrid([[[Thumbnail(plain("red"))]]], [Heading("word " * 1000)]))
    assert long.shape[0] < 500
    [empty] = pages(SheetGrid([[[]]], title="nothing was drawn"))
    assert dark(empty) > 50

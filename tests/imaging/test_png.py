"""Our way through a PNG beside Pillow's: the same pixels where it is taken, and Pillow's where the file is of another kind or damaged."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from medprobe.errors import CaseError
from medprobe.imaging import formats, labels, pictures, png
from medprobe.types import Source

HEADER, DATA, END = b"IHDR", b"IDAT", b"IEND"
GREY = np.random.default_rng(0).integers(0, 256, (9, 14), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (9, 14, 3), np.uint8)
SMOOTH = np.add.outer(np.arange(14) * 3, np.arange(20) * 2).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def at_once() -> Iterator[None]:
    """The compiled loop from the first picture on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "PATIENCE", 0)
        assert png._unfilter() is not None
        yield


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(height: int, width: int, *, bits: int = 8, colours: int = 0, interlaced: int = 0) -> bytes:
    return chunk(HEADER, struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))


def written(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def filtered(pixels: np.ndarray, kinds: list[int]) -> bytes:
    """Rows after the filters of `kinds`, over and over, word for word from section 9.2 of the specification."""
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    rows = pixels.reshape(len(pixels), -1).astype(int)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = (np.hstack([np.zeros((len(rows), samples), int), part[:, :-samples]]) for part in (rows, above))
    estimate = left + above - corner
    far_left, far_above, far_corner = (abs(estimate - part) for part in (left, above, corner))
    paeth = np.where((far_left <= far_above) & (far_left <= far_corner), left, np.where(far_above <= far_corner, above, corner))
    predictions = (0 * rows, left, above, (left + above) // 2, paeth)
    return b"".join(bytes([kind]) + ((rows[y] - predictions[kind][y]) % 256).astype(np.uint8).tobytes() for y, kind in zip(range(len(rows)), kinds * len(rows)))


def file_of(pixels: np.ndarray, kinds: list[int], *, level: int = 6, cut: int | None = None, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG whose rows have these filters; its stream in chunks of `cut` bytes, other chunks before and after them."""
    stream = zlib.compress(filtered(pixels, kinds), level)
    parts = [stream[start : start + (cut or len(stream))] for start in range(0, len(stream), cut or len(stream))]
    return written(header(*pixels.shape[:2], colours=0 if pixels.ndim == 2 else 2), before, *(chunk(DATA, part) for part in parts), after, chunk(END))


def ours(data: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(data)) as file:
        return png.decoded(file)


def by_pillow(path: Path) -> np.ndarray | None:
    """What `read` gives without our way; None where it refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.png, "decoded", lambda file: None)
        return by_us(path)


def by_us(path: Path) -> np.ndarray | None:
    try:
        return formats.read(Source(path)).pixels
    except CaseError:
        return None


def same(path: Path) -> bool:
    mine, other = by_us(path), by_pillow(path)
    return mine is other if mine is None or other is None else mine.dtype == other.dtype and np.array_equal(mine, other)


def saved(pixels: np.ndarray, **options) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG", **options)
    return made.getvalue()


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """Noise, few values or slopes, which make an encoder pick all five filters."""
    height, width, samples = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.sampled_from([1, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = rng.integers(-draw(st.integers(0, 9)), draw(st.integers(1, 200)), (height, width, samples))
    pixels = np.cumsum(steps, axis=draw(st.sampled_from([0, 1]))) if draw(st.booleans()) else steps
    return pixels.astype(np.uint8) if samples == 3 else pixels[..., 0].astype(np.uint8)


@given(images(), st.integers(0, 9), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_pillow_writes(pixels: np.ndarray, level: int, optimize: bool) -> None:
    found = ours(saved(pixels, compress_level=level, optimize=optimize))
    assert found is not None
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


@given(images(), st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 9), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_every_filter_in_any_order_and_chunks_of_any_length(pixels: np.ndarray, kinds: list[int], level: int, cut: int) -> None:
    data = file_of(pixels, kinds, level=level, cut=cut)
    found = ours(data)
    assert found is not None
    assert np.array_equal(found, pixels)
    with Image.open(io.BytesIO(data)) as reference:
        assert np.array_equal(found, np.asarray(reference))


def test_paeth_of_all_neighbours() -> None:
    """The prediction from every a and b beside a third of all c: of rows of two pixels, the last is predicted."""
    left, above = (part.ravel().astype(np.int16) for part in np.indices((256, 256)))
    unfilter = png._unfilter()
    assert unfilter is not None
    for corner in range(0, 256, 3):
        estimate = left + above - corner
        near = np.stack([abs(estimate - left), abs(estimate - above), abs(estimate - corner)]).argmin(axis=0)
        rows = np.zeros((2 * len(left), 3), np.uint8)
        rows[::2, 1], rows[::2, 2] = corner, above  # stored as they are
        rows[1::2, 0] = 4
        rows[1::2, 1] = left - corner  # the prediction of the first pixel of a row is what lies above it
        pixels = np.empty((len(rows), 2), np.uint8)
        assert unfilter(rows, pixels, 1)
        assert np.array_equal(pixels[1::2], np.stack([left, np.choose(near, [left, above, np.full_like(left, corner)])], axis=1))


def variants() -> dict[str, bytes]:
    """Files that are not of the kind we decode."""
    small = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    raw = PngImagePlugin.PngInfo()
    raw.add_text("Raw profile type exif", "\nexif\n20\n" + exif.tobytes().hex())
    alpha = np.where(GREY > 100, 255, 0).astype(np.uint8)
    deep = GREY.astype(np.uint16) * 300
    interlaced = b"".join(  # the seven passes of Adam7 of a 9 x 14 image, unfiltered
        b"\0" + GREY[y, x0::dx].tobytes() for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)) for y in range(y0, 9, dy)
    )
    return {
        "16 bit": saved(deep), "16 bit colour": written(header(2, 2, bits=16, colours=2), chunk(DATA, zlib.compress(2 * (b"\0" + bytes(range(12))))), chunk(END)),
        "palette": saved_as(Image.fromarray(COLOUR).quantize(16)), "palette with transparency": saved_as(Image.fromarray(COLOUR).quantize(16), transparency=3),
        "1 bit": saved_as(small.convert("1")), **{f"{bits} bit": written(header(2, 8, bits=bits), chunk(DATA, zlib.compress(2 * (b"\0" + bytes(range(bits))))), chunk(END)) for bits in (2, 4)},
        "LA": saved_as(Image.merge("LA", (small, Image.fromarray(alpha)))), "RGBA": saved(np.concatenate([COLOUR, alpha[..., None]], axis=-1)),
        "interlaced": written(header(9, 14, interlaced=1), chunk(DATA, zlib.compress(interlaced)), chunk(END)),
        "a transparent grey": saved(GREY, transparency=3), "a transparent colour": saved(COLOUR, transparency=(1, 2, 3)),
        "turned by Exif": saved(GREY, exif=exif), "turned by XMP": saved(GREY, pnginfo=xmp), "turned by a raw profile": saved(GREY, pnginfo=raw),
        "turned after the pixels": file_of(GREY, [4], after=chunk(b"eXIf", exif.tobytes()[6:])),
        "animated": saved_as(small, save_all=True, append_images=[small.rotate(180)]),
        "another after": file_of(GREY, [4], after=chunk(b"tEXt", b"Comment\0words")),
        "a filter there is not": written(header(1, 3), chunk(DATA, zlib.compress(b"\5abc")), chunk(END)),
        "more rows than there are": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc\0def")), chunk(END)),
        "fewer rows than there are": written(header(2, 3), chunk(DATA, zlib.compress(b"\0abc")), chunk(END)),
        "bytes after the stream": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc") + b"more"), chunk(END)),
        "no checksum of the stream": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc")[:-4]), chunk(END)),
        "a wrong checksum of the stream": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc")[:-1] + b"x"), chunk(END)),
        "a wrong checksum of a chunk": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc"))[:-1] + b"x", chunk(END)),
        "a chunk among the parts": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc")[:5]), chunk(b"tEXt", b"a\0b"), chunk(DATA, zlib.compress(b"\0abc")[5:]), chunk(END)),
        "no end": file_of(GREY, [1])[:-12], "no data": written(header(1, 3), chunk(END)), "an empty chunk alone": written(header(1, 3), chunk(DATA), chunk(END)),
        "another dictionary": written(header(1, 3), chunk(DATA, with_dictionary(b"\0abc")), chunk(END)),
        "a bare stream": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc")[2:-4]), chunk(END)),
        "no pixels": written(header(0, 3), chunk(DATA, zlib.compress(b"")), chunk(END)),
        "a little for a large picture": written(header(8000, 8000), chunk(DATA, zlib.compress(bytes(8001))), chunk(END)),
        "a bomb": written(header(60000, 60000), chunk(DATA, zlib.compress(bytes(60001))), chunk(END)),
        "a chunk of four gigabytes": written(header(1, 3), b"\xff\xff\xff\xffIDAT" + zlib.compress(b"\0abc")),
        "much for a small picture": written(header(1, 3), chunk(DATA, zlib.compress(b"\0abc" + bytes(1 << 24))), chunk(END)),
    }  # fmt: skip


def saved_as(image: Image.Image, **options) -> bytes:
    made = io.BytesIO()
    image.save(made, "PNG", **options)
    return made.getvalue()


def with_dictionary(data: bytes) -> bytes:
    stream = zlib.compressobj(zdict=b"abc")
    return stream.compress(data) + stream.flush()


VARIANTS = variants()


@pytest.mark.parametrize("name", VARIANTS)
def test_of_other_kinds_and_damaged_files_pillow_decides(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(VARIANTS[name])
    assert same(path)
    if name not in ("a bomb", "no pixels"):  # which Pillow does not even open
        assert ours(VARIANTS[name]) is None


@pytest.mark.parametrize(
    "data",
    [
        file_of(GREY, [0, 1, 2, 3, 4]) + b"trailing", file_of(GREY, [4], before=chunk(b"gAMA", struct.pack(">I", 45455))),
        file_of(COLOUR, [4], before=chunk(b"sRGB", b"\0") + chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)) + chunk(b"tEXt", b"Software\0a program")),
        file_of(COLOUR, [3], before=chunk(b"PLTE", bytes(6))), file_of(GREY, [1], before=chunk(b"tIME", bytes(7))), file_of(GREY, [2], before=chunk(DATA)),
        saved(COLOUR, icc_profile=b"profile"), saved(SMOOTH, dpi=(72, 72)),
    ],
)  # fmt: skip
def test_facts_that_change_no_pixel_do_not_stop_us(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert ours(data) is not None
    assert same(tmp_path / "a.png")


@pytest.mark.parametrize("data", [file_of(GREY[:4, :5], [4, 1, 3], cut=9), file_of(COLOUR[:3, :4], [2, 4], before=chunk(b"sRGB", b"\0"))])
def test_files_cut_short_anywhere(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert same(path), length


@pytest.mark.parametrize("data", [file_of(GREY[:4, :5], [4, 1, 3], cut=20), file_of(SMOOTH, [1]), saved(COLOUR[:3, :4]), saved(SMOOTH, compress_type=zlib.Z_HUFFMAN_ONLY)])
def test_every_flipped_bit(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert same(path), bit


@pytest.mark.parametrize("kinds", [[0], [1, 4]])
def test_flipped_bits_under_a_right_checksum_of_their_chunk(kinds: list[int]) -> None:
    for level in (1, 9):
        stream = zlib.compress(filtered(SMOOTH, kinds), level)
        for bit in range(8 * len(stream)):
            flipped = bytearray(stream)
            flipped[bit // 8] ^= 1 << bit % 8
            found = ours(written(header(*SMOOTH.shape), chunk(DATA, bytes(flipped)), chunk(END)))
            assert found is None or np.array_equal(found, SMOOTH)


@given(st.sampled_from(sorted(VARIANTS)), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=9)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scribbled_files(tmp_path: Path, name: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(VARIANTS[name])
    for place, body in changes:
        data[place % len(data) : place % len(data) + len(body)] = body
    (tmp_path / "a.png").write_bytes(data)
    assert same(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["isal", "the loop"])
def test_without_isal_or_the_compiled_loop(tmp_path: Path, name: str, monkeypatch) -> None:
    if name == "isal":
        monkeypatch.setattr(png, "_fast", lambda: zlib)
    else:
        monkeypatch.setattr(png, "_unfilter", lambda: None)
    data = saved(COLOUR)
    (tmp_path / "a.png").write_bytes(data)
    assert (ours(data) is None) == (name == "the loop")
    assert same(tmp_path / "a.png")


def test_a_loop_that_cannot_be_loaded_is_done_without(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, png.LOOPS, None)
    assert png._unfilter.__wrapped__() is None


def test_large_pictures_are_left_to_pillow(monkeypatch) -> None:
    monkeypatch.setattr(png, "LARGEST", GREY.size)
    assert ours(saved(GREY)) is None


def test_a_few_pictures_load_neither_the_loop_nor_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(GREY))
    say = f"""
import sys
from pathlib import Path
from medprobe.imaging import png, recipes
from medprobe.types import Source
def plane(): return recipes.planes((Source(Path({str(path)!r})),), window="full-range", size=4).pixels.tobytes()
few = plane()
assert not {{"numba", "torch"}} & set(sys.modules)
png.PATIENCE = 0
assert plane() == few
assert png.LOOPS in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", say], check=True)


def test_many_pictures_load_the_loop_before_they_are_read() -> None:
    say = """
import sys
from pathlib import Path
from medprobe.imaging import formats, png
from medprobe.types import Source
formats.prepare([Source(Path("a.jpg"))] * formats.MANY + [Source(Path("a.png"))] * (formats.MANY - 1))
assert png.LOOPS not in sys.modules
formats.prepare([Source(Path("a.png"))] * formats.MANY)
assert png.LOOPS in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", say], check=True)


def test_masks_go_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(GREY % 4))
    assert np.array_equal(labels.read_labels((Source(tmp_path / "a.png"),), dims=2, classes="abcd").labels.squeeze(), GREY % 4)

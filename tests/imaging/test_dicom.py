"""DICOM: modality transform, display window, photometric interpretation, compressed pixels."""

from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging import formats, recipes
from medprobe.types import Source

pydicom = pytest.importorskip("pydicom")

PIXELS = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
EIGHT = (PIXELS >> 4).astype(np.uint8)


def read(path: Path, **source):
    return formats.read(Source(path, **source))


def test_without_a_window_black_and_white_are_what_the_bits_hold(write_dicom) -> None:
    raw = read(write_dicom(PIXELS, bits=12))
    assert np.array_equal(raw.pixels, PIXELS[None, None])
    assert raw.pixels.dtype == np.uint16
    assert raw.full_range == (0, 4095)
    assert read(write_dicom(EIGHT)).full_range == (0, 255)


def test_rescale_gives_hounsfield_units_and_scales_the_bit_range(write_dicom) -> None:
    raw = read(write_dicom(PIXELS, bits=12, RescaleSlope="2", RescaleIntercept="-1024"))
    assert np.array_equal(raw.pixels[0, 0], PIXELS * 2.0 - 1024)
    assert raw.full_range == (-1024, 4095 * 2 - 1024)
    signed = read(write_dicom((PIXELS.astype(np.int16) - 2000), RescaleSlope="-1", RescaleIntercept="0"))
    assert signed.full_range == (-32767, 32768)


@pytest.mark.equality("pydicom, apply_windowing: the display window; 1e-4")
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": "1", "RescaleIntercept": "-1000"}])
def test_the_display_window_equals_the_reference_implementation(write_dicom, function: str | None, rescale: dict) -> None:
    tags = {"WindowCenter": ["40", "300"], "WindowWidth": ["400", "1500"], **rescale} | ({"VOILUTFunction": function} if function else {})
    path = write_dicom(PIXELS, bits=12, **tags)
    dataset = pydicom.dcmread(path)
    modality = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    shown = pydicom.pixels.apply_windowing(modality, dataset)
    intercept = float(rescale.get("RescaleIntercept", 0))
    expected = (shown - intercept) / 4095
    assert np.abs(recipes.image((Source(path),), "full-range").pixels[0, 0] - expected).max() < 1e-4


def voi_table() -> "pydicom.Dataset":
    """Twelve bits turned round."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 12], [4095 - value for value in range(4096)]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def test_a_voi_table_shows_the_values_and_leaves_them(write_dicom) -> None:
    path = write_dicom(
        PIXELS, bits=12, VOILUTSequence=[voi_table()], WindowCenter="40", WindowWidth="400"
    )
    assert np.array_equal(read(path).pixels[0, 0], PIXELS)
    assert np.allclose(
        recipes.image((Source(path),), "full-range").pixels[0, 0], (4095 - PIXELS) / 4095
    )
    turned = write_dicom(
        PIXELS, "1.dcm", bits=12, VOILUTSequence=[voi_table()], photometric="MONOCHROME1"
    )
    assert np.allclose(
        recipes.image((Source(turned),), "full-range").pixels[0, 0], PIXELS / 4095, atol=1e-6
    )


@pytest.mark.parametrize("window", [w for w in recipes.WINDOWS if w not in recipes.UNITS])
@pytest.mark.parametrize("pixels", [EIGHT, PIXELS], ids=["8-bit", "16-bit"])
def test_monochrome1_equals_inverted_monochrome2(write_dicom, pixels: np.ndarray, window: str) -> None:
    plain, inverted = (write_dicom(pixels, f"{name}.dcm", photometric=name) for name in ("MONOCHROME2", "MONOCHROME1"))
    bright, dark = (recipes.planes((Source(path),), window=window, size=None).pixels for path in (plain, inverted))
    assert bright.dtype == dark.dtype == (np.uint8 if window == "full-range" and pixels.dtype == np.uint8 else np.float32)
    assert np.allclose(dark, (255 if dark.dtype == np.uint8 else 1) - bright, atol=1e-6)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless"])
@pytest.mark.parametrize("pixels", [EIGHT, PIXELS], ids=["8-bit", "16-bit"])
def test_lossless_transfer_syntaxes_give_the_same_pixels(write_dicom, syntax: str, pixels: np.ndarray) -> None:
    pytest.importorskip({"JPEG2000Lossless": "openjpeg", "JPEGLSLossless": "jpeg_ls"}.get(syntax, "pydicom"))
    assert np.array_equal(read(write_dicom(pixels, compress=syntax)).pixels[0, 0], pixels)


def test_baseline_jpeg_is_what_pillow_decodes(write_dicom) -> None:
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    buffer = io.BytesIO()
    Image.fromarray(EIGHT).save(buffer, "JPEG", quality=80)
    path = write_dicom(EIGHT)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)
    assert np.array_equal(read(path).pixels[0, 0], np.asarray(Image.open(buffer)))


def _lossless_jpeg(path: Path, frames: np.ndarray) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(frames))
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    return path


def test_lossless_jpeg_is_read_through_simpleitk_with_our_rescale(tmp_path: Path) -> None:
    path = _lossless_jpeg(tmp_path / "a.dcm", PIXELS[None])
    assert np.array_equal(read(path).pixels[0, 0], PIXELS)
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PhotometricInterpretation = "2", "-1024", "MONOCHROME1"
    dataset.save_as(path)
    raw = read(path)
    assert np.array_equal(raw.pixels[0, 0], PIXELS * 2.0 - 1024)
    assert raw.inverted


@pytest.mark.parametrize("count", [1, 3])
def test_lossless_jpeg_with_functional_groups_or_a_dose_is_scaled_once(
    tmp_path: Path, count: int
) -> None:
    frames = np.stack([PIXELS, PIXELS[::-1], PIXELS[:, ::-1]])[:count]
    for kind, sop in (("enhanced", "EnhancedCTImageStorage"), ("dose", "RTDoseStorage")):
        path = _lossless_jpeg(tmp_path / f"{kind}.dcm", frames)
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = getattr(pydicom.uid, sop)
        places = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
        for keyword in ("RescaleSlope", "RescaleIntercept", *places):
            if keyword in dataset:
                delattr(dataset, keyword)
        if kind == "enhanced":
            inner, outer = pydicom.Dataset(), pydicom.Dataset()
            inner.RescaleSlope, inner.RescaleIntercept = "2", "-1024"
            outer.PixelValueTransformationSequence = [inner]
            dataset.SharedFunctionalGroupsSequence = [outer]
        else:
            dataset.Modality, dataset.DoseGridScaling = "RTDOSE", "2"
        dataset.save_as(path)
        shift = 1024 if kind == "enhanced" else 0
        assert np.array_equal(read(path).pixels[0], frames * 2.0 - shift)


def test_a_missing_decoder_names_its_extra(write_dicom, tmp_path: Path, monkeypatch) -> None:
    path = _lossless_jpeg(tmp_path / "lossless.dcm", PIXELS[None])
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(ExtraError, match=r"medprobe\[volumes\]"):
        read(path)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ExtraError, match=r"medprobe\[dicom\]"):
        read(path)


def test_frames_are_planes_and_any_range_equals_the_whole(write_dicom) -> None:
    frames = np.stack([EIGHT, EIGHT[::-1], EIGHT[:, ::-1], 255 - EIGHT])
    for compress in (None, "RLELossless"):
        source = Source(write_dicom(frames, f"{compress}.dcm", compress=compress))
        assert formats.count_planes(source) == 4
        assert np.array_equal(formats.read(source).pixels[0], frames)
        assert np.array_equal(formats.read(source, 1, 3).pixels[0], frames[1:3])
        assert np.array_equal(formats.read(Source(source.path, frames=(3, 0))).pixels[0], frames[[3, 0]])
        with pytest.raises(CaseError, match="plane 4"):
            formats.read(Source(source.path, frames=(4,)))


def test_colour_frames_are_rgb(write_dicom) -> None:
    colour = np.stack([EIGHT, EIGHT[::-1], 255 - EIGHT], axis=-1)
    source = Source(write_dicom(colour, photometric="RGB"))
    assert np.array_equal(formats.read(source).pixels[:, 0], np.moveaxis(colour, -1, 0))
    assert not formats.is_grey(source)
    several = Source(write_dicom(np.stack([colour, colour[::-1]]), photometric="RGB"))
    assert formats.read(several, 1).pixels.shape == (3, 1, *EIGHT.shape)
    converted = read(write_dicom(colour, photometric="YBR_FULL")).pixels[:, 0]
    assert np.array_equal(converted, np.moveaxis(pydicom.pixels.convert_color_space(colour, "YBR_FULL", "RGB"), -1, 0))


def test_palettes_become_rgb(write_dicom) -> None:
    tables = {}
    for name, table in zip(("Red", "Green", "Blue"), (range(256), range(255, -1, -1), [7] * 256), strict=True):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tables[f"{name}PaletteColorLookupTableData"] = bytes(table)
    source = Source(write_dicom(EIGHT, photometric="PALETTE COLOR", **tables))
    raw = formats.read(source)
    assert raw.full_range == (0, 255)
    assert np.array_equal(raw.pixels[:, 0], [EIGHT, 255 - EIGHT, np.full_like(EIGHT, 7)])
    assert not formats.is_grey(source)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("compress", [None, "RLELossless"])
def test_a_file_cut_short_is_refused(write_dicom, refused, kept: float, compress: str | None) -> None:
    path = write_dicom(np.tile(PIXELS, (4, 4)), compress=compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path)


def test_files_that_are_no_images_are_refused(tmp_path: Path, write_dicom, refused) -> None:
    (tmp_path / "text.dcm").write_text("not DICOM" * 50)
    refused(tmp_path / "text.dcm")
    dataset = pydicom.dcmread(write_dicom(EIGHT))
    del dataset.PixelData
    dataset.save_as(tmp_path / "header.dcm")
    assert "no pixel data" in refused(tmp_path / "header.dcm")


def test_names_without_a_suffix_are_dicom(write_dicom) -> None:
    path = write_dicom(EIGHT, "1.2.840.113619")
    assert formats.identify(path) == "dicom"
    assert np.array_equal(read(path).pixels[0, 0], EIGHT)


def test_real_files_have_the_numbers_of_their_headers(samples: Path) -> None:
    ct, mr = (read(samples / "dicom_samples" / name) for name in ("CT_small.dcm", "MR_small.dcm"))
    assert (ct.pixels.min(), ct.pixels.max(), ct.spacing) == (128 - 1024, 2191 - 1024, (5, 0.661468, 0.661468))
    assert (mr.pixels.min(), mr.pixels.max(), mr.full_range) == (127, 2145, (-200, 1399))


def test_a_real_compressed_series_is_in_hounsfield_units(samples: Path) -> None:
    pytest.importorskip("openjpeg")
    for path in sorted((samples / "dicom_ct_series" / "series").glob("*.dcm"))[:2]:
        raw = read(path)
        assert raw.pixels.shape == (1, 1, 512, 512)
        assert raw.pixels.min() == -1024
        assert raw.full_range == (-110, 189)

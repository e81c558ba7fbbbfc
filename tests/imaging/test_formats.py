"""Which format a path is, folders of frames, and what planning may ask without decoding."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medprobe.errors import CaseError
from medprobe.imaging import formats
from medprobe.types import Source


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "pictures"), ("A.JPEG", "pictures"), ("b.TIF", "tiff"), ("c.Dcm", "dicom"), ("1.2.840.1", "dicom"), ("IM0001", "dicom"),
        ("v.MP4", "video"), ("n.nii", "nifti"), ("n.NII.GZ", "nifti"), ("a.MHD", "simpleitk"), ("a.mha", "simpleitk"), ("a.Nrrd", "simpleitk"), ("a.nhdr", "simpleitk"), ("a.npy", "arrays"), ("a.h5", "arrays"),
    ],
)  # fmt: skip
def test_suffixes_count_in_any_case(name: str, kind: str) -> None:
    assert formats.identify(Path(name)) == kind


def test_an_unknown_suffix_lists_those_there_are() -> None:
    with pytest.raises(CaseError, match=r"\.png .* \.nii\.gz .* found \.docx"):
        formats.identify(Path("report.docx"))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Twelve frames 1.png … 12.png, of the grey values 10 … 120, among the leavings of other programs."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 13):
        Image.fromarray(np.full((6, 8), 10 * number, np.uint8)).save(folder / f"{number}.png")
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_text("x")
    return folder


@pytest.mark.trap("AutoLaparo: prepared frames count in natural order; ._*, .DS_Store and Thumbs.db are no frames")
def test_a_folder_gives_its_pictures_in_natural_order(frames: Path) -> None:
    source = Source(frames)
    assert formats.count_planes(source) == 12
    assert formats.is_grey(source)
    assert formats.read(source).pixels[0, :, 0, 0].tolist() == list(range(10, 121, 10))
    assert formats.read(source, 2, 4).pixels[0, :, 0, 0].tolist() == [30, 40]
    assert formats.read(Source(frames, frames=(11, 0, 4)), 1).pixels[0, :, 0, 0].tolist() == [10, 50]


def test_a_changed_folder_is_listed_again(frames: Path) -> None:
    assert formats.count_planes(Source(frames)) == 12
    (frames / "12.png").unlink()
    os.utime(frames, ns=(1, 1))
    assert formats.count_planes(Source(frames)) == 11


def test_pictures_may_be_named_with_words_and_numbers_in_any_place(tmp_path: Path) -> None:
    for name in ("b2.png", "b10.png", "10.png", "9.png", "a.png"):
        (tmp_path / name).touch()
    assert [path.name for path in formats.pictures_in(tmp_path)] == ["a.png", "b2.png", "b10.png", "9.png", "10.png"]


@pytest.mark.parametrize("start", [0, 11])
def test_a_frame_unlike_the_first_is_named_whichever_part_it_falls_in(frames: Path, start: int) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(frames / "12.png")
    with pytest.raises(CaseError, match=r"12\.png: expected a frame like 1\.png, .* 6 x 9"):
        formats.read(Source(frames), start)


def test_frames_of_floats_must_agree_in_range(tmp_path: Path) -> None:
    for number, top in enumerate((1.0, 700.0)):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.array([[0, top]], np.float32))
    with pytest.raises(CaseError, match="from 0 to 700"):
        formats.read(Source(tmp_path))


def test_an_empty_folder_is_refused_and_one_of_dicom_files_is_a_series(tmp_path: Path, refused) -> None:
    (tmp_path / "empty").mkdir()
    assert "none in it" in refused(tmp_path / "empty")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "7.dcm").touch()
    assert formats.identify(tmp_path / "series") == "series"
    assert "7.dcm" in refused(tmp_path / "series")


def test_a_damaged_frame_is_named_by_its_own_path(frames: Path, refused) -> None:
    (frames / "3.png").write_bytes((frames / "3.png").read_bytes()[:40])
    refused(frames, names=frames / "3.png")


@pytest.mark.parametrize("frames_asked", [(0, 12), (-1,)])
def test_frames_that_are_not_there_are_refused(frames: Path, frames_asked: tuple[int, ...], refused) -> None:
    assert "0 to 11" in refused(frames, frames=frames_asked)


def test_counting_planes_decodes_nothing(frames: Path, tmp_path: Path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", image=np.zeros((7, 4, 4), np.float32))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 16, 16), np.uint8))
    for name in ("PIL.ImageFile.ImageFile.load", "numpy.lib.format.read_array", "tifffile.TiffPage.asarray", "tifffile.TiffPageSeries.asarray"):
        monkeypatch.setattr(name, lambda *args, **kwargs: pytest.fail("decoded"))
    assert formats.count_planes(Source(frames)) == 12
    assert formats.count_planes(Source(tmp_path / "a.npz", "image")) == 7
    assert formats.count_planes(Source(tmp_path / "a.tif")) == 5
    assert formats.count_planes(Source(tmp_path / "absent.mp4", frames=(3, 4))) == 2


def test_asking_for_the_channels_of_a_damaged_file_leaves_the_error_to_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    assert formats.is_grey(Source(tmp_path / "a.png"))
    assert formats.is_grey(Source(tmp_path / "absent.xyz"))


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, refused, monkeypatch) -> None:
    (tmp_path / "a.png").write_text("x")

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", forbidden)
    assert "permissions" in refused(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".mha", ".webp"])
def test_voxels_and_pictures_that_end_early_are_called_damaged(
    tmp_path: Path, suffix: str, refused: Callable[..., str]
) -> None:
    path, plane = tmp_path / f"a{suffix}", np.arange(256, dtype=np.uint8).reshape(16, 16)
    if suffix == ".mha":
        sitk = pytest.importorskip("SimpleITK")
        sitk.WriteImage(sitk.GetImageFromArray(plane), str(path))
    else:
        Image.fromarray(plane).save(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    assert "damaged" in refused(path)

"""Channels on the fourth axis of a NIfTI file: named by their place, decoded once for all of them, refused where it is not said which."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import nibabel
import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, nifti, recipes
from medprobe.imaging.labels import read_labels
from medprobe.types import Source

TURNED = np.array([[0, -0.5, 0, 3], [2.0, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]])
"""Stored along anterior and left: turned when it is read."""


@pytest.fixture
def scan(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    """(file, what is stored): 5 x 4 x 3 voxels of three channels."""
    stored = rng.integers(-300, 300, (5, 4, 3, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, TURNED), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz", stored


def test_each_channel_is_what_a_file_of_it_alone_would_be(scan: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, stored = scan
    for place in range(3):
        nibabel.save(nibabel.Nifti1Image(stored[..., place], TURNED), tmp_path / "alone.nii.gz")
        alone, found = formats.read(Source(tmp_path / "alone.nii.gz")), formats.read(Source(path, str(place)))
        np.testing.assert_array_equal(found.pixels, alone.pixels)
        assert found.pixels.shape == (1, 3, 5, 4)
        assert (found.full_range, found.spacing) == (alone.full_range, alone.spacing)
        np.testing.assert_array_equal(found.affine, alone.affine)
        (tmp_path / "alone.nii.gz").unlink()


def test_planes_are_counted_from_the_header_and_read_in_parts(scan: tuple[Path, np.ndarray]) -> None:
    path, _ = scan
    source = Source(path, "2")
    assert formats.count_planes(source) == 3
    whole = formats.read(source).pixels
    np.testing.assert_array_equal(formats.read(source, 1, 3).pixels, whole[:, 1:])
    np.testing.assert_array_equal(formats.read(Source(path, "2", frames=(2, 0))).pixels, whole[:, [2, 0]])


def test_channels_of_a_case_are_decoded_together_and_once(scan: tuple[Path, np.ndarray]) -> None:
    path, _ = scan
    nifti._volumes.cache_clear()
    channels = tuple(Source(path, str(place)) for place in range(3))
    with patch.object(nifti, "volume", wraps=nifti.volume) as decoded:
        planes = recipes.planes(channels, window="percentile", size=None)
        image = recipes.image(channels, "percentile")
        for source in channels:
            recipes.planes((source,), window="percentile", size=None, start=1, stop=2)
    assert decoded.call_count == 1
    assert planes.pixels.shape == (3, 3, 5, 4)
    np.testing.assert_array_equal(np.moveaxis(image.pixels, 1, 0), planes.pixels)


@pytest.mark.parametrize("member", [None, "3", "-1", "T1w", "1.0", ""])
def test_a_channel_that_is_not_there_or_not_named_is_refused_with_their_number(scan: tuple[Path, np.ndarray], member: str | None, refused: Callable[..., str]) -> None:
    path, _ = scan
    said = refused(path, member=member)
    assert "one of 3 on the fourth, 0, 1, 2" in said
    assert f"found {member or 'none'}" in said
    with pytest.raises(CaseError, match="one of 3 on the fourth"):
        formats.count_planes(Source(path, member))


def test_a_volume_of_three_axes_has_one_channel(tmp_path: Path, refused: Callable[..., str]) -> None:
    stored = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name, shape in (("three.nii", (2, 3, 4)), ("four.nii", (2, 3, 4, 1)), ("five.nii", (2, 3, 4, 1, 1))):
        nibabel.save(nibabel.Nifti1Image(stored.reshape(shape), np.eye(4)), tmp_path / name)
        for member in (None, "0"):
            np.testing.assert_array_equal(formats.read(Source(tmp_path / name, member)).pixels[0], stored.T)
        assert "one of 1 on the fourth, 0, found 1" in refused(tmp_path / name, member="1")


def test_a_fifth_axis_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4, 1, 3), np.uint8), np.eye(4)), tmp_path / "field.nii")
    assert "found shape" in refused(tmp_path / "field.nii", member="0")


@pytest.mark.trap("datasets-3d 0 Readers must trust headers: scl_slope and scl_inter apply, through the library")
def test_scaling_of_the_header_applies_to_every_channel(tmp_path: Path) -> None:
    stored = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    file = nibabel.Nifti1Image(stored, np.eye(4))
    file.header.set_slope_inter(2, -1000)
    data = bytearray(file.to_bytes())
    offset, size = int(file.header["vox_offset"]) or 352, stored.nbytes
    data[offset : offset + size] = stored.tobytes(order="F")
    (tmp_path / "scaled.nii").write_bytes(bytes(data))
    header = nibabel.load(tmp_path / "scaled.nii").dataobj
    assert (header.slope, header.inter) == (2, -1000)
    np.testing.assert_array_equal(formats.read(Source(tmp_path / "scaled.nii", "1")).pixels[0], stored[..., 1].T * 2.0 - 1000)


def test_a_mask_may_be_one_of_several_in_a_file(tmp_path: Path) -> None:
    stored = np.zeros((2, 3, 4, 2), np.uint8)
    stored[0, 1, 2, 1] = 1
    nibabel.save(nibabel.Nifti1Image(stored, TURNED), tmp_path / "masks.nii")
    first, second = (read_labels((Source(tmp_path / "masks.nii", member),), dims=3, classes=("rest", "lesion")).labels for member in ("0", "1"))
    assert (first.sum(), second.sum()) == (0, 1)
    with pytest.raises(CaseError, match="one of 2 on the fourth"):
        read_labels((Source(tmp_path / "masks.nii"),), dims=3, classes=("rest", "lesion"))

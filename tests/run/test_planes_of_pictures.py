"""With dims = 2 a case is one plane of pixels: the same picture in every format, slices of any direction with their masks, and
what is refused because it is more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import medprobe as mp
from medprobe.check.dataset import check_dataset
from medprobe.datasets.manifest import load_manifest
from medprobe.errors import RequestError
from medprobe.imaging import formats, recipes
from medprobe.imaging.displacements import read_displacement, write_displacement
from medprobe.imaging.labels import read_labels
from medprobe.run import reading
from medprobe.run.export import export
from medprobe.run.plan import make
from medprobe.run.request import Request
from medprobe.types import Case, Source, Task

RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Of a picture in a volume: its rows go to the back, its columns to the patient's left."""


def picture(colour: bool) -> np.ndarray:
    shape = (9, 7, 3) if colour else (9, 7)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def seen(path: Path, member: str | None = None, **fields: Any) -> np.ndarray:
    """(C, H, W) as an encoder gets it, in 0 to 255."""
    case = Case("a", "p", {"image": (Source(path, member, plane=True, **fields),)})
    planes = recipes.planes(
        reading.images(Task("own", "logreg"), case)["image"], window="full-range", size=None
    ).pixels
    assert len(planes) == 1
    return planes[0] if planes.dtype == np.uint8 else planes[0] * 255


def _hdf5(path: Path, array: np.ndarray) -> Path:
    import h5py

    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["image"] = array
    return path.with_suffix(".h5")


def _written(path: Path, write: Callable[[Path], Any], suffix: str) -> Path:
    write(path.with_name(path.name + suffix))
    return path.with_name(path.name + suffix)


def _sitk(path: Path, array: np.ndarray, suffix: str, volume: bool) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(array[None] if volume else array, isVector=array.ndim == 3)
    return _written(path, lambda to: sitk.WriteImage(image, str(to)), suffix)


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
    if array.ndim == 3:
        array = np.ascontiguousarray(array).view(RGB24)[..., 0]
    return _written(
        path,
        lambda to: nibabel.save(
            nibabel.Nifti1Image(np.ascontiguousarray(array.T[:, :, None]), affine), to
        ),
        ".nii.gz",
    )


def _tiff(path: Path, array: np.ndarray) -> Path:
    import tifffile

    return _written(
        path,
        lambda to: tifffile.imwrite(
            to, array, photometric="rgb" if array.ndim == 3 else "minisblack"
        ),
        ".tif",
    )


FILES: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "png": lambda path, array: _written(path, lambda to: Image.fromarray(array).save(to), ".png"),
    "tiff": _tiff,
    "npy": lambda path, array: _written(path, lambda to: np.save(to, array), ".npy"),
    "npz": lambda path, array: _written(path, lambda to: np.savez(to, image=array), ".npz"),
    "hdf5": _hdf5,
    "nifti": _nifti,
    "mha": lambda path, array: _sitk(path, array, ".mha", volume=False),
    "nrrd": lambda path, array: _sitk(path, array, ".nrrd", volume=True),
}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("form", FILES)
def test_a_picture_is_the_same_pixels_in_every_format(
    tmp_path: Path, form: str, colour: bool
) -> None:
    array = picture(colour)
    found = seen(FILES[form](tmp_path / "p", array))
    np.testing.assert_array_equal(found, np.moveaxis(array, -1, 0) if colour else array[None])


ALPHA = np.full((9, 7, 1), 9)
LAID: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "H W 3": lambda a: a,
    "3 H W": lambda a: np.moveaxis(a, -1, 0),
    "H W 4": lambda a: np.concatenate([a, ALPHA.astype(a.dtype)], axis=-1),
    "1 H W 3": lambda a: a[None],
    "1 3 H W": lambda a: np.moveaxis(a, -1, 0)[None],
    "3 1 H W": lambda a: np.moveaxis(a, -1, 0)[:, None],
}  # fmt: skip
SCALED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda a: a,
    "uint16": lambda a: a.astype(np.uint16) * 257,
    "int16": lambda a: a.astype(np.int16),
    "int64": lambda a: a.astype(np.int64),
    "float32 to 1": lambda a: (a / 255).astype(np.float32),
    "float64 to 1": lambda a: a / 255,
    "float32 to 255": lambda a: a.astype(np.float32),
    "float64 to 255": lambda a: a.astype(np.float64),
}


@pytest.mark.parametrize("laid", LAID)
@pytest.mark.parametrize("scaled", SCALED)
def test_colour_arrays_of_any_shape_and_number_type_are_the_picture(
    tmp_path: Path, laid: str, scaled: str
) -> None:
    array = picture(colour=True)
    np.save(tmp_path / "a.npy", LAID[laid](SCALED[scaled](array)))
    assert formats.is_grey(Source(tmp_path / "a.npy", plane=True)) is False
    np.testing.assert_allclose(seen(tmp_path / "a.npy"), np.moveaxis(array, -1, 0), atol=1e-3)


@pytest.mark.parametrize("suffix", [".tif", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_colours_of_other_number_types_are_the_picture_in_other_formats_too(
    tmp_path: Path, suffix: str, dtype: str
) -> None:
    array = picture(colour=True) // 3 + np.array([0, 40, 80], np.uint8)
    stored, path = array.astype(dtype), tmp_path / f"a{suffix}"
    if suffix == ".tif":
        pytest.importorskip("tifffile").imwrite(path, stored, photometric="rgb")
    else:
        _sitk(tmp_path / "a", stored, suffix, volume=False)
    np.testing.assert_allclose(seen(path), np.moveaxis(array, -1, 0), atol=1e-3)


@pytest.mark.parametrize(
    "lay",
    [
        lambda a: a[None],
        lambda a: a[..., None],
        lambda a: a[None, None],
        lambda a: a[None, ..., None],
    ],
)
@pytest.mark.parametrize("scaled", ["uint8", "uint16", "float32 to 1", "bool"])
def test_an_axis_of_length_one_is_no_axis_of_planes(
    tmp_path: Path, lay: Callable[[np.ndarray], np.ndarray], scaled: str
) -> None:
    array = (
        (picture(colour=False) > 99) * np.uint8(255) if scaled == "bool" else picture(colour=False)
    )
    np.save(tmp_path / "a.npy", lay(array > 0 if scaled == "bool" else SCALED[scaled](array)))
    np.testing.assert_allclose(seen(tmp_path / "a.npy"), array[None], atol=1e-3)
    assert formats.is_grey(Source(tmp_path / "a.npy", plane=True))
    if scaled != "float32 to 1":
        np.save(tmp_path / "m.npy", lay((array > 99).astype(np.uint8)))
        mask = read_labels((Source(tmp_path / "m.npy"),), dims=2, classes=("background", "a"))
        np.testing.assert_array_equal(mask.labels, array > 99)


@pytest.mark.parametrize(
    "shape", [(3, 9, 3), (3, 9, 4), (1, 9, 3), (3, 9, 1), (1, 9, 1), (3, 3, 3)]
)
def test_a_shape_that_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        RequestError, match=r"can have its channels first or last; store \(H, W\) or \(H, W, 3\)"
    ):
        make(
            request_of(
                tmp_path, [_saved(tmp_path, number, np.zeros(shape)) for number in range(4)]
            ),
            nothing,
        )


def nothing(done: int, total: int, what: str) -> None:
    """No progress."""


def _saved(folder: Path, number: int, array: np.ndarray) -> str:
    np.save(folder / f"{number}.npy", array)
    return f"{number}.npy"


def request_of(
    folder: Path, names: list[str], kind: str = "classification", frame: str = ""
) -> Request:
    rows = ["id,patient,split,image,target" + (",frame" if frame else "")]
    rows += [
        f"c{number},p{number},{'test' if number > 1 else 'train'},{name},{'ab'[number % 2]}{frame}"
        for number, name in enumerate(names)
    ]
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "own.toml").write_text(
        f'name = "own"\nkind = "{kind}"\ndims = 2\nclasses = ["a", "b"]\n'
    )
    return Request(
        "mean-rgb",
        str(folder / "own.toml/knn"),
        folder / "out",
        image_size=16,
        cache=folder / "cache",
    )


def _stack(folder: Path, number: int) -> str:
    import tifffile

    tifffile.imwrite(
        folder / f"{number}.tif", np.full((5, 9, 7), number, np.uint8), photometric="minisblack"
    )
    return f"{number}.tif"


def _frames(folder: Path, number: int) -> str:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.3",
    )
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    (
        data.Rows,
        data.Columns,
        data.NumberOfFrames,
        data.SamplesPerPixel,
        data.PhotometricInterpretation,
    ) = 9, 7, 5, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.full((5, 9, 7), number, np.uint8).tobytes() + b"\0"
    data.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return f"{number}.dcm"


def _volume(folder: Path, number: int) -> str:
    nibabel.save(
        nibabel.Nifti1Image(np.full((7, 9, 5), number, np.uint8), np.eye(4)),
        folder / f"{number}.nii.gz",
    )
    return f"{number}.nii.gz"


def _in_time(folder: Path, number: int) -> str:
    nibabel.save(
        nibabel.Nifti1Image(np.full((7, 9, 1, 4), number, np.uint8), np.eye(4)),
        folder / f"{number}.nii.gz",
    )
    return f"{number}.nii.gz"


def _folder(folder: Path, number: int) -> str:
    (folder / f"f{number}").mkdir()
    for frame in range(3):
        Image.fromarray(picture(colour=False)).save(folder / f"f{number}" / f"{frame}.png")
    return f"f{number}"


def _video(folder: Path, number: int) -> str:
    av = pytest.importorskip("av")
    with av.open(str(folder / f"{number}.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for grey in range(5):
            file.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(
                        np.full((16, 16, 3), 40 * grey + number, np.uint8), format="rgb24"
                    )
                )
            )
        file.mux(stream.encode())
    return f"{number}.mkv"


MANY: dict[str, tuple[Callable[[Path, int], str], str]] = {
    "array": (
        lambda folder, number: _saved(folder, number, np.zeros((6, 9, 7))),
        r"dims = 2, and this array is 6 planes of 9 x 7; store \(H, W\)",
    ),
    "pages": (_stack, r"dims = 2, and this file is 5 planes.*; name a page as `frame`"),
    "frames": (_frames, r"dims = 2, and this file is 5 planes.*; name a frame as `frame`"),
    "volume": (
        _volume,
        r"dims = 2, and this file is 5 planes of 9 x 7; write one slice into a file, or set dims = 3",
    ),
    "in time": (_in_time, "expected a volume of three axes, or the name of one of 4 on the fourth"),
    "folder": (_folder, r"dims = 2, and this folder is 3 planes; name one of its files"),
    "video": (_video, r"dims = 2, and this video is 5 planes; name a frame as `frame`"),
}


@pytest.mark.parametrize("form", MANY)
def test_what_is_many_planes_is_refused_by_name_before_anything_is_encoded(
    tmp_path: Path, form: str
) -> None:
    write, said = MANY[form]
    request = request_of(tmp_path, [write(tmp_path, number) for number in range(4)])
    with pytest.raises(RequestError, match=said + r".*\(4 of 4 images are such\)"):
        make(request, nothing)
    dataset = load_manifest(tmp_path / "own.toml")
    (finding,) = [one for one in check_dataset(dataset, tmp_path) if one.name == "images"]
    assert not finding.ok
    assert "dims = 2" in finding.detail or "three axes" in finding.detail


@pytest.mark.parametrize("form", ["pages", "frames", "volume", "video"])
def test_a_frame_that_is_named_is_one_plane(tmp_path: Path, form: str) -> None:
    request = request_of(
        tmp_path, [MANY[form][0](tmp_path, number) for number in range(4)], frame=",2"
    )
    ((group,)) = make(request, nothing).groups
    assert [entry.planes for entry in group.entries.values()] == [1] * len(group.entries)


def test_bags_keep_their_many_planes(tmp_path: Path) -> None:
    request_of(tmp_path, [MANY["pages"][0](tmp_path, number) for number in range(4)], kind="bags")
    (finding,) = [
        one
        for one in check_dataset(load_manifest(tmp_path / "own.toml"), tmp_path)
        if one.name == "images"
    ]
    assert finding.ok


def test_encode_refuses_a_stack_in_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(colour=False)).save(tmp_path / "images" / "a.png")
    _stack(tmp_path / "images", 0)
    with pytest.raises(RequestError, match="dims = 2, and this file is 5 planes"):
        export(
            Request("mean-rgb", "", tmp_path / "out", cache=tmp_path / "cache"),
            tmp_path / "images",
            "npy",
            nothing,
        )


def test_encode_leaves_out_no_format_of_a_mixed_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, form in enumerate(("npy", "nifti", "png")):
        FILES[form](tmp_path / "images" / f"{number}", picture(colour=True))
    request = Request("mean-rgb", "", tmp_path / "out", cache=tmp_path / "cache", image_size=9)
    assert export(request, tmp_path / "images", "npy", nothing)["cases"] == 3


@pytest.mark.parametrize("form", ["npy", "nifti"])
def test_encode_takes_a_folder_of_arrays_or_slices(tmp_path: Path, form: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(2):
        FILES[form](tmp_path / "images" / f"{number}", picture(colour=True))
    request = Request("mean-rgb", "", tmp_path / "out", cache=tmp_path / "cache", image_size=9)
    assert export(request, tmp_path / "images", "npy", nothing)["cases"] == 2
    found = np.load(tmp_path / "out" / "features.npy")[:, :3]
    np.testing.assert_allclose(found, [picture(colour=True).mean(axis=(0, 1)) / 255] * 2, atol=0.03)


# ----------------------------------------------------------------------------------------- slices

TILTED = np.array([[0.1, 0.2, 0.97, 0], [0.98, 0.0, -0.1, 0], [0.0, -0.97, 0.2, 0], [0, 0, 0, 1]])
SLICES = {
    "axial": ((8, 9, 1), np.eye(4)),
    "coronal": ((8, 9, 1), np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])),
    "sagittal": ((8, 9, 1), np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])),
    "oblique": ((8, 9, 1), TILTED),
    "thin in x": ((1, 8, 9), np.eye(4)),
    "thin in y": ((8, 1, 9), np.diag([-1.0, -1, -1, 1])),
}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_of_any_direction_is_one_plane_and_its_mask_lies_on_it(
    tmp_path: Path, name: str
) -> None:
    shape, affine = SLICES[name]
    mask = (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)
    for number in range(4):
        nibabel.save(
            nibabel.Nifti1Image(mask * np.float32(100), affine), tmp_path / f"{number}.nii.gz"
        )
        nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / f"m{number}.nii.gz")
    rows = [
        "id,patient,split,image,target",
        *(f"c{n},p{n},{'test' if n > 1 else 'train'},{n}.nii.gz,m{n}.nii.gz" for n in range(4)),
    ]
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nkind = "segmentation"\ndims = 2\nclasses = ["background", "a"]\n'
    )
    found = mp.evaluate(
        "pixels",
        str(tmp_path / "own.toml/linear2d"),
        None,
        tmp_path / "out",
        cache=tmp_path / "cache",
        image_size=16,
        settings={"head.epochs": 2},
    )
    assert found.results[0]["status"] == "done"
    request = Request(
        "pixels",
        str(tmp_path / "own.toml/linear2d"),
        tmp_path / "o",
        image_size=16,
        cache=tmp_path / "cache",
    )
    question = make(request, nothing).groups[0].cells[0].question
    case = question.cases[0]
    image = recipes.image(reading.images(question.task, case)["image"], "full-range").pixels
    assert question.masks is not None
    np.testing.assert_array_equal(
        image[0, 0] > 0, question.masks(reading.target(question.task, case)).labels
    )
    for file in (tmp_path / "out" / "predictions").rglob("*.nii.gz"):
        assert nibabel.load(file).shape == shape
        np.testing.assert_allclose(nibabel.load(file).affine, affine, atol=1e-5)
    assert len(list((tmp_path / "out" / "predictions").rglob("*.nii.gz"))) == 2


def test_a_sagittal_slice_stands_upright_with_the_front_on_the_left(tmp_path: Path) -> None:
    array = np.zeros((8, 9, 1), np.uint8)
    array[-1, -1], array[-2, -1], array[-1, -2] = (
        200,
        150,
        100,
    )  # front and top, behind it, below it
    nibabel.save(nibabel.Nifti1Image(array, SLICES["sagittal"][1]), tmp_path / "s.nii.gz")
    found = seen(tmp_path / "s.nii.gz")[0]
    assert found.shape == (9, 8)
    assert (found[0, 0], found[0, 1], found[1, 0]) == (200, 150, 100)


@pytest.mark.parametrize("name", ["axial", "coronal", "sagittal", "thin in y"])
def test_a_field_of_a_slice_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    shape, affine = SLICES[name]
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine), tmp_path / "m.nii.gz")
    fixed = read_labels((Source(tmp_path / "m.nii.gz"),), dims=2, classes=("background", "a"))
    field = np.random.default_rng(0).normal(size=(2, *fixed.shape)).astype(np.float32)
    write_displacement(tmp_path / "a.disp.nii.gz", field, fixed.affine, fixed.spacing)
    np.testing.assert_array_equal(
        read_displacement(Source(tmp_path / "a.disp.nii.gz"), dims=2, fixed=fixed), field
    )


def test_red_green_and_blue_voxels_of_a_volume_are_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)  # x, y, z
    nibabel.save(
        nibabel.Nifti1Image(np.ascontiguousarray(colours).view(RGB24)[..., 0], np.eye(4)),
        tmp_path / "v.nii.gz",
    )
    raw = formats.read(Source(tmp_path / "v.nii.gz"))
    np.testing.assert_array_equal(raw.pixels, colours.transpose(3, 2, 1, 0))
    assert not formats.is_grey(Source(tmp_path / "v.nii.gz"))

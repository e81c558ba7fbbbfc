"""Planes as radiologists look at them: markers at known corners, whatever the file's order of axes; masks, predictions and fields with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import medprobe as mp
from medprobe.errors import RequestError
from medprobe.features.digests import source_key
from medprobe.features.samples import EncodedSamples, Item
from medprobe.imaging import nifti, recipes
from medprobe.imaging.labels import LabelMap, write_labels
from medprobe.metrics.registration import warp_labels
from medprobe.run import panels, reading
from medprobe.run.plan import make
from medprobe.run.references import Masks, turned, turned_back
from medprobe.run.request import Request
from medprobe.types import Case, Source, Task

AXES = ("axial", "coronal", "sagittal")
STORED = ("RAS", "LPS", "LAS", "ASR", "PIR", "SAL")
CORNER, LEFT, BACK, DOWN = 200, 150, 100, 50
"""At the front, right and top; and one voxel from there to the patient's left, to the back, and down."""
BESIDE = {"axial": (LEFT, BACK), "coronal": (LEFT, DOWN), "sagittal": (BACK, DOWN)}
"""Axis → what is to the right of the corner in its last plane, and below it."""


def marked() -> np.ndarray:
    """(z, y, x) on canonical axes."""
    volume = np.zeros((4, 5, 6), np.uint8)
    volume[-1, -1, -1], volume[-1, -1, -2], volume[-1, -2, -1], volume[-2, -1, -1] = (
        CORNER,
        LEFT,
        BACK,
        DOWN,
    )
    return volume


def stored(path: Path, codes: str, volume: np.ndarray) -> Path:
    """A canonical volume, written in another order of axes."""
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([2.0, 3.0, 4.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(image.as_reoriented(turn), path)
    return path


def seen(path: Path, **asked: Any) -> np.ndarray:
    """(D, H, W) uint8 as an encoder gets them."""
    sources = reading.images(Task("own", "logreg", **asked), case_of(path))["image"]
    return recipes.planes(sources, window="full-range", size=None).pixels[:, 0]


def case_of(path: Path, mask: Path | None = None, **fields: Any) -> Case:
    return Case(
        "a", "p", {"image": (Source(path, **fields),)}, None if mask is None else (Source(mask),)
    )


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("codes", STORED)
def test_front_and_top_are_above_and_the_right_or_front_is_on_the_left(
    tmp_path: Path, axis: str, codes: str
) -> None:
    planes = seen(stored(tmp_path / "v.nii.gz", codes, marked()), axis=axis)
    beside, below = BESIDE[axis]
    assert (planes[-1, 0, 0], planes[-1, 0, 1], planes[-1, 1, 0]) == (CORNER, beside, below)
    canonical = seen(tmp_path / "v.nii.gz", axis=axis, orientation="canonical")
    np.testing.assert_array_equal(planes, canonical[:, ::-1, ::-1])
    np.testing.assert_array_equal(canonical, np.moveaxis(marked(), AXES.index(axis), 0))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_volumes_stand_as_nifti_does(tmp_path: Path, suffix: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(marked()[::-1, ::-1, ::-1].copy())
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))  # left, posterior, and down
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
    planes = seen(tmp_path / f"v{suffix}")
    assert (planes[-1, 0, 0], planes[-1, 0, 1], planes[-1, 1, 0]) == (CORNER, LEFT, BACK)


def test_a_volume_on_the_grid_of_another_is_turned_with_it(tmp_path: Path) -> None:
    big = stored(tmp_path / "ct.nii.gz", "LPS", marked())
    pet = stored(tmp_path / "pet.nii.gz", "ASR", marked())
    sources = reading.images(Task("own", "conv3d"), case_of(pet, grid=big))["image"]
    planes = recipes.image(sources, "full-range").pixels[0] * 255
    np.testing.assert_allclose(planes[-1, :2, :2], [[CORNER, LEFT], [BACK, 0]], atol=1e-3)


def test_pictures_and_arrays_without_directions_are_as_their_files_show_them(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "v.npy", marked())
    np.testing.assert_array_equal(seen(tmp_path / "v.npy"), marked())


def test_an_array_beside_a_volume_lies_on_its_axes_and_is_turned_with_it(tmp_path: Path) -> None:
    volume = stored(tmp_path / "v.nii.gz", "RAS", marked())
    np.save(tmp_path / "v.npy", marked())
    case = Case(
        "a",
        "p",
        {"image": (Source(volume), Source(tmp_path / "v.npy"))},
        (Source(tmp_path / "v.npy"),),
    )
    task = Task("own", "conv3d")
    one, other = (
        recipes.image((source,), "full-range").pixels
        for source in reading.images(task, case)["image"]
    )
    np.testing.assert_array_equal(one, other)
    assert reading.target(task, case)[0].orientation == "radiological"


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("orientation", ["radiological", "canonical"])
def test_masks_lie_on_their_images_and_what_is_predicted_goes_back_to_the_file(
    tmp_path: Path, axis: str, orientation: str
) -> None:
    image, mask = (
        stored(tmp_path / name, codes, marked() // 50)
        for name, codes in (("v.nii.gz", "PIR"), ("m.nii.gz", "LAS"))
    )
    task, case = (
        Task("own", "conv3d", axis=axis, orientation=orientation, window="minmax"),
        case_of(image, mask),
    )
    dataset = _segmentation()
    masks, target = Masks(dataset), reading.target(task, case)
    found = masks(target)
    np.testing.assert_allclose(
        recipes.image(reading.images(task, case)["image"], "minmax").pixels[0],
        found.labels / 4,
        atol=1e-6,
    )
    samples = EncodedSamples([Item("a", "p", {}, {}, target)], None, decode_target=masks)
    (back,), plain = reading.as_stored([found.labels], samples)
    np.testing.assert_array_equal(back, marked() // 50)
    np.testing.assert_array_equal(plain[0].target.labels, marked() // 50)
    write_labels(
        tmp_path / "p.nii.gz",
        LabelMap(back, plain[0].target.spacing, plain[0].target.affine),
        like=image,
    )
    np.testing.assert_array_equal(
        nibabel.load(tmp_path / "p.nii.gz").dataobj, nibabel.load(image).dataobj
    )
    place = panels.view_of(found.shape[1:], (1, 1), found.affine, 90)
    assert place.flip == ((False, False) if orientation == "radiological" else (True, True))


def _segmentation() -> Any:
    from medprobe.types import Dataset

    return Dataset(
        "own",
        "segmentation",
        3,
        "CT",
        ("background", "a", "b", "c", "d"),
        "",
        "",
        "",
        lambda root: (),
    )


def test_a_field_that_was_found_in_turned_images_moves_the_labels_of_the_files_alike() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    like = Source(Path("v.nii.gz"), orientation="radiological")
    field = rng.integers(-2, 3, (3, 4, 5, 6)).astype(np.float32)
    warped = warp_labels(turned(LabelMap(labels), like).labels, field)
    np.testing.assert_array_equal(
        turned_back(warped, like), warp_labels(labels, turned_back(field, like, field=True))
    )
    flat = rng.integers(-2, 3, (2, 5, 6)).astype(np.float32)
    warped = warp_labels(turned(LabelMap(labels[0]), like).labels, flat)
    np.testing.assert_array_equal(
        turned_back(warped, like), warp_labels(labels[0], turned_back(flat, like, field=True))
    )


def test_features_and_results_of_both_orientations_are_kept_apart_and_pictures_have_neither(
    tmp_path: Path,
) -> None:
    volume = stored(tmp_path / "v.nii.gz", "RAS", marked())
    keys = {
        source_key(
            reading.images(Task("own", "logreg", orientation=name), case_of(volume))["image"],
            {volume: "0"},
        )
        for name in ("radiological", "canonical")
    }  # type: ignore[arg-type]
    assert len(keys) == 2
    rows = ["id,patient,split,image,target"]
    for number in range(4):
        stored(tmp_path / f"{number}.nii.gz", "LPS", marked() // (1 + number % 2))
        np.save(tmp_path / f"{number}.npy", marked()[0] + number)
        rows.append(
            f"c{number},p{number},{'test' if number > 1 else 'train'},{number}.nii.gz,{'ab'[number % 2]}"
        )
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "pictures.csv").write_text("\n".join(rows).replace(".nii.gz", ".npy") + "\n")
    for dims, table in ((3, "cases"), (2, "pictures")):
        (tmp_path / f"{table}.toml").write_text(
            f'name = "{table}"\nkind = "classification"\ndims = {dims}\nclasses = ["a", "b"]\ncases = "{table}.csv"\n'
        )
    found = {}
    for table in ("cases", "pictures"):
        for name in ("radiological", "canonical"):
            request = Request(
                "mean-rgb",
                str(tmp_path / f"{table}.toml/knn"),
                tmp_path / "out",
                settings={"task.orientation": name},
                cache=tmp_path / "cache",
            )
            ((group,)) = make(request, lambda *_: None).groups
            found[table, name] = group.cells[0].facts
    assert found["cases", "radiological"] != found["cases", "canonical"]
    assert found["cases", "radiological"]["task"]["orientation"] == "radiological"
    assert found["pictures", "radiological"] == found["pictures", "canonical"]
    with pytest.raises(RequestError, match="expected one of radiological, canonical"):
        make(replace(request, settings={"task.orientation": "upright"}), lambda *_: None)


def test_registration_is_measured_alike_under_both_names(tmp_path: Path) -> None:
    rng, rows = (
        np.random.default_rng(0),
        ["id,patient,split,fixed,moving,fixed_target,moving_target"],
    )
    for number in range(2):
        fixed = np.zeros((10, 20, 24), np.uint8)
        fixed[3:7, 6:12, 8:16] = 1
        fixed[4:6, 8:10, 10:12] = 2
        for role, mask in (("fixed", fixed), ("moving", np.roll(fixed, (0, 3, -2), (0, 1, 2)))):
            nifti.save(
                tmp_path / f"{role}{number}.nii.gz",
                (100 * mask + rng.normal(0, 2, mask.shape)).astype(np.float32),
                np.diag([-1.0, 1.0, 1.0, 1.0]),
                None,
            )
            nifti.save(
                tmp_path / f"{role}_m{number}.nii.gz", mask, np.diag([-1.0, 1.0, 1.0, 1.0]), None
            )
        files = ",".join(
            f"{role}{number}.nii.gz" for role in ("fixed", "moving", "fixed_m", "moving_m")
        )
        rows.append(f"c{number},p{number},{'test' if number else 'train'},{files}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nkind = "registration"\ndims = 3\nclasses = ["background", "block", "core"]\n'
    )
    scores, moved = [], []
    for name in ("radiological", "canonical"):
        out = tmp_path / name
        found = mp.evaluate(
            "pixels",
            str(tmp_path / "own.toml/convexadam"),
            None,
            out,
            cache=tmp_path / "cache",
            settings={
                "task.orientation": name,
                "head.niter": 0,
                "head.grid_sp": 1,
                "head.disp_hw": 4,
            },
        )
        scores.append(found.results[0]["scores"]["dice"]["value"])
        (file,) = out.rglob("*.disp.nii.gz")
        moved.append(
            nibabel.load(file).get_fdata()[12, 8, 4, 0]
        )  # z, y, x in voxels on canonical axes, in the middle
        assert json.loads(next(out.rglob("seed0.json")).read_text())["status"] == "done"
    assert min(scores) > 0.9
    np.testing.assert_allclose(moved, [[0, 3, 2]] * 2, atol=1)


@pytest.mark.parametrize("name", ["ct_multiorgan/ct.nii.gz", "dicom_ct_series/series"])
def test_the_spine_of_a_real_ct_is_below_in_axial_and_on_the_right_in_sagittal_planes(
    samples: Path, name: str
) -> None:
    case = case_of(samples / name)
    for axis, side in (("axial", 0), ("sagittal", 1)):
        sources = reading.images(Task("own", "logreg", axis=axis), case)["image"]  # type: ignore[arg-type]
        stack = recipes.planes(sources, window="bone", size=None).pixels[:, 0]
        bone, body = ((stack > level).sum(axis=(0, 2 - side)) for level in (0.5, 0.2))
        places = np.arange(len(bone))
        assert (bone * places).sum() / bone.sum() > (body * places).sum() / body.sum()

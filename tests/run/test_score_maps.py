"""Label maps and displacement fields made elsewhere are scored by the command: real masks, every format, every way to be wrong."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from medpy.metric import binary
from PIL import Image
from scipy.ndimage import shift

from medprobe.imaging.displacements import write_displacement
from medprobe.imaging.labels import LabelMap, write_labels


def medprobe(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode == status, ended.stderr
    return ended


def score(manifest: Path, predictions: Path, *more: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    return medprobe("score", "--task", manifest, "--predictions", predictions, "-o", manifest.parent / "out", "--name", "theirs", "--json", *more, status=status)


def write_manifest(folder: Path, header: str, rows: list[str]) -> Path:
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "data.toml").write_text(header)
    return folder / "data.toml"


# ------------------------------------------------------------------------------------------ segmentation


@pytest.fixture
def hippocampus(samples: Path, tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """(manifest, folder of predictions, ids): six volumes whose predictions are the truth moved by a voxel."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "pred").mkdir()
    rows, ids = ["id,patient,split,image,target"], []
    for number, file in enumerate(sorted((samples / "mri_hippocampus" / "labels").glob("*.nii.gz"))[:6]):
        name = file.name.removesuffix(".nii.gz")
        (tmp_path / "masks" / file.name).write_bytes(file.read_bytes())
        truth = nibabel.nifti1.load(file)
        moved = shift(np.asarray(truth.dataobj), (1, 0, 0), order=0)
        nibabel.nifti1.Nifti1Image(moved.astype(np.uint8), truth.affine).to_filename(tmp_path / "pred" / file.name)
        rows.append(f"{name},p{number},test,masks/{file.name},masks/{file.name}")
        ids.append(name)
    header = 'name = "hippo"\nkind = "segmentation"\ndims = 3\nmodality = "MR"\nclasses = ["background", "anterior", "posterior"]\n'
    return write_manifest(tmp_path, header, rows), tmp_path / "pred", ids


def test_volumes_are_scored_as_medpy_and_by_hand(hippocampus: tuple[Path, Path, list[str]]) -> None:
    manifest, predictions, ids = hippocampus
    (document,) = json.loads(score(manifest, predictions).stdout)
    expected: dict[str, list[list[float]]] = {"dice": [], "hd95": [], "asd": [], "hd": [], "assd": []}
    for name in ids:
        truth, pred = (nibabel.nifti1.load(folder / f"{name}.nii.gz") for folder in (manifest.parent / "masks", predictions))
        spacing = [float(size) for size in truth.header.get_zooms()]
        pairs = [(np.asarray(pred.dataobj) == k, np.asarray(truth.dataobj) == k) for k in (1, 2)]
        for metric, values in expected.items():
            values.append([binary.dc(p, t) if metric == "dice" else getattr(binary, metric)(p, t, voxelspacing=spacing) for p, t in pairs])
    scores = document["scores"]
    for metric, values in expected.items():
        assert scores[metric]["value"] == pytest.approx(np.mean(values), rel=1e-12)
        assert list(scores[metric]["per_class"].values()) == pytest.approx(np.mean(values, axis=0), rel=1e-12)
        assert scores[metric]["low"] <= scores[metric]["value"] <= scores[metric]["high"]
    assert (scores["hd95"]["unit"], scores["hd95"]["higher_is_better"], scores["dice"]["unit"]) == ("mm", False, None)
    assert (scores["dice"]["n_cases"], scores["dice"]["n_patients"], scores["dice"]["n_undefined"]) == (6, 6, 0)
    assert document["task"]["name"] == "hippo/predictions"
    table = pd.read_parquet(next(manifest.parent.rglob("*.cases.parquet")))
    assert set(table["class"]) == {"anterior", "posterior"}
    assert table.loc[table["metric"] == "dice", "value"].mean() == pytest.approx(scores["dice"]["value"])
    page = medprobe("report", manifest.parent / "out")
    assert "1 result, 0 failed" in page.stdout


def test_missing_extra_and_double_predictions_are_said_at_once(hippocampus: tuple[Path, Path, list[str]]) -> None:
    manifest, predictions, ids = hippocampus
    (predictions / f"{ids[0]}.nii.gz").rename(predictions / "stranger.nii.gz")
    (predictions / f"{ids[1]}.nii").write_bytes(b"")
    said = score(manifest, predictions, status=2).stderr
    for fault in (f"1 missing ({ids[0]}.nii.gz)", "1 that are not test cases (stranger)", f"1 given twice ({ids[1]}.nii, {ids[1]}.nii.gz)"):
        assert fault in said
    assert "found none" in score(manifest, manifest.parent / "nowhere", status=3).stderr
    (manifest.parent / "empty").mkdir()
    assert "6 missing" in score(manifest, manifest.parent / "empty", status=3).stderr


def test_files_that_do_not_fit_are_all_named(hippocampus: tuple[Path, Path, list[str]]) -> None:
    manifest, predictions, ids = hippocampus
    files = [predictions / f"{name}.nii.gz" for name in ids]
    stored = nibabel.nifti1.load(files[0])
    first = np.asarray(stored.dataobj)
    nibabel.nifti1.Nifti1Image(first[1:], stored.affine).to_filename(files[0])
    nibabel.nifti1.Nifti1Image(np.asarray(nibabel.nifti1.load(files[1]).dataobj) * 0.5, stored.affine).to_filename(files[1])
    nibabel.nifti1.Nifti1Image(np.asarray(nibabel.nifti1.load(files[2]).dataobj) * 3, stored.affine).to_filename(files[2])
    files[3].write_bytes(files[3].read_bytes()[:200])
    said = score(manifest, predictions, status=2).stderr
    assert "the folder of predictions has 4 faults" in said
    for name, fault in zip(ids, ("expected the shape of the reference", "fractions such as", "expected the mask values", "found a damaged one"), strict=False):
        assert any(name in line and fault in line for line in said.splitlines()), (fault, said)
    assert not list((manifest.parent / "out").rglob("*.json"))


def test_another_grid_is_refused_unless_resampling_is_asked_for(hippocampus: tuple[Path, Path, list[str]]) -> None:
    manifest, predictions, ids = hippocampus
    for name in ids:
        file = predictions / f"{name}.nii.gz"
        truth = nibabel.nifti1.load(manifest.parent / "masks" / file.name)
        labels = np.asarray(truth.dataobj).astype(np.uint8)
        affine = truth.affine @ np.diag([-1, 1, 1, 1])
        affine[:3, 3] = (truth.affine @ [labels.shape[0] - 1 + 2, 0, 0, 1])[:3]
        nibabel.nifti1.Nifti1Image(np.pad(labels[::-1], ((2, 0), (0, 0), (0, 0))), affine).to_filename(file)
    assert "--resample nearest" in score(manifest, predictions, status=2).stderr
    (document,) = json.loads(score(manifest, predictions, "--resample", "nearest").stdout)
    assert document["scores"]["dice"]["value"] == 1
    assert document["scores"]["hd"]["value"] == 0
    assert "expected nearest" in score(manifest, predictions, "--resample", "linear", status=2).stderr


def test_pictures_are_scored_in_pixels_whatever_stands_for_white(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "pred").mkdir()
    rows, dices = ["id,patient,fold,image,target"], []
    files = sorted((samples / "endoscopy_polyp" / "masks").glob("*.png"))[:10]
    for number, file in enumerate(files):
        (tmp_path / "masks" / file.name).write_bytes(file.read_bytes())
        mask = np.asarray(Image.open(file))
        moved = np.roll(mask, 9, axis=1)
        Image.fromarray((moved * (255 if number % 2 else 1)).astype(np.uint8)).save(tmp_path / "pred" / file.name)
        dices.append(binary.dc(moved, mask))
        rows.append(f"{file.stem},p{number},{number % 2},masks/{file.name},masks/{file.name}")
    header = 'name = "polyps"\nkind = "segmentation"\nclasses = ["background", "polyp"]\nvalues = [0, 255]\n'
    manifest = write_manifest(tmp_path, header, rows)
    documents = json.loads(score(manifest, tmp_path / "pred").stdout)
    assert [document["fold"] for document in documents] == [0, 1]
    assert np.mean([document["scores"]["dice"]["value"] for document in documents]) == pytest.approx(np.mean(dices))
    assert documents[0]["scores"]["hd95"]["unit"] == "px"
    summary = json.loads(next((tmp_path / "out").rglob("summary.json")).read_text())
    assert summary["scores"]["dice"]["value"] == pytest.approx(np.mean(dices))
    assert summary["scores"]["dice"]["n_cases"] == 10


def test_masks_that_overlap_are_one_file_per_class(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "pred").mkdir()
    rows, expected = ["id,patient,split,image,a,b"], []
    for number in range(3):
        truth, pred = ({name: rng.random((9, 8)) < 0.4 for name in "ab"} for _ in range(2))
        for name in "ab":
            Image.fromarray(truth[name].astype(np.uint8) * 255).save(tmp_path / f"{number}.{name}.png")
            Image.fromarray(pred[name].astype(np.uint8)).save(tmp_path / "pred" / f"c{number}.{name}.png")
            expected.append(binary.dc(pred[name], truth[name]))
        rows.append(f"c{number},p{number},test,{number}.a.png,{number}.a.png,{number}.b.png")
    manifest = write_manifest(tmp_path, 'name = "edd"\nkind = "segmentation"\nmultilabel = true\nclasses = ["a", "b"]\n', rows)
    (document,) = json.loads(score(manifest, tmp_path / "pred").stdout)
    assert document["scores"]["dice"]["value"] == pytest.approx(np.mean(expected))
    (tmp_path / "pred" / "c1.b.png").unlink()
    assert "1 missing (c1.b.png)" in score(manifest, tmp_path / "pred", status=2).stderr


# ------------------------------------------------------------------------------ instances, registration


def test_instances_are_scored_as_scikit_image(samples: Path, tmp_path: Path) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    import h5py

    (tmp_path / "pred").mkdir()
    rows, expected = ["id,patient,split,image,target"], []
    with h5py.File(samples / "em_fib_medulla" / "fib25_sample2_z000-149.h5") as file:
        labels = file["labels"][:60]
    with h5py.File(tmp_path / "em.h5", "w") as file:
        for number, part in enumerate((labels[:30], labels[30:])):
            file[f"truth{number}"] = part
            pred = (part.astype(np.uint64) << np.uint64(40)) + np.uint64(7)
            pred[:, :, 120:] += np.uint64(1)
            with h5py.File(tmp_path / "pred" / f"block{number}.h5", "w") as target:
                target["labels"] = pred
            dense = np.unique(pred, return_inverse=True)[1].reshape(pred.shape)
            expected.append([*metrics.variation_of_information(part, dense, ignore_labels=(0,)), metrics.adapted_rand_error(part, dense, ignore_labels=(0,))[0]])
            rows.append(f"block{number},p{number},test,em.h5:/truth{number},em.h5:/truth{number}")
    manifest = write_manifest(tmp_path, 'name = "em"\nkind = "instances"\ndims = 3\n', rows)
    (document,) = json.loads(score(manifest, tmp_path / "pred").stdout)
    split, merge, arand = np.mean(expected, axis=0)
    scores = document["scores"]
    assert [scores[key]["value"] for key in ("voi_split", "voi_merge", "arand")] == pytest.approx([split, merge, arand], abs=1e-9)
    assert (scores["voi"]["unit"], scores["voi"]["higher_is_better"]) == ("bits", False)


def test_displacements_are_scored_by_the_labels_they_warp(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    rows = ["id,patient,split,fixed,moving,fixed_target,moving_target"]
    for number, file in enumerate(sorted((samples / "mri_cardiac_ed_es" / "volumes").glob("*.npz"))[:2]):
        with np.load(file) as stored:
            fixed = stored["ed_lv"]
        moving = np.roll(fixed, (3, -5), axis=(1, 2))
        np.savez(tmp_path / f"{number}.npz", fixed=fixed, moving=moving)
        field = np.zeros((3, *fixed.shape), np.float32)
        field[1], field[2] = 3, -5
        write_displacement(tmp_path / "pred" / f"pair{number}.disp.nii.gz", field)
        rows.append(f"pair{number},p{number},test,{number}.npz:/fixed,{number}.npz:/moving,{number}.npz:/fixed,{number}.npz:/moving")
    manifest = write_manifest(tmp_path, 'name = "cine"\nkind = "registration"\ndims = 3\nclasses = ["background", "cavity"]\n', rows)
    (document,) = json.loads(score(manifest, tmp_path / "pred").stdout)
    scores = document["scores"]
    assert (scores["dice"]["value"], scores["hd95"]["value"], scores["folding_fraction"]["value"]) == (1, 0, 0)
    assert scores["sdlogj"]["value"] == pytest.approx(0, abs=1e-12)
    assert scores["asd"]["unit"] == "px"


def test_run_refuses_a_head_of_another_kind_and_says_what_there_is(hippocampus: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    manifest, _, _ = hippocampus
    said = medprobe("run", "-m", "pixels", "-t", f"{manifest}/logreg", "-o", tmp_path / "out", status=2).stderr
    assert "hippo is of kind segmentation in 3D, which the head logreg does not answer" in said
    manifest.write_text('name = "em"\nkind = "instances"\ndims = 3\n')
    said = medprobe("run", "-m", "pixels", "-t", manifest, "-o", tmp_path / "out", status=2).stderr
    assert "em is of kind instances in 3D, for which there is no head in this version" in said
    assert "medprobe score" in said


def test_a_label_map_written_here_is_read_back_as_a_prediction(hippocampus: tuple[Path, Path, list[str]]) -> None:
    manifest, predictions, ids = hippocampus
    for name in ids:
        truth = nibabel.nifti1.load(manifest.parent / "masks" / f"{name}.nii.gz")
        labels = np.asarray(truth.dataobj).astype(np.uint8).transpose(2, 1, 0)
        write_labels(predictions / f"{name}.nii.gz", LabelMap(labels, tuple(float(size) for size in truth.header.get_zooms()[::-1]), truth.affine))
    (document,) = json.loads(score(manifest, predictions).stdout)
    assert document["scores"]["dice"]["value"] == 1


def test_folds_of_two_sets_of_predictions_are_never_mixed(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    rows = ["id,patient,fold,image,target"]
    files = sorted((samples / "endoscopy_polyp" / "masks").glob("*.png"))[:6]
    for number, file in enumerate(files):
        (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "pred" / file.name).write_bytes(file.read_bytes())
        rows.append(f"{file.stem},p{number},{number % 2},{file.name},{file.name}")
    manifest = write_manifest(tmp_path, 'name = "polyps"\nkind = "segmentation"\nclasses = ["background", "polyp"]\n', rows)
    score(manifest, tmp_path / "pred")
    changed = tmp_path / "pred" / files[1].name
    Image.fromarray(np.roll(np.asarray(Image.open(changed)).astype(np.uint8), 20, axis=0)).save(changed)
    stamps = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    assert "predictions_sha256 was" in score(manifest, tmp_path / "pred", status=2).stderr
    next((tmp_path / "out").rglob("seed0-fold0.json")).unlink()
    assert "or delete" in score(manifest, tmp_path / "pred", status=2).stderr, "the other fold is still of the first set"
    assert all(file.read_bytes() == content for file, content in stamps.items() if file.exists())


def test_a_reference_off_its_image_and_a_field_worse_than_none_are_said(hippocampus: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    manifest, predictions, ids = hippocampus
    cases = manifest.parent / "cases.csv"
    cases.write_text(cases.read_text().replace(f"masks/{ids[0]}.nii.gz,masks/{ids[0]}.nii.gz", f"masks/{ids[1]}.nii.gz,masks/{ids[0]}.nii.gz"))
    assert f"{ids[0]}: expected the mask {ids[0]}.nii.gz on the grid of its image" in score(manifest, predictions, status=2).stderr

    home = tmp_path / "registration"
    (home / "pred").mkdir(parents=True)
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[1:5, 5:15, 5:15] = 1
    np.savez(home / "a.npz", labels=labels)
    field = np.zeros((3, 6, 20, 20), np.float32)
    field[2] = 6
    write_displacement(home / "pred" / "a.disp.npz", field)
    pair = write_manifest(home, 'name = "reg"\nkind = "registration"\ndims = 3\nclasses = ["background", "it"]\n', ["id,patient,split,fixed,moving,fixed_target,moving_target", "a,p,test,a.npz,a.npz,a.npz,a.npz"])
    (document,) = json.loads(score(pair, home / "pred").stdout)
    assert document["scores"]["dice.unregistered"]["value"] == 1
    assert "before it 1.000" in document["warnings"][0]


def planes(folder: Path, rng: np.random.Generator, count: int, values: tuple[int, ...]) -> list[np.ndarray]:
    """PNG masks of class values under `folder`, the first without the last class."""
    folder.mkdir(exist_ok=True)
    made = []
    for number in range(count):
        labels = rng.integers(0, len(values) - (number == 0), (8, 9))
        Image.fromarray(np.array(values, np.uint8)[labels]).save(folder / f"c{number}.png")
        made.append(labels)
    return made


def test_mask_values_or_class_indices_are_one_decision_for_all_files(tmp_path: Path, rng: np.random.Generator) -> None:
    planes(tmp_path / "masks", rng, 2, (0, 2, 4))
    rows = ["id,patient,split,image,target", *(f"c{n},p{n},test,masks/c{n}.png,masks/c{n}.png" for n in range(2))]
    manifest = write_manifest(tmp_path, 'name = "v"\nkind = "segmentation"\nclasses = ["bg", "a", "b"]\nvalues = [0, 2, 4]\n', rows)
    (document,) = json.loads(score(manifest, tmp_path / "masks").stdout)
    assert document["scores"]["dice"]["value"] == 1, "as the references are written, the first of which holds 0 and 2 only"
    for file in (tmp_path / "masks").iterdir():
        (tmp_path / "pred").mkdir(exist_ok=True)
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(tmp_path / "pred" / file.name)
    (document,) = json.loads(medprobe("score", "--task", manifest, "--predictions", tmp_path / "pred", "-o", tmp_path / "o2", "--name", "x", "--json").stdout)
    assert document["scores"]["dice"]["value"] == 1, "as class indices"


def test_what_is_ignored_counts_nowhere_in_masks_that_overlap_or_move(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "pred").mkdir()
    mask = rng.integers(0, 2, (9, 8)).astype(np.uint8)
    known = mask.copy()
    known[:3] = 9
    Image.fromarray(known).save(tmp_path / "m.png")
    for name in "ab":
        Image.fromarray(np.where(known == 9, 1 - mask, mask)).save(tmp_path / "pred" / f"c.{name}.png")
    manifest = write_manifest(tmp_path, 'name = "edd"\nkind = "segmentation"\nmultilabel = true\nclasses = ["a", "b"]\nignore = 9\n', ["id,patient,split,image,a,b", "c,p,test,m.png,m.png,m.png"])
    (document,) = json.loads(score(manifest, tmp_path / "pred").stdout)
    assert document["scores"]["dice"]["value"] == 1

    home = tmp_path / "pair"
    (home / "pred").mkdir(parents=True)
    np.savez(home / "a.npz", fixed=mask, moving=known)
    write_displacement(home / "pred" / "a.disp.npz", np.zeros((2, 9, 8), np.float32))
    pair = write_manifest(home, 'name = "reg"\nkind = "registration"\nclasses = ["background", "it"]\nignore = 9\n', ["id,patient,split,fixed,moving,fixed_target,moving_target", "a,p,test,a.npz:/fixed,a.npz:/moving,a.npz:/fixed,a.npz:/moving"])
    (document,) = json.loads(score(pair, home / "pred").stdout)
    warped = np.where(known == 9, 0, known)
    assert document["scores"]["dice"]["value"] == pytest.approx(binary.dc(warped, mask))


def test_arrays_without_affine_are_laid_on_no_turned_file(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = (rng.random((6, 9, 8)) < 0.4).astype(np.uint8)
    lps, ras = np.diag([-1.0, -1, 1, 1]), np.eye(4)
    for name, affine in (("lps", lps), ("ras", ras)):
        home = tmp_path / name
        (home / "pred").mkdir(parents=True)
        nibabel.nifti1.Nifti1Image(labels.T, affine).to_filename(home / "m.nii.gz")
        write_displacement(home / "pred" / "a.disp.h5", np.zeros((3, 6, 9, 8), np.float32))
        pair = write_manifest(home, 'name = "reg"\nkind = "registration"\ndims = 3\nclasses = ["background", "it"]\n', ["id,patient,split,fixed,moving,fixed_target,moving_target", "a,p,test,m.nii.gz,m.nii.gz,m.nii.gz,m.nii.gz"])
        if name == "lps":
            assert "expected masks and displacement all with affines" in score(pair, home / "pred", status=2).stderr
        else:
            assert json.loads(score(pair, home / "pred").stdout)[0]["scores"]["dice"]["value"] == 1
    write_labels(tmp_path / "t.h5", LabelMap(labels, (1.0, 1.0, 1.0), lps))
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "c.npz", labels=labels)
    manifest = write_manifest(tmp_path, 'name = "h"\nkind = "segmentation"\ndims = 3\nclasses = ["background", "it"]\n', ["id,patient,split,image,target", "c,p,test,t.h5:/labels,t.h5:/labels"])
    assert json.loads(score(manifest, tmp_path / "arrays").stdout)[0]["scores"]["dice"]["value"] == 1


def test_files_are_named_by_the_id_itself_and_odd_requests_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    planes(tmp_path / "masks", rng, 1, (0, 1))
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred" / "b c é.png").write_bytes((tmp_path / "masks" / "c0.png").read_bytes())
    manifest = write_manifest(tmp_path, 'name = "n"\nkind = "segmentation"\nclasses = ["bg", "a"]\n', ["id,patient,split,image,target", "b c é,p,test,masks/c0.png,masks/c0.png"])
    score(manifest, tmp_path / "pred")
    (tmp_path / "file").touch()
    assert "must be a folder" in medprobe("score", "--task", manifest, "--predictions", tmp_path / "pred", "-o", tmp_path / "file", "--name", "x", status=2).stderr
    assert "what to call the model" in medprobe("score", "--task", manifest, "--predictions", tmp_path / "pred", "-o", tmp_path / "o", "--name", " ", status=2).stderr
    assert "found a file" in score(manifest, tmp_path / "file", status=2).stderr
    assert "which the head logreg does not answer" in medprobe("score", "--task", f"{manifest}/logreg", "--predictions", tmp_path / "pred", "-o", tmp_path / "o", "--name", "x", status=2).stderr

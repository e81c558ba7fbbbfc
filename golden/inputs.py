"""Manifests over a few sample images: each kind of question once, and some that are refused."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

PAIRS = "id,patient,split,fixed,moving,fixed_target,moving_target"
PARTS = ("train", "train", "train", "val", "test", "test")
OPTIONS = """\
model: mean-rgb,pixels
task: inputs/xray.toml/linear
image-size: 32
folds: "1"
set: {head.epochs: 5}
"""
MIDDLE = slice(64, 192)
"""Of 256 rows and columns of the hearts: every cavity lies in them."""


def write_inputs(samples: Path, folder: Path) -> None:
    """All manifests, with copies of the images that they name."""
    folder.mkdir(parents=True)
    xrays(samples / "xray_pneumonia", folder)
    polyps(samples / "endoscopy_polyp", folder)
    hippocampi(samples / "mri_hippocampus", folder)
    hearts(samples / "mri_cardiac_ed_es", folder)
    neurons(samples / "em_fib_medulla", folder)


def manifest(
    folder: Path, name: str, keys: str, header: str, rows: Iterable[str], title: str | None = None
) -> None:
    """`<name>.toml` and `<name>.csv`; `title` is the dataset's name where it is another."""
    (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    text = f'name = "{title or name}"\n{keys}\ncases = "{name}.csv"\n'
    (folder / f"{name}.toml").write_text(text)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def firsts(
    rows: list[dict[str, str]], column: str, counts: Mapping[str, int]
) -> list[dict[str, str]]:
    """The first rows of each value of a column, as many as asked for."""
    return [
        row for value, n in counts.items() for row in [r for r in rows if r[column] == value][:n]
    ]


def copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def xrays(source: Path, folder: Path) -> None:
    """40 patients of two classes; with a changed label, a cut file and faults, and in bags."""
    keys = 'kind = "classification"\nmodality = "X-ray"\nclasses = ["normal", "pneumonia"]'
    patients: dict[str, dict[str, dict[str, str]]] = {"normal": {}, "pneumonia": {}}
    for row in table(source / "labels.csv"):
        patients[row["label_name"]].setdefault(row["patient"], row)
    chosen = [row for rows in patients.values() for row in list(rows.values())[:20]]
    lines = []
    for number, row in enumerate(chosen):
        image = f"xray/{number:02d}.jpeg"
        copied(source / row["file"], folder / image)
        lines.append(f"x{number:02d},{row['patient']},{image},{row['label_name']}")
    manifest(folder, "xray", keys, "id,patient,image,target", lines)
    (folder / "options.yaml").write_text(OPTIONS)
    changed = [lines[0].replace("normal", "pneumonia"), *lines[1:]]
    manifest(folder, "changed", keys, "id,patient,image,target", changed, title="xray")
    whole = (folder / "xray/01.jpeg").read_bytes()
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 3])
    broken = [*lines[:10], *lines[20:30], "cut,nobody,cut.jpeg,normal"]
    manifest(folder, "broken", keys, "id,patient,image,target", broken)
    faulty = ["x1,p1,xray/00.jpeg,normale", "x1,p2,xray/01.jpeg,normal", "x3,p3,../x.png,normal"]
    manifest(folder, "faulty", keys, "id,patient,image,target", faulty)
    bags = [f"b{n},p{n},xray,{('normal', 'pneumonia')[n % 2]}" for n in range(10)]
    manifest(
        folder, "bags", keys.replace("classification", "bags"), "id,patient,image,target", bags
    )


def polyps(source: Path, folder: Path) -> None:
    """8 pictures to train, 3 to validate, 4 to test, with masks of 0 and 255."""
    counts = {"train": 8, "val": 3, "test": 4}
    chosen = firsts(table(source / "cases.csv"), "split", counts)
    lines = []
    for number, row in enumerate(chosen):
        image, mask = f"polyps/{number:02d}.jpg", f"polyps/{number:02d}.png"
        copied(source / row["image"], folder / image)
        copied(source / row["mask"], folder / mask)
        lines.append(f"p{number:02d},p{number:02d},{row['split']},{image},{mask}")
    keys = 'kind = "segmentation"\nclasses = ["background", "polyp"]\nvalues = [0, 255]'
    manifest(folder, "polyps", keys, "id,patient,split,image,target", lines)


def hippocampi(source: Path, folder: Path) -> None:
    """12 volumes: classes in three folds; masks that overlap; sizes, with predictions."""
    chosen = firsts(table(source / "cases.csv"), "large", {"0": 6, "1": 6})
    classes, overlap, size = [], [], []
    for number, row in enumerate(chosen):
        case, part = f"h{number:02d}", PARTS[number % len(PARTS)]
        image, label = f"hippocampus/{case}.nii.gz", f"hippocampus/{case}.label.nii.gz"
        copied(source / row["image"], folder / image)
        copied(source / row["label"], folder / label)
        volume = nibabel.load(folder / label)
        labels = np.asarray(volume.dataobj)
        masks = {"whole": labels > 0, "anterior": labels == 1}
        files = [f"hippocampus/{case}.{name}.nii.gz" for name in masks]
        for file, mask in zip(files, masks.values(), strict=True):
            nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), volume.affine), folder / file)
        classes.append(f"{case},{case},{number % 3},{image},{label}")
        overlap.append(f"{case},{case},{part},{image},{','.join(files)}")
        size.append(f"{case},{case},{part},{image},{('small', 'large')[int(row['large'])]}")
    keys = 'kind = "segmentation"\ndims = 3\nmodality = "MRI"\n'
    three = f'{keys}classes = ["background", "anterior", "posterior"]'
    manifest(folder, "hippocampus", three, "id,patient,fold,image,target", classes)
    two = f'{keys}classes = ["whole", "anterior"]\nmultilabel = true'
    manifest(folder, "overlap", two, "id,patient,split,image,whole,anterior", overlap)
    sizes = 'kind = "classification"\ndims = 3\nmodality = "MRI"\nclasses = ["small", "large"]'
    manifest(folder, "size", sizes, "id,patient,split,image,target", size)
    prob = np.random.default_rng(0).uniform(0.1, 0.9, len(size)).round(3)
    tested = [
        (line.split(",")[0], p) for line, p in zip(size, prob, strict=True) if ",test," in line
    ]
    lines = [f"{case},{1 - p:.3f},{p:.3f}" for case, p in tested]
    (folder / "size-predictions").mkdir()
    text = "\n".join(["case,prob.small,prob.large", *lines]) + "\n"
    (folder / "size-predictions" / "predictions.csv").write_text(text)


def hearts(source: Path, folder: Path) -> None:
    """End-diastole moves onto end-systole: two slices of each patient as pictures, and volumes."""
    slices, stacks = [], []
    for number, row in enumerate(table(source / "patients.csv")[: len(PARTS)]):
        data = np.load(source / row["file"])
        names = {"fixed": "es", "moving": "ed", "fixed_target": "es_lv", "moving_target": "ed_lv"}
        arrays = {role: data[name][:, MIDDLE, MIDDLE] for role, name in names.items()}
        patient, part = row["patient"], PARTS[number]
        about = f"{patient},{part}"
        for plane in (2, 4):
            pictures = {role: array[plane] for role, array in arrays.items()}
            stem = f"s{len(slices):02d}"
            slices.append(f"{stem},{about},{written(pictures, folder, f'hearts/{stem}', '.png')}")
        stem = f"v{number:02d}"
        stacks.append(f"{stem},{about},{written(arrays, folder, f'hearts/{stem}', '.npy')}")
    keys = 'kind = "registration"\nmodality = "MRI"\nclasses = ["background", "cavity"]\n'
    manifest(folder, "heart", f"{keys}dims = 2", PAIRS, slices)
    manifest(folder, "hearts", f"{keys}dims = 3", PAIRS, stacks)


def written(arrays: Mapping[str, np.ndarray], folder: Path, stem: str, suffix: str) -> str:
    """Save arrays by role, as pictures or as `.npy`; their files, joined by commas."""
    files = []
    for role, array in arrays.items():
        file = folder / f"{stem}.{role}{suffix}"
        file.parent.mkdir(exist_ok=True)
        if suffix == ".png":
            Image.fromarray(np.ascontiguousarray(array)).save(file)
        else:
            np.save(file, array)
        files.append(str(file.relative_to(folder)))
    return ",".join(files)


def neurons(source: Path, folder: Path) -> None:
    """Three blocks of neurons, and predictions of them: the same numbers, moved by two voxels."""
    import h5py

    lines = []
    for kind in ("neurons", "neuron-predictions"):
        (folder / kind).mkdir()
    with h5py.File(source / "fib25_sample2_z000-149.h5") as file:
        for number in range(3):
            block = slice(40 * number, 40 * number + 16), slice(60, 124), slice(60, 124)
            raw, labels = file["raw"][block], file["labels"][block]
            np.savez(folder / f"neurons/n{number}.npz", raw=raw, labels=labels)
            shifted = np.roll(labels, 2, axis=2)
            np.savez(folder / f"neuron-predictions/n{number}.npz", labels=shifted)
            image, target = (f"neurons/n{number}.npz:/{name}" for name in ("raw", "labels"))
            lines.append(f"n{number},n{number},test,{image},{target}")
    keys = 'kind = "instances"\ndims = 3\nmodality = "FIB-SEM"'
    manifest(folder, "neurons", keys, "id,patient,split,image,target", lines)

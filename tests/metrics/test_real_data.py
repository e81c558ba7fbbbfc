"""Every metric of every real mask against its oracle; prints the table of the largest differences.

Predictions are the truth moved, smoothed and cut, differently for each case, so that classes vanish from some.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medpy.metric import binary as medpy
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, shift
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medprobe import metrics
from medprobe.metrics import overlap, surface
from medprobe.metrics.surfels import surfels

pytestmark = pytest.mark.accept
Case = tuple[str, np.ndarray, tuple[float, ...]]


def polyps(samples: Path) -> Iterator[Case]:
    for file in sorted((samples / "endoscopy_polyp" / "masks").glob("*.png")):
        yield file.stem, np.asarray(Image.open(file)).astype(np.uint8), (1.0, 1.0)


def nifti(files: list[Path]) -> Iterator[Case]:
    for file in files:
        image = nibabel.nifti1.load(file)
        yield f"{file.parent.name}/{file.name}", np.asarray(image.dataobj).astype(np.uint8).T, tuple(float(size) for size in image.header.get_zooms()[::-1])


def hippocampus(samples: Path) -> Iterator[Case]:
    return nifti(sorted((samples / "mri_hippocampus" / "labels").glob("*.nii.gz")))


def petct(samples: Path) -> Iterator[Case]:
    return nifti(sorted((samples / "petct_sarcoma").glob("STS_*/*_mask.nii.gz")))


def cardiac(samples: Path) -> Iterator[Case]:
    for file in sorted((samples / "mri_cardiac_ed_es" / "volumes").glob("*.npz")):
        with np.load(file) as stored:
            yield f"{file.stem} ed", stored["ed_lv"], (8.0, 1.3, 1.3)
            yield f"{file.stem} es", stored["es_lv"], (8.0, 1.3, 1.3)


def predicted(true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The truth moved by up to two voxels, grown or shrunk class by class, with a stray voxel; one class lost now and then."""
    moved = shift(true, rng.integers(-2, 3, true.ndim), order=0)
    pred = np.zeros_like(moved)
    for number in np.unique(moved[moved > 0]):
        if rng.random() < 0.05:
            continue
        change = (binary_dilation, binary_erosion, lambda mask: mask)[rng.integers(3)]
        pred[change(moved == number)] = number
    if rng.random() < 0.5:
        pred[tuple(rng.integers(0, pred.shape))] = 1
    return pred


@pytest.mark.equality(
    "medpy, MONAI, surface-distance, scikit-learn on real polyps, hippocampi, tumours and "
    "hearts; as stated for each"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", [polyps, hippocampus, petct, cardiac])
def test_masks_are_measured_as_their_references_do(source, samples: Path) -> None:  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("surface_distance")
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    worst: dict[str, float] = defaultdict(float)
    counted: dict[str, int] = defaultdict(int)
    rng = np.random.default_rng(0)

    def same(name: str, ours: float, theirs: float, tolerance: float) -> None:
        """Largest difference so far, relative; identical where the tolerance is 0."""
        assert np.isnan(ours) == np.isnan(theirs)
        difference = 0.0 if ours == theirs or np.isnan(ours) else abs(ours - theirs) / max(abs(theirs), 1e-300)
        assert difference <= tolerance, (name, ours, theirs)
        worst[name], counted[name] = max(worst[name], difference), counted[name] + 1

    cases = 0
    for _, true, spacing in source(samples):
        cases += 1
        pred = predicted(true, rng)
        classes = int(true.max()) + 1
        found = overlap.overlap(pred, true, classes)
        for metric, theirs in (("dice", f1_score), ("iou", jaccard_score), ("precision", precision_score), ("recall", recall_score)):
            expected = theirs(true.ravel(), pred.ravel(), labels=range(classes), average=None, zero_division=0)
            for ours, value in zip(getattr(found, metric), expected, strict=True):
                if not np.isnan(ours):
                    same(f"{metric}: scikit-learn", ours, value, 1e-12)
        for path in ("map", "tree"):
            each = surface.distances_by_class(pred, true, spacing, range(1, classes), path)  # type: ignore[arg-type]
            for number, one in enumerate(each, 1):
                p, t = pred == number, true == number
                if one is None:
                    assert not p.any() or not t.any()
                    counted["undefined"] += 1
                    continue
                for metric in ("hd", "hd95", "asd", "assd"):
                    same(f"{metric}: medpy, {path}", getattr(one, metric)(), float(getattr(medpy, metric)(p, t, voxelspacing=spacing)), 0.0 if path == "map" else 1e-15)
                if path == "tree":
                    continue
                both = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (p, t)]
                same("hd95_monai: MONAI", one.hd95_monai(), float(compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)), 1e-5)
                same("nsd: MONAI", one.nsd(2.0), float(compute_surface_dice(*both, class_thresholds=[2.0], include_background=True, spacing=spacing)), 1e-6)
                elements = surfels(p, t, spacing)
                theirs = reference.compute_surface_distances(t, p, spacing)
                assert elements is not None
                same("hd95_surfel: surface-distance", elements.hd95(), reference.compute_robust_hausdorff(theirs, 95), 1e-6)
                same("surface_dice: surface-distance", elements.surface_dice(2.0), reference.compute_surface_dice_at_tolerance(theirs, 2.0), 1e-6)
    assert cases >= 30
    print(f"\n{source.__name__}: {cases} masks, {counted.pop('undefined', 0) // 2} classes undefined")
    for name, value in worst.items():
        print(f"  {name:34} {counted[name]:5} values, largest relative difference {value:.1e}")


@pytest.mark.equality("scikit-image, variation of information and Rand error of real neurons; 1e-9")
def test_neurons_are_measured_as_scikit_image_does(samples: Path) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    import h5py

    with h5py.File(samples / "em_fib_medulla" / "fib25_sample2_z000-149.h5") as file:
        true = file["labels"][:]
    rng = np.random.default_rng(0)
    worst: dict[str, float] = defaultdict(float)
    for thickness in (1, 5, 25, 50, 150):
        for start in range(0, len(true), thickness):
            block = true[start : start + thickness]
            pred = np.where(rng.random(block.shape) < 0.02, 0, np.roll(block, rng.integers(0, 4), axis=2)).astype(np.uint16)
            pred[:, :, rng.integers(1, 250) :] += np.uint16(rng.integers(0, 2) * 400)
            split, merge = metrics.voi(pred, block)
            theirs = skimage.variation_of_information(block, pred, ignore_labels=(0,))
            arand = skimage.adapted_rand_error(block, pred, ignore_labels=(0,))[0]
            worst["voi_split"] = max(worst["voi_split"], abs(split - theirs[0]))
            worst["voi_merge"] = max(worst["voi_merge"], abs(merge - theirs[1]))
            worst["arand"] = max(worst["arand"], abs(metrics.adapted_rand_error(pred, block) - arand))
    print("\nneurons, largest differences:", {name: f"{value:.1e}" for name, value in worst.items()})
    assert max(worst.values()) < 1e-9


@pytest.mark.equality("SimpleITK, labels of real hearts warped; one voxel in a million")
def test_hearts_are_warped_as_simpleitk_does(samples: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    differing = voxels = 0
    for file in sorted((samples / "mri_cardiac_ed_es" / "volumes").glob("*.npz")):
        with np.load(file) as stored:
            labels = stored["es_lv"]
        field = np.stack([gaussian_filter(rng.normal(size=labels.shape), (1, 8, 8)) * scale for scale in (4, 60, 60)]).astype(np.float32)
        transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(np.moveaxis(field[::-1], 0, -1).astype(np.float64), isVector=True))
        theirs = sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(labels), transform, sitk.sitkNearestNeighbor, 0))
        differing += np.count_nonzero(metrics.warp_labels(labels, field) != theirs)
        voxels += labels.size
    print(f"\nwarped labels: {differing} of {voxels} voxels differ from SimpleITK")
    assert differing <= voxels * 1e-6



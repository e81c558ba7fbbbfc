"""Every score key: what it is, its unit and direction, what an empty mask means, whose convention it is, how that was proved.

docs/metrics.md is printed from here (`python -m medprobe.metrics.catalogue`), and a test keeps it so.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DISTANCE = "distance"
"""The unit of metrics in mm, or in px where the images have no spacing."""


@dataclass(frozen=True)
class Entry:
    """One score key. `unit`: None for fractions and ratios, `distance`, or the unit itself."""

    key: str
    family: str
    formula: str
    empty: str
    reference: str
    agreement: str
    unit: str | None = None
    higher_is_better: bool = True


BOTH_EMPTY = "NaN where the class is in neither; 0 where in one"
EITHER_EMPTY = "NaN where the class is absent from either"
SKLEARN = "scikit-learn"
MEDPY = "medpy"

OVERLAP = (
    Entry("dice", "overlap", "2 TP / (2 TP + FP + FN) per case and class; mean over cases, then classes without background", BOTH_EMPTY, SKLEARN, "1e-12 relative"),
    Entry("iou", "overlap", "TP / (TP + FP + FN), averaged as dice; with instruments as classes: mcIoU of EndoVis", BOTH_EMPTY, SKLEARN, "1e-12 relative"),
    Entry("precision", "overlap", "TP / (TP + FP), averaged as dice", "NaN where the class is not predicted", SKLEARN, "1e-12 relative"),
    Entry("recall", "overlap", "TP / (TP + FN), averaged as dice", "NaN where the class is not there", SKLEARN, "1e-12 relative"),
    Entry("dice.aggregated", "overlap", "2 ΣTP / (2 ΣTP + ΣFP + ΣFN), sums over cases per class, then mean over classes", "NaN where the class is in no case", "the formula on pooled voxels", "1e-12 relative"),
    Entry("dice.aggregated_mm3", "overlap, 3D", "dice.aggregated of volumes in mm³, of voxels that differ in size between cases (HECKTOR 2022)", "NaN where the class is in no case", "HECKTOR's formula on SimpleITK's counts", "1e-12 relative"),
    Entry("iou.aggregated", "overlap", "ΣTP / (ΣTP + ΣFP + ΣFN), as dice.aggregated", "as dice.aggregated", SKLEARN + " on pooled voxels", "1e-12 relative"),
    Entry("precision.aggregated", "overlap", "ΣTP / (ΣTP + ΣFP), as dice.aggregated", "NaN where the class is never predicted", SKLEARN + " on pooled voxels", "1e-12 relative"),
    Entry("recall.aggregated", "overlap", "ΣTP / (ΣTP + ΣFN), as dice.aggregated", "NaN where the class is in no case", SKLEARN + " on pooled voxels", "1e-12 relative"),
    Entry("dice.present", "overlap", "dice of the cases whose truth holds the class: EDD2020, and lesions of AutoPET", "NaN where the class is not there", SKLEARN, "1e-12 relative"),
    Entry("iou.present", "overlap", "iou of the cases whose truth holds the class", "NaN where the class is not there", SKLEARN, "1e-12 relative"),
    Entry("precision.present", "overlap", "precision of the cases whose truth holds the class", "NaN where the class is not there, or not predicted", SKLEARN, "1e-12 relative"),
    Entry("precision.zero", "overlap", "precision, 0 where the class is there and nothing is predicted", BOTH_EMPTY, SKLEARN + ", zero_division=0", "1e-12 relative"),
    Entry("precision.zero.present", "overlap", "precision.zero of the cases whose truth holds the class (Table 14)", "NaN where the class is not there", SKLEARN + ", zero_division=0", "1e-12 relative"),
    Entry("challenge_iou", "overlap, 2D", "mean over images of the mean IoU over the classes in the truth (EndoVis challenge IoU)", "images without instruments are left out; nothing predicted counts 0", "the evaluation of ISINet, frame by frame", "1e-12 relative"),
    Entry("isi_iou", "overlap, 2D", "mean over images of the mean IoU over the classes in truth or prediction (ISI IoU)", "images with neither are left out", "the evaluation of ISINet, frame by frame", "1e-12 relative"),
    Entry("m_iou", "overlap, 2D", "sum of intersections / sum of unions over classes and images; images in which nothing is predicted are left out, as in the evaluation of SurgicalSAM", "NaN without any prediction", "the evaluation of ISINet, frame by frame", "1e-12 relative"),
    Entry("m_iou.all", "overlap, 2D", "sum of intersections / sum of unions over classes and all images", "NaN where no image holds any", SKLEARN + " on pooled pixels", "1e-12 relative"),
    Entry("binary_iou", "overlap, 2D", "IoU of any class against background, mean over images", "NaN where neither holds any", SKLEARN, "1e-12 relative"),
    Entry("binary_iou.aggregated", "overlap, 2D", "IoU of any class against background, sums over images", "NaN where no image holds any", SKLEARN + " on pooled pixels", "1e-12 relative"),
    Entry("false_positive_volume", "overlap, 3D", "volume of the 18-connected components of the prediction that touch no truth, per case (autoPET)", "0 where nothing is predicted", "autoPET's script, component by component", "1e-12 relative", "ml", False),
    Entry("false_negative_volume", "overlap, 3D", "volume of the 18-connected components of the truth that no prediction touches, per case (autoPET)", "0 where nothing is there", "autoPET's script, component by component", "1e-12 relative", "ml", False),
)  # fmt: skip
SURFACE = (
    Entry("hd", "surface", "largest distance from a border voxel of either mask to the border of the other", EITHER_EMPTY, MEDPY + ".hd", "identical bits", DISTANCE, False),
    Entry("hd95", "surface", "95th percentile of the distances of both directions pooled", EITHER_EMPTY, MEDPY + ".hd95", "identical bits; on the kd-tree within 2 ulp", DISTANCE, False),
    Entry("asd", "surface", "mean distance from the border of the prediction to that of the truth (directed)", EITHER_EMPTY, MEDPY + ".asd", "1e-14 relative", DISTANCE, False),
    Entry("assd", "surface", "mean of the distances of both directions pooled", EITHER_EMPTY, MEDPY + ".assd", "1e-14 relative", DISTANCE, False),
    Entry("hd95_monai", "surface", "the larger of the two directed 95th percentiles (Python only)", EITHER_EMPTY, "MONAI compute_hausdorff_distance", "1e-5 relative (MONAI computes in fp32)", DISTANCE, False),
    Entry("nsd", "surface", "share of border voxels within a tolerance of the other border (Python only)", EITHER_EMPTY, "MONAI compute_surface_dice", "1e-6 relative"),
    Entry("hd95_surfel", "surface", "the larger of the two distances that cover 95 % of the area of a surface (Python only)", EITHER_EMPTY, "surface-distance", "1e-6 relative", DISTANCE, False),
    Entry("surface_dice", "surface", "share of the area of both surfaces within a tolerance of the other (Python only)", EITHER_EMPTY, "surface-distance", "1e-6 relative"),
)  # fmt: skip
NOTHING_LEFT = "NaN where nothing is left after ignoring"
INSTANCES = (
    Entry("voi_split", "instances", "H(pred | true) in bits, voxels with ignored truth left out", NOTHING_LEFT, "scikit-image variation_of_information", "1e-9", "bits", False),
    Entry("voi_merge", "instances", "H(true | pred) in bits", NOTHING_LEFT, "scikit-image variation_of_information", "1e-9", "bits", False),
    Entry("voi", "instances", "voi_split + voi_merge", NOTHING_LEFT, "scikit-image variation_of_information", "1e-9", "bits", False),
    Entry("arand", "instances", "1 − 2PR / (P + R) over pairs of voxels, a voxel with itself left out (scikit-image)", NOTHING_LEFT, "scikit-image adapted_rand_error", "1e-9", None, False),
    Entry("arand_snemi", "instances", "1 − 2PR / (P + R) with self-pairs and the SNEMI3D/CREMI term for unassigned voxels", NOTHING_LEFT, "the formula, dense", "1e-9", None, False),
    Entry("cremi_score", "instances", "√(voi · arand_snemi), as CREMI computes it", NOTHING_LEFT, "the formula", "1e-9", None, False),
    Entry("ap@0.5", "instances", "TP / (TP + FP + FN) of instances matched at IoU ≥ 0.5", "NaN without any instance", "brute force", "exact"),
    Entry("ap@0.75", "instances", "the same at IoU ≥ 0.75", "NaN without any instance", "brute force", "exact"),
    Entry("ap", "instances", "mean of the same over IoU 0.5, 0.55, … 0.95", "NaN without any instance", "brute force", "exact"),
)  # fmt: skip
SPREAD = "standard deviation over pairs (ddof 0) of {key}, the mean over the classes of a pair"
REGISTRATION = (
    Entry(
        "dice.rim_centre", "registration",
        "dice where the moving image ends at the centres of its outermost voxels, as scipy's order 0 "
        "has it; `dice` lets it end half a voxel further out, as SimpleITK does",
        BOTH_EMPTY, "scipy map_coordinates", "exact",
    ),
    Entry("dice.unregistered", "registration", "dice of the moving labels as they lie on the fixed grid: no displacement at all", BOTH_EMPTY, SKLEARN, "1e-12 relative"),
    Entry("folding_fraction", "registration", "share of voxels with det(I + ∇u) ≤ 0; central differences, two voxels cropped at each side", "NaN with fewer than five voxels along an axis", "Learn2Reg's filters; analytic fields", "exact", None, False),
    Entry("sdlogj", "registration", "standard deviation of log(clip(det(I + ∇u) + 3, 1e-9, 1e9)) (Learn2Reg)", "NaN with fewer than five voxels along an axis", "Learn2Reg's filters", "1e-9 relative", None, False),
    Entry("landmark_error", "registration", "distance of fixed landmark + u to the moving landmark, mean over landmarks (Python only)", "NaN outside the grid", "worked by hand", "1e-6", DISTANCE, False),
    *(
        Entry(f"{key}.sd", "registration", SPREAD.format(key=key), "NaN without a defined pair", "numpy.std", "1e-12 relative", unit, False)
        for key, unit in (("dice", None), ("hd", DISTANCE), ("hd95", DISTANCE), ("asd", DISTANCE), ("assd", DISTANCE))
    ),
)  # fmt: skip
CATALOGUE = (*OVERLAP, *SURFACE, *INSTANCES, *REGISTRATION)
ENTRIES = {entry.key: entry for entry in CATALOGUE}
DIRECTION = {entry.key: entry.higher_is_better for entry in CATALOGUE}


def entry_of(key: str) -> Entry:
    """The entry of a key, also of one that names a region: `hd95.tumour` is described as `hd95`."""
    return ENTRIES.get(key) or ENTRIES[key.rpartition(".")[0]]


UNLIMITED = ("sdlogj", "cremi_score")
"""Without unit, yet no fractions; so are standard deviations."""


def bounds_of(keys: Collection[str]) -> dict[str, tuple[float, float]]:
    """What the scores of known keys lie between: fractions 0 and 1, anything else 0 and no limit."""
    found = {}
    for key in keys:
        if key in ENTRIES or key.rpartition(".")[0] in ENTRIES:
            fraction = entry_of(key).unit is None and key not in UNLIMITED and not key.endswith(".sd")
            found[key] = 0.0, 1.0 if fraction else float("inf")
    return found


def facts_of(keys: list[str], unit_of_distance: str) -> dict[str, tuple[str | None, bool]]:
    """Unit and direction of the keys that are not fractions to be raised."""
    found = {}
    for key in keys:
        entry = entry_of(key)
        unit = unit_of_distance if entry.unit == DISTANCE else entry.unit
        if unit is not None or not entry.higher_is_better:
            found[key] = (unit, entry.higher_is_better)
    return found


INTRODUCTION = """# Metrics

What every score key of dense tasks means; printed from the code (`python -m medprobe.metrics.catalogue`). Those of
classification, folds, intervals and what is ignored stand in [protocols](protocols.md).

- An undefined value is NaN: it is left out of the mean, and counted (`n_undefined`; "2 undefined" in tables). So HD95 says
  nothing of a class that was missed altogether: read it beside Dice or recall, which count such a case as 0. `compare` leaves
  such a case out of both models, and charges it in a second reading.
- Distances are in mm, or in px where not every case has a spacing. They run between the centres of border voxels: a border is
  the mask without its erosion by the cross (6 neighbours, 4 in 2D), and outside the array counts as background, so that a
  mask cut off by the edge has a border there. Percentiles are interpolated linearly.
- Keys of EndoVis (`challenge_iou` to `binary_iou`) exist in 2D with two scored classes or more, volumes of lesions and
  `dice.aggregated_mm3` in 3D with a spacing in mm. Registration has the keys of overlap and surface too, of the warped labels against the fixed ones.
- A dataset can name regions, unions of classes taken as one mask (`Dataset.regions`): `dice`, `precision`, `precision.zero`, `recall` and `hd95` then
  exist as `<key>.<region>` too, each a mean over cases. `organ` (msd-liver, msd-pancreas, msd-hepaticvessel): the first class
  alone; `tumour` (HECKTOR): GTVp or GTVn.
- Agreement is with the reference of the same row, and held by the tests; on real masks see `tests/metrics/test_real_data.py`.
  `make equalities` lists the official program or package behind every number, here and elsewhere, and the test.
- In Python: `medprobe.metrics.dice, iou, precision, recall, hd, hd95, asd, assd, nsd, hd95_monai, hd95_surfel, surface_dice,
  lesion_volumes` of masks; `voi` (split and merge), `adapted_rand_error` (`convention="skimage"` is arand, `"snemi"`
  arand_snemi), `average_precision`, `cremi_score` of instances; `warp_labels, landmark_error, folding_fraction, sdlogj` of
  displacement fields. `nsd` and `surface_dice` have no default tolerance.
- Intervals (`low`, `high` of a score) are 95 %, over patients (videos); `small` says what is too few: no interval below 5
  patients, a mark below 20, or below 10 with or without a class. What they cover is at the end of this page.
- Compiled loops take two to six seconds at their first use on a machine and are then kept on disk.

References: medpy 0.5 (`medpy.metric.binary`); MONAI 1.6; DeepMind's surface-distance 0.1 (Nikolov et al. 2021); scikit-image
0.26; scikit-learn; EndoVis as evaluated by ISINet and SurgicalSAM; autoPET; HECKTOR 2022; CREMI and SNEMI3D; Learn2Reg (SDlogJ
with its + 3: about a quarter of what log(det) alone gives).
"""


INTERVALS = """
## Intervals

How many of the intervals hold the score of the population, and their mean width, in 400 test sets drawn from it with
fixed seeds (`python -m medprobe.metrics.simulation`; 0.95 of 400 is 0.93 to 0.97); beside them percentiles of the bootstrap.
† marks what a report marks, or has too few patients. Below 20 patients intervals can be too short: a kind of case that
one patient in seven is may not be seen at all.

"""
PAIRS = """
## Differences of two models, by simulation

How often the test of `compare` finds p at most 0.05 where the two models do not differ, and how often its 95 % interval holds the
true difference where they do, by the number of patients (videos): 2,000 and 1,000 repetitions, fixed seeds
(`python -m medprobe.metrics.paired_simulation`). Below 5 patients there is neither, with 5 no interval; below 20 both are marked.

"""


def page() -> str:
    """docs/metrics.md."""
    parts = [INTRODUCTION]
    for title, entries in (("Overlap", OVERLAP), ("Surface", SURFACE), ("Instances", INSTANCES), ("Registration", REGISTRATION)):
        parts.append(f"\n## {title}\n\n| key | definition | unit | better | empty | reference | agreement |\n| --- | --- | --- | --- | --- | --- | --- |\n")
        for entry in entries:
            unit = {None: "—", DISTANCE: "mm or px"}.get(entry.unit, entry.unit)
            better = "higher" if entry.higher_is_better else "lower"
            parts.append(f"| `{entry.key}` | {entry.formula.replace('|', chr(92) + '|')} | {unit} | {better} | {entry.empty} | {entry.reference} | {entry.agreement} |\n")
    folder = Path(__file__).parent
    tables = ((INTERVALS, "simulation.md"), (PAIRS, "paired_simulation.md"))
    return "".join([*parts, *(part for text, file in tables for part in (text, (folder / file).read_text()))])


if __name__ == "__main__":
    print(page(), end="")

"""AutoLaparo, task 1: which phase of a laparoscopic hysterectomy is it, once a second, in 21 videos.

On disk, as released (request form; 1920x1080, 25 frames a second, 27-112 min):

    AutoLaparo_Task1/videos/01.mp4 ... 21.mp4
    AutoLaparo_Task1/labels/label_01.txt ... label_21.txt

or, instead of the videos, frames prepared by the authors' script (or by Surgformer's, which counts from 0):

    AutoLaparo_Task1/frames/01/0001.jpg          or          frames/01/00000.png

A label file has a header line, then `frame<TAB>phase` for every second; the frame counts 1, 2, 3, ... and belongs to the
decoded frame 25 x (frame - 1): sampled by index, since ffmpeg's `fps=1` picks others. Phases are 1-7 in the file and 0-6
here; a file with any other number is refused, because some public copies count from 0 and would shift every phase.
Videos are known by the first two characters of their names. Where frames and labels differ by one or two at the end,
the longer is cut and the case says so (`fields["note"]`); a larger difference is a partial copy.

The group is the video: 01-10 train, 11-14 validate, 15-21 test (README of the release). One case is one video, with a
phase for every plane. Raw video frames go through `content_crop`, the authors' preprocessing; prepared frames have been
through it already and are taken as they are.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import ExtraError, MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source, Split

PHASES = (
    "Preparation",
    "Dividing Ligament and Peritoneum",
    "Dividing Uterine Vessels and Ligament",
    "Transecting the Vagina",
    "Specimen Removal",
    "Suturing",
    "Washing",
)
STEP = 25
"""Decoded frames from one label to the next: 25 a second, one label a second."""
SLACK = 2
"""Frames and labels may differ by this many at the end of a video."""

logger = logging.getLogger(__name__)


def split_of(video: int) -> Split:
    return "train" if video <= 10 else "val" if video <= 14 else "test"


# ---------------------------------------------------------------------------------------- reading


def phases(path: Path) -> tuple[int, ...]:
    """The phase of every second, 0-6, from one label file; RequestError where the file is not as released."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines()[1:], start=1):
        if not line.strip():
            continue
        try:
            frame, phase = (int(word) for word in line.split())
        except ValueError:
            raise RequestError(
                f"{path}, line {number + 1}: expected two whole numbers, frame and phase, found {line!r}; restore the released file"
            ) from None
        if frame != number:
            raise RequestError(
                f"{path}, line {number + 1}: expected frame {number}, found {frame}; the file must have one header line and then count 1, 2, 3, ..."
            )
        if not 1 <= phase <= len(PHASES):
            raise RequestError(
                f"{path}, line {number + 1}: expected a phase from 1 to {len(PHASES)}, found {phase}; use the released label files, which count from 1"
            )
        found.append(phase - 1)
    if not found:
        raise RequestError(
            f"{path}: expected one line for each second after the header, found none; restore the released file"
        )
    return tuple(found)


def prepared_planes(folder: Path) -> int:
    """The number of prepared frames in a folder; they must count 0, 1, 2, ... or 1, 2, 3, ... without a gap."""
    names = sorted(_layout.images(folder))
    odd = [name for name in names if not name.isdigit()]
    numbers = sorted(int(name) for name in names if name.isdigit())
    if odd or not numbers or numbers[0] > 1:
        found = odd[0] if odd else f"{numbers[0]} as the first" if numbers else "none"
        raise MissingError(
            f"{folder}: expected frames 0001.jpg, 0002.jpg, ... or 00000.png, 00001.png, ..., found {found}; prepare the frames of this video again"
        )
    absent = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if absent:
        raise MissingError(
            f"{folder}: expected frames {numbers[0]} to {numbers[-1]}, found {len(absent)} missing, the first is {absent[0]}; prepare the frames of this video again"
        )
    return len(numbers)


def decoded_frames(video: Path) -> int:
    """The number of frames a video holds, by its headers: nothing is decoded."""
    try:
        import av
    except ImportError:
        raise ExtraError("av", "video", "reading the AutoLaparo videos") from None
    try:
        with av.open(str(video)) as container:
            return int(container.streams.video[0].frames)
    except (av.FFmpegError, IndexError) as error:
        raise MissingError(f"{video}: expected a whole mp4 video, found {error}; fetch this file again") from None


def by_number(paths: Iterable[Path], start: int) -> dict[int, Path]:
    """Files by the two digits at `start` of their names, 1-21; the rest of the name does not matter, other names are ignored."""
    digits = {path: path.name[start : start + 2] for path in sorted(paths) if not path.name.startswith(".")}
    return {int(two): path for path, two in digits.items() if two.isdigit() and 1 <= int(two) <= 21}


def cases(root: Path) -> Iterator[Case]:
    """One case per video in order of number, from prepared frames where there is a folder of them, else from the mp4 files."""
    base = root / "AutoLaparo_Task1" if (root / "AutoLaparo_Task1").is_dir() else root
    prepared = (base / "frames").is_dir()
    sources = by_number((base / "frames").iterdir() if prepared else (base / "videos").glob("*.mp4"), start=0)
    labels = by_number((base / "labels").glob("label_*.txt"), start=len("label_"))
    numbers = sorted(sources.keys() | labels.keys())
    if not numbers:
        raise MissingError(
            f"autolaparo: expected videos/01.mp4 (or frames/01/) and labels/label_01.txt, and so on to 21, under {base}, found none; ask for the release at https://autolaparo.github.io"
        )
    missing = [
        f"frames/{number:02d}" if prepared else f"videos/{number:02d}.mp4"
        for number in numbers
        if number not in sources
    ]
    missing += [f"labels/label_{number:02d}.txt" for number in numbers if number not in labels]
    _layout.refuse_missing("autolaparo", missing, 2 * len(numbers), base)
    for number in numbers:
        source, target = sources[number], phases(labels[number])
        planes = prepared_planes(source) if prepared else -(-decoded_frames(source) // STEP)
        if abs(planes - len(target)) > SLACK:
            raise MissingError(
                f"{source}: expected {len(target)} planes, as many as {labels[number].name} has seconds, found {planes}; the copy may be partial, fetch or prepare this video again"
            )
        kept, fields = min(planes, len(target)), {}
        if planes != len(target):
            longer = "frames" if planes > len(target) else "labels"
            fields["note"] = (
                f"the last {abs(planes - len(target))} of {max(planes, len(target))} {longer} left out: the video has {planes} planes and {len(target)} labels"
            )
            logger.warning("autolaparo %02d: %s", number, fields["note"])
        frames = tuple(range(0, kept * (1 if prepared else STEP), 1 if prepared else STEP))
        video = f"{number:02d}"
        yield Case(
            video, video, {"image": (Source(source, frames=frames),)}, target[:kept], split_of(number), fields=fields
        )


# --------------------------------------------------------------------------------- spatial recipe


def content_crop(plane: np.ndarray) -> np.ndarray:
    """The authors' preprocessing of one raw frame: uint8 (H, W, 3) to uint8 (250, 250, 3).

    Resized to 300 rows keeping the aspect; cropped to the box of what is brighter than 15 (grey, after a 19x19 median);
    resized to 250x250. As in the original (ziyiwangx/AutoLaparo: t1_video2frame.py), the box leaves out its last row and
    column, an all-black frame keeps its borders, and both resizes are bilinear without antialiasing: the script asks for
    area interpolation in a position where OpenCV does not read it.
    """
    from scipy.ndimage import uniform_filter

    height, width = plane.shape[:2]
    plane = _bilinear(plane, 300, int(width / height * 300))
    red, green, blue = np.moveaxis(plane.astype(np.int32), -1, 0)
    grey = (4899 * red + 9617 * green + 1868 * blue + 8192) >> 14
    content = uniform_filter((grey > 15).astype(np.float64), size=19, mode="nearest") > 0.5
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    if len(rows) > 1 and len(columns) > 1:
        plane = plane[rows[0] : rows[-1], columns[0] : columns[-1]]
    return _bilinear(plane, 250, 250)


def _bilinear(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) resized between pixel centres, borders repeated, no antialiasing."""

    def neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        low = place.astype(np.intp)
        return low, np.minimum(low + 1, size - 1), (place - low).astype(np.float32)

    top, bottom, down = neighbours(plane.shape[0], height)
    left, right, across = neighbours(plane.shape[1], width)
    rows = plane[top] + (plane[bottom].astype(np.float32) - plane[top]) * down[:, None, None]
    mixed = rows[:, left] + (rows[:, right] - rows[:, left]) * across[None, :, None]
    return np.rint(mixed).astype(np.uint8)


# -------------------------------------------------------------------------------------------- twin

TWIN_VIDEOS = (1, 2, 11, 15, 16)


def twin(root: Path, rng: np.random.Generator) -> None:
    """Five videos of half a minute as prepared frames; Specimen Removal is absent from 02 and 16, 02 counts from 00000.png."""
    from PIL import Image

    colours = rng.uniform(60, 200, (len(PHASES), 3))
    for number in TWIN_VIDEOS:
        target = _twin_labels(root, number, rng)
        folder = root / "frames" / f"{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, plane in enumerate(_twin_planes(target, colours, 1, rng)):
            Image.fromarray(plane).save(folder / (f"{index:05d}.png" if number == 2 else f"{index + 1:04d}.jpg"))


def twin_videos(root: Path, rng: np.random.Generator) -> None:
    """The same five videos as mp4 files of 25 frames a second (needs av)."""
    import av

    colours = rng.uniform(60, 200, (len(PHASES), 3))
    (root / "videos").mkdir(parents=True, exist_ok=True)
    for number in TWIN_VIDEOS:
        target = _twin_labels(root, number, rng)
        with av.open(str(root / "videos" / f"{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=STEP)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for plane in _twin_planes(target, colours, STEP, rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="rgb24")))
            container.mux(stream.encode())


def _twin_labels(root: Path, number: int, rng: np.random.Generator) -> list[int]:
    """Writes one label file; the phases of its seconds, 0-6, in the order of the operation."""
    lengths = {phase: int(rng.integers(3, 6)) for phase in range(len(PHASES)) if not (phase == 4 and number in (2, 16))}
    target = [phase for phase, length in lengths.items() for _ in range(length)]
    (root / "labels").mkdir(parents=True, exist_ok=True)
    lines = ["Frame\tPhase", *(f"{second}\t{phase + 1}" for second, phase in enumerate(target, start=1))]
    (root / "labels" / f"label_{number:02d}.txt").write_text("\n".join(lines) + "\n")
    return target


def _twin_planes(target: list[int], colours: np.ndarray, repeat: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """uint8 (64, 96, 3) frames with a black border, `repeat` for each second, in the colour of the phase."""
    for phase in target:
        for _ in range(repeat):
            plane = np.zeros((64, 96, 3))
            plane[6:-6, 12:-12] = colours[phase] + rng.normal(0, 12, (52, 72, 3))
            yield np.clip(plane, 0, 255).astype(np.uint8)


AUTOLAPARO = DATASETS.register("autolaparo")(
    Dataset(
        name="autolaparo",
        kind="classification",
        dims=2,
        modality="laparoscopy",
        classes=PHASES,
        licence="CC BY-NC-SA 4.0, academic use only; request form",
        source="https://autolaparo.github.io",
        citation="Wang et al., AutoLaparo: a new dataset of integrated multi-tasks for image-guided surgical automation in laparoscopic hysterectomy, MICCAI 2022",
        cases=cases,
        twin=twin,
        unit="plane",
        counts={"train": 10, "val": 4, "test": 7},
        folders=("autolaparo", "AutoLaparo_Task1", "AutoLaparo"),
        markers=("labels/label_01.txt",),
        crop=content_crop,
        note="the 83,160 frames of the paper are 21 x 66 min x 60, not a count: the number of frames is read, never asserted",
    )
)

"""AutoLaparo: the twin through the reader as frames and as videos, its traps, and the authors' crop by hand."""

import builtins
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from medprobe.datasets.autolaparo import AUTOLAPARO, PHASES, content_crop, split_of, twin_videos
from medprobe.errors import ExtraError, MissingError, RequestError
from medprobe.imaging.recipes import planes
from medprobe.types import Case


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert AUTOLAPARO.twin is not None
    AUTOLAPARO.twin(tmp_path, np.random.default_rng(0))
    return tmp_path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("autolaparo")
    twin_videos(folder, np.random.default_rng(0))
    return folder


def cases(root: Path) -> dict[str, Case]:
    return {case.id: case for case in AUTOLAPARO.cases(root)}


def rewrite(root: Path, video: str, change: dict[str, str] | None = None, drop: int = 0, add: int = 0) -> None:
    """Replace whole lines of one label file, drop lines at its end, or repeat the last phase there."""
    path = root / "labels" / f"label_{video}.txt"
    lines = path.read_text().splitlines()
    assert set(change or {}) <= set(lines)
    lines = [(change or {}).get(line, line) for line in lines[: len(lines) - drop]]
    lines += [f"{len(lines) + extra}\t7" for extra in range(add)]
    path.write_text("\n".join(lines) + "\n")


def test_one_case_per_video_with_a_phase_for_every_plane(root: Path) -> None:
    found = cases(root)
    assert [(case.id, case.patient, case.split) for case in found.values()] == [
        ("01", "01", "train"),
        ("02", "02", "train"),
        ("11", "11", "val"),
        ("15", "15", "test"),
        ("16", "16", "test"),
    ]
    assert AUTOLAPARO.unit == "plane"
    for case in found.values():
        (source,) = case.images["image"]
        assert source.frames == tuple(range(len(case.target)))
        assert len(list(source.path.iterdir())) == len(case.target)
        assert "note" not in case.fields
    assert [sorted(set(range(7)) - set(case.target)) for case in found.values()] == [[], [4], [], [], [4]]


def test_splits_are_those_of_the_release() -> None:
    assert [split_of(video) for video in (1, 10, 11, 14, 15, 21)] == ["train", "train", "val", "val", "test", "test"]
    assert AUTOLAPARO.counts == {"train": 10, "val": 4, "test": 7}
    assert PHASES[0] == "Preparation"
    assert len(PHASES) == 7


@pytest.mark.trap("datasets-2d 7: skip the one header line and do not rely on its words")
def test_the_words_of_the_header_do_not_matter(root: Path) -> None:
    before = cases(root)["01"].target
    rewrite(root, "01", {"Frame\tPhase": "whatever it says"})
    assert cases(root)["01"].target == before


@pytest.mark.trap("datasets-2d 7: phases are 1-7 in the raw files, some public code assumes 0-6")
def test_phases_are_shifted_to_zero_and_a_zero_based_file_is_refused(root: Path) -> None:
    raw = [line.split("\t")[1] for line in (root / "labels" / "label_01.txt").read_text().splitlines()[1:]]
    assert cases(root)["01"].target == tuple(int(phase) - 1 for phase in raw)
    rewrite(root, "01", {"1\t1": "1\t0"})
    with pytest.raises(RequestError, match=r"label_01\.txt, line 2: expected a phase from 1 to 7, found 0"):
        cases(root)
    rewrite(root, "01", {"1\t0": "1\t8"})
    with pytest.raises(RequestError, match="found 8"):
        cases(root)


@pytest.mark.trap("datasets-2d 7: the frame column counts 1, 2, 3, ...")
def test_a_gap_in_the_frame_column_is_refused(root: Path) -> None:
    rewrite(
        root, "11", {"4\t2": "5\t2"} if "4\t2" in (root / "labels" / "label_11.txt").read_text() else {"4\t1": "5\t1"}
    )
    with pytest.raises(RequestError, match=r"label_11\.txt, line 5: expected frame 4, found 5"):
        cases(root)


def test_a_missing_header_is_seen_by_the_frame_column(root: Path) -> None:
    path = root / "labels" / "label_01.txt"
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(RequestError, match="line 2: expected frame 1, found 2; the file must have one header line"):
        cases(root)


@pytest.mark.parametrize("text", ["Frame\tPhase\n1\tone\n", "Frame\tPhase\n1\n", "Frame\tPhase\n"])
def test_a_label_file_of_another_form_is_refused(root: Path, text: str) -> None:
    (root / "labels" / "label_15.txt").write_text(text)
    with pytest.raises(RequestError, match=r"label_15\.txt.*restore the released file"):
        cases(root)


@pytest.mark.trap("datasets-2d 7: prepared frames count from 0001.jpg (authors) or from 00000.png (Surgformer)")
def test_frames_may_count_from_one_or_from_zero(root: Path) -> None:
    assert (root / "frames/01/0001.jpg").is_file()
    assert (root / "frames/02/00000.png").is_file()
    (root / "frames/15/0001.jpg").unlink()
    with pytest.raises(MissingError, match=r"15: expected frames 0001\.jpg, .* found 2 as the first"):
        cases(root)


def test_a_gap_in_prepared_frames_is_named(root: Path) -> None:
    (root / "frames/16/0004.jpg").unlink()
    with pytest.raises(MissingError, match=r"16: expected frames 1 to \d+, found 1 missing, the first is 4"):
        cases(root)


@pytest.mark.parametrize("videos", [False, True], ids=["frames", "videos"])
@pytest.mark.trap(
    "datasets-2d 7: frames and labels may differ by a frame or two at the end: cut to the shorter and log it"
)
def test_one_or_two_frames_too_many_are_cut_and_noted(
    videos: bool, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if videos:
        request.getfixturevalue("recorded")
        twin_videos(tmp_path, np.random.default_rng(0))
    else:
        request.getfixturevalue("root")
    before = cases(tmp_path)
    rewrite(tmp_path, "01", drop=2)
    rewrite(tmp_path, "02", add=1)
    with caplog.at_level(logging.WARNING):
        found = cases(tmp_path)
    assert found["01"].target == before["01"].target[:-2]
    assert found["01"].images["image"][0].frames == before["01"].images["image"][0].frames[:-2]
    assert found["01"].fields["note"].startswith(f"the last 2 of {len(before['01'].target)} frames left out")
    assert found["02"].target == before["02"].target
    assert found["02"].images["image"][0].frames == before["02"].images["image"][0].frames
    assert found["02"].fields["note"].startswith(f"the last 1 of {len(before['02'].target) + 1} labels left out")
    assert "autolaparo 01: the last 2" in caplog.text
    rewrite(tmp_path, "01", drop=1)
    with pytest.raises(
        MissingError, match=re.escape("01") + r".*: expected \d+ planes.*found \d+; the copy may be partial"
    ):
        cases(tmp_path)


@pytest.mark.trap("datasets-2d 7: labels belong to decoded frames 0, 25, 50, ...; ffmpeg fps=1 picks others")
def test_videos_are_sampled_by_index(recorded: Path, root: Path) -> None:
    found, prepared = cases(recorded), cases(root)
    assert found.keys() == prepared.keys()
    for case in found.values():
        (source,) = case.images["image"]
        assert source.path.name == f"{case.id}.mp4"
        assert source.frames == tuple(range(0, 25 * len(case.target), 25))


@pytest.mark.parametrize("kind", ["root", "recorded"], ids=["frames", "videos"])
def test_every_plane_shows_the_phase_of_its_label(kind: str, request: pytest.FixtureRequest) -> None:
    """The twin paints each phase in its own colour, so a shift of one plane would show at every change of phase."""
    for case in cases(request.getfixturevalue(kind)).values():
        pixels = planes(case.images["image"], window="full-range", size=250, crop=AUTOLAPARO.crop).pixels
        colours, target = pixels[:, :, 60:-60, 60:-60].mean(axis=(2, 3)), np.array(case.target)
        centres = {phase: colours[target == phase].mean(axis=0) for phase in set(case.target)}
        nearest = [min(centres, key=lambda phase: float(np.linalg.norm(centres[phase] - colour))) for colour in colours]
        assert nearest == list(case.target)


def test_the_last_second_of_a_video_needs_one_frame_only(recorded: Path, tmp_path: Path) -> None:
    import av

    from medprobe.datasets.autolaparo import decoded_frames

    with av.open(str(tmp_path / "01.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(51):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert decoded_frames(tmp_path / "01.mp4") == 51
    (tmp_path / "videos").mkdir()
    (tmp_path / "01.mp4").rename(tmp_path / "videos" / "01.mp4")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "label_01.txt").write_text("Frame\tPhase\n1\t1\n2\t1\n3\t2\n")
    case = cases(tmp_path)["01"]
    assert case.images["image"][0].frames == (0, 25, 50)
    assert case.target == (0, 0, 1)
    assert not case.fields


@pytest.mark.trap("datasets-2d 7: videos are recognised by the first two characters of their names")
def test_a_video_is_known_by_its_first_two_characters(recorded: Path, root: Path) -> None:
    (root / "frames" / "15").rename(root / "frames" / "15_prepared")
    assert cases(root)["15"].images["image"][0].path.name == "15_prepared"


def test_the_folder_of_the_release_may_lie_inside_the_root(root: Path) -> None:
    inside = root / "AutoLaparo_Task1"
    inside.mkdir()
    for name in ("frames", "labels"):
        (root / name).rename(inside / name)
    assert len(cases(root)) == 5


def test_partial_download_is_named(root: Path) -> None:
    (root / "labels" / "label_02.txt").unlink()
    (root / "frames" / "11").rename(root / "frames" / "elsewhere")
    with pytest.raises(MissingError, match=r"autolaparo.*2.*frames/11.*labels/label_02\.txt"):
        cases(root)


def test_an_empty_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"autolaparo: expected videos/01\.mp4.*found none; ask for the release"):
        cases(tmp_path)


def test_a_truncated_video_is_named(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "videos" / "01.mp4").write_bytes((recorded / "videos" / "01.mp4").read_bytes()[:2000])
    (tmp_path / "labels" / "label_01.txt").write_bytes((recorded / "labels" / "label_01.txt").read_bytes())
    with pytest.raises(MissingError, match=r"01\.mp4: expected a whole mp4 video"):
        cases(tmp_path)


def test_av_is_asked_for_only_when_videos_are_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert len(cases(root)) == 5
    (root / "frames").rename(root / "prepared")
    (root / "videos").mkdir()
    for number in (1, 2, 11, 15, 16):
        (root / "videos" / f"{number:02d}.mp4").touch()
    with pytest.raises(ExtraError, match=r"medprobe\[video\]"):
        cases(root)


@pytest.mark.trap("datasets-2d 7: the crop loses the last row and column of the content box")
def test_the_crop_follows_the_authors_box() -> None:
    """300x400 is not resized before the box; rows 40-260 and columns 60-310 are content, each edge of another grey."""
    plane = np.zeros((300, 400, 3), np.uint8)
    plane[40:261, 60:311] = 200
    plane[40, 60:311], plane[259, 60:311], plane[260, 60:311] = 150, 120, 90
    plane[41:259, 60], plane[41:259, 309], plane[41:259, 310] = 160, 130, 80
    cropped = content_crop(plane)
    assert (cropped.shape, cropped.dtype) == ((250, 250, 3), np.uint8)
    assert (cropped[0, 5:-5] == 150).all()
    assert (cropped[-1, 5:-5] == 120).all()
    assert (cropped[125, [0, 125, -1]] == [[160] * 3, [200] * 3, [130] * 3]).all()


@pytest.mark.trap("datasets-2d 7: content is grey above 15; an all-black frame is kept uncropped")
def test_content_is_what_is_brighter_than_15_in_grey() -> None:
    def width(colour: tuple[int, int, int]) -> int:
        """Columns of the result that show the middle half of the plane: 250 where it is content, half of them where not."""
        plane = np.zeros((300, 400, 3), np.uint8)
        plane[:, 100:300] = colour
        return int(content_crop(plane)[125].any(axis=-1).sum())

    assert [width((level, level, level)) for level in (15, 16)] == [126, 250]
    assert [width(colour) for colour in ((60, 0, 0), (0, 60, 0), (0, 0, 60))] == [250, 250, 126]
    assert not content_crop(np.zeros((108, 192, 3), np.uint8)).any()


def test_the_median_removes_specks_outside_the_content() -> None:
    plane = np.zeros((300, 400, 3), np.uint8)
    plane[40:261, 60:311] = 200
    plane[5:15, 5:15] = 255
    assert (content_crop(plane) == 200).all()


def test_resizes_are_bilinear_without_antialiasing() -> None:
    import torch

    plane = np.random.default_rng(0).integers(30, 256, (1080, 1920, 3)).astype(np.uint8)
    planes = torch.from_numpy(plane).permute(2, 0, 1)[None].float()
    first = torch.nn.functional.interpolate(planes, (300, 533), mode="bilinear", antialias=False).round()
    second = torch.nn.functional.interpolate(first[..., :-1, :-1], (250, 250), mode="bilinear", antialias=False).round()
    difference = np.abs(content_crop(plane).astype(int) - second[0].permute(1, 2, 0).numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def official_frame(plane: np.ndarray) -> np.ndarray:
    """The steps of t1_video2frame.py with torch's bilinear resize and scipy's median."""
    import torch
    from scipy.ndimage import median_filter

    def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
        planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].double()
        return (
            torch.nn.functional.interpolate(planes, (height, width), mode="bilinear")
            .round()[0]
            .permute(1, 2, 0)
            .numpy()
        )

    picture = resized(plane, 300, int(plane.shape[1] / plane.shape[0] * 300))
    bright = median_filter(np.rint(picture @ [0.299, 0.587, 0.114]) > 15, size=19, mode="nearest")
    rows, columns = np.nonzero(bright)
    if len(rows):
        picture = picture[rows.min() : rows.max(), columns.min() : columns.max()]
    return resized(picture, 250, 250)


@pytest.mark.equality(
    "ziyiwangx/AutoLaparo, t1_video2frame.py: resize, content box, resize; one level of 255 "
    "(two beside OpenCV's fixed-point rounding)"
)
@pytest.mark.parametrize("shape", [(216, 384), (300, 400), (360, 300), (240, 427)])
def test_frames_are_cut_as_the_authors_script_does(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """A round view on a dark ground with bright specks, as an endoscope gives it."""
    from scipy.ndimage import gaussian_filter

    y, x = (np.linspace(-1, 1, side) for side in shape)
    body = gaussian_filter(rng.random((*shape, 3)), (3, 3, 0))
    body = 40 + 200 * (body - body.min()) / (body.max() - body.min())
    view = (y[:, None] / 0.9) ** 2 + (x[None] / 0.7 - 0.1) ** 2 < 1
    plane = np.where(view[..., None], body, rng.integers(0, 14, (*shape, 3))).astype(np.uint8)
    plane[:4, :4] = 255
    found = content_crop(plane).astype(int)
    assert np.abs(found - official_frame(plane)).max() <= 1
    assert np.abs(found - official_frame(plane[::-1])).max() > 20

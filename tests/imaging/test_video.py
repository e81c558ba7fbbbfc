"""Video frames: index i is the i-th frame shown, however the file is entered."""

import gc
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes, video
from medprobe.types import Source

pytest.importorskip("av")

VALUES = [20 + 4 * (i * 7 % 50) for i in range(60)]
"""Grey value of every frame: neighbours differ by much more than compression changes."""


def greys(source: Source, start: int = 0, stop: int | None = None) -> np.ndarray:
    pixels = formats.read(source, start, stop).pixels
    assert pixels.dtype == np.uint8
    return pixels.mean(axis=(0, 2, 3))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "mjpeg"), ("a.mp4", "mpeg4"), ("a.webm", "libvpx-vp9")])
def test_frame_i_is_the_ith_frame_shown(write_video, name: str, codec: str) -> None:
    source = Source(write_video(VALUES, name, codec=codec))
    assert formats.count_planes(source) == 60
    assert np.abs(greys(source) - VALUES).max() < 8
    assert not formats.is_grey(source)
    for index in (37, 5, 6, 59, 0, 29, 30):
        assert abs(greys(Source(source.path, frames=(index,)))[0] - VALUES[index]) < 8


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_stored_out_of_order_are_read_in_the_order_shown(write_video, name: str) -> None:
    import av

    source = Source(write_video(VALUES, name, options={"x264-params": "bframes=3:b-adapt=0:scenecut=0:open-gop=1:keyint=12"}))
    with av.open(str(source.path)) as container:
        assert sum(frame.pict_type == av.video.frame.PictureType.B for frame in container.decode(video=0)) > 20
    assert formats.count_planes(source) == 60
    whole = formats.read(source).pixels
    assert np.abs(whole.mean(axis=(0, 2, 3)) - VALUES).max() < 8
    for index in (31, 12, 13, 11, 59, 0):
        assert np.array_equal(formats.read(source, index, index + 1).pixels[:, 0], whole[:, index])


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "libx264")])
def test_ranges_equal_the_whole_bit_for_bit_from_wherever_they_are_entered(write_video, name: str, codec: str) -> None:
    source = Source(write_video(VALUES, name, codec=codec))
    whole = formats.read(source).pixels
    for start, stop in ((0, 7), (7, 16), (16, 17), (40, 55), (3, 9), (59, 60), (58, None)):
        assert np.array_equal(formats.read(source, start, stop).pixels, whole[:, start:stop])
    for frames in ((55, 2, 30), (9, 10, 11), (12, 12)):
        assert np.array_equal(formats.read(Source(source.path, frames=frames)).pixels, whole[:, list(frames)])


def test_consecutive_ranges_go_on_without_seeking(write_video, monkeypatch) -> None:
    source = Source(write_video(VALUES, key=100))
    formats.read(source, 0, 10)
    entered = []
    original = video._Reader._go
    monkeypatch.setattr(video._Reader, "_go", lambda self, key: (entered.append(key), original(self, key)))
    for start in range(10, 60, 10):
        formats.read(source, start, start + 10)
    assert not entered
    formats.read(source, 5, 6)
    assert entered == [0]


@pytest.mark.parametrize("late", [1, 3])
def test_a_seek_that_lands_late_is_tried_from_further_back(write_video, monkeypatch, late: int) -> None:
    source = Source(write_video(VALUES))
    whole = formats.read(source).pixels
    monkeypatch.setattr(video, "_open", {})
    original = video._Reader._go
    monkeypatch.setattr(video._Reader, "_go", lambda self, key: original(self, min(key + late, len(self.index.keys) - 1) if key >= 0 else key))
    assert np.array_equal(formats.read(Source(source.path, frames=(25, 3, 44))).pixels, whole[:, [25, 3, 44]])


def test_frames_are_counted_and_read_where_a_container_keeps_no_times(write_video, monkeypatch) -> None:
    source = Source(write_video(VALUES))
    whole = formats.read(source).pixels
    monkeypatch.setattr(video, "_index", lambda path, changed: video._Index(60, None, ()))
    monkeypatch.setattr(video, "_open", {})
    assert np.array_equal(formats.read(source, 20, 24).pixels, whole[:, 20:24])
    assert np.array_equal(formats.read(source, 4, 6).pixels, whole[:, 4:6])


def _sum(path: Path, start: int) -> int:
    return int(formats.read(Source(path), start, start + 5).pixels.sum())


def _sum_after_collecting(path: Path, start: int) -> int:
    gc.collect()
    return _sum(path, start)


def test_forked_workers_do_not_disturb_each_other_or_their_parent(write_video) -> None:
    path = write_video(VALUES)
    starts = [0, 40, 5, 45, 10, 50, 15, 55]
    expected = [_sum(path, start) for start in starts]
    _sum(path, 20)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap_async(_sum, [(path, start) for start in starts], chunksize=1).get(timeout=30) == expected
    assert _sum(path, 25) == int(formats.read(Source(path)).pixels[:, 25:30].sum())


def test_a_forked_worker_frees_no_decoder_of_its_parent(write_video) -> None:
    path = write_video(VALUES)
    expected = _sum(path, 20)
    unreachable: list = [video._open.popitem()]
    unreachable.append(unreachable)  # waits for the garbage collector, which first runs in the child
    del unreachable
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.starmap_async(_sum_after_collecting, [(path, 20)]).get(timeout=30) == [expected]


def test_only_a_few_videos_stay_open(write_video, monkeypatch) -> None:
    monkeypatch.setattr(video, "_open", {})
    for number in range(4):
        formats.read(Source(write_video(VALUES[:3], f"{number}.mp4")))
    assert [path.name for _, path, _ in video._open] == ["2.mp4", "3.mp4"]


def test_a_replaced_video_is_opened_again(write_video, tmp_path: Path) -> None:
    path = write_video([30] * 5)
    assert abs(greys(Source(path))[0] - 30) < 8
    shutil.copy(write_video([200] * 7, "other.mp4"), path)
    os.utime(path, ns=(1, 1))
    assert len(greys(Source(path))) == 7
    assert abs(greys(Source(path))[0] - 200) < 8


@pytest.mark.parametrize("movflags", ["", "faststart"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.9])
def test_a_video_cut_short_is_refused(write_video, refused, movflags: str, kept: float) -> None:
    path = write_video(VALUES, movflags=movflags, key=1)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path)
    with pytest.raises(CaseError):
        formats.count_planes(Source(path))


def test_a_frame_past_the_end_and_a_file_without_pictures_are_named(write_video, tmp_path: Path, refused) -> None:
    assert "plane 60" in refused(write_video(VALUES), frames=(3, 60))
    (tmp_path / "text.mp4").write_text("no video")
    refused(tmp_path / "text.mp4")


def test_damage_in_the_middle_is_refused_and_the_next_call_starts_afresh(write_video, refused) -> None:
    path = write_video(VALUES)
    video._index(path, path.stat().st_mtime_ns)
    stamp = path.stat().st_mtime_ns
    data = path.read_bytes()
    path.write_bytes(b"\0" * len(data))
    os.utime(path, ns=(stamp, stamp))
    refused(path)
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))
    assert np.abs(greys(Source(path)) - VALUES).max() < 8


def test_the_recipe_of_a_dataset_crops_video_frames_but_not_prepared_pictures(write_video, tmp_path: Path) -> None:
    from PIL import Image

    path = write_video(VALUES[:3])
    cut = recipes.planes((Source(path),), window="full-range", size=None, crop=lambda frame: frame[4:20, 8:40])
    assert cut.pixels.shape == (3, 3, 16, 32)
    assert cut.frame.shape == (16, 32)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    assert recipes.planes((Source(tmp_path / "a.png"),), window="full-range", size=None, crop=lambda frame: frame[:4]).pixels.shape == (1, 3, 48, 64)

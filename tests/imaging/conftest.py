"""Small files of the formats that need a library to write, and the one error damaged files must end in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats
from medprobe.types import Source


@pytest.fixture
def refused() -> Callable[..., str]:
    """Reads a source that must be refused in one sentence naming the file; returns the sentence."""

    def refuse(path: Path, *, names: Path | None = None, **source: Any) -> str:
        with pytest.raises(CaseError) as caught:
            formats.read(Source(path, **source))
        sentence = str(caught.value)
        assert sentence.startswith(str(names or path))
        assert "\n" not in sentence
        return sentence

    return refuse


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """(D, H, W) or (H, W) or (H, W, 3) pixels and tags to a DICOM file; `compress` names a transfer syntax of pydicom.uid."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    def write(pixels: np.ndarray, name: str = "image.dcm", *, bits: int | None = None, compress: str | None = None, photometric: str = "MONOCHROME2", **tags: Any) -> Path:
        colour = photometric in ("RGB", "YBR_FULL")
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if colour else 1), photometric
        if colour:
            dataset.PlanarConfiguration = 0
        if pixels.ndim - colour == 3:
            dataset.NumberOfFrames = len(pixels)
        dataset.BitsAllocated = 8 * pixels.itemsize
        dataset.BitsStored = bits or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        if compress:
            dataset.compress(getattr(pydicom.uid, compress))
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Grey values, one per frame, to a video; every `key`-th frame is a key frame."""
    av = pytest.importorskip("av")

    def write(values: list[int], name: str = "video.mp4", *, codec: str = "libx264", key: int = 10, size: tuple[int, int] = (48, 64), movflags: str = "", options: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
            stream = container.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width, stream.pix_fmt, stream.gop_size = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p", key
            for value in values:
                frame = np.full((*size, 3), value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write

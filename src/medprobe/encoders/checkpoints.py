"""Checkpoint files to tensors, and tensors into a network: never running code from a file, never a silent misfit."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.errors import MissingError
from medprobe.files import LFS_POINTER, WEB_PAGE, kind_of

FETCHED_BADLY = (LFS_POINTER, WEB_PAGE)
LEGACY = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The number that torch wrote first before its files were ZIP archives."""

WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""What compiling and sharding put into names, at any place: it is taken out of them."""

NOT_WEIGHTS = r".*optimi[sz]er.*|optim|.*scheduler.*|exp_avg.*|grads?"
"""What training programs keep beside weights, in the same shapes."""

PREFERENCE = (
    r"teacher(_.*)?",
    r"(.*_)?ema(_.*)?",
    r"online(_.*)?|base_encoder|encoder_q",  # BYOL and MoCo evaluate these, not their averages
    r"target(_.*)?",  # I-JEPA evaluates this one
    r"",
    r".*momentum.*|encoder_k",
    r"student(_.*)?",
)
"""Which of several copies of a model in one file is taken: the first whose name is met here."""
UNNAMED = PREFERENCE.index("")

TRAINING_ONLY = (
    "fc.", "head.", "heads.", "head_drop.", "classifier.", "linear.", "projection_head.", "prototypes.", "predictor.", "projector.",
    "decoder", "mask_token", "dino_head.", "ibot_head.", "num_batches_tracked", "local_cls_norm.", "rope_embed.periods",
)  # fmt: skip
"""Names that a feature extractor may leave unread: heads, decoders and buffers that are computed anew."""


@dataclass(frozen=True)
class WeightFile:
    """Every tensor of a checkpoint by its path (`teacher.backbone.norm.weight`), and the sha256 of the file."""

    path: Path
    tensors: Mapping[str, Any]
    sha256: str

    @property
    def doubt(self) -> str | None:
        """What the user must hear where a name promises another digest, as names of published files do (`name-1a2b3c4d.pth`)."""
        promised = re.search(r"-([0-9a-f]{8})\.(pth|pt)$", self.path.name)
        if not promised or promised[1].isdigit() or self.sha256.startswith(promised[1]):
            return None
        return f"{self.path.name} promises a sha256 of {promised[1]}…, found {self.sha256[:8]}…: it is not the file of that name"


@dataclass(frozen=True)
class Part:
    """The tensors of a model in a file, under the model's names; `prefix`: where in the file they lie; `copies`: where
    others that fit lie, which were not taken; `unfit`: where one lies that would have been preferred."""

    tensors: Mapping[str, Any]
    prefix: str = ""
    copies: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What the user must hear of a choice."""
        if not self.copies and not self.unfit:
            return None
        beside = f", which fit beside {', '.join(self.copies)}" if self.copies else ""
        instead = f", since {', '.join(self.unfit)} is incomplete or of another shape" if self.unfit else ""
        return f"weights are those under {self.prefix or 'no prefix'} of the file{beside}{instead}"


def read(path: Path) -> WeightFile:
    """Read safetensors, or a torch file with `weights_only=True`: the first bytes tell which, the suffix nothing.

    MissingError when the file is damaged, is of another kind, holds no tensors, or would have to run code.
    """
    loaded = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    tensors = flattened(loaded)
    if not tensors:
        raise MissingError(f"expected tensors in {path}, found none; give a file that holds a state dict")
    return WeightFile(path, tensors, sha256_of(path))


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") < 10**8


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from None


def _read_torch(path: Path) -> Any:
    import argparse
    import pickle
    import warnings

    import torch

    kind = foreign(path)
    if kind is not None:
        cure = "fetch the file itself" if kind in FETCHED_BADLY else "convert its weights to safetensors"
        raise MissingError(f"expected a state dict of torch, or safetensors, in {path}, found {kind}; {cure}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of old pickle protocols: what cannot be read is an error below
            with path.open("rb") as opened:  # by a path, torch would go by the suffix
                return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "corrupt file" in str(error):
            raise damaged(path, error) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in every way there is: RuntimeError, EOFError, KeyError, ...
        raise damaged(path, error) from None
    raise MissingError(
        f"expected only tensors in {path}, found objects whose reading would run code, so it was not read; if you trust the file, convert it "
        'once in an environment that may run it: python -c "import torch; from safetensors.torch import save_file; '
        f"c = torch.load('{path}', map_location='cpu', weights_only=False); c = c.get('state_dict', c.get('model', c)); "
        "save_file({k: v.clone().contiguous() for k, v in c.items() if torch.is_tensor(v)}, 'converted.safetensors')\" "
        "and give converted.safetensors as weights"
    )


def foreign(path: Path) -> str | None:
    """What a file is that is no state dict of torch; None where it may be one."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise damaged(path, EOFError("it is empty"))
    kind = kind_of(path)
    if kind == "a ZIP archive":
        return _zipped(path)
    if kind is not None:
        return f"{kind}{', as Keras writes weights' if kind == 'HDF5' else ''}"
    if head[:4] == b"GGUF" or head[4:8] == b"TFL3":
        return "a model of GGML" if head[:4] == b"GGUF" else "a model of TensorFlow Lite"
    if head[0] == 0x08 and head[1] < 0x20 and head[2:3] in (b"\x12", b":", b"B"):
        return "a model of ONNX"
    if 0x81 <= head[0] <= 0x8F and 0xA0 <= head[1] <= 0xBF:
        return "MessagePack, as Flax writes weights"
    if head.lstrip()[:1] == b"{":
        return "JSON text"
    if head[:1] == b"\x80" and head[1] in range(2, 6) and LEGACY not in head:
        return "a pickle that torch did not write, whose reading would run code"
    if re.search(r"\.(data-\d+-of-\d+|index|meta|pb)$", path.name):
        return "a part of a checkpoint of TensorFlow"
    return None if looks_pickled(path) else f"bytes that neither of them writes (it begins with {head[:8]!r})"


def _zipped(path: Path) -> str | None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None  # a torch file that was cut, which torch says better
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            "a TorchScript archive, whose loading runs its code (if you trust it: python -c \"import torch; from "
            f"safetensors.torch import save_file; s = torch.jit.load('{path}', map_location='cpu').state_dict(); "
            "save_file({k: v.clone().contiguous() for k, v in s.items()}, 'converted.safetensors')\")"
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz)"
    if "model.weights.h5" in names:
        return "a model of Keras"
    return f"a ZIP archive of other files ({', '.join(names[:3]) or 'none'}), which must be unpacked"


def looks_pickled(path: Path) -> bool:
    """Whether the file starts as a pickle or a zip archive does; a login page saved under a checkpoint's name does not."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def damaged(path: Path, error: Exception) -> MissingError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    if is_whole_archive(path):
        return MissingError(
            f"expected a state dict of torch in {path}, found an archive that is whole, but which torch cannot read "
            f"({reason[:120]}); save its weights as safetensors"
        )
    return MissingError(
        f"expected a whole checkpoint at {path}, found one that cannot be read ({reason[:120]}); fetch it again and compare its size"
    )


def is_whole_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive of which every checksum holds."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return False


def flattened(loaded: Any, path: str = "") -> dict[str, Any]:
    """Every tensor of nested mappings and lists by its dotted path."""
    import torch

    if isinstance(loaded, torch.Tensor):
        return {path: loaded}
    if isinstance(loaded, Mapping):
        inner = [(str(name), value) for name, value in loaded.items() if not re.fullmatch(NOT_WEIGHTS, str(name))]
    elif isinstance(loaded, list | tuple):
        inner = [(str(number), value) for number, value in enumerate(loaded)]
    else:
        return {}
    found: dict[str, Any] = {}
    for name, value in inner:
        found |= flattened(value, f"{path}.{name}" if path else name)
    return found


def prefixes_of(names: Iterable[str], least: int) -> list[str]:
    """The prefixes, "" among them, under which at least so many names lie."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:depth])
            counts[prefix] = counts.get(prefix, 0) + 1
    return [prefix for prefix, count in counts.items() if count >= least]


Spelled = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Tensors of a file → (what the model wants, those tensors under the model's names)."""


def part_of(file: WeightFile, spelled: Spelled, spec: str) -> Part:
    """The tensors of a model: of the prefix under which all of them lie, whatever a training program put around them.

    Of several copies that fit the first of `PREFERENCE` is taken; MissingError where two of one rank differ. Where none fits,
    what lies nearest comes back, for `fit` to say what is wrong with it.
    """
    wanted, _ = spelled({})
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for prefix in prefixes_of(file.tensors, max(1, len(wanted) // 2)):
        wants, tensors = spelled(under(file, prefix))
        found[prefix] = sum(map(len, misfits(wants, tensors)[:2])), tensors
    fits = [prefix for prefix, (wrong, _) in found.items() if not wrong]
    doubled = {one for one in fits for other in fits if other != one and other.startswith(one) and not bare(other[len(one) : -1])}
    fitting = sorted(set(fits) - doubled, key=rank)
    if not fitting:
        nearest = min(found, key=lambda prefix: (found[prefix][0], prefix), default=None)
        return Part(file.tensors) if nearest is None else Part(found[nearest][1], nearest)
    best, *others = fitting
    taken = found[best][1]
    copies = [prefix for prefix in others if not _equal(taken, found[prefix][1])]
    equals = [prefix for prefix in copies if rank(prefix)[0] == rank(best)[0]]
    if equals:
        raise MissingError(
            f"expected one copy of {spec} in {file.path}, found it under {' and '.join([best, *equals])} with other values; "
            "save the one that is meant alone"
        )
    better = {prefix for prefix in found if rank(prefix)[0] < rank(best)[0]}
    unfit = sorted(better - doubled - {prefix for prefix in found if best.startswith(prefix)})
    return Part(spelled(under(file, best, others))[1], best, tuple(copies), tuple(unfit))


def under(file: WeightFile, prefix: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """The tensors below a prefix, without it and without wrappers, and without those below other, longer ones."""
    inner = tuple(other for other in others if other.startswith(prefix))
    names = [name for name in file.tensors if name.startswith(prefix) and not name.startswith(inner)]
    own = {name[len(prefix) :]: file.tensors[name] for name in names}
    return unchunked({bare(name): tensor for name, tensor in own.items()})


def bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def shared_prefix(file: WeightFile) -> str:
    """The longest prefix of all tensors."""
    return max(prefixes_of(file.tensors, len(file.tensors)), key=len)


def rank(prefix: str) -> tuple[int, int, str]:
    """How early the copy under a prefix is taken."""
    parts = prefix.rstrip(".").split(".")
    ranks = [number for number, words in enumerate(PREFERENCE) for part in parts if words and re.fullmatch(words, part, re.IGNORECASE)]
    return min(ranks, default=UNNAMED), len(parts), prefix


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def unchunked(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """DINOv2 trains its blocks in chunks, `blocks.1.5.`, of which the second number is the block's."""
    if not any(re.match(r"blocks\.\d+\.\d+\.", name) for name in tensors):
        return dict(tensors)
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name): tensor for name, tensor in tensors.items()}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fit(net: Any, tensors: Mapping[str, Any], path: Path, spec: str, prefix: str = "") -> None:
    """Copy the tensors into the network: every tensor it has must be there with its shape, and nothing unknown be left.

    MissingError with counts and first names otherwise. Heads and decoders of the training may be left over, and
    batch counters (`num_batches_tracked`, absent from old files) may be missing.
    """
    wanted = net.state_dict()
    missing, misshapen, unknown = misfits(wanted, tensors)
    faults = [
        _list(missing, f"of the model's {len(wanted)} tensors are missing", str),
        _list(
            misshapen, "have another shape", lambda name: f"{name} {_shape(tensors[name])} for {_shape(wanted[name])}"
        ),
        _list(unknown, f"of the file's {len(tensors)} tensors are unknown to the model", str),
    ]
    if any(faults):
        raise MissingError(
            f"{path} does not fit {spec}: {f'under {prefix} ' if prefix else ''}"
            + "; ".join(filter(None, faults))
            + "; give the checkpoint of this model, or the model of this checkpoint"
        )
    refuse_encoded(wanted, tensors, path)
    net.load_state_dict({name: tensor for name, tensor in tensors.items() if name in wanted}, strict=False)


def misfits(wanted: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, that have another shape, and that are unknown to the model."""
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    misshapen = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    return missing, misshapen, [name for name in tensors if name not in wanted and not training_only(name)]


def refuse_encoded(wanted: Mapping[str, Any], tensors: Mapping[str, Any], path: Path) -> None:
    """MissingError for tensors whose numbers are not those of the network, and would be copied without a word."""
    wrong = [name for name, tensor in tensors.items() if name in wanted and encoded(tensor, wanted[name])]
    if wrong:
        found = _list(wrong, "are quantised, complex or sparse, or hold NaN or infinity", lambda name: f"{name} {tensors[name].dtype}")
        raise MissingError(f"expected weights as plain real numbers in {path}, found {found}; give those of before quantising, or fetch it again")


def encoded(tensor: Any, wanted: Any) -> bool:
    """Whether the numbers of a tensor do not say the network's by themselves: whole or complex ones, sparse ones, NaN."""
    import torch

    if not wanted.is_floating_point():
        return False
    if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
        return True
    return tensor.device.type != "meta" and not bool(torch.isfinite(tensor.float()).all())


def training_only(name: str) -> bool:
    return name.startswith(TRAINING_ONLY) or name.endswith(TRAINING_ONLY)


def _list(names: list[str], what: str, show: Any) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(show(name) for name in names[:3])}{', …' if len(names) > 3 else ''})"


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

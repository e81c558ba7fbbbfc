"""Checkpoint files to tensors, and tensors into a network: never running code from a file, never a silent misfit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.errors import MissingError

CONTAINERS = ("state_dict", "model", "teacher", "model_state_dict", "model_ema", "module", "net", "network")
"""Where training programs keep the weights inside a checkpoint, in order of preference."""

PREFIXES = (
    "_orig_mod.",
    "module.",
    "base_encoder.",  # MoCo-v3: its own linear evaluation reads this one
    "momentum_encoder.",
    "encoder_q.",
    "backbone.",
)
"""Wrappers around the encoder's own names; keys outside the wrapper belong to training heads and are left out."""

TRAINING_ONLY = (
    "fc.", "head.", "heads.", "head_drop.", "classifier.", "linear.", "projection_head.", "prototypes.", "predictor.", "projector.",
    "decoder", "mask_token", "dino_head.", "ibot_head.", "num_batches_tracked", "local_cls_norm.", "rope_embed.periods",
)  # fmt: skip
"""Names that a feature extractor may leave unread: heads, decoders and buffers that are computed anew."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a checkpoint under the encoder's own names, and the sha256 of the file they came from."""

    path: Path
    tensors: Mapping[str, Any]
    sha256: str


def read(path: Path) -> WeightFile:
    """Read `.safetensors`, or a torch file of any suffix with `weights_only=True`.

    MissingError when the file is damaged, holds no tensors, or would have to run code.
    """
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = unwrap(loaded)
    if not tensors:
        raise MissingError(f"expected tensors in {path}, found none; give a file that holds a state dict")
    return WeightFile(path, tensors, sha256_of(path))


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from None


def _read_torch(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols: what cannot be read is an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not looks_pickled(path):
            raise damaged(path, error) from None
    except Exception as error:  # a damaged file fails in every way there is: RuntimeError, EOFError, KeyError, ...
        raise damaged(path, error) from None
    raise MissingError(
        f"expected only tensors in {path}, found objects whose reading would run code, so it was not read; if you trust the file, convert it "
        'once in an environment that may run it: python -c "import torch; from safetensors.torch import save_file; '
        f"c = torch.load('{path}', map_location='cpu', weights_only=False); c = c.get('state_dict', c.get('model', c)); "
        "save_file({k: v.clone().contiguous() for k, v in c.items() if torch.is_tensor(v)}, 'converted.safetensors')\" "
        "and give converted.safetensors as weights"
    )


def looks_pickled(path: Path) -> bool:
    """Whether the file starts as a pickle or a zip archive does; a login page saved under a checkpoint's name does not."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def damaged(path: Path, error: Exception) -> MissingError:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return MissingError(
        f"expected a whole checkpoint at {path}, found one that cannot be read ({reason[:120]}); fetch it again and compare its size"
    )


def unwrap(loaded: Any) -> dict[str, Any]:
    """The encoder's tensors out of whatever a training program wrapped around them."""
    import torch

    while isinstance(loaded, Mapping):
        inner = next((loaded[name] for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        return {}
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fit(net: Any, tensors: Mapping[str, Any], path: Path, spec: str) -> None:
    """Copy the tensors into the network: every tensor it has must be there with its shape, and nothing unknown be left.

    MissingError with counts and first names otherwise. Heads and decoders of the training may be left over, and
    batch counters (`num_batches_tracked`, absent from old files) may be missing.
    """
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    misshapen = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    unknown = [name for name in tensors if name not in wanted and not training_only(name)]
    faults = [
        _list(missing, f"of the model's {len(wanted)} tensors are missing", str),
        _list(
            misshapen, "have another shape", lambda name: f"{name} {_shape(tensors[name])} for {_shape(wanted[name])}"
        ),
        _list(unknown, f"of the file's {len(tensors)} tensors are unknown to the model", str),
    ]
    if any(faults):
        raise MissingError(
            f"{path} does not fit {spec}: "
            + "; ".join(filter(None, faults))
            + "; give the checkpoint of this model, or the model of this checkpoint"
        )
    net.load_state_dict({name: tensor for name, tensor in tensors.items() if name in wanted}, strict=False)


def training_only(name: str) -> bool:
    return name.startswith(TRAINING_ONLY) or name.endswith(TRAINING_ONLY)


def _list(names: list[str], what: str, show: Any) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(show(name) for name in names[:3])}{', …' if len(names) > 3 else ''})"


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

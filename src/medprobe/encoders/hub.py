"""Files from the model hub: the local cache first, the network only when asked for, and an error within seconds."""

import errno
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from medprobe.errors import MissingError
from medprobe.files import advice_on

WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.pth",
)

OF_DISKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk that keeps what is downloaded, not of the network."""


def fetch(repository: str, names: tuple[str, ...], spec: str, *, cached_only: bool = False) -> Path:
    """The local path of the first of these files that the repository (`org/name` or `org/name@revision`) has.

    A file in the cache (`HF_HOME`) is used as it is. MissingError when it has to be downloaded but is gated, does not
    exist, `HF_HUB_OFFLINE` is set, or there is no network; `cached_only` never downloads.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, _, revision = repository.partition("@")
    page = f"https://huggingface.co/{repository}"
    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    how = f"fetch {names[0]} from {page} on a machine with access and give it with --weights FILE, or draw weights with random:{spec}"
    if cached_only:
        raise MissingError(
            f"{spec} needs {names[0]} of {page}, which is not in the local cache, and random: downloads nothing; fetch it once without random:"
        )
    if constants.HF_HUB_OFFLINE:
        raise MissingError(
            f"{spec} needs {names[0]}, which is not in the local cache, and HF_HUB_OFFLINE is set; {how}"
        )
    if not reachable(constants.ENDPOINT):
        raise MissingError(
            f"{spec} needs {names[0]}, which is not in the local cache, and {constants.ENDPOINT} cannot be reached; {how}"
        )
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except GatedRepoError:
            raise MissingError(f"{spec} is gated: accept its licence at {page} and set HF_TOKEN, or {how}") from None
        except RepositoryNotFoundError:
            raise MissingError(
                f"{spec} was not found at {page} (private, or misspelt); check the name, or {how}"
            ) from None
        except LocalEntryNotFoundError as error:
            raise MissingError(f"{spec} could not be downloaded ({error.__class__.__name__}); {how}") from None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            if error.errno in OF_DISKS:
                folder = f"{constants.HF_HUB_CACHE} ({error.strerror})"
                raise MissingError(
                    f"{spec} could not be kept in {folder}; {advice_on(error)}, or set HF_HOME to "
                    "another folder"
                ) from None
            raise MissingError(f"{spec} could not be downloaded ({str(error).splitlines()[0][:160]}); {how}") from None
    raise MissingError(f"{page} has none of {', '.join(names)}; {how}")


def reachable(endpoint: str, seconds: float = 5.0) -> bool:
    """Whether a connection opens: the hub's own client tries each file six times, for half a minute. A proxy is believed."""
    url = urllib.parse.urlsplit(endpoint)
    if url.scheme in urllib.request.getproxies():
        return True
    try:
        socket.create_connection(
            (url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), timeout=seconds
        ).close()
    except OSError:
        return False
    return True


def weights_in(folder: Path, spec: str) -> Path:
    """The weight file of a local model folder."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    index = next((path.name for path in sorted(folder.glob("*.index.json"))), None)
    if index is not None:
        raise MissingError(
            f"{spec}: expected the weights in one file, found them in several ({index} in {folder}); "
            "save them again in one, with a larger max_shard_size"
        )
    raise MissingError(
        f"{spec}: expected one of {', '.join(WEIGHT_FILES)} in {folder}, found none; put the weights there, or give --weights FILE"
    )

"""Run commands of the medprobe that is on the path, in turn, each in a process of its own.

    python driver.py FOLDER COMMANDS.json

COMMANDS.json is a list of [name, words]. Of each `FOLDER/commands/<name>.stdout`, `.stderr` and
`.status` are written. Large libraries are loaded once, before the processes are forked: of medprobe
itself nothing is.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

LIBRARIES = (
    "torch", "torchvision", "timm", "monai.networks.nets", "pandas", "pyarrow.parquet",
    "scipy.optimize", "scipy.ndimage", "sklearn.metrics", "matplotlib.figure", "numba", "nibabel",
    "h5py", "tifffile", "PIL.Image", "typer", "rich.console", "jinja2", "pydantic",
    "safetensors.torch",
)  # fmt: skip
LONGEST = 900
"""Seconds after which a command is ended."""


def load_libraries() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except ImportError:
                continue


def run(folder: Path, name: str, words: list[str]) -> int:
    """The exit status; negative when a signal ended the command."""
    stem = folder / "commands" / name
    child = os.fork()
    if child == 0:
        os._exit(_command(stem, words))
    _, ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    stem.with_name(f"{name}.status").write_text(f"{status}\n")
    return status


def _command(stem: Path, words: list[str]) -> int:
    """As `python -m medprobe WORDS`, with both outputs in files."""
    signal.alarm(LONGEST)
    for descriptor, suffix in ((1, "stdout"), (2, "stderr")):
        handle = os.open(f"{stem}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, descriptor)
    sys.argv = ["medprobe", *words]
    status: object = 0
    try:
        runpy.run_module("medprobe", run_name="__main__", alter_sys=True)
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else 0 if status is None else 1


def main(folder: Path, commands: list[tuple[str, list[str]]]) -> None:
    (folder / "commands").mkdir(exist_ok=True)
    os.chdir(folder)
    load_libraries()
    for name, words in commands:
        begin = time.monotonic()
        status = run(folder, name, words)
        print(f"{time.monotonic() - begin:6.1f} s  status {status}  {name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), json.loads(Path(sys.argv[2]).read_text()))

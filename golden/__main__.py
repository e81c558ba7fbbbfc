"""The same commands by the code of another commit and by the working tree, compared file by file.

    python golden [REVISION] [--only NAME ...] [--samples DIR] [--keep DIR]

Results, predictions, pictures, features and texts must be equal, and in the cache and the results
of the other commit the working tree must find all that it needs. Exit status 1 where something
differs; the folders are then kept.
"""

import argparse
import importlib.util
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comparison import Difference, compare
from inputs import write_inputs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SAMPLES = Path(os.environ.get("MEDPROBE_SAMPLES", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Command:
    """One entry of commands.toml, which says what its fields are."""

    name: str
    line: str
    needs: tuple[str, ...] = ()
    streamed: bool = False
    status: int = 0

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)

    @property
    def computes(self) -> bool:
        """Whether it is a run that leaves results, so that a plan of it can be asked for later."""
        return self.words[0] == "run" and "--plan" not in self.words and self.status == 0


def read_commands() -> list[Command]:
    entries = tomllib.loads((HERE / "commands.toml").read_text())["command"]
    return [Command(**{**entry, "needs": tuple(entry.get("needs", ()))}) for entry in entries]


def absent(command: Command, samples: Path) -> str | None:
    """Why a command is skipped; None where all that it needs is there."""
    for need in command.needs:
        if need == "samples" and not samples.is_dir():
            return f"no sample images at {samples}; set MEDPROBE_SAMPLES to their folder"
        if need != "samples" and importlib.util.find_spec(need) is None:
            return f"no module {need}"
    return None


# ---------------------------------------------------------------------------------------- the code


def git(*words: str) -> bytes:
    ended = subprocess.run(["git", "-C", ROOT, *words], capture_output=True)
    if ended.returncode != 0:
        raise SystemExit(f"golden: git {' '.join(words)}: {ended.stderr.decode().strip()}")
    return ended.stdout


def default_revision() -> str:
    """HEAD where `src` is changed; else where the branch left `main`, or the commit before."""
    if git("status", "--porcelain", "--", "src"):
        return "HEAD"
    head = git("rev-parse", "HEAD").decode().strip()
    branch = git("branch", "--list", "main")
    base = git("merge-base", "HEAD", "main").decode().strip() if branch else head
    return base if base != head else "HEAD~1"


def export_code(revision: str, folder: Path) -> Path:
    """The `src` of a commit; files have the time of the commit."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", revision, "src"))) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


# ---------------------------------------------------------------------------------------- the runs


def prepare(folder: Path, samples: Path) -> None:
    """The inputs of both sides: the same bytes."""
    before, after = folder / "before", folder / "after"
    before.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "resnet56.py", before)
    if samples.is_dir():
        write_inputs(samples, before / "inputs")
    shutil.copytree(before, after)


def start(
    source: Path, folder: Path, commands: Sequence[tuple[str, list[str]]], samples: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Run commands by this code in this folder, with one thread."""
    words = folder.with_name(f"{log.stem}.json")
    words.write_text(json.dumps(commands))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDPROBE_")}
    settings = {
        "PYTHONPATH": str(source), "MEDPROBE_CACHE": "cache", "MEDPROBE_SAMPLES": str(samples),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "COLUMNS": "160",
    }  # fmt: skip
    with log.open("wb") as handle:
        return subprocess.Popen(
            [sys.executable, HERE / "driver.py", folder, words],
            stdout=handle, stderr=subprocess.STDOUT, env={**kept, **settings},
        )  # fmt: skip


def unexpected(folder: Path, commands: Sequence[Command]) -> list[Difference]:
    """Commands with another exit status than theirs: two that fail alike differ in nothing."""
    found = []
    for command in commands:
        status = (folder / "commands" / f"{command.name}.status").read_text().strip()
        if status != str(command.status):
            found.append(Difference(command.name, "exit status", str(command.status), status))
    return found


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        text = log.read_text()[-2000:]
        raise SystemExit(f"golden: the commands could not be run; the end of {log}:\n{text}")


# --------------------------------------------------------------------- what was kept is used again


def plans(commands: Sequence[Command]) -> list[tuple[str, list[str]]]:
    """Of every run two plans: of the same request, and of one to another folder."""
    computed = [command for command in commands if command.computes]
    asked = [(f"resumed-{command.name}", command.words) for command in computed]
    asked += [
        (f"cached-{command.name}", [*command.words, "-o", "fresh"])
        for command in computed
        if not command.streamed
    ]
    return [(name, [*words, "--plan", "--json"]) for name, words in asked]


def left_to_do(folder: Path, asked: Sequence[tuple[str, list[str]]]) -> list[Difference]:
    """Plans that do not find all that was kept."""
    found = []
    for name, _ in asked:
        file = folder / "commands" / f"{name}.stdout"
        try:
            plan = json.loads(file.read_text())
        except ValueError:
            text = file.with_suffix(".stderr").read_text().strip()
            found.append(Difference(name, "plan", "made", text[:300]))
            continue
        if name.startswith("resumed-"):
            field, count = "results to compute", plan["cells"]["to_do"]
        else:
            field = "planes to encode"
            count = sum(
                entry["planes_missing"] + entry["planes_of_views"] for entry in plan["groups"]
            )
        if count:
            found.append(Difference(name, field, "0", str(count)))
    return found


# --------------------------------------------------------------------------------------- the suite


def suite(revision: str, commands: Sequence[Command], samples: Path, folder: Path) -> int:
    """Run both sides at once, compare, print; how many differences there are."""
    prepare(folder, samples)
    before, after = folder / "before", folder / "after"
    asked = [(command.name, command.words) for command in commands]
    other = export_code(revision, folder / "code")
    logs = folder / "before.log", folder / "after.log", folder / "again.log"
    sides = [
        start(source, side, asked, samples, log)
        for source, side, log in zip((other, ROOT / "src"), (before, after), logs[:2], strict=True)
    ]
    for side, log in zip(sides, logs[:2], strict=True):
        finish(side, log)
    count, differences = compare(before, after)
    planned = plans(commands)
    finish(start(ROOT / "src", before, planned, samples, logs[2]), logs[2])
    unused, astray = left_to_do(before, planned), unexpected(after, commands)
    for difference in [*differences, *unused, *astray]:
        print(difference)
    commit = git("rev-parse", "--short", revision).decode().strip()
    print(
        f"golden: {len(commands)} commands beside commit {commit}: {count} files, "
        f"{len(differences)} differ; {len(planned)} plans on what it kept, "
        f"{len(unused)} would compute again; {len(astray)} exit statuses not as expected"
    )
    return len(differences) + len(unused) + len(astray)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python golden", description=__doc__.split("\n")[0])
    parser.add_argument(
        "revision", nargs="?", help="a commit [default: the one before the changes]"
    )
    parser.add_argument("--only", nargs="+", help="names of commands, and of those they build on")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="the sample images")
    parser.add_argument("--keep", type=Path, help="a new folder to work in, which stays")
    options = parser.parse_args()
    samples, only = options.samples.resolve(), options.only
    chosen = [command for command in read_commands() if not only or command.name in only]
    reasons = {command.name: absent(command, samples) for command in chosen}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"skipped: {name}: {reason}")
    commands = [command for command in chosen if reasons[command.name] is None]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="golden-"))
    revision = options.revision or default_revision()
    if suite(revision, commands, samples, folder.resolve()):
        raise SystemExit(f"golden: see {folder} (before, after, and logs of both)")
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""What can go wrong, by who has to act: each class carries the exit status of the command line.

Every message is one sentence that says what was expected, what was found and what to do next.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MedprobeError(Exception):
    """Base of all errors medprobe raises on purpose; uncaught in a cell it marks that cell failed (status 1)."""

    exit_status = 1
    faults: "list[MedprobeError]"
    """Set on an error that stands for several."""


class RequestError(MedprobeError):
    """The request is wrong: an option, a name, a manifest, a key conflict (status 2)."""

    exit_status = 2


class MissingError(MedprobeError):
    """Something the request needs is not there: data root, part of a dataset, weights that fit (status 3)."""

    exit_status = 3


class CaseError(MedprobeError):
    """One case cannot be used (truncated, wrong type, NaN); counted, or fails its cell beyond `--skip-unreadable`."""


class ShapeError(CaseError):
    """A whole file of another number of axes, planes or entries than its case is said to have."""


class ExtraError(MissingError):
    """An optional library is not installed; the message names the extra."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {library}, which is not installed; run: pip install "medprobe[{extra}]"')


class Faults:
    """Collects what is wrong, so that everything is said at once."""

    def __init__(self) -> None:
        self.found: list[MedprobeError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        try:
            yield
        except (RequestError, MissingError) as error:
            known = {str(one) for one in self.found}
            self.found += [one for one in getattr(error, "faults", [error]) if str(one) not in known]

    def raise_if_any(self) -> None:
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        kind = RequestError if any(isinstance(error, RequestError) for error in self.found) else MissingError
        listed = "\n".join(f"  {number}. {error}" for number, error in enumerate(self.found, 1))
        together = kind(f"{len(self.found)} things must change before this can run:\n{listed}")
        together.faults = self.found
        raise together

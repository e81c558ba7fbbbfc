"""What 1 Bq/ml of a PET is as standardised uptake value by body weight (SUVbw), as QIBA's profile
works it out.

    SUVbw = activity x weight in g / dose, the dose decayed from its injection to the time that the
    activity is corrected to

That time is the start of the scan (DecayCorrection START: the time of the series, or where that is
later than its first acquisition, as in series that were made anew, that acquisition) or the
injection itself (ADMIN). Whatever is missing is named.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from medprobe.imaging.dicom_files import pydicom
from medprobe.imaging.raw import Units
from medprobe.imaging.units import SUV

NAMES = {
    "CNTS": "counts (CNTS)",
    "NONE": "no unit",
    "PROPCNTS": "proportional counts",
    "PROPCPS": "proportional counts per second",
}
LEAST = 1e5
"""Bq below which a dose was surely written in MBq."""
DAY = timedelta(days=1)


class _Missing(Exception):
    """What the header lacks, in words."""


def activity(headers: Sequence[Any]) -> Units:
    """The unit of a PET, whose files or frames these are."""
    first = headers[0]
    unit, kind = str(first.get("Units") or first.get("RescaleType") or ""), first.get("SUVType")
    if unit == "GML":
        return Units(
            SUV
            if kind in (None, "", "BW")
            else f"uptake values by another weight (SUV Type {kind})"
        )
    if unit != "BQML":
        why = (
            "Philips keeps the factors in private tags, which are not read"
            if unit == "CNTS" and "philips" in str(first.get("Manufacturer")).lower()
            else ""
        )
        return Units(NAMES.get(unit, f"PET units {unit}" if unit else "PET without Units"), why=why)
    try:
        return Units("activity (Bq/ml)", _uptake(headers))
    except _Missing as missing:
        return Units("activity (Bq/ml)", why=str(missing))


def _uptake(headers: Sequence[Any]) -> float:
    first = headers[0]
    tracer = (first.get("RadiopharmaceuticalInformationSequence") or [pydicom().Dataset()])[0]
    corrected = str(first.get("DecayCorrection") or "")
    absent = [
        name
        for name, holder in (("PatientWeight", first), ("RadionuclideTotalDose", tracer))
        if not _positive(holder, name)
    ]
    if corrected == "START" and not _positive(tracer, "RadionuclideHalfLife"):
        absent.append("RadionuclideHalfLife")
    if not corrected:
        absent.append("DecayCorrection")
    if absent:
        raise _Missing(f"without {' and '.join(absent)} no uptake value can be worked out")
    weight, dose = _positive(first, "PatientWeight"), _positive(tracer, "RadionuclideTotalDose")
    if dose < LEAST:
        raise _Missing(f"its dose of {dose:g} Bq can only be MBq")
    if corrected == "ADMIN":
        return 1000 * weight / dose
    if corrected != "START":
        raise _Missing(f"its DecayCorrection is {corrected}, not START or ADMIN")
    seconds = _elapsed(headers, tracer).total_seconds()
    return float(
        1000 * weight / (dose * 2 ** (-seconds / _positive(tracer, "RadionuclideHalfLife")))
    )


def _positive(holder: Any, keyword: str) -> float:
    """A number above 0; 0 where there is none."""
    value = holder.get(keyword)
    return 0.0 if value in (None, "") else max(0.0, float(value))


def _elapsed(headers: Sequence[Any], tracer: Any) -> timedelta:
    """From injection to the start of the scan."""
    scan = _start(headers)
    whole = _parsed(tracer.get("RadiopharmaceuticalStartDateTime"))
    if whole is None:
        at = tracer.get("RadiopharmaceuticalStartTime")
        if not at:
            raise _Missing("without RadiopharmaceuticalStartTime no uptake value can be worked out")
        time = _parsed(f"{scan:%Y%m%d}{at}")
        whole = time if time is None or time <= scan else time - DAY
    if whole is None or not timedelta(0) <= scan - whole <= DAY:
        raise _Missing(f"its tracer was injected at {whole}, its scan began at {scan}")
    return scan - whole


def _start(headers: Sequence[Any]) -> datetime:
    """Of the scan: what decay was corrected to."""
    first = headers[0]
    series = _moment(first, "Series")
    taken = [moment for header in headers if (moment := _moment(header, "Acquisition")) is not None]
    if series is not None and (not taken or series <= min(taken)):
        return series
    if taken and len(headers) > 1:
        return min(taken)
    if series is None:
        raise _Missing("without SeriesDate and SeriesTime no uptake value can be worked out")
    raise _Missing(
        "its SeriesTime is later than its AcquisitionTime, so that the start of the scan is not "
        "known; read the whole series as a folder"
    )


def _moment(header: Any, of: str) -> datetime | None:
    """Without any date, of a day that stands for all."""
    time = header.get(f"{of}Time")
    date = (
        header.get(f"{of}Date")
        or header.get("SeriesDate")
        or header.get("AcquisitionDate")
        or "19000102"
    )
    return _parsed(f"{date}{time}") if time else None


def _parsed(text: Any) -> datetime | None:
    """Without its time zone: all times of a series are of one place."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(pydicom().valuerep.DT(str(text)).isoformat()).replace(
            tzinfo=None
        )
    except (ValueError, TypeError):
        raise _Missing(f"its time {text} cannot be read") from None

# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext cost`: what a large collection takes, from what one scan takes."""

from __future__ import annotations

from monai_ext.errors import InputError

HOUR, DAY = 3600.0, 24.0
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def cost(
    seconds_per_scan: float,
    bytes_per_scan: float,
    scans: str = "1000,100000,10000000",
    processors: int = 1,
    start_seconds: float = 0.0,
    list_bytes_per_scan: float = 1100.0,
    look_seconds_per_scan: float = 0.0001,
) -> None:
    """Print what so many scans take: processor-hours, days on so many processors, storage, memory, looking again.

    A processor is what seconds_per_scan was measured on: a core, or a GPU. It is taken to be busy all the time, so
    this is the least; a run with a few scans, measured to its end, gives the seconds.

    Args:
        seconds_per_scan: of one processor, without starting.
        bytes_per_scan: of the result.
        scans: numbers of scans, separated by commas.
        processors: that share the scans.
        start_seconds: of each processor, before its first scan.
        list_bytes_per_scan: memory of the list of scans in each process, for each scan.
        look_seconds_per_scan: to find a scan and to see whether its result is there.

    Example:
        python -m monai_ext cost --seconds_per_scan 20 --bytes_per_scan 300000 --processors 64
    """
    given = {"seconds_per_scan": seconds_per_scan, "bytes_per_scan": bytes_per_scan, "processors": processors}
    for name, value in given.items():
        if not value > 0:
            raise InputError(f"cost: {name} must be more than 0, got {value}.")
    head = ("scans", "processor-hours", "time", "results", "list in memory", "looking again")
    rows = [head]
    for count in _counts(scans):
        work = count * seconds_per_scan / HOUR
        # scans are not cut up: the processor with most of them is the last to end
        wall = (-(-count // processors) * seconds_per_scan + start_seconds) / HOUR
        memory, looking = count * list_bytes_per_scan, count * look_seconds_per_scan / processors
        cells = (
            f"{work:,.1f}",
            _duration(wall),
            _size(count * bytes_per_scan),
            _size(memory),
            _duration(looking / HOUR),
        )
        rows.append((f"{count:,}", *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _counts(scans: object) -> list[int]:
    words = scans if isinstance(scans, (tuple, list)) else str(scans).split(",")  # fire makes a tuple of a list
    try:
        counts = [int(word) for word in words]
    except ValueError:
        counts = [0]
    if min(counts, default=0) < 1:
        raise InputError(f"cost: scans must be whole numbers from 1 on, separated by commas, got {scans!r}.")
    return counts


def _duration(hours: float) -> str:
    """Return a time in a unit that suits it.

    Example:
        >>> [_duration(hours) for hours in (0.002, 0.5, 5.0, 240.0, 100_000.0)]
        ['7 s', '30 min', '5.0 h', '10.0 days', '11.4 years']
    """
    if hours < 1 / 60:
        return f"{hours * HOUR:.0f} s"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    if hours < 2 * DAY:
        return f"{hours:.1f} h"
    days = hours / DAY
    return f"{days:.1f} days" if days < 1000 else f"{days / 365.25:.1f} years"


def _size(count: float) -> str:
    """Return a number of bytes in a unit that suits it.

    Example:
        >>> _size(1500), _size(3e14)
        ('1.5 kB', '300.0 TB')
    """
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.1f} {UNITS[power]}"

"""Quantities as a reader has them: with a unit that leaves few digits."""

NETWORK = ("received", "sent")
"""Series that are told in bits: that is how a network's rate is spelled."""


def told(series: str, value: float) -> str:
    """Return a value of a series in words: `0.25 CPUs`, `31.9 MiB`, `8.0 Mbit/s`, `16`."""
    if series == "cpu":
        return f"{value:.2f} CPU"
    if series == "pids":
        return f"{value:.0f}"
    if series in NETWORK:
        return f"{_scaled(value * 8, 1000, ('bit', 'kbit', 'Mbit', 'Gbit'))}/s"
    bytes_ = _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"))
    return bytes_ if series in ("memory", "swap") else f"{bytes_}/s"


def label(series: str, value: float) -> str:
    """Return a value for an axis, in few columns: `0.25`, `32M`, `8M`."""
    if series == "cpu":
        return f"{value:.2f}"
    if series == "pids":
        return f"{value:.0f}"
    scale, value = (1000, value * 8) if series in NETWORK else (1024, value)
    return _scaled(value, scale, ("", "k", "M", "G")).replace(" ", "").replace(".0", "")


def seconds(value: float) -> str:
    """Return a time: `3.0 s`."""
    return f"{value:.1f} s"


def _scaled(value: float, scale: int, units: tuple[str, ...]) -> str:
    for unit in units:
        # What would be rounded up to four digits is said in the next unit.
        if value < scale * 0.9995 or unit == units[-1]:
            break
        value /= scale
    digits = 0 if unit == units[0] or value >= 100 else 1
    return f"{value:.{digits}f} {unit}"

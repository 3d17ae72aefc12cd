"""Numbers as people read them, with their units; strings as a terminal may show them."""

from __future__ import annotations

import math


def format_number(value: float, digits: int = 3) -> str:
    """Format with ``digits`` significant digits, never dropping digits before the point.

    Thousands are grouped (12,345); magnitudes below 0.0001 use an exponent.
    """
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def format_measured(value: float, uncertainty: float | None) -> str:
    """Format a value to the precision its uncertainty allows, such as ``12.34 ± 0.21``.

    The uncertainty is shown with two significant digits; without one, or when it is 0, the
    value is shown with four.
    """
    if not uncertainty:
        return format_number(value, 4)
    decimals = max(0, 1 - math.floor(math.log10(uncertainty)))
    return f"{value:,.{decimals}f} ± {uncertainty:,.{decimals}f}"


def format_seconds(seconds: float) -> str:
    """Format a short time with its unit: milliseconds below one second, else seconds."""
    if seconds < 1:
        return f"{format_number(seconds * 1000)} ms"
    return f"{format_number(seconds)} s"


def format_duration(seconds: float) -> str:
    """Format a time as a clock does: ``0:07``, ``12:34``, ``3:02:01``, ``2d 3:02:01``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02}:{second:02}"
    if hours:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"


def format_bytes(num_bytes: int) -> str:
    """Format a size in binary units: ``512 B``, ``1.18 MiB``, ``24.0 GiB``."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    power = min(5, int(math.log2(num_bytes)) // 10)
    return f"{format_number(num_bytes / 1024**power)} {'KMGTP'[power - 1]}iB"


def format_share(share: float) -> str:
    """Format a fraction as percent with one decimal."""
    return f"{share * 100:.1f} %"


def format_count(count: int, noun: str) -> str:
    """Format a grouped count and its noun, regular plural: ``1 shard``, ``1,024 shards``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Replace characters a terminal would act on, such as escape sequences, by U+FFFD."""
    return "".join(character if character.isprintable() else "�" for character in text)

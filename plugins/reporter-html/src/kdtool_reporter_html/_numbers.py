"""Format numbers for readers: significant digits, units, durations, intervals.

Called by every section. Uses a non-breaking space between number and unit, and a real minus sign.
"""

from __future__ import annotations

from decimal import Decimal
from math import floor, isfinite, isnan, log10

__all__ = [
    "count", "decimals", "difference", "duration", "interval", "money", "percent", "quantity", "span", "tick", "times",
]  # fmt: skip

SPACE = "\u00a0"
_BYTES = ("B", "kB", "MB", "GB", "TB")
_COUNTS = ("", "k", "M", "G", "T")


def quantity(value: float, unit: str, *, spread: float | None = None) -> str:
    """Return a value with its unit; `spread`, the half-width of an interval, sets the number of decimals."""
    if not isfinite(value):
        return _endless(value)
    if unit == "bytes":
        return _with_prefix(value, _BYTES)
    if unit in {"parameters", "tokens"}:
        return _with_prefix(value, _COUNTS)
    if unit in {"s", "seconds"}:
        return duration(value)
    if unit == "fraction":
        return percent(value, spread=spread)
    if unit in {"%", "percent"}:
        return percent(value / 100, spread=None if spread is None else spread / 100)
    return _digits(value, decimals(value, spread))


def interval(low: float, high: float, unit: str) -> str:
    """Return "low to high", both with the decimals that the width justifies."""
    half = (high - low) / 2
    return span(quantity(low, unit, spread=half), quantity(high, unit, spread=half))


def span(low: str, high: str) -> str:
    """Join two formatted values as "low to high"; a common unit appears once."""
    number, _, unit = low.partition(SPACE)
    return f"{number if unit and unit == high.partition(SPACE)[2] else low} to {high}"


def tick(text: str) -> str:
    """Strip trailing zeros off a formatted number for an axis tick: "+20.0 %" gives "+20 %"."""
    number, space, unit = text.partition(SPACE)
    number, power, exponent = number.partition("e")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + power + exponent + space + unit


def difference(value: float, unit: str, *, relative: bool, spread: float | None = None) -> str:
    """Return a signed difference: a relative one in percent, one of fractions in percentage points."""
    scale, suffix = 1.0, ""
    if relative:
        scale, suffix = 100.0, f"{SPACE}%"
    elif unit == "fraction":
        scale, suffix = 100.0, f"{SPACE}points"
    elif unit in {"%", "percent"}:
        suffix = f"{SPACE}points"
    scaled = value * scale
    if not isfinite(scaled):
        return f"+{_endless(scaled)}" if scaled > 0 else _endless(scaled)
    text = _digits(scaled, decimals(scaled, None if spread is None else spread * scale)) + suffix
    return text if text.startswith("−") or not scaled else f"+{text}"


def percent(fraction: float, *, spread: float | None = None) -> str:
    """Return a fraction as a percentage."""
    digits = decimals(fraction * 100, spread * 100) if spread else 1
    return f"{_digits(fraction * 100, min(digits, 2))}{SPACE}%"


def count(value: float) -> str:
    """Return a count: exact with thin spaces below a million, else in millions and more."""
    if abs(value) >= 1_000_000:
        return _with_prefix(value, _COUNTS)
    return f"{value:,.0f}".replace(",", "\u202f")


def money(picodollars: int) -> str:
    """Return an amount in dollars: cents from a dollar on, three significant digits below."""
    dollars = Decimal(picodollars).scaleb(-12)
    places = 2 if dollars >= 1 or not dollars else max(2, 2 - dollars.adjusted())
    return f"${dollars:,.{places}f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Return a span of time in the unit that suits it."""
    if seconds < 0.0995:
        return f"{_digits(seconds * 1000, decimals(seconds * 1000, None))}{SPACE}ms"
    if seconds < 99.5:
        return f"{_digits(seconds, decimals(seconds, None))}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def times(ratio: float) -> str:
    """Return a ratio as "2.6 ×"."""
    return f"{_digits(ratio, decimals(ratio, None))}{SPACE}×"


def decimals(value: float, spread: float | None) -> int:
    """Return the number of decimals to show: two digits of the spread if there is one, else three significant digits."""
    if spread is not None and isfinite(spread) and spread > 0:
        return min(4, max(0, 1 - floor(log10(spread))))
    if not value or not isfinite(value):
        return 0
    rounded = float(f"{abs(value):.3g}")
    return min(6, max(0, 2 - floor(log10(rounded))))


def _with_prefix(value: float, prefixes: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value, step = value / 1000, step + 1
    digits = 0 if step == 0 else decimals(value, None)
    return f"{_digits(value, digits)}{SPACE}{prefixes[step]}".rstrip(SPACE)


def _endless(value: float) -> str:
    return "not a number" if isnan(value) else "∞" if value > 0 else "−∞"


def _digits(value: float, places: int) -> str:
    if abs(value) >= 1e9:
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:,.{places}f}".replace(",", "\u202f")
    if text.startswith("-"):
        return "−" + text[1:] if any(digit in text for digit in "123456789") else text[1:]
    return text

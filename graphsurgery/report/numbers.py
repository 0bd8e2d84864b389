"""Numbers as the report shows them."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"  # as wide as a plus


def at_least(value: float | None) -> str:
    """Two digits of an error, rounded up: it is never shown as smaller than it is."""
    return _two_digits(value, ROUND_CEILING)


def at_most(value: float | None) -> str:
    """Two digits of what is allowed, rounded down: it is never shown as larger than it is."""
    return _two_digits(value, ROUND_FLOOR)


def _two_digits(value: float | None, rounding: str) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING if value is None else str(value)
    rounded = float(Context(prec=2, rounding=rounding).create_decimal(repr(float(value))))
    mantissa, e, exponent = f"{rounded:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def precision(value: float | None) -> str:
    """AP with four digits: evaluations of a few images differ in the third."""
    return NOTHING if value is None else f"{value:.4f}"


def difference(value: float | None, reference: float | None) -> str:
    """The difference of two APs, with a sign; 0 has none."""
    if value is None or reference is None:
        return NOTHING
    text = f"{value - reference:+.4f}"
    return "0" if float(text) == 0 else text.replace("-", _MINUS)


def decibel(value: float | None) -> str:
    """SQNR with one digit behind the point."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}".replace("-", _MINUS)


def milliseconds(value: float | None) -> str:
    """A latency, with as many digits as it is measured to."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def seconds(value: float) -> str:
    """The time of a pass, for a column of them."""
    return "< 0.01 s" if 0 < value < 0.01 else f"{value:,.2f} s"


def duration(seconds: float | None) -> str:
    """A time as people say it: 1.65 s, 38 s, 2 min 28 s."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

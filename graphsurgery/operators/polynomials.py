"""Sums of products of symbols: what a formula is, in whatever order and form it is written.

{(("x", 1),): 2.0, (("f", 1), ("x", -1)): 0.5} is 2 * x + 0.5 * f / x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Term = tuple[tuple[str, int], ...]  # symbols and their powers, sorted
Polynomial = Mapping[Term, float]


def symbol(name: str) -> Polynomial:
    """Return the polynomial that is `name`."""
    return {((name, 1),): 1.0}


def number(value: float) -> Polynomial:
    """Return the polynomial that is a number."""
    return {(): value}


def as_number(polynomial: Polynomial) -> float | None:
    """Return the number that `polynomial` is; None where it holds a symbol."""
    return polynomial[()] if list(polynomial) == [()] else None


def total(first: Polynomial, second: Polynomial, sign: int = 1) -> Polynomial:
    """Return `first` plus `sign` times `second`."""
    return {term: first.get(term, 0) + sign * second.get(term, 0) for term in {**first, **second}}


def product(first: Polynomial, second: Polynomial) -> Polynomial:
    """Return `first` times `second`, multiplied out."""
    result: dict[Term, float] = {}
    for one, factor in first.items():
        for other, value in second.items():
            powers = dict(one)
            for name, power in other:
                powers[name] = powers.get(name, 0) + power
            term = tuple(sorted((name, power) for name, power in powers.items() if power))
            result[term] = result.get(term, 0) + factor * value
    return result


def inverse(polynomial: Polynomial) -> Polynomial | None:
    """Return 1 divided by `polynomial`; None where it is zero or a sum."""
    (term, value), *more = polynomial.items()
    return None if more or not value else {tuple((name, -power) for name, power in term): 1 / value}


def quotient(first: Polynomial, second: Polynomial) -> Polynomial | None:
    """Return `first` divided by `second`; None where that is zero or a sum."""
    reciprocal = inverse(second)
    return None if reciprocal is None else product(first, reciprocal)


def power(polynomial: Polynomial, exponent: int) -> Polynomial | None:
    """Return `polynomial` to an `exponent` that is not 0; None where it is negative and the polynomial a sum."""
    base = inverse(polynomial) if exponent < 0 else polynomial
    result = base
    for _ in range(abs(exponent) - 1):
        result = None if base is None or result is None else product(result, base)
    return result


def degree(polynomial: Polynomial) -> int:
    """Return how many symbols the largest term multiplies or divides by."""
    return max(sum(abs(power) for _, power in term) for term in polynomial)


def difference(got: Polynomial, wanted: Polynomial) -> float | None:
    """Return the largest `deviation` of a number from the one that is wanted; None where the terms differ."""
    if got.keys() != wanted.keys():
        return None
    return max(deviation(got[term], value) for term, value in wanted.items())


def deviation(got: float, wanted: float) -> float:
    """Return how far a number is from the one that is wanted, relative to that; infinite where it can't be told."""
    if got == wanted:
        return 0.0
    return abs(got / wanted - 1) if wanted and math.isfinite(got) else math.inf

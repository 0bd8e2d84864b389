"""What stands in the file of a target.

    title: Rockchip RK3588
    sources: {list: {title: RKNN Compiler Support Operator List, version: 2.3.2, date: 2025-03-31, basis: document}}
    source: list
    operators:
      MaxPool: {kernel: 1..7, stride: ..8, ceil_mode: 0, else: cpu, fix: {kernel: [split-large-maxpool]}}
      Conv:
        - {when: {depthwise: true}, kernel: 1..8}
        - {kernel: 1..31}
      Relu: {}
    others: unknown

The keys of an operator that aren't those of `Rule` are limits: a fact (`facts`), an attribute, or an input of ONNX's
that must be a constant of such a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

Outcome = Literal["taken", "cpu", "refused", "crash", "wrong", "unknown"]
Beyond = Literal["cpu", "refused", "crash", "wrong", "unknown"]
Basis = Literal["document", "code", "measured", "inferred"]
Scalar = bool | int | float | str
# what a `when` may ask for besides facts of the node
PRECISION = "precision"

_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)?\.\.(-?\d+(?:\.\d+)?)?")
_MULTIPLE = re.compile(r"multiple of ([1-9]\d*)")


def _check_text(text: str) -> None:
    found = _RANGE.fullmatch(text)
    if ".." in text and (found is None or not any(found.groups())):
        raise ValueError(f"'{text}' is no range; write 1..8, 1.. or ..8")
    if found is not None and all(found.groups()) and float(found[1]) > float(found[2]):
        raise ValueError(f"'{text}' holds nothing: its end comes before its beginning")
    if text.startswith("multiple") and not _MULTIPLE.fullmatch(text):
        raise ValueError(f"'{text}' is no multiple; write multiple of 64")


def _is_limit(written: object) -> object:
    """Return a value or a list of them, as a tuple. Raises ValueError for anything else."""
    values = written if isinstance(written, list | tuple) else [written]
    if not values or not all(isinstance(value, bool | int | float | str) for value in values):
        raise ValueError("should be a value, a range such as 1..8, or a list of these")
    for value in values:
        if isinstance(value, str):
            _check_text(value)
    return tuple(values) if isinstance(written, list | tuple) else written


Values = Annotated[Any, AfterValidator(_is_limit)]
Names = str | Annotated[tuple[str, ...], Field(min_length=1)]


def one_or_more(names: Names) -> tuple[str, ...]:
    """Return what may be written as one name or as a list."""
    return (names,) if isinstance(names, str) else tuple(names)


@dataclass(frozen=True)
class Allowed:
    """The values that a limit leaves: one of `choices`, each a value, a range such as 1..8, or `multiple of 64`."""

    choices: tuple[Scalar, ...]

    @classmethod
    def of(cls, written: Values) -> Allowed:
        """Return what a value, or a list of them, in a file means."""
        return cls(tuple(written) if isinstance(written, tuple | list) else (written,))

    def holds(self, value: Scalar | tuple[Scalar, ...]) -> bool:
        """Whether a value, or each of several, is among them."""
        if isinstance(value, tuple):
            return all(self.holds(each) for each in value)
        return any(_within(value, choice) for choice in self.choices)

    def meets(self, other: Allowed) -> bool:
        """Whether a value may be among both."""
        choices = [*self.choices, *other.choices]
        ends = [end for choice in choices for end in ends_of(choice)]
        steps = [step for choice in choices if (step := step_of(choice)) is not None]
        numbers = [end for end in ends if isinstance(end, int | float)]
        near = [(end // step + more) * step for step in steps for end in numbers for more in (0, 1)]
        return any(self.holds(end) and other.holds(end) for end in (*ends, *near, math.prod(steps)))

    @property
    def told(self) -> str:
        """The choices as a person says them: `at most 7`, `nearest or linear`."""
        words = [_told(choice) for choice in self.choices]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

    def __str__(self) -> str:
        """The choices as they are written."""
        words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices]
        return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def ends_of(choice: Scalar) -> list[Scalar]:
    """Return the ends of a range that it has, or the value itself."""
    found = _RANGE.fullmatch(choice) if isinstance(choice, str) else None
    if found is None:
        return [choice] if step_of(choice) is None else []
    return [float(end) for end in found.groups() if end is not None]


def _told(choice: Scalar) -> str:
    ends = _RANGE.fullmatch(choice) if isinstance(choice, str) else None
    if ends is None:
        said = str(choice).lower() if isinstance(choice, bool) else str(choice)
        return f"a {said}" if step_of(choice) is not None else said
    low, high = ends.groups()
    return f"at most {high}" if low is None else f"at least {low}" if high is None else f"{low} to {high}"


def step_of(choice: Scalar) -> int | None:
    """Return the number whose multiples a choice stands for, None where it is another one."""
    found = _MULTIPLE.fullmatch(choice) if isinstance(choice, str) else None
    return None if found is None else int(found[1])


def _within(value: Scalar, choice: Scalar) -> bool:
    step = step_of(choice)
    if step is not None:
        return not isinstance(value, bool | str) and value % step == 0
    ends = _RANGE.fullmatch(choice) if isinstance(choice, str) else None
    if ends is None:
        # in Python True is 1; in a file that would be a mistake
        return value == choice and isinstance(value, bool) == isinstance(choice, bool)
    if isinstance(value, bool | str):
        return False
    low, high = ends.groups()
    return (low is None or float(low) <= value) and (high is None or value <= float(high))


class Section(BaseModel):
    """A mapping of the file whose keys are known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Source(Section):
    """Where a line comes from: a document, the vendor's code, or a measurement, of which version and from when."""

    title: str = Field(min_length=1)
    version: str | int | float | None = None
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    basis: Basis
    url: str | None = None

    def __str__(self) -> str:
        """The source in one line."""
        version = "" if self.version is None else f" {self.version}"
        return f"{self.title}{version}, {self.date} ({self.basis})"


class Rule(BaseModel):
    """The limits of an operator. The first rule of an operator counts whose `when` a node fulfils.

    Where it isn't `taken` at all, it is what `else` says: `TopK: cpu` is short for that, `Relu: taken` for a rule
    without limits. Operators that have the same rule may stand in one key, `Sin, Cos: taken`.

    `precisions` are those in which the operator is taken at all. Beyond a limit the outcome is `else`, and `fix` are
    passes that help, each for any limit or by its name. `constant` are inputs that must be constants, `omitted` those
    that must not be there, `written` attributes or inputs that must be. `at` is the place in the source, `note` what
    else is to be known, `against` what a document says that a measurement contradicts, of the line or of a
    limit by its name. All other keys are limits.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    taken: bool = True
    when: Mapping[str, Values] = {}
    precisions: Names | None = None
    beyond: Beyond | Mapping[str, Beyond] | None = Field(None, alias="else")
    fix: Names | Mapping[str, Names] = ()
    constant: Names = ()
    omitted: Names = ()
    written: Names = ()
    source: str | None = None
    at: str | int | None = None
    note: str | None = None
    against: str | Mapping[str, str] | None = None
    __pydantic_extra__: dict[str, Values]

    @property
    def limits(self) -> dict[str, Allowed]:
        """The limits by the name of what they are about."""
        return {name: Allowed.of(value) for name, value in (self.__pydantic_extra__ or {}).items()}

    @property
    def conditions(self) -> dict[str, Allowed]:
        """What a node must be for the rule to count."""
        return {name: Allowed.of(value) for name, value in self.when.items()}

    def outcome(self, limit: str | None) -> Beyond | None:
        """Return what becomes of a node beyond a limit, or of one never taken; None where the rule is silent."""
        if isinstance(self.beyond, Mapping):
            return None if limit is None else self.beyond.get(limit)
        return self.beyond

    def contradicted(self, limit: str | None) -> str | None:
        """Return what a document says of a limit, or of the line if None, where a measurement contradicts."""
        if isinstance(self.against, Mapping):
            return None if limit is None else self.against.get(limit)
        return self.against

    def fixes(self, limit: str | None) -> tuple[str, ...]:
        """Return the passes that help where a node is beyond a limit, or whatever it is beyond if None."""
        if isinstance(self.fix, Mapping):
            return one_or_more(self.fix[limit]) if limit is not None and limit in self.fix else ()
        return one_or_more(self.fix)


def parse_fix(fix: str) -> tuple[str, dict[str, Scalar]]:
    """Return the pass that a fix such as `resize-mode to=half_pixel` names, and its options.

    Raises ValueError for an option without a value.
    """
    name, *words = fix.split()
    options: dict[str, Scalar] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if not (option and equals and value):
            raise ValueError(f"'{word}' should be an option with its value, such as to=half_pixel")
        options[option] = _BOOLEANS.get(value, int(value) if value.isdecimal() else value)
    return name, options


_BOOLEANS = {"true": True, "false": False}


def operators_in(key: str) -> tuple[str, ...]:
    """Return the operators that a key of `operators` names."""
    return tuple(op.strip() for op in key.split(","))


def _kind(written: object) -> str:
    return "rules" if isinstance(written, list | tuple) else "outcome" if isinstance(written, str) else "rule"


# told apart before they are read, so that a mistake is told of what was meant
_OneRule = Annotated[
    Annotated[Outcome, Tag("outcome")] | Annotated[Rule, Tag("rule")],
    Discriminator(lambda written: "outcome" if isinstance(written, str) else "rule"),
]
_Rules = Annotated[
    Annotated[Outcome, Tag("outcome")]
    | Annotated[Rule, Tag("rule")]
    | Annotated[tuple[Rule, ...], Field(min_length=1), Tag("rules")],
    Discriminator(_kind),
]

_RuleOrRules = Annotated[
    Annotated[Rule, Tag("rule")] | Annotated[tuple[Rule, ...], Field(min_length=1), Tag("rules")],
    Discriminator(lambda written: "rules" if isinstance(written, list | tuple) else "rule"),
]


def _rules(written: Outcome | Rule | tuple[Rule, ...]) -> tuple[Rule, ...]:
    if isinstance(written, str):
        return (Rule() if written == "taken" else Rule.model_validate({"taken": False, "else": written}),)
    return (written,) if isinstance(written, Rule) else written


class Target(Section):
    """An accelerator. `tensors` are limits of whatever a node reads and writes, and rules by which no node is taken of
    which their `when` holds, whatever its operator; `whole` are those of the graph, beyond
    which no node is taken (`targets.whole`), `others` stand for all operators that
    the file doesn't name. `else` is what becomes of a node beyond a limit whose rule doesn't say; if not given, what
    becomes of others. `precisions` are the ways in which it computes, the first the usual one. `compiler` names the one
    that makes its models, with the options that this takes for it. A file that extends another is laid over it before
    (`layers`).
    """

    title: str = Field(min_length=1)
    sources: Annotated[Mapping[str, Source], Field(min_length=1)]
    source: str
    precisions: Annotated[tuple[str, ...], Field(min_length=1)] = ("any",)
    tensors: _RuleOrRules = Rule()
    whole: Rule = Rule()
    others: _OneRule
    beyond: Beyond | None = Field(None, alias="else")
    operators: Mapping[str, _Rules]
    compiler: Annotated[Mapping[str, Mapping[str, Any]], Field(max_length=1)] = {}
    note: str | None = None

    def rules(self, op: str) -> tuple[Rule, ...]:
        """Return the rules of an operator, none where the file doesn't name it."""
        return self._by_operator.get(op, ())

    @cached_property
    def _by_operator(self) -> dict[str, tuple[Rule, ...]]:
        return {op: _rules(written) for op, written in self.operators.items()}

    @cached_property
    def general(self) -> tuple[Rule, ...]:
        """The rules of all operators, in their order."""
        return (self.tensors,) if isinstance(self.tensors, Rule) else self.tensors

    @cached_property
    def other(self) -> Rule:
        """The rule of all operators that the file doesn't name."""
        return _rules(self.others)[0]

    def outcome(self, rule: Rule, limit: str | None) -> Beyond:
        """Return what becomes of a node beyond a limit of a rule, or of one that is never taken."""
        return rule.outcome(limit) or self.beyond or self.other.outcome(None) or "unknown"

    def source_of(self, rule: Rule) -> Source:
        """Return where a rule comes from."""
        return self.sources[rule.source or self.source]

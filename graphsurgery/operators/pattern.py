"""Chains of operators as text, for passes that fuse them.

    Pattern("0.5 * x * (1 + Erf(x / sqrt(2))) -> Gelu(x)")

A pattern is data: `python -m graphsurgery passes NAME` shows it where it stands on the class of a pass.

- `+ - * / **` are Add, Sub, Neg, Mul, Div, Reciprocal and Pow. A formula of these is compared multiplied out, so its
  operators may stand in any order and form. Its constants must be floating-point numbers of one element.
- `Erf(x)` is what an operator writes; `com.microsoft.Gelu(x)` is one of another domain. Add(a, b) and Mul(a, b) are
  the operators themselves, which take their two inputs in any order.
- `Clip(x, 0, 6)` reads exactly this; bounds that an older operator set has as attributes are looked for there.
- `HardSigmoid(x, beta=1/2)`: an attribute that is not written out has its default, in the pattern and in the graph.
  `ReduceMean(x, ...)` may have any other inputs and attributes.
- `x` is any tensor, the same one wherever it stands, and not a number where it stands in a formula. Names given as
  `numbers` are constants of one element.
- `d = x - ReduceMean(x)` gives a tensor inside a name. What is written twice alike, or has a name, is one tensor.
- What stands behind `->` is what `Match.replace` makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import consumers
from graphsurgery.operators.operands import FLOATS, scalar
from graphsurgery.operators.pattern_search import TOLERANCE, Search
from graphsurgery.operators.pattern_text import Call, Name, Named, Parsed, parse
from graphsurgery.rewrite import Editor, Refuse


class Pattern:
    """Chains of operators that compute the same, each as text; this module says what it may hold.

    `matches` are the operators that a search begins at, to be those of the pass. Raises ValueError for text that
    means nothing, with its line and column.
    """

    def __init__(self, *texts: str, numbers: Sequence[str] = ()) -> None:
        if not texts:
            raise ValueError("a pattern needs a text")
        self._parsed = tuple(parse(text, numbers) for text in texts)
        self.matches = tuple(dict.fromkeys(op for each in self._parsed for op in each.matches))

    @property
    def texts(self) -> tuple[str, ...]:
        """What was given, each in lines without indentation."""
        return tuple(each.text for each in self._parsed)

    def match(self, node: gs.Node, edit: Editor, check: Callable[[Match], None] | None = None) -> Match | None:
        """Return how `node` takes part in the pattern; None where it doesn't, or a constant is another one.

        `check` raises Refuse where a match won't do. Then the next way to read the node is tried, and where there is
        none the first reason is raised.
        """
        refusal: Refuse | None = None
        for found in self._all(node, edit):
            if not found.close:
                continue
            try:
                if check is not None:
                    check(found)
            except Refuse as error:
                refusal = refusal or error
            else:
                return found
        if refusal is not None:
            raise refusal
        return None

    def nearest(self, node: gs.Node, edit: Editor) -> Match | None:
        """Return the match whose constants differ least, however much that is: `require_constants` refuses it then."""
        return min(self._all(node, edit), key=lambda found: found.error, default=None)

    def _all(self, node: gs.Node, edit: Editor) -> Iterator[Match]:
        for parsed in self._parsed:
            for last, found in Search(edit.opset).around(node, parsed):
                yield Match(last, found.nodes, found.error, found.roundings, found.rank, found.bound, parsed, edit)


@dataclass(frozen=True)
class Match:
    """Where a pattern stands in a graph; `match["x"]` is the tensor that it calls x.

    `last` writes the result, `nodes` are all operators of it, each behind those that it reads. `error` is how far its
    constants are from the pattern's, relative to these, `roundings` the same in those of their type, and `rank` the
    largest of one.
    """

    last: gs.Node
    nodes: tuple[gs.Node, ...]
    error: float
    roundings: float
    rank: int
    _bound: Mapping[str, gs.Tensor] = field(repr=False)
    _parsed: Parsed = field(repr=False)
    _edit: Editor = field(repr=False)

    def __getitem__(self, name: str) -> gs.Tensor:
        return self._bound[name]

    @property
    def close(self) -> bool:
        """Whether its constants are the pattern's, but for their rounding."""
        return self.roundings <= TOLERANCE

    def number(self, name: str) -> float:
        """Return the value of a constant that the pattern has as a name."""
        value = scalar(self[name])
        if value is None:
            raise ValueError(f"'{name}' is not among the numbers of the pattern: {self._parsed.text}")
        return value

    def require_constants(self, whose: str) -> None:
        """Refuse constants that are not the pattern's; `whose` these are, such as "GELU's", is for the reason."""
        if not self.close:
            raise Refuse(f"a constant differs from {whose} by {self.error:.1e} of its value")

    def require_opset(self) -> None:
        """Refuse an operator set that is older than the operator behind the arrow."""
        op = self._result.op
        needed = _since(op)
        if self._edit.opset < needed:
            raise Refuse(f"{op} needs operator set {needed}")

    def require_type(self, *names: str, types: Sequence[str] = FLOATS) -> None:
        """Refuse elements that are not of one of `types`, or nothing tells; all tensors of `names` are of one type."""
        known = (self._edit.dtype(self[name]) for name in names)
        found = next((dtype for dtype in known if dtype is not None), None)
        if found is None or found.name not in types:
            raise Refuse(f"its elements are {found or 'of unknown type'}, not {' or '.join(types)}")

    def require_private(
        self, reason: str = "a tensor inside is read by another node too, or is a graph output"
    ) -> None:
        """Refuse, with `reason`, where anything but the pattern needs what its operators compute on the way."""
        own = {id(node) for node in self.nodes}
        kept = {id(self[name]) for name in self._parsed.names}
        for tensor in (tensor for node in self.nodes if node is not self.last for tensor in node.outputs):
            read = id(tensor) in kept or any(id(reader) not in own for reader in consumers(tensor))
            if read or self._edit.is_output(tensor):
                raise Refuse(reason)

    def require_rank(self, name: str) -> None:
        """Refuse constants of more dimensions than `name`, which the result would have too; asks for its shape."""
        shape = self._edit.shape(self[name]) if self.rank else []
        if shape is None or len(shape) < self.rank:
            raise Refuse(f"a constant of rank {self.rank} may add dimensions to the result")

    def replace(self) -> None:
        """Let the operator behind the arrow write the result."""
        result = self._result
        inputs = [self[operand.key] for operand in result.operands if isinstance(operand, Name | Named)]
        self._edit.replace(self.last, result.op, inputs, result.attrs)

    @property
    def _result(self) -> Call:
        if self._parsed.result is None:
            raise ValueError(f"there is no -> in the pattern {self._parsed.text}")
        return self._parsed.result


@cache
def _since(op: str) -> int:
    """Return the first operator set that has one of ONNX's own operators."""
    return min(
        each.since_version for each in onnx.defs.get_all_schemas_with_history() if each.name == op and not each.domain
    )

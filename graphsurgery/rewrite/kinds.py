"""What a pass is: NodePass, GraphPass or ModelPass, and how it says no."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery.rewrite.editor import Editor

if TYPE_CHECKING:
    from graphsurgery.graph.model import Model
    from graphsurgery.rewrite.context import PassContext

Effect = Literal["exact", "approximate"]


class Refuse(Exception):
    """Raised by a pass, from any depth and before its first edit, to leave a node as it is; `reason` is shown.

    `node` is the one that the reason is about, where that is not the node at hand.
    """

    def __init__(self, reason: str, node: gs.Node | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


@dataclass(frozen=True)
class Pass:
    """A rewrite. Subclass NodePass, GraphPass or ModelPass.

    One that takes outputs away, adds or renames them says `keeps_outputs = False`; of any other that is a fault. One
    that can't do without captured samples says `needs_samples = True`; it leaves inputs and outputs as they are.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]
    keeps_outputs: ClassVar[bool] = True
    needs_samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ValueError where an option is none of the literals that its type lists."""
        kinds = get_type_hints(type(self)) if fields(self) else {}
        for option in fields(self):
            value, choices = getattr(self, option.name), get_args(kinds[option.name])
            if get_origin(kinds[option.name]) is Literal and value not in choices:
                raise ValueError(f"{option.name} must be one of {', '.join(map(str, choices))}, not {value}")

    @classmethod
    def suited(cls, model: Model, context: PassContext) -> Self | None:
        """Return the pass with the options that suit a model, None where only a person can say them."""
        needed = [field for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]
        return None if needed else cls()

    def prepare(self) -> None:
        """Start what takes long to start, without waiting for it; called for all passes when a run begins."""


class NodePass(Pass):
    """A rewrite around one node, called for each that `matches`, those in If and Loop bodies included.

    `matches` holds operators by name: "Conv" is ONNX's own, "com.microsoft.Gelu" that of another domain. Without any,
    `rewrite` is called for every node.
    """

    matches: ClassVar[tuple[str, ...]] = ()

    def looks_at(self) -> tuple[str, ...] | None:
        """Return the operators that it is called for, as in `matches`, where its options say which; None for all."""
        return self.matches or None

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Look at `node`; return, raise Refuse with a reason, or rewrite it."""
        raise NotImplementedError


class GraphPass(Pass):
    """A rewrite that needs the whole graph, called once.

    `matches`, as of a NodePass, is for those who look for a pass: `passes --op`, and messages that name one.
    """

    matches: ClassVar[tuple[str, ...]] = ()

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        """Change `graph` in place, or raise Refuse, having changed nothing."""
        raise NotImplementedError


class ModelPass(Pass):
    """A rewrite by a tool that takes and returns a ModelProto.

    All values lie in it, unless the pass says `takes_references = True`: then large weights of external data are
    references (`graph.outside`), so that a model above 2 GB can be worked on, and those that it returns are kept.
    """

    takes_references: ClassVar[bool] = False

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        """Return the rewritten model; `model` itself may be changed or returned. Or raise Refuse."""
        raise NotImplementedError

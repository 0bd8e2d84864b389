"""Let onnxsim fold constants, fuse and clean up, in a process of its own.

    Shape(x) -> Gather(0) -> Concat([.., -1]) -> Reshape(y, ..)  ->  Reshape(y, [1, -1])
    Conv -> BatchNormalization                                   ->  Conv
    If(a constant) then A else B                                 ->  A

It is run until it changes nothing any more, on the shapes that follow from those of the inputs: of other ones that are
written down it is not told. Inputs and outputs keep their names, order, types and shapes; the model keeps its operator
sets and notes. The shapes that onnxsim infers are written into value_info, and Constant nodes become initializers,
which takes IR version 4. A large weight that nothing folds into is not handed over. Should onnxsim crash or need more
time or memory than allowed, the run ends with a message that says so; nothing is lost.

It leaves the model as it is when
1. an initializer is also an input: a caller may override it, and onnxsim would take it for a constant
2. it holds training information: initializers that a training step rewrites are no constants
3. it holds quantization annotations, which onnxsim drops
4. ONNX Runtime, with which onnxsim evaluates constants, does not know the operator set or the IR version
5. a node of another domain, such as a call of a local function, has the name of an operator of ONNX: onnxsim looks at
   the name alone and would take my.Identity out, merge my.Relu with a Relu and give my.Conv a bias; a custom operator
   that is known here gets another name meanwhile
6. it takes a tensor out of a sequence or an optional that it has built itself: onnxsim joins the two ends and gives an
   input or an output of the model, or of a body, the name of the other end
7. a node has a sparse tensor among its attributes, which onnxsim can't read
8. onnxsim changed the inputs or the outputs for another reason

onnxsim calls what it makes _v_1, _v_2 and so on, also in a body where a graph around it has such a name already; where
there are bodies, such names are changed before each run.

A BatchNormalization or a Dropout stays where a node of that kind trains, or normalises each element by itself; onnxsim
does not know that those of operator sets before 7 train unless `is_test` is 1. Equal nodes are not merged where the
model draws random numbers: two draws would become one. An If with a constant condition stays where onnxsim fails to
take it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TensorShapeProto, ValueInfoProto

from graphsurgery import graph as graphs
from graphsurgery.graph import RANDOM_OPS, STANDARD_DOMAINS, attribute, claims, shapes
from graphsurgery.graph.door import MAX_BYTES
from graphsurgery.graph.expansion import custom_nodes
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in, rename_in
from graphsurgery.graph.outside import read_outside, size_of
from graphsurgery.graph.protos import graphs_in, stored_names, walk_protos, without_initializers
from graphsurgery.operators.idle_weights import at_work, set_aside, twins
from graphsurgery.operators.training import why_it_trains
from graphsurgery.processes import onnxsim_process
from graphsurgery.rewrite import Editor, ModelPass, Refuse

# Dropout draws too, in training mode
FREE_INITIALIZERS = 4  # the first IR version in which an initializer need not be an input as well
# One round may open the way for another; the suite of ONNX needs two, and one more to see that it was the last.
MAX_ROUNDS = 6
MARK = "graphsurgery_"
OWN_NAME = re.compile(r"_v_\d+")
SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)
# What onnxsim 0.8.1 takes out where the second reads the first; in a body what is left is in an order that it refuses.
UNDONE_PAIRS = (("SequenceConstruct", "SequenceAt"), ("Optional", "OptionalGetElement"))
TAKEN_FOR_INFERENCE = {"BatchNormalization": "fuse_bn_into_conv", "Dropout": "eliminate_nop_dropout"}
MERGES_EQUAL_NODES = "eliminate_common_subexpression"
CONTRIB = "com.microsoft"
FUSES_INTO_CONTRIB = ("fuse_attention", "fuse_gqa", "fuse_rope")  # the model need not import what they write


@dataclass(frozen=True)
class Simplify(ModelPass):
    """`seconds` and `memory_mb` limit each run of onnxsim, whose process needs 120 MB before it does anything.

    An Expand, Tile or ConstantOfShape that writes more than `largest_mb` is not evaluated. `skip` names optimizers
    of onnxsim to leave out, such as fuse_bn_into_conv. `contrib` lets it fuse attention into operators of
    com.microsoft, which ONNX Runtime has and hardly any compiler. MB are 10^6 bytes.
    """

    name = "simplify"
    effect = "exact"
    takes_references = True

    seconds: float = 600.0
    memory_mb: int = 8000
    largest_mb: float = 16.0
    skip: tuple[str, ...] = ()
    contrib: bool = False

    def __post_init__(self) -> None:
        for option in ("seconds", "memory_mb", "largest_mb"):
            if getattr(self, option) <= 0:
                raise ValueError(f"{option} must be above 0, not {getattr(self, option)}")

    def prepare(self) -> None:
        onnxsim_process.running.start()

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        _require_readable(model)
        light, waiting = set_aside(Model(model, edit.folder).bound().proto)
        view = Model(light).graph()
        graphs.sort(view)  # onnxsim takes no other order
        given = _without_claims(Model.of(view).proto)
        _mark(given)
        given.ir_version = max(given.ir_version, FREE_INITIALIZERS)
        misled = _misled(view)
        has_bodies = len(graphs_in(given.graph)) > 1  # where the last one goes, a name may still wait to come back
        freed = _free_own_names(given) if has_bodies else {}
        given_names = {name: before for before, name in freed.items()}
        waiting = _renamed(waiting, freed)
        done_with: dict[str, TensorProto] = {}
        if self.contrib:
            _import_contrib(given)
        wanted, settled = twins(waiting), False
        for _ in range(MAX_ROUNDS):
            # a weight goes along once, when something may be folded into it, and is not looked at again
            taken_along = {name: waiting.pop(name) for name in dict.fromkeys([*wanted, *at_work(given.graph, waiting)])}
            if settled and not taken_along:
                break
            wanted = []
            _require_one_message(taken_along)
            _put_back(taken_along, given.graph)
            read_outside(given, None)
            draws = [MERGES_EQUAL_NODES] if _draws(given) else []  # a Dropout goes in the first round
            skip = [*self.skip, *misled, *draws, *(() if self.contrib else FUSES_INTO_CONTRIB)]
            done = onnxsim_process.simplify(
                given, seconds=self.seconds, memory_mb=self.memory_mb, largest_mb=self.largest_mb, skip=skip
            )
            if done.note is not None:
                edit.skip(None, done.note)
            if done.model is None:
                return model
            for kind in ("input", "output"):
                before, after = ([info.name for info in getattr(m.graph, kind)] for m in (given, done.model))
                if before != after:
                    raise Refuse(f"onnxsim made the {kind}s {after} of {before}")
            simplified, heavy = set_aside(_with_frame_of(given, done.model))
            moved = _free_own_names(simplified) if has_bodies else {}
            waiting, done_with = _renamed(waiting, moved), _renamed(done_with | heavy, moved)
            settled = not heavy and _same(simplified, given)
            given = simplified
        _unmark(given)
        simplified = _with_frame_of(model, given)
        if any(node.domain == CONTRIB for node in walk_protos(simplified.graph)):
            _import_contrib(simplified)
        _put_back(done_with | waiting, simplified.graph)
        rename_in(simplified, given_names)
        _claim_again(model.graph, simplified.graph)
        if simplified.graph.initializer:
            simplified.ir_version = max(simplified.ir_version, FREE_INITIALIZERS)
        return simplified


def _require_one_message(weights: Mapping[str, TensorProto]) -> None:
    """Raise Refuse where onnxsim can't be given `weights`, which something may be folded into."""
    size = sum(map(size_of, weights.values()))
    if size > MAX_BYTES:
        raise Refuse(
            f"onnxsim would need {size / 1e9:.1f} GB of weights that something may be folded into, '{min(weights)}' "
            "among them, and takes 2 GB; put fold-batchnorm and fold-affine before it, or simplify the parts"
        )


def _import_contrib(model: ModelProto) -> None:
    if not any(entry.domain == CONTRIB for entry in model.opset_import):
        model.opset_import.add(domain=CONTRIB, version=1)


def _same(one: ModelProto, other: ModelProto) -> bool:
    return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))


def _free_own_names(model: ModelProto) -> dict[str, str]:
    """Give tensors with names as onnxsim makes them others, and return which it gave."""
    names = names_in(model.graph)
    moved: dict[str, str] = {}
    for name in sorted(name for name in names if OWN_NAME.fullmatch(name)):
        moved[name] = fresh(name.removeprefix("_"), names)
        names.add(moved[name])
    rename_in(model, moved)
    return moved


def _renamed(weights: dict[str, TensorProto], names: dict[str, str]) -> dict[str, TensorProto]:
    return {names.get(name, name): tensor for name, tensor in weights.items()}


def _put_back(weights: dict[str, TensorProto], graph: GraphProto) -> None:
    """Make the weights that something reads initializers of `graph`, under the names they have here."""
    read = {name for node in walk_protos(graph) for name in node.input} | {info.name for info in graph.output}
    inputs = [info for info in graph.input if info.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    for name, tensor in weights.items():
        if name in read:
            kept = graph.initializer.add()
            kept.CopyFrom(tensor)
            kept.name = name


def _require_readable(model: ModelProto) -> None:
    """Raise Refuse where onnxsim would take something in `model` for something else."""
    defaults = sorted(stored_names(model.graph) & {info.name for info in model.graph.input})
    if defaults:
        raise Refuse(
            f"initializer '{defaults[0]}' is also an input, which a caller may override ({len(defaults)} such); "
            "put drop-initializer-inputs before it"
        )
    if model.training_info:
        raise Refuse("it holds training information, so its initializers are no constants")
    if any(graph.quantization_annotation for graph in graphs_in(model.graph)):
        raise Refuse("it holds quantization annotations, which onnxsim drops")
    nodes = walk_protos(model.graph)  # the insides of functions are safe, onnxsim does not look at them
    known = {(node.domain, node.op_type) for node in custom_nodes(model)}
    for node in nodes:
        namesake = node.domain not in STANDARD_DOMAINS and onnx.defs.has(node.op_type)
        if namesake and (node.domain, node.op_type) not in known:
            own = f"'{node.op_type}' of domain '{node.domain}'"
            raise Refuse(f"onnxsim would take {own} for the operator of ONNX of that name")
        if any(attribute.type in SPARSE for attribute in node.attribute):
            raise Refuse(f"onnxsim can't read the sparse tensor of a {node.op_type}")
    present = {node.op_type for node in nodes if node.domain in STANDARD_DOMAINS}
    for built, taken in UNDONE_PAIRS:
        if {built, taken} <= present:
            pair = f"it has {built} and {taken}"
            raise Refuse(f"{pair}; onnxsim joins them and renames the model's inputs or outputs by that")


def _mark(model: ModelProto) -> None:
    """Give custom operators names that ONNX has none of, for as long as onnxsim is at work."""
    for node in custom_nodes(model):
        node.op_type = MARK + node.op_type


def _unmark(model: ModelProto) -> None:
    for node in walk_protos(model.graph):
        node.op_type = node.op_type.removeprefix(MARK)


def _misled(view: gs.Graph) -> list[str]:
    """Return the optimizers of onnxsim that misread a node of `view`, as a plain normalisation or as a copy.

    They look at `training_mode`, but not at `is_test` and `spatial`, which old operator sets have in its place.
    """
    others = {
        node.op
        for node in graphs.walk_nodes(view)
        if why_it_trains(node, view.opset) is not None or not attribute(node, "spatial", 1)
    }
    return [optimizer for op, optimizer in TAKEN_FOR_INFERENCE.items() if op in others]


def _draws(model: ModelProto) -> bool:
    nodes = walk_protos(model.graph)
    for function in model.functions:
        nodes += walk_protos(GraphProto(node=function.node))
    return any(node.op_type in RANDOM_OPS for node in nodes)


def _with_frame_of(model: ModelProto, simplified: ModelProto) -> ModelProto:
    """Return `simplified` with everything of `model` that is not the nodes' business: interface, versions, notes."""
    framed = without_initializers(model)
    for part in ("node", "initializer", "sparse_initializer", "value_info"):
        framed.graph.ClearField(part)
        getattr(framed.graph, part).extend(getattr(simplified.graph, part))
    _lift_constants(framed.graph)
    notes = {(node.op_type, *node.output): node.metadata_props for node in walk_protos(model.graph)}
    for node in walk_protos(framed.graph):
        if not node.metadata_props:
            node.metadata_props.extend(notes.get((node.op_type, *node.output), ()))
    return framed


def _without_claims(model: ModelProto) -> ModelProto:
    """Return `model`, which is spoiled, with no shapes but those that follow from its inputs: onnxsim believes them."""
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in model.graph.output if _has_shape(info)}
    known = shapes.infer(model, None)
    claims.forget_claims_in_bodies(known.graph)  # what is inferred there depends on what is folded there already
    for body in graphs_in(known.graph)[1:]:
        del body.value_info[:]
    for info in known.graph.output:
        if info.name in ranks and not _has_shape(info):  # the checker wants its rank
            shape = info.type.tensor_type.shape
            shape.SetInParent()
            shape.dim.extend(TensorShapeProto.Dimension() for _ in range(ranks[info.name]))
    return known


def _has_shape(info: ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.HasField("shape"))


def _claim_again(before: GraphProto, graph: GraphProto) -> None:
    """Write again what was written down of tensors that are left, as of custom operators, where less is known."""
    claims = {info.name: info for info in before.value_info if _has_shape(info) and not OWN_NAME.fullmatch(info.name)}
    written = {name for node in graph.node for name in node.output} - {info.name for info in graph.output}
    for info in graph.value_info:
        claim = claims.pop(info.name, None)
        if claim is None:
            continue
        if not _has_shape(info):
            info.CopyFrom(claim)
        shape, claimed = info.type.tensor_type.shape.dim, claim.type.tensor_type.shape.dim
        for dim, size in zip(shape, claimed, strict=True) if len(shape) == len(claimed) else ():
            if not dim.HasField("dim_value"):
                dim.CopyFrom(size)
    graph.value_info.extend(claims[name] for name in sorted(claims.keys() & written))


def _lift_constants(graph: GraphProto) -> None:
    """Turn the Constant nodes of `graph` into initializers; onnxsim reorders them in each run.

    Those that write its outputs stay, before all other nodes and by name.
    """
    promised = {info.name for info in graph.output}
    constants, others = [], []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
            others.append(node)
        elif node.attribute[0].name == "value" and node.output[0] not in promised:
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            constants.append(node)
    del graph.node[:]
    graph.node.extend([*sorted(constants, key=lambda node: str(node.output[0])), *others])

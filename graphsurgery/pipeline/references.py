"""What a tensor is compared with that the capture has no name for: names found by value, and values computed before.

A pass may make an inner tensor an end of the graph, and a cut makes inner tensors the ends of parts. Where one equals a
captured tensor it gets its name; else what the graph before computed is kept as its reference.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery import graph as graphs
from graphsurgery.capture.samples import Sample
from graphsurgery.detections.row_groups import Group
from graphsurgery.errors import PassError
from graphsurgery.gate import row_members
from graphsurgery.gate.gate import Judged, Tensors
from graphsurgery.graph import names as naming
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import stored_names
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.partition import boundary_names
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.sampled_shapes import fill_from_samples
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.runtime.player import PartPlayer


def new_ends(before: Model, after: Model, samples: Sequence[Sample], granted: bool) -> list[str]:
    """Return the inner tensors of the graph before a pass that the pass made inputs or outputs, as far as needed.

    That is for their names where the capture has none of theirs, and behind a grant for the outputs' values.
    """
    inner = _tensors(before)
    ends = dict.fromkeys((*after.inputs, *after.outputs))
    compared = {name for name in after.outputs if granted and name not in before.outputs}
    if not samples:  # nothing is run
        return []
    return [name for name in ends if name in inner and (name not in samples[0] or name in compared)]


def adopt_names(
    place: str,
    before: Judged[Model],
    computed: Sequence[Tensors],
    after: Model,
    samples: Sequence[Sample],
    groups: Sequence[Group],
) -> tuple[Model, list[Tensors] | None]:
    """Give new inputs and outputs of the graph the names of the captured tensors that they equal.

    A pass that takes away one end of the graph (preprocessing, say) makes an inner tensor an input or output. One that
    equals none is held against what the graph before the pass computes for it. Behind a grant nothing need equal what
    was captured; there a new output stands for the one at its place. `computed` is what the graph before gave on each
    sample for its outputs and for `new_ends`, nothing where there are none. Returns also what it gave for the outputs
    that the graph has now, None where nothing was granted to it. `place` says in a message which pass it is. Raises
    PassError for an end of the graph that nothing is known of.
    """
    graph = before.subject
    inner = _tensors(graph)
    new = [name for name in (*after.inputs, *after.outputs) if samples and name not in samples[0]]
    names: dict[str, str] = {}
    if new:
        had = [name for name in new if name in inner]
        values = [{name: each[name] for name in had} for each in computed]
        ends = [{name: each[name] for name in graph.outputs if name in each} for each in computed]
        row_members.remember(values, samples, groups, ends)
        made = [name for name in new if name not in inner]
        if made and not set(made) & set(after.inputs):
            made_values = boundary_names.played(after, made, samples)
            values = [a | {name: b[name] for name in made} for a, b in zip(values, made_values, strict=True)]
        names = boundary_names.name_by_value(values, samples, groups, ends)
        if before.granted and len(after.outputs) == len(graph.outputs):
            places = zip(after.outputs, graph.outputs, strict=True)
            names |= {
                name: old for name, old in places if name in made and name not in names and old not in after.outputs
            }
        unknown = [name for name in made if name not in names]
        if unknown:
            raise PassError(
                f"{place} makes '{unknown[0]}' an input or output of the graph, which nothing is known to "
                f"compare with; it must be a tensor of the graph before, or equal a captured one"
            )
    renamed = rename_tensors(after, names)
    if before.outputs is None:
        return renamed, None
    called = {now: old if old in inner else now for now, old in zip(renamed.outputs, after.outputs, strict=True)}
    both = [{**inside, **kept} for inside, kept in zip(computed, before.outputs, strict=True)]
    return renamed, [{now: each[old] for now, old in called.items()} for each in both]


def _tensors(model: Model) -> set[str]:
    """Return the names of the tensors that can be asked of a run: none of those in a node's body."""
    graph = model.proto.graph
    return {name for node in graph.node for name in node.output} | {*model.inputs} | stored_names(graph)


def name_boundary(
    found: Cut,
    computed: Sequence[Tensors],
    samples: Sequence[Sample],
    groups: Sequence[Group],
    captured: Sequence[Sample] = (),
) -> None:
    """Rename the crossing tensors in the graph of `found`, and fill in shapes and types.

    `captured` are all samples there are, which sizes are taken from that nothing else tells. `computed` is what the
    graph gave for them and for its outputs on each sample. A name that an input or output of the graph has is not
    given to a tensor that was it before an approximate pass; an inner tensor makes way.
    """
    ends = {tensor.name for tensor in (*found.graph.inputs, *found.graph.outputs)}
    names = [tensor.name for tensor in found.crossing()]
    values = [{name: each[name] for name in names} for each in computed]
    beside = [{end.name: each[end.name] for end in found.graph.outputs if end.name in each} for each in computed]
    found_names = boundary_names.name_by_value(values, samples, groups, beside)
    known = {old: new for old, new in found_names.items() if new not in ends}
    taken = graphs.tensor_names(found.graph) | set(known.values())
    crossing = {id(tensor) for tensor in found.crossing()}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for tensor in (tensor for node in graphs.walk_nodes(found.graph) for tensor in node.outputs):
        if tensor.name in known.values() and id(tensor) not in crossing:
            tensor.name = naming.fresh(f"{tensor.name}_inner", taken)
            taken.add(tensor.name)
    for tensor in found.crossing():
        old = tensor.name
        if old in known:
            new = known[old]
        else:
            new = naming.clean_name(old)
            new = old if new == old and old not in known.values() else naming.fresh(new, taken)
        taken.add(new)
        observed = [computed[old] for computed in values]
        tensor.dtype = observed[0].dtype if observed else tensor.dtype
        shapes[new] = [value.shape for value in observed]
        shapes[new] += [sample.shape(new) for sample in captured if new in sample]
        tensor.name = new
    fill_from_samples(found, shapes)


def remember_unnamed(part: Part, samples: Sequence[Sample], groups: Sequence[Group]) -> None:
    """Compute the boundary tensors that the original has no name for from those that it has.

    Not from the whole graph's run: its boxes differ from the captured ones in the last bits, and what is read at those
    places by more, so its tensors don't go with the captured ones.
    """
    entry = describe_part(part)
    if all(name in sample for name in entry.outputs for sample in samples):
        return
    player = PartPlayer.open(part.model.proto, entry, optimise=False)
    played = [player.play({name: s.load(name) for name in entry.inputs}) for s in samples]
    row_members.remember(played, samples, groups)

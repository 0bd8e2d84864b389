"""The parts as one model again, for a runtime that takes a whole detector and itself says what runs where.

    image -> backbone_rpn -> box_proposal -> ... -> boxes, labels, scores, masks   ->   one graph of all their nodes

Tensors, initializers and nodes keep their names, but for those that an earlier part has given already.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, ValueInfoProto, helper

from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in, rename_in
from graphsurgery.graph.protos import domain_of, required_inputs, walk_protos
from graphsurgery.parts.manifest import Manifest
from graphsurgery.rewrite import Editor


def whole_of(manifest: Manifest, models: Mapping[str, Model]) -> Model:
    """Return the parts that `manifest` lists as one model, with its inputs and outputs; `models` are they by name.

    Raises InputError for a part whose batch was frozen, since only the runtime can play it in slices, and for parts of
    several operator sets.
    """
    made = ModelProto(producer_name="graphsurgery")
    made.graph.name = manifest.recipe
    ends = {name for part in manifest.parts for name in (*part.inputs, *part.outputs)}
    inputs: dict[str, ValueInfoProto] = {}
    written: dict[str, ValueInfoProto] = {}
    imports: dict[str, tuple[int, str]] = {}
    taken, titles = set(ends), set[str]()
    for part in manifest.parts:
        if part.batch is not None:
            raise InputError(
                f"part '{part.name}' has a frozen batch of {part.batch.size} rows, which only graphsurgery's runtime "
                "plays; leave freeze-batch out, and write static: false into the recipe's partition"
            )
        proto = ModelProto()
        proto.CopyFrom(models[part.name].with_values_inside().proto)
        own = names_in(proto.graph) - {*part.inputs, *part.outputs}
        rename_in(proto, _apart(own, taken))
        for node in walk_protos(proto.graph):
            node.name = fresh(node.name, titles) if node.name else ""
            titles.add(node.name)
        inputs |= {info.name: info for info in required_inputs(proto.graph) if info.name not in written}
        written |= {info.name: info for info in proto.graph.output}
        made.graph.node.extend(proto.graph.node)
        made.graph.initializer.extend(proto.graph.initializer)
        made.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
        made.functions.extend(each for each in proto.functions if each not in made.functions)
        made.ir_version = max(made.ir_version, proto.ir_version)
        for entry in proto.opset_import:
            version, first = imports.setdefault(domain_of(entry.domain), (entry.version, part.name))
            if version != entry.version:
                raise InputError(
                    f"parts '{first}' and '{part.name}' have operator sets {version} and {entry.version}, and one "
                    "model has one; put raise-opset among the recipe's passes"
                )
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, (version, _) in imports.items())
    made.graph.input.extend(inputs.values())
    made.graph.output.extend(written.get(name) or inputs[name] for name in manifest.outputs)
    view = Model(made).graph()
    Editor(view, "the parts as one model").infer_shapes()
    return Model.of(view)


def _apart(own: set[str], taken: set[str]) -> dict[str, str]:
    """Return other names for those of `own` that are taken, and take all of them."""
    names = {}
    for name in sorted(own & taken):
        names[name] = fresh(name, taken | own)
        taken.add(names[name])
    taken |= own
    return names

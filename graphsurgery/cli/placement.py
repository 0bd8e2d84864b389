"""placement: on which device each node really runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import AllowFallback, Devices, JsonFile, Operators, PartsFolder
from graphsurgery.cli.screen import screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.devices.placement import Placement

_SHOWN = 20


@app.command("placement")
def placement_command(
    folder: PartsFolder,
    device: Devices = None,
    allow_fallback: AllowFallback = False,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Show which nodes run on the accelerator, their share of the multiply-adds, and why others are left to the CPU.

    Example: python -m graphsurgery placement model/shapes --device npu=qnn
    """
    from graphsurgery.devices.choices import parse_devices
    from graphsurgery.devices.placement import place, shares
    from graphsurgery.devices.providers import CPU, PROVIDERS, refuse_unknown_devices
    from graphsurgery.graph.model import Model
    from graphsurgery.parts.folder import read_parts

    screen = screen_for(json_)
    manifest, models = read_parts(folder, lambda read: (read, [Model.load(folder / part.file) for part in read.parts]))
    devices = manifest.choose_devices(folder, parse_devices(device or []))
    if not devices:
        raise InputError(f"{folder}: its parts are made for no provider; name one, for example --device npu=qnn")
    refuse_unknown_devices(devices, [part.device for part in manifest.parts], str(folder))
    placements = [
        place(model, devices.get(part.device, CPU), name=f"part '{part.name}'")
        for part, model in zip(manifest.parts, models, strict=True)
    ]
    rows = [
        _row(part.name, placement.provider, shares([placement]))
        for part, placement in zip(manifest.parts, placements, strict=True)
    ]
    columns = ["part", "provider", "nodes on it", "multiply-adds on it"]
    screen.print(terminal.plain_table("Placement", columns, [*rows, _row("all", "", shares(placements))]))
    left = [
        [part.name, node.label, node.reason or "not known"]
        for part, placement in zip(manifest.parts, placements, strict=True)
        for node in placement.left
    ]
    if left:
        title = f"\nLeft to the CPU: {len(left)} nodes" + (f", the first {_SHOWN} here" if len(left) > _SHOWN else "")
        screen.print(terminal.plain_table(title, ["part", "node", "reason"], left[:_SHOWN]))
        for provider in sorted({placement.provider for placement in placements if placement.left}):
            known = [[refusal.text] for refusal in PROVIDERS[provider].refuses]
            screen.print(terminal.plain_table("", [f"known of {provider}"], known))
    write_json(json_, {"folder": str(folder), **shares(placements), "parts": _described(manifest.parts, placements)})
    fallen = [placement for placement in placements if placement.left]
    if fallen and not allow_fallback:
        raise InputError(fallen[0].complaint())


def _described(parts: Any, placements: list[Placement]) -> list[dict[str, Any]]:
    return [{**each.to_json(), "part": part.name} for part, each in zip(parts, placements, strict=True)]


def _row(name: str, provider: str, share: dict[str, Any]) -> list[str]:
    unknown = f" ({share['unknown']} unknown)" if share["unknown"] else ""
    of_all = share["multiply_add_share"]
    percent = "-" if of_all is None else f"{100 * of_all:.1f}% of {terminal.rounded_count(share['multiply_adds'])}"
    return [name, provider, f"{share['nodes_taken']} of {share['nodes_running']}", percent + unknown]

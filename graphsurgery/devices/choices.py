"""What the command line, a recipe or a manifest says of devices, as text, and which files that may name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from graphsurgery import files
from graphsurgery.devices.provider import Option
from graphsurgery.devices.providers import DeviceChoice, provider_of
from graphsurgery.errors import InputError

_PATHS = ("file", "folder", "path")


def parse_devices(choices: Iterable[str], inside: Path | None = None) -> dict[str, DeviceChoice]:
    """Read `--device npu=qnn,soc_model=60` options. Raises InputError for what is none, or names a device twice.

    A value may not hold a comma. With `inside`, where it isn't the user who chose, paths are relative to that folder,
    and one that leads out of it is an error.
    """
    devices: dict[str, DeviceChoice] = {}
    for choice in choices:
        device, separator, rest = choice.partition("=")
        if not separator or not device:
            raise InputError(f"--device {choice}: write it as DEVICE=PROVIDER, for example npu=vitisai")
        if device in devices:
            raise InputError(f"--device {choice}: device '{device}' has a provider already")
        provider, *pairs = rest.split(",")
        options: dict[str, str] = {}
        for pair in pairs:
            name, separator, value = pair.partition("=")
            if not separator or name in options:
                what = "an option is written NAME=VALUE" if not separator else f"'{name}' is given twice"
                raise InputError(f"--device {choice}: '{pair}': {what}, with a comma before it")
            options[name] = value
        try:
            devices[device] = DeviceChoice(provider, options if inside is None else _kept(inside, provider, options))
        except InputError as error:
            raise InputError(f"--device {choice}: {error}") from error
    return devices


def _kept(folder: Path, provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with their paths in `folder`. Raises InputError for one that leads out of it."""
    kept = dict(options)
    known = provider_of(provider)
    for option in known.options if known is not None else ():
        if option.name in options and option.writes_here:
            raise InputError(
                f"{option.name} writes into the folder you are in; to want that, give this --device yourself"
            )
        if option.name in options and option.kind in _PATHS:
            try:
                path = (folder / options[option.name]).resolve()
            except (OSError, ValueError) as error:
                raise InputError(f"{option.name}: can't be the name of a file ({files.reason(error)})") from error
            if not path.is_relative_to(folder.resolve()):
                raise InputError(f"{option.name} leads out of {folder}; if you want that, give this --device yourself")
            kept[option.name] = str(path)
    return kept


def with_paths_in(folder: Path, choice: str) -> str:
    """Return what stands behind a device's =, its relative paths made those in `folder`; what is no such text stays."""
    return _changed(choice, lambda option, value: str(folder / value) if option.kind in _PATHS and value else value)


def for_manifest(choice: str) -> str:
    """Return what stands behind a device's = as a manifest may have it, which goes to other places and machines.

    What is written lies beside it, by the name that it had; no option is left that writes elsewhere. A file to be read
    keeps its place: who runs the parts has to agree with --device where that isn't beside the manifest.
    """

    def beside(option: Option, value: str) -> str | None:
        if option.writes_here:
            return None
        return Path(value).name or value if option.kind in ("folder", "path") else value

    return _changed(choice, beside)


def _changed(choice: str, change: Callable[[Option, str], str | None]) -> str:
    """Return `choice` with the value of each option that is known changed; one that becomes None is left out."""
    provider, *pairs = choice.split(",")
    known, kept = provider_of(provider), [provider]
    for pair in pairs:
        name, separator, value = pair.partition("=")
        option = known.option(name) if known is not None and separator else None
        changed = value if option is None else change(option, value)
        if changed is not None:
            kept.append(f"{name}{separator}{changed}")
    return ",".join(kept)

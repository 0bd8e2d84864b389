import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Applied, Cli, Snapshot

from graphsurgery.devices.providers import CPU
from graphsurgery.errors import Difference, InputError
from graphsurgery.parts.manifest import Manifest
from graphsurgery.pipeline import variants
from graphsurgery.recipe.load import load_recipe
from graphsurgery.report.run_record import Record, VariantRecord
from graphsurgery.rewrite.registry import discover
from graphsurgery.runtime.detector import Detector

VARIANTS = """
variants:
  int8:
    part_passes: {box_head: [quantize], mask_head: [quantize]}
"""
GRANT = "  grant: {quantize: {'*': {sqnr: 15}}}\n"


@pytest.fixture
def recipe(detector: Applied) -> Path:
    """The recipe of the detector with a variant."""
    plain = (detector.folder.parent / "detector.yaml").read_text(encoding="utf-8")
    path = detector.folder.parent / "variants.yaml"
    path.write_text(plain + GRANT + VARIANTS, encoding="utf-8")
    return path


def quantized(path: Path) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_a_variant_is_a_folder_of_parts_of_its_own(cli: Cli, detector: Applied, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    outcome = cli("apply", recipe, "--out", out, "--model-io", detector.model_io)
    assert outcome.code == 0, outcome.err
    assert "6 parts and 1 variant in" in outcome.out
    assert Manifest.read(out).variants == ["int8"]
    assert Manifest.read(out / "int8").variants == []
    for name, changed in (("box_head", True), ("mask_head", True), ("backbone_rpn", False)):
        assert quantized(out / "int8" / f"{name}.onnx") is changed
        assert not quantized(out / f"{name}.onnx")
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    variant = run["variants"]["int8"]
    assert (variant["verdict"], variant["reason"]) == ("passed", None)
    assert [(step["part"], step["verdict"]) for step in variant["passes"]] == [
        ("box_head", "passed"),
        ("mask_head", "passed"),
    ]
    assert min(variant["passes"][0]["details"]["sqnr_db"].values()) > 15
    assert list(run["latency"]) == ["parts", "int8"]
    # it plays like any other folder, and a second run replaces it as a whole
    assert cli("inspect", out / "int8").code == 0
    outcome = cli("apply", recipe, "--out", out, "--model-io", detector.model_io, "--no-variants")
    assert outcome.code == 0, outcome.err
    assert not (out / "int8").exists()


def test_a_variant_that_costs_more_than_granted_ends_the_run(
    cli: Cli, snapshot: Snapshot, detector: Applied, recipe: Path, tmp_path: Path
) -> None:
    before = snapshot(detector.folder)
    demand = "check.grant={quantize: {'*': {sqnr: 90}}}"
    outcome = cli("apply", recipe, "--out", detector.folder, "--model-io", detector.model_io, "--set", demand)
    assert outcome.code == 1
    said = next(line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert said.startswith("error: variant 'int8': ")
    assert "pass 'quantize' on part 'box_head' differs from the original model" in said
    assert "dB where 90 dB is asked" in said
    assert snapshot(detector.folder) == before
    failed = detector.folder.with_name("parts.failed")
    assert {path.name for path in failed.iterdir()} >= {"run.json", "report.html", "before.onnx", "after.onnx"}
    run = json.loads((failed / "run.json").read_text(encoding="utf-8"))
    assert run["error"]["kind"] == "Difference"
    assert run["variants"]["int8"]["verdict"] == "failed"


def test_a_variant_whose_tool_is_not_installed_is_left_out_and_said_so(
    cli: Cli, detector: Applied, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    asked = ("--set", "variants.int8.part_passes.box_head.0={quantize: {backend: vai_q_onnx}}")
    common = ("apply", recipe, "--out", out, "--model-io", detector.model_io, *asked)
    outcome = cli(*common)
    assert outcome.code == 0, outcome.err
    assert "Variant int8: left out." in outcome.out
    assert Manifest.read(out).variants == []
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["variants"]["int8"]["verdict"] == "skipped"
    assert "vai_q_onnx" in run["variants"]["int8"]["reason"]
    # unless it was asked for by name
    outcome = cli(*common, "--variant", "int8")
    assert outcome.code == 3
    assert outcome.last_line.startswith("error: variant 'int8': ")


def test_a_variant_that_its_devices_cannot_play_is_found_out_and_the_rest_published(
    cli: Cli, detector: Applied, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Detector.load

    def refuse(folder: Path, *arguments: Any, **options: Any) -> Detector:
        if folder.name == "int8":
            raise InputError("part 'box_head': node 'topk' (TopK) would run on the CPU")
        return load(folder, *arguments, **options)

    monkeypatch.setattr(Detector, "load", staticmethod(refuse))
    out = tmp_path / "parts"
    placed = ("--set", "variants.int8.devices={npu: cpu}")
    common = ("apply", recipe, "--out", out, "--model-io", detector.model_io, *placed)
    outcome = cli(*common)
    assert outcome.code == 2
    expected = f"error: variant 'int8': part 'box_head': node 'topk' (TopK) would run on the CPU; the rest is in {out}"
    assert outcome.last_line == expected
    assert Manifest.read(out).variants == []
    assert not (out / "int8").exists()
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (run["variants"]["int8"]["verdict"], list(run["latency"])) == ("failed", ["parts"])
    assert "but a variant failed" in (out / "report.html").read_text(encoding="utf-8")
    # one that was asked for by name ends the run before anything is published
    before = (out / "run.json").read_bytes()
    assert cli(*common, "--variant", "int8").code == 2
    assert (out / "run.json").read_bytes() == before


def test_the_manifest_of_a_variant_names_no_place_of_this_machine(
    cli: Cli, detector: Applied, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, given = Detector.load, []

    def on_cpu(folder: Path, devices: Any = None, **options: Any) -> Detector:
        given.append(devices)
        return load(folder, {"npu": CPU}, **options)

    monkeypatch.setattr(variants, "require_installed", lambda devices: None)
    monkeypatch.setattr(Detector, "load", staticmethod(on_cpu))
    out = tmp_path / "parts"
    devices = "variants.int8.devices={npu: 'vitisai,cache_dir=cache,ai_analyzer_profiling=true'}"
    outcome = cli("apply", recipe, "--out", out, "--model-io", detector.model_io, "--set", devices)
    assert outcome.code == 0, outcome.err
    assert str(Path.cwd() / "cache") in {each["npu"].options.get("cache_dir") for each in given if each}
    assert Manifest.read(out / "int8").devices == {"npu": "vitisai,cache_dir=cache"}


def test_refuses_a_variant_that_the_recipe_has_not(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--variant", "int4")
    assert outcome.code == 2
    assert outcome.last_line == "error: --variant int4: recipe 'variants' has no such variant; it has int8"
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--variant", "int8", "--no-variants")
    assert outcome.code == 2


def test_a_variant_on_request_is_made_when_asked_for(tmp_path: Path) -> None:
    text = "source: {demo: shapes}\nvariants: {int8: {}, slow: {on_request: true}}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe(str(tmp_path / "x.yaml"), registry=discover())
    made = {str(names): [v.name for v in variants.chosen(recipe, names)] for names in (None, [], ["slow"], ["all"])}
    assert made == {"None": ["int8"], "[]": [], "['slow']": ["slow"], "['all']": ["int8", "slow"]}


PRECISION = {"bbox": {"original": 0.8, "parts": 0.8, "int8": 0.785}, "segm": {"original": 0.7, "int8": 0.71}}


@pytest.mark.parametrize(
    ("limits", "lost"),
    [
        ("evaluate: {max_ap_drop: 0.02}", None),
        ("evaluate: {max_ap_drop: 0.01}", "int8"),
        ("evaluate: {}\nvariants: {int8: {max_ap_drop: 0.01}}", "int8"),
        ("evaluate: {max_ap_drop: 0.01}\nvariants: {int8: {max_ap_drop: 0.02}}", None),
        ("evaluate: {}", None),
    ],
)
def test_an_ap_that_drops_by_more_than_allowed_is_an_error(tmp_path: Path, limits: str, lost: str | None) -> None:
    extended = "variants: {int8: {}}\n" if "variants" not in limits else ""
    (tmp_path / "x.yaml").write_text(f"source: {{demo: shapes}}\n{extended}{limits}\n", encoding="utf-8")
    recipe = load_recipe(str(tmp_path / "x.yaml"), registry=discover())
    record = Record({}, variants=[VariantRecord("int8", verdict="passed")], evaluation={"ap": PRECISION})
    if lost is None:
        variants.require_precision(recipe, record)
        assert record.variants[0].verdict == "passed"
        return
    with pytest.raises(Difference, match=r"bbox AP of 'int8' is 0\.7850, 0\.0150 below the 0\.8000 of the original"):
        variants.require_precision(recipe, record)
    assert record.variants[0].verdict == "failed"
    assert "where max_ap_drop is 0.01" in str(record.variants[0].reason)

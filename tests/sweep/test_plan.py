"""A sweep's file: the jobs that it stands for, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphsurgery.errors import InputError
from graphsurgery.rewrite.registry import discover
from graphsurgery.sweep.job import Job
from graphsurgery.sweep.plan import read_jobs
from sweep.tiny import RECIPE, network, recipe


def jobs(folder: Path, text: str) -> list[Job]:
    (folder / "zoo.yaml").write_text(text, encoding="utf-8")
    return read_jobs(folder / "zoo.yaml", discover())


def test_recipes_times_targets_times_variants(tmp_path: Path) -> None:
    recipe(tmp_path)
    found = jobs(tmp_path, "recipes: [net.yaml, shapes]\ntargets: [qnn-htp, rk3588]\nvariants: [twice]\n")
    assert {job.name: job.parts_of for job in found} == {
        "net": None,
        "net@qnn-htp": "net",
        "net@rk3588": "net",
        "net+twice": None,
        "net@qnn-htp+twice": "net+twice",
        "net@rk3588+twice": "net+twice",
        "shapes": None,
        "shapes@qnn-htp": "shapes",
        "shapes@rk3588": "shapes",
    }
    by_name = {job.name: job for job in found}
    first, second = by_name["net"].commands[0], by_name["net+twice"].commands[0]
    assert first[:3] == ("apply", str((tmp_path / "net.yaml").resolve()), "--no-variants")
    assert second[second.index("--variant") + 1] == "twice"
    (look,) = by_name["net@rk3588+twice"].commands
    assert look[:4] == ("support", "../net+twice/parts/twice", "--target", "rk3588")
    assert len({job.key for job in found}) == len(found)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        (RECIPE, "[rk3588]"),
        (
            RECIPE.replace(
                "{at: {tensors: [a]}, parts: {net: npu, rest: cpu}}", "{by: target, parts: {net: npu, rest: cpu}}"
            ),
            "",
        ),
        (RECIPE.replace("twice: {", "twice: {precision: int8, "), ""),
    ],
)
def test_each_target_makes_its_own_parts_where_they_depend_on_it(tmp_path: Path, text: str, targets: str) -> None:
    recipe(tmp_path, text=text)
    found = jobs(tmp_path, f"recipes: [net.yaml]\ntargets: {targets or '[rk3588, rk3576]'}\n")
    assert [(job.commands[0][0], job.parts_of) for job in found] == [("apply", None)] * len(found)
    assert found[0].name == "net@rk3588"
    assert "target=rk3588" in found[0].commands[0]


@pytest.mark.parametrize("others", ["", ", qnn-htp"])
def test_a_job_is_another_once_its_target_takes_something_else(tmp_path: Path, others: str) -> None:
    recipe(tmp_path)
    target = tmp_path / "mine.yaml"
    text = f"recipes: [net.yaml]\ntargets: [mine.yaml{others}]\n"

    def keys(outcome: str) -> dict[str, str]:
        target.write_text(f"extends: generic-cnn\ntitle: Mine\noperators: {{Relu: {outcome}}}\n", encoding="utf-8")
        return {job.name: job.key for job in jobs(tmp_path, text)}

    before, after = keys("cpu"), keys("refused")
    assert {name for name in before if before[name] != after[name]} == {"net@mine"}
    assert keys("cpu") == before


def test_what_looks_at_parts_is_another_job_once_these_are_others(tmp_path: Path) -> None:
    recipe(tmp_path)
    text = "recipes: [net.yaml]\ntargets: [qnn-htp, rk3588]\n"
    before = jobs(tmp_path, text)
    network(tmp_path, kind="Sigmoid")
    assert all(job.key != other.key for job, other in zip(before, jobs(tmp_path, text), strict=True))


def test_without_a_target_a_recipe_keeps_its_own(tmp_path: Path) -> None:
    recipe(tmp_path)
    (job,) = jobs(tmp_path, "recipes: [net.yaml]\n")
    assert (job.name, job.target, "--set" in job.commands[0]) == ("net", None, False)


def test_all_variants_are_those_of_each_recipe(tmp_path: Path) -> None:
    recipe(tmp_path)
    assert [job.variant for job in jobs(tmp_path, "recipes: [net.yaml]\nvariants: all\n")] == [None, "twice"]


def test_what_is_said_of_one_recipe_stands_in_its_commands_alone(tmp_path: Path) -> None:
    recipe(tmp_path)
    recipe(tmp_path, "other.yaml")
    one, other = jobs(
        tmp_path,
        "recipes: [{recipe: net.yaml, weights: 'random:0', images: photos, set: [capture.samples=2]}, other.yaml]\n"
        "set: [check.seed=1]\n".replace("check.seed=1", "capture.samples=3"),
    )
    command = one.commands[0]
    assert command[command.index("--weights") + 1] == "random:0"
    assert command[command.index("--images") + 1] == str(tmp_path / "photos")
    assert [command[i + 1] for i, each in enumerate(command) if each == "--set"] == [
        "capture.samples=3",
        "capture.samples=2",
    ]
    assert "--images" not in other.commands[0]


def test_paths_that_are_set_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(tmp_path)
    network(tmp_path, "other.onnx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (job,) = jobs(tmp_path, "recipes: [{recipe: net.yaml, set: [source.onnx=other.onnx, capture.samples=2]}]\n")
    command = job.commands[0]
    one, other = (command[i + 1] for i, each in enumerate(command) if each == "--set")
    assert Path(json.loads(one.removeprefix("source.onnx="))) == tmp_path / "other.onnx"
    assert other == "capture.samples=2"


def test_models_by_a_pattern_get_a_recipe_first(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for name in ("b.onnx", "a.onnx"):
        network(tmp_path / "zoo", name)
    found = jobs(tmp_path, "models: [zoo/*.onnx, 'torchvision:retinanet_resnet50_fpn_v2']\ntargets: [qnn-htp]\n")
    assert [job.name for job in found] == [
        "a@qnn-htp",
        "b@qnn-htp",
        "torchvision_retinanet_resnet50_fpn_v2@qnn-htp",
    ]
    propose, run = found[0].commands
    assert propose[:4] == ("new-recipe", str(tmp_path / "zoo" / "a.onnx"), "--target", "qnn-htp")
    assert propose[-1] == run[1]


def test_a_job_is_another_once_what_it_is_made_of_changed(tmp_path: Path) -> None:
    recipe(tmp_path)
    text = "recipes: [net.yaml]\n"
    (before,), (same,) = jobs(tmp_path, text), jobs(tmp_path, text)
    assert before == same
    recipe(tmp_path, text=RECIPE.replace("samples: 1", "samples: 2"))
    (changed,) = jobs(tmp_path, text)
    assert changed.key != before.key
    network(tmp_path, kind="Sigmoid")
    (other_model,) = jobs(tmp_path, text)
    assert other_model.key != changed.key
    plugin = tmp_path / "mine.py"
    plugin.write_text("", encoding="utf-8")
    (with_plugin,) = read_jobs(tmp_path / "zoo.yaml", discover(), [plugin])
    assert with_plugin.commands[0][-2:] == ("--plugin", str(plugin))
    plugin.write_text("pass\n", encoding="utf-8")
    (with_other,) = read_jobs(tmp_path / "zoo.yaml", discover(), [plugin])
    assert len({other_model.key, with_plugin.key, with_other.key}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a sweep is a mapping"),
        ("recipe: [net.yaml]\n", r"zoo.yaml:1: unknown key 'recipe'. Did you mean 'recipes'"),
        ("targets: [qnn-htp]\n", "names no recipe and no model"),
        ("recipes: [nothing.yaml]\n", "there is no such recipe file"),
        ("recipes: [shapess]\n", "unknown recipe 'shapess'. Did you mean 'shapes'"),
        ("recipes: [net.yaml]\ntargets: [qnn-htpp]\n", "unknown target 'qnn-htpp'"),
        ("recipes: [net.yaml]\ntargets: [mine.yaml]\n", "mine.yaml: can't be read"),
        ("recipes: [net.yaml]\nvariants: [int8]\n", "no recipe of the sweep has a variant 'int8'"),
        ("recipes: [net.yaml]\nseconds: 0\n", r"zoo.yaml:2: .*seconds should be greater than 0"),
        ("recipes: [net.yaml, net.yaml]\n", "two jobs are called 'net'"),
        ("recipes: [net.yaml]\nset: [sourc=1]\n", "unknown key 'sourc'"),
        ("models: [zoo/*.onnx]\ntargets: [qnn-htp]\n", r"no file fits zoo/\*\.onnx"),
        ("models: [net.onnx]\n", "needs a target"),
        ("recipes: [{recipe: net.yaml, weight: 1}]\n", "weight"),
    ],
)
def test_mistakes_are_said_in_a_line_before_any_job(tmp_path: Path, text: str, said: str) -> None:
    recipe(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        jobs(tmp_path, text)
    assert "\n" not in str(caught.value)

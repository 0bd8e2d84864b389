import pytest

from graphsurgery.graph.names import matches


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("layer.1/Conv", "layer.?/*", True),
        ("layer.10/Conv", "layer.?/*", False),
        ("Layer", "layer", False),
        ("a[0]", "a[0]", True),
        ("a0", "a[0]", False),
        ("a[0].b", "a[0].*", True),
        ("what?", "what?", True),
    ],
)
def test_a_pattern_has_two_signs_and_a_name_fits_itself(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, ["other", pattern]) is fits

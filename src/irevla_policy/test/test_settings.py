"""Settings: one declaration, checked values, errors that say file, key and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from irevla_policy.settings import SettingsError, from_dict, load, setting, to_dict


@dataclass(frozen=True)
class Inner:
    rate: float = setting(20.0, "Rate", unit="Hz", above=0.0, at_most=100.0)


@dataclass(frozen=True)
class Outer:
    name: str = setting(doc="Name")
    mode: str = setting("fast", "Mode", choices=("fast", "slow"))
    steps: int = setting(3, "Steps", at_least=1)
    box: tuple[float, float] = setting((0.0, 1.0), "Box", at_least=-1.0)
    inner: Inner = setting(Inner(), "Inner")
    parts: tuple[Inner, ...] = setting((), "Parts")
    maybe: Inner | None = setting(None, "Perhaps")
    weights: dict[str, float] = setting(factory=dict, doc="Weights")
    size: float | tuple[float, float] = setting(1.0, "Size", above=0.0)


def test_values_become_typed_settings() -> None:
    outer = from_dict(Outer, {"name": "a", "box": [0, 2], "parts": [{"rate": 5}], "maybe": {}, "weights": {"x": 1}})
    assert outer == Outer("a", box=(0.0, 2.0), parts=(Inner(5.0),), maybe=Inner(), weights={"x": 1.0})
    assert isinstance(outer.parts[0].rate, float)


def test_a_setting_can_be_a_number_or_several() -> None:
    assert from_dict(Outer, {"name": "a", "size": 2}).size == 2.0
    assert from_dict(Outer, {"name": "a", "size": [2, 3]}).size == (2.0, 3.0)


@dataclass(frozen=True)
class Special:
    inner: Outer = setting(factory=lambda: Outer("b", steps=7, inner=Inner(50.0)), doc="Inner")


def test_nested_settings_keep_the_defaults_of_their_place() -> None:
    assert from_dict(Special, {"inner": {"mode": "slow"}}).inner == Outer("b", "slow", steps=7, inner=Inner(50.0))
    assert from_dict(Special, {"inner": {"steps": 2, "inner": {"rate": 5}}}).inner == Outer(
        "b", steps=2, inner=Inner(5.0)
    )
    with pytest.raises(SettingsError, match="inner: unknown key 'stpes'"):
        from_dict(Special, {"inner": {"stpes": 2}})


def test_plain_values_survive_a_round_trip() -> None:
    outer = Outer("a", parts=(Inner(1.0), Inner(2.0)), maybe=Inner(3.0), weights={"x": 0.5})
    assert from_dict(Outer, to_dict(outer)) == outer


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "missing key 'name' (Name)"),
        (
            {"name": "a", "spped": 1},
            "unknown key 'spped'; known keys: box, inner, maybe, mode, name, parts, size, steps, weights",
        ),
        ({"name": 3}, "name: expected a text, found 3"),
        ({"name": "a", "steps": 0}, "steps: must be at least 1, found 0 (Steps)"),
        ({"name": "a", "steps": 1.5}, "steps: expected a whole number, found 1.5"),
        ({"name": "a", "steps": True}, "steps: expected a whole number, found True"),
        ({"name": "a", "mode": "warp"}, "mode: must be one of 'fast', 'slow', found 'warp'"),
        ({"name": "a", "inner": {"rate": 0}}, "inner: rate: must be in (0, 100] Hz, found 0.0"),
        ({"name": "a", "inner": {"rate": float("nan")}}, "rate: must be in (0, 100] Hz, found nan"),
        ({"name": "a", "parts": [{}, {"rate": 101}]}, "parts[1]: rate: must be in (0, 100] Hz, found 101.0"),
        ({"name": "a", "box": [0]}, "box: expected 2 values, found 1"),
        ({"name": "a", "box": [0, -2]}, "box[1]: must be at least -1, found -2.0"),
        ({"name": "a", "size": [1, 0]}, "size[1]: must be above 0, found 0.0"),
        ({"name": "a", "size": [1]}, "size: expected 2 values, found 1"),
        ({"name": "a", "size": "big"}, "size: expected a number, found 'big'"),
        ({"name": "a", "inner": 5}, "inner: expected a mapping of settings, found 5"),
        ({"name": "a", "weights": {"x": "much"}}, "weights.x: expected a number, found 'much'"),
    ],
)
def test_errors_name_key_and_what_is_allowed(values: dict[str, object], expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_dict(Outer, values, where="robot.yaml")
    assert str(error.value).startswith("robot.yaml: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nmode: slow\nsteps: 0\n", "robot.yaml:3: steps: must be at least 1, found 0"),
        ("name: a\nparts:\n  - rate: 5\n  - {rate: 500}\n", "robot.yaml:4: parts[1]: rate: must be in (0, 100] Hz"),
        ("name: a\nmaybe:\n  rate: 5\n  speed: 2\n", "robot.yaml:4: maybe: unknown key 'speed'; known keys: rate"),
        ("name: a\nweights:\n  big-one: x\n", "robot.yaml:3: weights.big-one: expected a number, found 'x'"),
        ("parts: []\n", "robot.yaml: missing key 'name'"),
        ("3\n", "robot.yaml: expected a mapping of settings, found 3"),
    ],
)
def test_errors_of_a_file_name_the_line(tmp_path, text: str, expected: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load(Outer, path)
    assert str(error.value).startswith(f"{tmp_path}/{expected}")


def test_a_number_may_have_no_point(tmp_path) -> None:
    path = tmp_path / "robot.yaml"
    for text, value in (("1e-4", 1e-4), ("1e1", 10.0), ("2.5e1", 25.0), ("+3E-2", 0.03)):
        path.write_text(f"name: a\ninner: {{rate: {text}}}\n")
        assert load(Outer, path).inner.rate == value


def test_a_key_that_stands_twice_is_refused(tmp_path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("name: a\ninner:\n  rate: 5\nsteps: 3\ninner:\n  rate: 6\n")
    with pytest.raises(SettingsError, match=r"robot\.yaml: not valid YAML: the key 'inner' stands twice .* line 5"):
        load(Outer, path)


@dataclass(frozen=True)
class Length:
    epochs: float = setting(30.0, "Epochs", replaces="steps")
    steps: int = setting(0, "Steps")


@dataclass(frozen=True)
class Stage:
    length: Length = setting(factory=lambda: Length(steps=1500), doc="Length")


def test_a_merged_mapping_may_be_changed(tmp_path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("maybe: &one {rate: 5}\nname: a\ninner: {<<: *one, rate: 6}\n")
    assert load(Outer, path).inner.rate == 6.0
    path.write_text("name: a\ninner: {rate: .e5}\n")
    with pytest.raises(SettingsError, match=r"rate: expected a number, found '\.e5'"):
        load(Outer, path)


def test_a_setting_counts_instead_of_another() -> None:
    assert from_dict(Stage, {}).length == from_dict(Stage, {"length": {}}).length == Length(30.0, 1500)
    assert from_dict(Stage, {"length": {"epochs": 2.0}}).length == Length(2.0, 0)
    assert from_dict(Stage, {"length": {"epochs": 2.0, "steps": 7}}).length == Length(2.0, 7)


def test_file_errors_name_the_file(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: cannot be read"):
        load(Outer, tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(SettingsError, match=r"broken\.yaml: not valid YAML"):
        load(Outer, broken)
    broken.write_bytes("# Käfig\nname: a".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"broken\.yaml: not a text in UTF-8 \(.* at byte 3\)"):
        load(Outer, broken)
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    with pytest.raises(SettingsError, match=r"empty\.yaml: missing key 'name'"):
        load(Outer, empty)

"""Typed settings: dataclasses loaded from YAML, every field documented where it is declared.

One declaration serves the YAML loader (unknown keys, wrong types and values out of range are errors that name
file, key and what is allowed), the ROS parameters (description, range, read-only flag) and the reference docs.

    @dataclass(frozen=True)
    class Limits:
        velocity: float = setting(1.0, "Largest speed", unit="rad/s", above=0.0)

    limits = load(Limits, "limits.yaml")
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from irevla_policy.errors import UserError

T = TypeVar("T")


class SettingsError(UserError, ValueError):
    """A setting is unknown, missing, of the wrong type or out of range; says where and what is allowed."""


@dataclass(frozen=True)
class Constraint:
    """What a setting means and which values it may take."""

    doc: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] | None = None
    read_only: bool = True
    replaces: str = ""

    def allowed(self) -> str:
        """The allowed values in words, e.g. 'in [0, 1] rad/s'; empty when anything goes."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        unit = f" {self.unit}" if self.unit else ""
        low = (
            f"({self.above:g}" if self.above is not None else f"[{self.at_least:g}" if self.at_least is not None else ""
        )
        if low and self.at_most is not None:
            return f"in {low}, {self.at_most:g}]{unit}"
        if self.above is not None:
            return f"above {self.above:g}{unit}"
        if self.at_least is not None:
            return f"at least {self.at_least:g}{unit}"
        if self.at_most is not None:
            return f"at most {self.at_most:g}{unit}"
        return ""


def setting(
    default: Any = MISSING,
    doc: str = "",
    *,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
    read_only: bool = True,
    replaces: str = "",
    factory: Any = MISSING,
) -> Any:
    """Declare a dataclass field together with its description, unit and range.

    Args:
        default: Default value; without one (and without `factory`) the key is required in the file.
        doc: One line: what it is.
        unit: SI unit.
        at_least: Smallest allowed value (also of every element of a sequence).
        at_most: Largest allowed value.
        above: The value must be larger than this.
        choices: The allowed values.
        read_only: Whether the ROS parameter of this name can change while the node runs.
        replaces: Another setting of the class that this one counts instead of: where this is given and that is not,
            that has the default of the class, whatever it is by default in that place.
        factory: Callable that makes a mutable default.
    """
    metadata = {"constraint": Constraint(doc, unit, at_least, at_most, above, choices, read_only, replaces)}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def constraint(field: dataclasses.Field[Any]) -> Constraint:
    """The constraint that `setting` stored in a dataclass field."""
    return field.metadata.get("constraint", Constraint(""))


def load(cls: type[T], path: str | Path) -> T:
    """Load a dataclass from a YAML file.

    Raises:
        SettingsError: The file cannot be read or does not fit `cls`; names the line.
    """
    path = Path(path)
    return build(cls, read(path), path)


def read(path: Path) -> Any:
    """What a YAML file holds; an empty mapping for an empty one.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        document = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return document if document is not None else {}


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once in a mapping: of two the first would be forgotten without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        for place, (name, _) in enumerate(node.value):
            if isinstance(name, yaml.ScalarNode) and name.value in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name.value!r} stands twice in a mapping", name.start_mark
                )
        return node


def build(cls: type[T], document: Any, path: Path) -> T:
    """Build a dataclass from what a YAML file holds.

    Raises:
        SettingsError: It does not fit `cls`; names the line.
    """
    try:
        return from_dict(cls, document, where=str(path))
    except SettingsError as error:
        keys = str(error).removeprefix(f"{path}: ")
        raise SettingsError(f"{place_of(path, keys)}: {keys}") from None


def place_of(path: Path, keys: str) -> str:
    """A YAML file, with the line where something is set.

    Args:
        path: The file.
        keys: What, as errors put it: `joints[3]: position: ...`; what is not there is where its mapping begins.
    """
    line = _line_of(yaml.compose(path.read_text()), keys)
    return f"{path}:{line}" if line else str(path)


def _line_of(node: yaml.Node | None, keys: str) -> int:
    """Counted from 1; 0 for what is not there at all."""
    line = 0
    for part in keys.split(": "):
        for key in re.findall(r"[\w-]+|\[\d+\]", part.removeprefix("unknown key")):
            found = _child(node, key)
            if found is None:
                return line
            line, node = found
    return line


def _child(node: yaml.Node | None, key: str) -> tuple[int, yaml.Node] | None:
    """Line and node of a key of a mapping, or of `[NUMBER]` of a list."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return name.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and key.startswith("[") and int(key[1:-1]) < len(node.value):
        value = node.value[int(key[1:-1])]
        return value.start_mark.line + 1, value
    return None


def from_dict(cls: type[T], values: Any, where: str = "settings") -> T:
    """Build a dataclass from plain values, nested dataclasses included.

    Args:
        cls: The dataclass.
        values: Mapping of field names to values.
        where: What to call the source in errors, e.g. the file's path.

    Raises:
        SettingsError: Unknown or missing key, wrong type, or a value out of range.
    """
    if not isinstance(values, dict):
        raise SettingsError(f"{where}: expected a mapping of settings, found {_name_of(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise SettingsError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, field in fields.items():
        if name in values:
            value = _completed(values[name], field)
            arguments[name] = _convert(value, hints[name], constraint(field), f"{where}: {name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            about = constraint(field).doc
            raise SettingsError(f"{where}: missing key {name!r}" + (f" ({about})" if about else ""))
    try:
        return cls(**arguments)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def to_dict(settings: Any) -> dict[str, Any]:
    """The plain values of a settings dataclass, ready for YAML or JSON; the inverse of `from_dict`."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    return {key: plain(value) for key, value in dataclasses.asdict(settings).items()}


def _completed(value: Any, field: dataclasses.Field[Any]) -> Any:
    """Some keys of nested settings, with the others as they are by default in that place, not in their class."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if not isinstance(value, dict) or isinstance(default, type) or not dataclasses.is_dataclass(default):
        return value
    fields = {one.name: one for one in dataclasses.fields(default) if one.init}
    found = {name: getattr(default, name) for name in fields} | value
    for replaced in {constraint(fields[name]).replaces for name in value if name in fields} - {"", *value}:
        found[replaced] = fields[replaced].default
    return found


def _convert(value: Any, kind: Any, rule: Constraint, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        options = tuple(option for option in options if option is not type(None))
        listed = isinstance(value, list | tuple)
        fitting = [option for option in options if (typing.get_origin(option) in (tuple, list)) == listed]
        return _convert(value, (fitting or options)[0], rule, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{where}: expected a list, found {_name_of(value)}")
        inner = typing.get_args(kind)
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                raise SettingsError(f"{where}: expected {len(inner)} values, found {len(value)}")
            return tuple(
                _convert(v, k, rule, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, inner, strict=True))
            )
        return origin(_convert(item, inner[0], rule, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{where}: expected a mapping, found {_name_of(value)}")
        inner = typing.get_args(kind)[1]
        return {str(key): _convert(item, inner, rule, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_dict(kind, value, where)  # type: ignore[arg-type]
    if kind is Any:
        return value
    return _scalar(value, kind, rule, where)


def _scalar(value: Any, kind: Any, rule: Constraint, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str) and _NO_POINT.fullmatch(value):
        value = float(value)
    if kind is Path and isinstance(value, str):
        value = Path(value)
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        raise SettingsError(f"{where}: expected {_TYPE_NAMES.get(kind, kind.__name__)}, found {_name_of(value)}")
    wrong = rule.choices is not None and value not in rule.choices
    if isinstance(value, int | float) and not isinstance(value, bool):
        wrong = wrong or not math.isfinite(value)
        wrong = wrong or (rule.at_least is not None and value < rule.at_least)
        wrong = wrong or (rule.above is not None and value <= rule.above)
        wrong = wrong or (rule.at_most is not None and value > rule.at_most)
    if wrong:
        about = f" ({rule.doc})" if rule.doc else ""
        raise SettingsError(f"{where}: must be {rule.allowed() or 'finite'}, found {value!r}{about}")
    return value


_NO_POINT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""1e-4 and 1.5e4, which PyYAML takes for texts."""

_TYPE_NAMES = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", Path: "a path"}


def _name_of(value: Any) -> str:
    return "nothing" if value is None else f"{value!r}"

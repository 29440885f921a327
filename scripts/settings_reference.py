"""Writes the pages of docs/reference about files of settings from where these are declared.

.venv/bin/python scripts/settings_reference.py
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import constraint
from irevla_trainer.jobs.request import TrainerFile
from irevla_trainer.loop.settings import TrainFile

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"

_TRAIN = """# The settings of `irevla train`

What a file for `irevla train --config FILE` may hold. A key that is not listed, a value of another type or out of its
range is an error that names file, key and what is allowed. RUN/config.yaml has all settings of a run, defaults
included. How to use them: [train](../how-to/train.md); what they do: [learning](../concepts/learning.md).
"""
_TRAINER = """# The settings of the trainer

What a file for `irevla up trainer config:=FILE` may hold; `config/trainer.yaml` is the one that is used without it. A
request of `/irevla/retrain` wins over it where it says something. How to use them: [retrain](../how-to/retrain.md).
"""
_ROBOT = """# Robot profiles

What `config/robots/NAME.yaml`, or a file for `robot:=FILE`, may hold. Limits that are wider than those of the URDF are
an error that names file and line. How to write one: [your own arm](../how-to/own-arm.md).
"""
_MADE = """
Made by `scripts/settings_reference.py` from where the settings are declared; do not edit.
"""
PAGES = {
    "train-settings.md": (_TRAIN, TrainFile),
    "trainer-settings.md": (_TRAINER, TrainerFile),
    "robot-profile.md": (_ROBOT, RobotProfile),
}
_TYPES = {str: "text", float: "number", int: "whole number", bool: "true or false"}


def document(name: str) -> str:
    """A page."""
    head, settings = PAGES[name]
    return head + _MADE + "".join(_sections(settings, settings, "", {}))


def _sections(cls: Any, defaults: Any, path: str, known: dict[Any, tuple[str, Any]]) -> Iterator[str]:
    """A settings class and those within it; of one that was shown before only the other defaults."""
    yield f"\n## {f'`{path}`' if path else 'At the top level'}\n\n{cls.__doc__.splitlines()[0]}\n\n"
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if _inner(hints[field.name]) is None and field.name != "file"]
    if cls in known:
        before, others = known[cls]
        fields = [field for field in fields if _default(defaults, field) != _default(others, field)]
        yield f"As `{before}`, with other defaults:\n\n"
    known.setdefault(cls, (path, defaults))
    if fields:
        yield "| key | default | allowed | meaning |\n|---|---|---|---|\n"
    for field in fields:
        cells = (f"`{field.name}`", _default(defaults, field), _allowed(field, hints[field.name]), _doc(field))
        yield f"| {' | '.join(cells)} |\n"
    for field in dataclasses.fields(cls):
        inner = _inner(hints[field.name])
        if inner is not None:
            value = inner if field.default_factory is dataclasses.MISSING else field.default_factory()
            where = f"{path}.{field.name}" if path else field.name
            where = f"{where}[]" if _is_list(hints[field.name]) else where
            sections = _sections(inner, value, where, known)
            # No value, or none in the list: there need not be any.
            optional = field.default is None or field.default == ()
            yield next(sections) + ("May be left out.\n\n" if optional else "")
            yield from sections


def _inner(kind: Any) -> Any:
    """The settings class within a field's type, perhaps one of a list or one that may be left out; None for none."""
    options = typing.get_args(kind) if _is_list(kind) or isinstance(kind, types.UnionType) else (kind,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _default(settings: Any, field: dataclasses.Field[Any]) -> str:
    """Of a settings object, or of a class whose fields are all that there is."""
    value = field.default if isinstance(settings, type) else getattr(settings, field.name)
    if value is dataclasses.MISSING:
        return "the URDF's" if "of the URDF when left out" in constraint(field).doc else "required"
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value != "" else "empty"


def _allowed(field: dataclasses.Field[Any], kind: Any) -> str:
    rule = constraint(field)
    if rule.choices is not None:
        return ", ".join(f"`{choice}`" for choice in rule.choices)
    if isinstance(kind, types.UnionType):
        (kind,) = [option for option in typing.get_args(kind) if option is not types.NoneType]
    if not _is_list(kind):
        return f"{_TYPES[kind]} {rule.allowed()}".strip()
    inner = typing.get_args(kind)
    number = "list of" if inner[-1] is Ellipsis else str(len(inner))
    return f"{number} {_TYPES[inner[0]]}s {rule.allowed()}".strip()


def _doc(field: dataclasses.Field[Any]) -> str:
    return constraint(field).doc.replace("|", "\\|")


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / name).write_text(document(name))
        print(FOLDER / name)

"""Joint limits of a URDF, which complete a robot profile and are never exceeded by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from irevla_policy.settings import SettingsError


@dataclass(frozen=True)
class UrdfJoint:
    """A joint of a URDF.

    Attributes:
        position: Lowest and highest position, rad or m; None for a joint without end.
        velocity: Largest speed, rad/s or m/s; None where the URDF gives none.
    """

    position: tuple[float, float] | None
    velocity: float | None


def read_joints(path: Path) -> dict[str, UrdfJoint]:
    """The joints of a URDF file that move, by name.

    Raises:
        SettingsError: The file cannot be read, is no URDF, or a limit is no number.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except ElementTree.ParseError as error:
        raise SettingsError(f"{path}: not a readable URDF: {error}") from error
    return joints_in(root, str(path))


def root_link(path: Path) -> str:
    """The link of a URDF that no joint carries; the URDF has been read by `read_joints`."""
    root = ElementTree.parse(path).getroot()
    carried = {child.get("link") for child in root.iter("child")}
    [name] = [link.get("name", "") for link in root.iter("link") if link.get("name") not in carried]
    return name


def mimics(path: Path, joint: str) -> dict[str, tuple[float, float]]:
    """A joint of a URDF and those that mimic it: name to multiplier and offset; the URDF has been read before."""
    found = {joint: (1.0, 0.0)}
    for other in ElementTree.parse(path).getroot().iter("joint"):
        mimic = other.find("mimic")
        if mimic is not None and mimic.get("joint") == joint:
            found[other.get("name", "")] = float(mimic.get("multiplier", 1.0)), float(mimic.get("offset", 0.0))
    return found


def joints_in(root: ElementTree.Element, where: str) -> dict[str, UrdfJoint]:
    """The joints of a URDF that move, by name.

    Args:
        root: Its root.
        where: What to call it in errors.

    Raises:
        SettingsError: It is no URDF, or a limit is no number.
    """
    if root.tag != "robot":
        raise SettingsError(f"{where}: not a URDF: expected <robot> at its root, found <{root.tag}>")
    return {
        joint.get("name", ""): _limits(joint, where)
        for joint in root.iter("joint")
        if joint.get("type") in ("revolute", "continuous", "prismatic")
    }


def _limits(joint: ElementTree.Element, where: str) -> UrdfJoint:
    limit = joint.find("limit")
    if limit is None:
        return UrdfJoint(None, None)

    def number(key: str) -> float | None:
        text = limit.get(key)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise SettingsError(
                f"{where}: limit of joint {joint.get('name')!r}: {key} must be a number, found {text!r}"
            ) from None

    low, high = number("lower"), number("upper")
    if joint.get("type") == "continuous" or low is None or high is None:
        return UrdfJoint(None, number("velocity"))
    return UrdfJoint((low, high), number("velocity"))

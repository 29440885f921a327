"""Whether the controller that follows the commands is the one that the command topic belongs to, and works."""

from __future__ import annotations

from collections.abc import Mapping

from irevla_policy.robot.profile import RobotProfile

_ACTIVE = "active"


def controller_of(profile: RobotProfile) -> tuple[str, str]:
    """The controller manager's namespace and the controller, from the command topic: NAMESPACE/CONTROLLER/TOPIC.

    The controller is empty where the topic belongs to none.
    """
    owner, _, _ = profile.command.topic.rpartition("/")
    namespace, _, controller = owner.rpartition("/")
    return namespace, controller


def controller_problem(profile: RobotProfile, states: Mapping[str, str]) -> str:
    """Why nobody would follow commands; empty when somebody does.

    Args:
        profile: Whose command topic.
        states: Of all controllers, by name, as ros2_control names them: `unconfigured`, `inactive`, `active`, ...
    """
    namespace, controller = controller_of(profile)
    if not controller or states.get(controller) == _ACTIVE:
        return ""
    place, topic = profile.place("command: topic"), profile.command.topic
    control, manager = "ros2 control", f" -c {namespace}/controller_manager" if namespace else ""
    activate = f"`{control} switch_controllers{manager} --activate {controller}`"
    if controller not in states:
        known = ", ".join(f"{name} ({state})" for name, state in states.items()) or "none"
        return (
            f"{place}: {topic} belongs to controller {controller!r}, which is not loaded (there are: {known}): "
            f"change the topic there, or `{control} load_controller{manager} --set-state active {controller}`"
        )
    state = states[controller]
    if state == "unconfigured":
        activate = f"`{control} set_controller_state{manager} {controller} inactive` and {activate}"
    return f"{place}: controller {controller!r} of {topic} is {state}: change the topic there, or {activate}"

"""`irevla_joystick`: a joystick or gamepad of Linux (/dev/input/js0) as a teleoperation device.

A button has to be held for anything to move; letting go of it, or unplugging the device, stops.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass

import numpy as np

from irevla_policy.errors import UserError
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.teleoperation import TeleoperationNode, TeleoperationSettings
from irevla_policy.settings import SettingsError, setting

# struct js_event of linux/joystick.h: time in ms, value, type, number.
_EVENT = struct.Struct("=IhBB")
_BUTTON, _AXIS, _INITIAL = 1, 2, 0x80
_FULL = 32767.0
_DEAD = 0.1
"""Share of an axis' range about its middle that counts as nothing."""


@dataclass(frozen=True)
class JoystickSettings(TeleoperationSettings):
    """Parameters of `irevla_joystick`."""

    device: str = setting("/dev/input/js0", "The device")
    axes: tuple[int, ...] = setting(
        (-2, -1, -5), "Axes that move the hand away, to the left and up; -1 - N is axis N turned about"
    )
    hold: int = setting(5, "Button that has to be held", at_least=0)
    grip: int = setting(0, "Button that opens or closes the gripper", at_least=0)

    def __post_init__(self) -> None:
        if len(self.axes) != 3:
            raise SettingsError(f"axes: expected three, found {len(self.axes)}")


class JoystickNode(TeleoperationNode):
    """Reads events in a thread of its own."""

    settings: JoystickSettings

    def __init__(self) -> None:
        super().__init__("irevla_joystick", JoystickSettings)
        try:
            self._device = os.open(self.settings.device, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"device: {self.settings.device} cannot be opened ({error.strerror})") from None
        self._there = True
        threading.Thread(target=self._read, daemon=True).start()

    def is_there(self) -> bool:
        """Whether the device is plugged in."""
        return self._there

    def _read(self) -> None:
        while True:
            try:
                event = os.read(self._device, _EVENT.size)
            except OSError:
                event = b""
            if len(event) < _EVENT.size:
                break
            self._on_event(*_EVENT.unpack(event)[1:])
        self._there = self.wish.holds_on = False
        self.get_logger().error(f"{self.settings.device} is gone: nothing is driven any more")

    def _on_event(self, value: int, kind: int, number: int) -> None:
        settings, wish = self.settings, self.wish
        if kind & ~_INITIAL == _AXIS:
            for place, axis in enumerate(settings.axes):
                if number == (axis if axis >= 0 else -axis - 1):
                    share = value / _FULL * (1.0 if axis >= 0 else -1.0)
                    move = wish.move.copy()
                    move[place] = np.sign(share) * max(abs(share) - _DEAD, 0.0) / (1.0 - _DEAD)
                    wish.move = move
        elif kind & ~_INITIAL == _BUTTON and number == settings.hold:
            # Where events were lost the kernel tells the state anew: a release counts, nobody takes hold by it.
            wish.holds_on = bool(value) and kind == _BUTTON
        elif kind == _BUTTON and number == settings.grip and value and wish.holds_on:
            wish.turn_gripper()


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(JoystickNode, args)


if __name__ == "__main__":
    main()

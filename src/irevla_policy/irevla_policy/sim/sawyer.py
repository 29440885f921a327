"""Meta-World's Sawyer with actuated joints: position servos in place of the mocap body that drags the hand.

A Meta-World environment class is subclassed, so its rewards, success conditions and reset procedure stay what they are.
During a reset Meta-World's own mocap weld places the hand; then the weld is released and the servos take over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.asset_path_utils import full_V3_path_for
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from irevla_policy.sim.urdf import urdf_from_mujoco

Array = npt.NDArray[np.float64]
SpecEdit = Callable[[mujoco.MjSpec], None]
PlaceHand = Callable[[Array], Array]

_NEVER = 2**31  # environment steps: the World counts its own

SERVO_GROUP = 5
"""MuJoCo actuator group of the arm's servos; disabled while the weld places the hand."""

ENV_RATE = 80.0
"""Environment steps a second, Hz: five physics steps of 2.5 ms each."""


@dataclass(frozen=True)
class Servo:
    """Position servo of one joint: torque = stiffness * (setpoint - position) - damping * velocity, bounded."""

    stiffness: float  # N m / rad
    damping: float  # N m s / rad
    armature: float  # kg m^2, inertia of the motor seen through the gear
    torque: float  # N m


# The arm follows its setpoints with a lag of some 35 ms (damping / stiffness), close to that of the mocap weld. The
# scripted experts count on it: held for 50 ms, their gains make an arm without lag swing around the goal. Torques are
# five to seven times those of the real Sawyer: Meta-World's tasks ask for more than it can do.
SERVOS = (
    Servo(6750.0, 236.0, 0.5, 400.0),
    Servo(6750.0, 236.0, 0.5, 400.0),
    Servo(2700.0, 94.5, 0.2, 200.0),
    Servo(2700.0, 94.5, 0.2, 200.0),
    Servo(450.0, 15.75, 0.05, 60.0),
    Servo(450.0, 15.75, 0.05, 60.0),
    Servo(450.0, 15.75, 0.05, 60.0),
)
# Meta-World stops right_j1 at -0.5 rad, which costs reach as long as the gripper points down.
JOINT_RANGES = {"right_j1": (-3.8095, 2.2736)}  # rad, the real arm's
JOINT_DAMPING = 1.0  # N m s / rad, friction of the bearings


def add_servos(spec: mujoco.MjSpec, joints: Sequence[str], servos: Sequence[Servo] = SERVOS) -> None:
    """Put a position servo on every joint of the arm and take its weight off."""
    arm = spec.body("right_arm_base_link")
    for body in [arm, *arm.find_all("body")]:
        body.gravcomp = 1.0
    for name, servo in zip(joints, servos, strict=True):
        joint = spec.joint(name)
        joint.damping, joint.armature = JOINT_DAMPING, servo.armature
        joint.range = JOINT_RANGES.get(name, joint.range)
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, group=SERVO_GROUP)
        actuator.gainprm[0] = servo.stiffness
        actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        actuator.biasprm[1:3] = -servo.stiffness, -servo.damping
        actuator.forcelimited, actuator.forcerange = 1, [-servo.torque, servo.torque]


def write_urdf() -> str:
    """The actuated Sawyer as URDF (`config/robots/sawyer.urdf`); speeds and torques are the real arm's."""
    spec = mujoco.MjSpec.from_file(full_V3_path_for("sawyer_xyz/sawyer_reach_v3.xml"))
    joints = [f"right_j{number}" for number in range(7)]
    add_servos(spec, joints)
    velocities = (1.74, 1.328, 1.957, 1.957, 3.485, 3.485, 4.545)
    efforts = (80.0, 80.0, 40.0, 40.0, 9.0, 9.0, 9.0)
    limits = dict(zip(joints, zip(velocities, efforts, strict=True), strict=True))
    return urdf_from_mujoco(spec.compile(), "sawyer", "right_arm_base_link", "hand", limits)


class ActuatedSawyer(SawyerXYZEnv):
    """Mixed into a Meta-World environment class by `make_environment`."""

    arm_joints: tuple[str, ...] = ()
    drive: Literal["joints", "mocap"] = "joints"
    spec_edits: tuple[SpecEdit, ...] = ()
    place_hand: PlaceHand

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        for edit in self.spec_edits:
            edit(spec)
        if self.drive == "joints":
            add_servos(spec, self.arm_joints)
        model = spec.compile()
        self._qpos = np.array([model.joint(name).qposadr[0] for name in self.arm_joints])
        self._qvel = np.array([model.joint(name).dofadr[0] for name in self.arm_joints])
        self._weld = int(np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_WELD)[0])
        self._command = np.zeros(len(self.arm_joints))
        self._from = self._command
        self._servoing = False
        self._untouched = model.body_pos.copy(), model.site_pos.copy()
        return model, mujoco.MjData(model)

    # -- reset ----------------------------------------------------------------------------------------------------

    def restart(self, seed: int) -> Array:
        """Start an episode whose object positions depend on the seed alone.

        Returns:
            Meta-World's state, `[39]`, goal included.
        """
        self._set_task_called = True
        self._partially_observable = False
        self.seeded_rand_vec = True
        self.__dict__.pop("sawyer_observation_space", None)  # cached from before the goal was visible
        self.np_random = np.random.default_rng(seed)
        self.curr_path_length = 0
        self.max_path_length = _NEVER
        self._did_see_sim_exception = False
        self._release_servos()
        self.model.body_pos[:], self.model.site_pos[:] = self._untouched
        # Some tasks place their target by where the object was before this call: as in Meta-World's benchmarks, the
        # second pass repeats the first one's random numbers and finds everything in place.
        for repeat in (False, True):
            self._freeze_rand_vec = repeat
            mujoco.mj_resetData(self.model, self.data)
            self.reset_model()
        self._engage_servos()
        self._prev_obs = self._get_curr_obs_combined_no_goal()
        return self._get_obs()

    def _reset_hand(self, steps: int = 50) -> None:
        # The arm starts where the hand belongs instead of being dragged there through half the workspace.
        if self.drive == "joints":
            self.data.qpos[self._qpos] = self.place_hand(np.asarray(self.hand_init_pos, dtype=float))
            self.data.qvel[self._qvel] = 0.0
        super()._reset_hand(steps)

    def _release_servos(self) -> None:
        self._servoing = False
        self.model.opt.disableactuator = 1 << SERVO_GROUP
        self.data.eq_active[self._weld] = 1
        self.model.eq_active0[self._weld] = 1

    def _engage_servos(self) -> None:
        if self.drive == "mocap":
            return
        self._servoing = True
        self.model.opt.disableactuator = 0
        self.data.eq_active[self._weld] = 0
        self.data.qvel[self._qvel] = 0.0
        self._command = self._from = self.data.qpos[self._qpos].copy()
        self.data.ctrl[2:] = self._command
        mujoco.mj_forward(self.model, self.data)

    # -- step -----------------------------------------------------------------------------------------------------

    def track(self, position: Array, gripper: float) -> tuple[Array, bool]:
        """Let the servos follow a setpoint for one environment step (12.5 ms).

        Args:
            position: Joint positions to have at its end, rad, `[n]`.
            gripper: Gripper command in [-1 (open), 1 (closed)].

        Returns:
            Meta-World's state, `[39]`, and whether the success condition holds.
        """
        self._from = self._command
        self._command = np.asarray(position, dtype=np.float64)
        state, _, _, _, info = self.step(np.array([0.0, 0.0, 0.0, gripper]))
        return state, bool(info["success"])

    def set_xyz_action(self, action: npt.NDArray[Any]) -> None:
        """Move the mocap body, which only the drive `mocap` does."""
        if self.drive == "mocap":
            super().set_xyz_action(action)

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        """Run physics with two gripper commands, `ctrl`, and the servos' setpoints, if they are engaged."""
        if not self._servoing:
            padding = [0.0] * (self.model.nu - 2)
            super().do_simulation([*ctrl, *padding], n_frames)
            return
        self.data.ctrl[:2] = ctrl
        for frame in range(1, n_frames + 1):
            share = frame / n_frames
            self.data.ctrl[2:] = self._from + share * (self._command - self._from)
            mujoco.mj_step(self.model, self.data)
        self._from = self._command
        mujoco.mj_rnePostConstraint(self.model, self.data)

    def show_targets(self) -> None:
        """Put the markers of the targets where they are, for the next image; physics moves them back."""
        for name, position in self._target_site_config:
            self._set_pos_site(name, position)

    # -- what is measured -----------------------------------------------------------------------------------------

    @property
    def joint_positions(self) -> Array:
        """Measured joint positions, rad, `[n]`."""
        return self.data.qpos[self._qpos].copy()

    @property
    def joint_velocities(self) -> Array:
        """Measured joint velocities, rad/s, `[n]`."""
        return self.data.qvel[self._qvel].copy()

    @property
    def opening(self) -> float:
        """Distance between the fingers, m; 0.1 when open."""
        return float(np.linalg.norm(self.data.body("rightclaw").xpos - self.data.body("leftclaw").xpos))


def make_environment(
    task: str,
    arm_joints: Sequence[str],
    place_hand: PlaceHand,
    drive: Literal["joints", "mocap"] = "joints",
    spec_edits: Sequence[SpecEdit] = (),
) -> ActuatedSawyer:
    """Build the environment of a Meta-World task.

    Args:
        task: Meta-World's name without its version, e.g. `drawer-open`.
        arm_joints: Names of the arm's joints in the order of commands.
        place_hand: Gives joint positions for a hand position (m, `[3]`) at the start of an episode.
        drive: `joints` for position servos, `mocap` for Meta-World's own drive (what scripted experts were made for).
        spec_edits: Changes of the model before it is compiled.
    """
    base = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    members = {
        "arm_joints": tuple(arm_joints),
        "drive": drive,
        "spec_edits": tuple(spec_edits),
        "place_hand": staticmethod(place_hand),
    }
    return type(base.__name__, (ActuatedSawyer, base), members)()

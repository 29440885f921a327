"""Whether MuJoCo finds what it renders with; to be asked before anything imports `mujoco`."""

from __future__ import annotations

import os

from irevla_policy.sim.world import WorldError

GL_ADVICE = "headless machines need MUJOCO_GL=egl and the packages libegl1 and libgl1-mesa-dri"


def require_gl() -> None:
    """Import MuJoCo, which loads the GL library that `MUJOCO_GL` names.

    Raises:
        WorldError: There is no such library; says what to install.
    """
    try:
        import mujoco  # noqa: F401
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL", "")
        raise WorldError(
            f"MuJoCo does not load with MUJOCO_GL={chosen!r} ({type(error).__name__}: {error}); {GL_ADVICE}"
        ) from error

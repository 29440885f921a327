"""Generalised advantage estimation (Schulman et al. 2016, eq. 16) over whole episodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


def generalised_advantages(
    reward: Float,
    value: Float,
    next_value: Float,
    terminated: Bool,
    ended: Bool,
    gamma: float,
    gae_lambda: float,
    importance: Float | None = None,
) -> tuple[Float, Float]:
    """Advantages and returns of decisions, episode after episode.

        delta_t = r_t + gamma V(s_t+1) (1 - terminated_t) - V(s_t)
        A_t = delta_t + gamma lambda (1 - ended_t) rho_t+1 A_t+1
        return_t = V(s_t) + rho_t A_t

    rho is 1 for decisions of the policy itself; what follows from others' counts by it (Retrace, Munos et al. 2016).

    An episode that was given up still has a value at its last observation; one that ended in success has none.

    Args:
        reward: `[N]`.
        value: Values of the observations `[N]`.
        next_value: Values of the observations after them `[N]`; ignored where terminated.
        terminated: Whether the episode ended in success `[N]`.
        ended: Whether the episode ended at all `[N]`; True at the last decision.
        gamma: Discount factor.
        gae_lambda: Lambda.
        importance: rho `[N]`, in [0, 1]; 1 when left out.

    Returns:
        Advantages `[N]` and returns `[N]`, the targets of the critic.

    Raises:
        ValueError: The last episode does not end.
    """
    if len(ended) and not ended[-1]:
        raise ValueError("ended: expected whole episodes, the last one does not end")
    rho = np.ones_like(value) if importance is None else importance
    delta = reward + gamma * np.where(terminated, 0.0, next_value) - value
    advantage = np.zeros_like(delta)
    running = 0.0
    for step in range(len(delta) - 1, -1, -1):
        advantage[step] = delta[step] + gamma * gae_lambda * (0.0 if ended[step] else running)
        running = rho[step] * advantage[step]
    return advantage.astype(np.float32), (rho * advantage + value).astype(np.float32)

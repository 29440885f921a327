"""Normalisation of states and actions, fitted from data and stored with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

# A dimension that moves less than this in the data carries no signal: dividing by its spread would only
# blow up noise, so it keeps the scale 1.
_SMALLEST_SPREAD = 1e-4
# Beyond this many standard deviations a state is outside the data; the clamp bounds what the heads extrapolate.
_LARGEST_STATE = 6.0


@dataclass(frozen=True, eq=False)
class Affine:
    """Per-dimension shift and scale: normalised = (value - mean) / scale.

    Attributes:
        mean: Mean of the data, `[k]`.
        scale: Standard deviation of the data, 1 for dimensions that are constant, `[k]`.
        low: Smallest value in the data, `[k]`.
        high: Largest value in the data, `[k]`.
    """

    mean: Float
    scale: Float
    low: Float
    high: Float

    @classmethod
    def fit(cls, values: npt.ArrayLike) -> Affine:
        """Fit to data `[N, k]`.

        Raises:
            ValueError: No data, or a value that is not finite.
        """
        data = np.asarray(values, dtype=np.float64)
        if data.ndim != 2 or len(data) == 0:
            raise ValueError(f"normalisation needs data of shape [N, k] with N > 0, found {list(data.shape)}")
        if not np.isfinite(data).all():
            row, column = np.argwhere(~np.isfinite(data))[0]
            raise ValueError(
                f"normalisation needs finite data, found {data[row, column]} in row {row}, column {column}"
            )
        spread = data.std(axis=0)
        scale = np.where(spread < _SMALLEST_SPREAD, 1.0, spread)
        return cls(data.mean(axis=0), scale, data.min(axis=0), data.max(axis=0))

    @classmethod
    def identity(cls, size: int) -> Affine:
        """The map that changes nothing."""
        return cls(np.zeros(size), np.ones(size), -np.ones(size), np.ones(size))

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return len(self.mean)

    def forward(self, values: npt.ArrayLike) -> Float:
        """Normalise `[..., k]`."""
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.scale

    def inverse(self, values: npt.ArrayLike) -> Float:
        """Undo `forward`, `[..., k]`."""
        return np.asarray(values, dtype=np.float64) * self.scale + self.mean

    def as_dict(self) -> dict[str, list[float]]:
        """Plain values for JSON; `from_dict` gives the same numbers back, bit for bit."""
        return {name: getattr(self, name).tolist() for name in ("mean", "scale", "low", "high")}

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Affine:
        """The inverse of `as_dict`.

        Args:
            values: Plain values.
            where: What to call the source in errors.

        Raises:
            ValueError: A list is missing, of another length than the others, or not of finite numbers.
        """
        names = ("mean", "scale", "low", "high")
        try:
            arrays = {name: np.asarray(values[name], dtype=np.float64) for name in names}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected lists of numbers {', '.join(names)}") from error
        sizes = {array.shape for array in arrays.values()}
        if len(sizes) != 1 or any(array.ndim != 1 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError(f"{where}: expected lists of equal length and finite numbers")
        if (arrays["scale"] <= 0).any():
            raise ValueError(f"{where}: scale must be above 0")
        return cls(**arrays)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Normalisation of the proprioceptive state and the action."""

    state: Affine
    action: Affine

    @classmethod
    def fit(cls, states: npt.ArrayLike, actions: npt.ArrayLike) -> Normaliser:
        """Fit to states `[N, s]` and actions `[N, a]`."""
        return cls(Affine.fit(states), Affine.fit(actions))

    @classmethod
    def identity(cls, state_dim: int, action_dim: int) -> Normaliser:
        """Changes nothing: for a model that has seen no data."""
        return cls(Affine.identity(state_dim), Affine.identity(action_dim))

    def normalise_state(self, state: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Raw state `[..., s]` to what the heads see, clamped to +-6 standard deviations."""
        return np.clip(self.state.forward(state), -_LARGEST_STATE, _LARGEST_STATE).astype(np.float32)

    def normalise_action(self, action: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Raw action `[..., a]` to what the model predicts."""
        return self.action.forward(action).astype(np.float32)

    def denormalise_action(self, action: npt.ArrayLike) -> Float:
        """What the model predicts to a raw action `[..., a]`, float64."""
        return self.action.inverse(action)

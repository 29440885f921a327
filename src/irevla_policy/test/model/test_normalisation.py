from __future__ import annotations

import json

import numpy as np
import pytest

from irevla_policy.model.normalisation import Affine, Normaliser


def test_equals_numpy():
    data = np.random.default_rng(0).normal(3.0, [0.1, 2.0, 50.0], size=(500, 3))
    affine = Affine.fit(data)
    np.testing.assert_allclose(affine.forward(data), (data - np.mean(data, 0)) / np.std(data, 0), rtol=1e-12)
    np.testing.assert_allclose(affine.forward(data).std(0), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(affine.low, data.min(0))
    np.testing.assert_array_equal(affine.high, data.max(0))


def test_inverse_undoes_forward():
    affine = Affine.fit(np.random.default_rng(1).uniform(-1, 1, size=(100, 4)))
    values = np.random.default_rng(2).normal(size=(7, 5, 4))
    np.testing.assert_allclose(affine.inverse(affine.forward(values)), values, atol=1e-12)


def test_constant_dimension_keeps_its_value_and_scale():
    data = np.c_[np.full(50, -1.0), np.random.default_rng(0).normal(size=50)]
    affine = Affine.fit(data)
    assert affine.scale[0] == 1.0
    np.testing.assert_array_equal(affine.forward(data)[:, 0], 0.0)
    assert affine.inverse([0.0, 0.0])[0] == -1.0


def test_state_is_clamped_far_outside_the_data():
    normaliser = Normaliser.fit(np.random.default_rng(0).normal(size=(100, 2)), np.eye(2))
    assert np.abs(normaliser.normalise_state([1e9, -1e9])).max() == 6.0


def test_json_gives_the_same_numbers_back():
    affine = Affine.fit(np.random.default_rng(0).normal(size=(9, 3)) / 3)
    back = Affine.from_dict(json.loads(json.dumps(affine.as_dict())), "here")
    for name in ("mean", "scale", "low", "high"):
        np.testing.assert_array_equal(getattr(affine, name), getattr(back, name))


@pytest.mark.parametrize(
    ("data", "message"), [(np.zeros((0, 3)), "N > 0"), ([[1.0, np.nan]], "nan in row 0, column 1")]
)
def test_data_that_cannot_be_fitted(data, message):
    with pytest.raises(ValueError, match=message):
        Affine.fit(data)


@pytest.mark.parametrize(
    "change", [{"mean": [1.0]}, {"scale": [0.0, 1.0]}, {"scale": None}, {"low": [float("nan"), 0.0]}, {"high": "x"}]
)
def test_damaged_statistics(change):
    good = Affine.identity(2).as_dict()
    with pytest.raises(ValueError, match="here"):
        Affine.from_dict(good | change, "here")

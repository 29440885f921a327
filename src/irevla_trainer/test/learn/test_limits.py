"""Actions at their limits, against scipy and against plain sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from irevla_trainer.learn.limits import ActionLimits

LOW, HIGH, STD = -1.0, 0.8, 0.3
LIMITS = ActionLimits(torch.tensor([LOW], dtype=torch.float64), torch.tensor([HIGH], dtype=torch.float64))
MEANS = [-1.6, -1.0, -0.9, 0.0, 0.75, 1.3]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_clipped_actions_can_come_back():
    """Descent moves against the gradient: outwards beyond a bound it stops, back inside it passes."""
    limits = ActionLimits(torch.tensor([-1.0]), torch.tensor([1.0]))
    action = torch.tensor([[2.0], [2.0], [-2.0], [-2.0], [0.5]], requires_grad=True)
    out = limits.clip(action)
    assert out[:, 0].tolist() == [1.0, 1.0, -1.0, -1.0, 0.5]
    out.backward(torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [3.0]]))
    assert action.grad is not None
    assert action.grad[:, 0].tolist() == [1.0, 0.0, 0.0, -1.0, 3.0]


@pytest.mark.parametrize("mean", MEANS)
def test_log_prob(mean: float):
    normal = stats.norm(mean, STD)
    found = LIMITS.log_prob(column(-3.0, LOW, 0.2, HIGH, 2.0), column(*[mean] * 5), STD)
    below, above = normal.logcdf(LOW), normal.logsf(HIGH)
    np.testing.assert_allclose(found, [below, below, normal.logpdf(0.2), above, above], rtol=1e-9)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("other", MEANS)
def test_kl(mean: float, other: float):
    one, two = stats.norm(mean, STD), stats.norm(other, STD)
    expected = integrate.quad(lambda x: one.pdf(x) * (one.logpdf(x) - two.logpdf(x)), LOW, HIGH, epsabs=1e-12)[0]
    expected += one.cdf(LOW) * (one.logcdf(LOW) - two.logcdf(LOW)) + one.sf(HIGH) * (one.logsf(HIGH) - two.logsf(HIGH))
    found = LIMITS.kl(column(mean), column(other), STD)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_far_beyond_a_limit_nothing_depends_on_the_mean():
    limits = ActionLimits(torch.tensor([-1.0]), torch.tensor([1.0]))
    mean = torch.tensor([[5.0], [-40.0]], requires_grad=True)
    limits.log_prob(torch.tensor([[4.0], [-41.0]]), mean, 0.3).sum().backward()
    assert mean.grad is not None
    assert mean.grad.abs().max() < 1e-30
    assert limits.kl(torch.tensor([[5.0], [-40.0]]), torch.tensor([[7.0], [-8.0]]), 0.3).abs().max() < 1e-30


def test_the_gradient_is_right_and_quieter_than_without_limits():
    """Of the expected reward of what is carried out, near a limit."""
    mean, count = 1.3, 200_000
    sampled = mean + STD * np.random.default_rng(0).standard_normal(count)
    reward = torch.from_numpy((sampled.clip(LOW, HIGH) - 0.5) ** 2)
    exact = (_expected(mean + 1e-4) - _expected(mean - 1e-4)) / 2e-4

    def gradients(limits: ActionLimits) -> torch.Tensor:
        means = torch.full((count, 1), mean, dtype=torch.float64, requires_grad=True)
        limits.log_prob(torch.from_numpy(sampled)[:, None], means, STD).sum().backward()
        assert means.grad is not None
        return reward * means.grad[:, 0]

    aware, unaware = gradients(LIMITS), gradients(ActionLimits(-1e9 * torch.ones(1), 1e9 * torch.ones(1)))
    for gradient in (aware, unaware):
        assert float(gradient.mean()) == pytest.approx(exact, abs=4 * float(gradient.std()) / count**0.5)
    assert float(aware.std()) < 0.5 * float(unaware.std())


def _expected(mean: float) -> float:
    normal = stats.norm(mean, STD)
    inside = integrate.quad(lambda x: (x - 0.5) ** 2 * normal.pdf(x), LOW, HIGH, epsabs=1e-12)[0]
    return float(inside + (LOW - 0.5) ** 2 * normal.cdf(LOW) + (HIGH - 0.5) ** 2 * normal.sf(HIGH))

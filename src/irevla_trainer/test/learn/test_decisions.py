from __future__ import annotations

import colorsys

import numpy as np
import pytest

from irevla_trainer.learn.decisions import Decisions, prepare, random_colour, random_shift, split


def test_batch_takes_the_right_steps(spot):
    episodes = [spot(0, 4), spot(1, 3)]
    decisions = Decisions(episodes, ["front"])
    assert len(decisions) == 7
    batch = decisions.batch(np.array([5, 0]))
    assert np.array_equal(batch.images["front"][0], episodes[1].images["front"][1])
    assert np.array_equal(batch.images["front"][1], episodes[0].images["front"][0])
    assert np.array_equal(batch.action[:, 0], [episodes[1].action[1], episodes[0].action[0]])
    assert batch.mask.all()


def test_chunks_end_with_the_episode(spot):
    episodes = [spot(0, 4), spot(1, 2)]
    batch = Decisions(episodes, ["front"], chunk=3).batch(np.array([0, 2, 5]))
    assert batch.action.shape == (3, 3, 2)
    assert batch.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert np.array_equal(batch.action[0], episodes[0].action[:3])
    assert np.array_equal(batch.action[1, :2], episodes[0].action[2:])
    assert not batch.action[1, 2].any()


def test_split_holds_out_whole_episodes_of_every_instruction(spot):
    episodes = [spot(i, 2, "open" if i % 2 else "close") for i in range(20)]
    training, validation = split(episodes, 0.2, seed=3)
    assert sorted(training + validation) == list(range(20))
    assert sum(index % 2 for index in validation) == 2
    assert len(validation) == 4
    assert split(episodes, 0.2, seed=3) == (training, validation)
    assert split(episodes, 0.0, seed=3) == (list(range(20)), [])


def test_shift_moves_by_at_most_its_pixels():
    images = np.zeros((64, 9, 9, 3), np.uint8)
    images[:, 4, 4] = 255
    moved = random_shift(images, 2, np.random.default_rng(0))
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in moved}
    rows, columns = {p[0] for p in places}, {p[1] for p in places}
    assert rows == columns == {2, 3, 4, 5, 6}
    assert random_shift(images, 0, np.random.default_rng(0)) is images


def test_colour_changes_each_image_as_a_whole():
    """Pixels alike stay alike, greys stay grey, and the draw of one image is not that of the next."""
    images = np.zeros((32, 4, 4, 3), np.uint8)
    images[:, :2] = (200, 60, 60)
    images[:, 2:] = 120
    changed = random_colour(images, 0.6, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert (changed[:, :2] == changed[:, :1, :1]).all()
    assert (changed[:, 2:] == changed[:, 2:3, :1]).all()
    assert np.ptp(changed[:, 3, 3].astype(int), axis=-1).max() <= 1
    assert len({tuple(image[0, 0]) for image in changed}) > 20
    assert np.array_equal(changed, random_colour(images, 0.6, np.random.default_rng(0)))
    assert random_colour(images, 0.0, np.random.default_rng(0)) is images


@pytest.mark.parametrize(("strength", "reach"), [(0.25, 45.0), (1.0, 180.0)])
def test_colour_turns_hue_by_at_most_its_share_of_the_circle(strength, reach):
    images = np.full((400, 1, 1, 3), (140, 115, 115), np.uint8)
    changed = random_colour(images, strength, np.random.default_rng(1)).reshape(-1, 3) / 255.0
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] * 360 for pixel in changed if np.ptp(pixel) > 0.05])
    turned = np.abs((hues + 180) % 360 - 180)
    assert len(hues) > 200
    assert 0.85 * reach < turned.max() < reach + 8  # a hue is known within some degrees in 8 bits


def test_training_sees_what_serving_sees(spot, new_policy):
    """One chain of transforms: the batch of a decision equals the policy's own preparation of the observation."""
    from types import SimpleNamespace

    policy = new_policy()
    episode = spot(3)
    batch = prepare(Decisions([episode], ["front"]).batch(np.array([2])), policy.processor)
    seen = SimpleNamespace(images={"front": episode.images["front"][2]}, instruction=episode.instructions[2])
    served = policy.prepare([seen], episode.state[2:3])
    for key, value in served.vlm.items():
        assert np.array_equal(batch.inputs.vlm[key], value), key
    assert np.array_equal(batch.inputs.state, served.state)
    restored = policy.normaliser.denormalise_action(batch.target.numpy())
    np.testing.assert_allclose(restored[0, 0], episode.action[2], atol=1e-6)

"""Task files and variations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.tasks import TaskError, TaskFile, load_tasks

PROFILE = load_profile("sawyer")


def test_all_tasks_of_metaworld_have_instructions_in_several_wordings() -> None:
    tasks = load_tasks()
    assert {f"{name}-v3" for name in tasks.tasks} == set(ALL_V3_ENVIRONMENTS)
    for name, task in tasks.tasks.items():
        assert len(set(task.instructions)) >= 3, name
        for instruction in task.instructions:
            assert re.fullmatch(r"[a-z][a-z ,'-]+", instruction), instruction


def test_the_seed_or_the_index_picks_the_instruction() -> None:
    tasks = load_tasks()
    known = tasks.task("reach").instructions
    assert {tasks.instruction("reach", "", seed) for seed in range(10)} == set(known)
    assert tasks.instruction("reach-v3", "", 0, index=2) == known[2]
    with pytest.raises(TaskError, match=r"must be in \[0, 2\], found -1"):
        tasks.instruction("reach", "", 0, index=-1)


def task_file(tmp_path: Path, text: str) -> TaskFile:
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    return load_tasks(path)


def test_a_variation_of_a_task_hides_one_of_every_task(tmp_path: Path) -> None:
    tasks = task_file(
        tmp_path,
        """
        world: metaworld
        variations: {blue: {rgba: [0, 0, 1, 1]}}
        tasks:
          push:
            instructions: [push it]
            max_steps: 7
            variations: {blue: {rgba: [0, 0, 0.5, 1], instructions: [push the blue one]}, near: {shift: [0, -0.05, 0]}}
          reach: {instructions: [go there]}
        """,
    )
    assert tasks.variation("push", "blue").rgba == (0.0, 0.0, 0.5, 1.0)
    assert tasks.variation("reach", "blue").rgba == (0.0, 0.0, 1.0, 1.0)
    assert tasks.variation_names("push") == ["blue", "near"]
    assert tasks.instruction("push", "blue", 0) == "push the blue one"
    assert (tasks.steps("push"), tasks.steps("reach")) == (7, 60)
    with pytest.raises(TaskError, match=r"no variation 'near' of task 'reach'.*known: blue"):
        tasks.variation("reach", "near")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{world: moon, tasks: {}}", r"world: must be one of 'metaworld', 'kitchen', 'tabletop', found 'moon'"),
        ("{world: kitchen, tasks: {push: {instructions: []}}}", r"tasks\.push: instructions: expected at least one"),
        ("{world: kitchen, tasks: {push: {instructions: [a], steps: 3}}}", r"tasks\.push: unknown key 'steps'"),
        (
            "{world: kitchen, tasks: {}, variations: {big: {scale: 9}}}",
            r"variations\.big: scale: must be in \[0\.5, 2\]",
        ),
        (
            "{world: kitchen, tasks: {}, variations: {big: {scale: [1, 1]}}}",
            r"variations\.big: scale: expected 3 values",
        ),
        (
            "{world: kitchen, tasks: {}, variations: {big: {scale: [1, 9, 1]}}}",
            r"variations\.big: scale\[1\]: must be in",
        ),
        (
            "{world: kitchen, tasks: {}, variations: {wide: {spread: -1}}}",
            r"variations\.wide: spread: must be in \[0, 3\]",
        ),
        (
            "{world: kitchen, tasks: {}, variations: {red: {colours: {a: [1, 0, 0]}}}}",
            r"variations\.red: colours\.a: expected 4 values",
        ),
    ],
)
def test_wrong_task_files_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=r"tasks\.yaml(:1)?: " + message):
        task_file(tmp_path, text)


def test_an_unknown_world_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no tasks of world 'kitchn'.*known: .*metaworld"):
        load_tasks("kitchn")


def test_variations_change_what_they_say_and_nothing_else() -> None:
    task = "button-press-topdown"
    with MetaWorld(PROFILE, cached_scenes=8) as world:
        plain = world.reset(task, seed=2)
        state = world.state
        button = world.environment.model.geom("btnGeom")
        size, colour = button.size.copy(), button.rgba.copy()

        blue = world.reset(task, "blue", seed=2)
        assert np.array_equal(world.state, state)
        assert np.array_equal(blue.joint_positions, plain.joint_positions)
        bluish = np.argwhere((blue.images["corner"][..., 2].astype(int) - blue.images["corner"][..., 0]) > 60)
        assert len(bluish) > 100
        assert not np.array_equal(world.environment.model.geom("btnGeom").rgba, colour)

        world.reset(task, "shifted", seed=2)
        assert np.allclose(world.state[4:7] - state[4:7], [0.04, -0.03, 0.0], atol=1e-6)

        larger = world.reset(task, "larger", seed=2)
        assert np.allclose(world.environment.model.geom("btnGeom").size, 1.15 * size)
        assert np.isclose(world.environment.model.body("box").pos[2], 1.15 * 0.115)  # and still on the table
        assert not np.array_equal(larger.images["corner"], plain.images["corner"])

        assert np.array_equal(world.reset(task, seed=2).images["corner"], plain.images["corner"])


def test_a_variation_can_touch_one_body_only(tmp_path: Path) -> None:
    tasks = task_file(
        tmp_path,
        """
        world: metaworld
        cameras: {corner: {position: [0.85, 0.38, 0.8], look_at: [0.0, 0.66, 0.11]}}
        tasks:
          drawer-open:
            instructions: [open the drawer]
            variations:
              red: {bodies: [drawer_link], rgba: [1, 0, 0, 1]}
              wrong: {bodies: [drawr], rgba: [1, 0, 0, 1]}
        """,
    )
    with MetaWorld(PROFILE, tasks, images=False) as world:
        world.reset("drawer-open", "red")
        model = world.environment.model
        case, link = model.body("drawercase_link").id, model.body("drawer_link").id
        red = np.all(model.geom_rgba == [1.0, 0.0, 0.0, 1.0], axis=1)
        assert red[model.geom_bodyid == link].any()
        assert not red[model.geom_bodyid == case].any()
        with pytest.raises(
            TaskError, match=r"variation 'wrong' of task 'drawer-open': bodies: .* no body 'drawr'.*drawer_link"
        ):
            world.reset("drawer-open", "wrong")

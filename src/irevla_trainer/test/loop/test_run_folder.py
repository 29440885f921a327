"""The folder of a run: what is done stays done, and what does not belong together is refused."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest
import yaml

from irevla_trainer.loop.run import RunFolder, RunFolderError
from irevla_trainer.loop.settings import TaskSets, TrainFile

SETTINGS = TrainFile(tasks=TaskSets(expert=("drawer-open",)))


@pytest.fixture
def unfinished(tmp_path):
    folder = tmp_path / "run"
    RunFolder(folder, SETTINGS).close()
    return folder


def refused(folder, message, settings=SETTINGS, resume=False):
    with pytest.raises(RunFolderError, match=message) as raised:
        RunFolder(folder, settings, resume)
    assert "\n" not in str(raised.value)


def test_a_step_is_done_once(unfinished):
    calls = []

    def work(folder):
        calls.append(folder)
        return {"decisions": 3}

    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        first = run.step("00-stage0", work)
        assert run.step("00-stage0", work) == first
    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        assert run.step("00-stage0", work) == first
    assert calls == [unfinished / "steps" / "00-stage0"]
    assert first["decisions"] == 3 and first["seconds"] >= 0


def test_a_step_that_failed_finds_its_state_and_no_half_written_checkpoint(unfinished):
    def fail(folder):
        (folder / "state.safetensors").write_text("state")
        (folder / ".checkpoint.abc.partial").mkdir()
        time.sleep(0.1)
        raise ZeroDivisionError

    def finish(folder):
        assert [path.name for path in folder.iterdir() if path.suffix] == ["state.safetensors"]
        return {}

    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        with pytest.raises(ZeroDivisionError):
            run.step("00-stage0", fail)
        assert run.step("00-stage0", finish)["seconds"] >= 0.1  # those of both attempts
    assert [path.name for path in run.path("00-stage0").iterdir()] == ["step.json"]


def test_an_unfinished_run_is_continued_only_when_asked(unfinished):
    refused(unfinished, "holds an unfinished run; --resume continues it")
    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        assert run.result is None


def test_a_finished_run_is_not_begun_again(unfinished, tmp_path):
    checkpoint = tmp_path / "selected"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        run.finish({"selected": {}}, checkpoint)
    assert (unfinished / "checkpoint" / "config.json").is_file()
    refused(unfinished, "holds a finished run; choose another folder")
    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        assert run.result == {"selected": {}}


def test_other_settings_are_named(unfinished):
    other = TrainFile(tasks=SETTINGS.tasks, worlds=3, seed=1)
    refused(unfinished, "has other settings than the file given now: seed, worlds;", other, resume=True)


def test_a_setting_that_came_up_since_then_is_at_its_default(unfinished):
    config = unfinished / "config.yaml"
    values = yaml.safe_load(config.read_text())
    del values["visits"], values["stage1"]["latents"]
    config.write_text(yaml.safe_dump(values))
    RunFolder(unfinished, SETTINGS, resume=True).close()
    other = TrainFile(tasks=SETTINGS.tasks, visits=2)
    refused(unfinished, "has other settings than the file given now: visits;", other, resume=True)


@pytest.mark.parametrize("text", ["no_such_setting: 1\n", "- 1\n"])
def test_a_configuration_that_is_none_is_named(unfinished, text):
    (unfinished / "config.yaml").write_text(text)
    refused(unfinished, "config.yaml is damaged", resume=True)


def test_a_damaged_configuration_is_named(unfinished):
    (unfinished / "config.yaml").write_text("tasks: [")
    refused(unfinished, "config.yaml is damaged", resume=True)


def test_nothing_to_resume(tmp_path):
    refused(tmp_path / "nowhere", "no run in .*nowhere; leave --resume out", resume=True)
    refused(tmp_path, "no run in", resume=True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_other_files_are_left_alone(tmp_path, resume):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    refused(tmp_path / "photos", "something else than a run", resume=resume)
    refused(tmp_path / "photos" / "cat.png", "is a file", resume=resume)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "run", "cannot be made")


@pytest.mark.parametrize("resume", [False, True])
def test_a_process_killed_in_its_first_moments_leaves_a_place_to_start(tmp_path, resume):
    (tmp_path / ".irevla.lock").write_text("1\n")
    (tmp_path / ".config.yaml.partial").write_text("half")
    with RunFolder(tmp_path, SETTINGS, resume):
        pass
    assert (tmp_path / "config.yaml").is_file()


def test_one_process_at_a_time(unfinished):
    with RunFolder(unfinished, SETTINGS, resume=True):
        refused(unfinished, rf"another process \({os.getpid()}\) writes there", resume=True)
    RunFolder(unfinished, SETTINGS, resume=True).close()


def test_a_run_is_discarded_only_by_who_began_it_and_before_its_first_step(tmp_path, unfinished):
    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        run.discard()
    assert unfinished.exists()
    with RunFolder(tmp_path / "new", SETTINGS) as run:
        run.step("00-stage0", lambda folder: {})
        run.discard()
    assert (tmp_path / "new").exists()
    with RunFolder(tmp_path / "newer", SETTINGS) as run:
        run.discard()
    assert not (tmp_path / "newer").exists()


def test_a_full_disk_does_not_finish_a_step(unfinished, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunFolder(unfinished, SETTINGS, resume=True) as run:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.step("00-stage0", lambda folder: {})
        monkeypatch.undo()
        assert list(run.path("00-stage0").iterdir()) == []
        assert "seconds" in run.step("00-stage0", lambda folder: {})
    assert json.loads((run.path("00-stage0") / "step.json").read_text())

"""On a robot a candidate is checked on held-out demonstrations, and then by labelled trials that a person approves."""

from __future__ import annotations

from pathlib import Path

import pytest

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.settings import SettingsError, from_dict
from irevla_trainer.data.index import IndexedEpisode
from irevla_trainer.jobs.request import JobRequest, TrainerFile
from irevla_trainer.jobs.settings import GateSettings
from irevla_trainer.jobs.trials import judge_trials, trials_so_far

SETTINGS = GateSettings(mode="trials", trials=4)


def episodes(version: str, outcomes: str, first: int = 0, **changes: str) -> list[IndexedEpisode]:
    """Episodes of a policy: y, n, or u for one without a label."""
    words = {"y": "yes", "n": "no", "u": "unknown"}
    values = {"policy_version": version, "source": "policy", "state": "finished"} | changes
    return [
        IndexedEpisode(
            Path(f"{version}-{first + place}"), EpisodeInfo("e", success=words[outcome], stamp=first + place, **values)
        )
        for place, outcome in enumerate(outcomes)
    ]


def test_a_candidate_waits_for_its_labelled_trials():
    found = episodes("old", "yynn") + episodes("new", "yyyu")
    assert judge_trials(found, "old", "new", SETTINGS) is None
    assert trials_so_far(found, "new") == 3


def test_who_needs_help_has_not_succeeded():
    found = episodes("old", "yynn") + episodes("new", "yyyy", source="mixed")
    verdict = judge_trials(found, "old", "new", SETTINGS)
    assert verdict is not None and not verdict.promoted
    assert verdict.reason.startswith("the candidate is rolled back: 0 of 4 trials succeeded, 2 of 4")


@pytest.mark.parametrize(
    ("before", "after", "promoted"),
    [
        # What only one of them has tried says nothing about who is better.
        ({"easy": "yy"}, {"easy": "yy", "hard": "yn"}, True),
        ({"hard": "yn"}, {"easy": "yy", "hard": "nn"}, False),
        ({"easy": "y"}, {"easy": "yyyn"}, True),
        ({"easy": "yyyy", "hard": "nn"}, {"easy": "yn", "hard": "yn"}, True),
        ({"easy": "yyyy", "hard": "nn"}, {"easy": "yyn", "hard": "n"}, False),
    ],
)
def test_policies_are_compared_on_what_both_have_tried(before: dict, after: dict, promoted: bool):
    found = [one for task, outcomes in before.items() for one in episodes("old", outcomes, task=task)]
    found += [one for task, outcomes in after.items() for one in episodes("new", outcomes, first=20, task=task)]
    verdict = judge_trials(found, "old", "new", SETTINGS)
    assert verdict is not None and verdict.promoted is promoted


@pytest.mark.parametrize(
    ("trials", "promoted", "reason"),
    [
        ("yyyn", True, "the candidate stays: 3 of 4 trials succeeded, 2 of 4 of the policy before"),
        ("yynn", True, "the candidate stays: 2 of 4"),
        ("ynnn", False, "the candidate is rolled back: 1 of 4 trials succeeded, 2 of 4 of the policy before"),
    ],
)
def test_it_stays_when_it_does_as_well_as_the_policy_before(trials: str, promoted: bool, reason: str):
    # The last four of the policy before count, in the order in which they ended.
    before = episodes("old", "yynn", first=10) + episodes("old", "nnnn", first=0)
    verdict = judge_trials(before + episodes("new", trials + "yyyy"), "old", "new", SETTINGS)
    assert verdict is not None and verdict.promoted is promoted
    assert verdict.reason.startswith(reason)


def test_what_a_classifier_has_labelled_is_no_trial():
    seen = episodes("new", "yyyy", labelled_by="classifier")
    assert trials_so_far(seen, "new") == 0
    assert judge_trials(seen + episodes("new", "nnn", first=4), "old", "new", SETTINGS) is None


def test_easy_tasks_do_not_count_against_hard_ones():
    before = episodes("old", "nnnn", task="hard") + episodes("old", "yyyyyyyy", first=10, task="easy")
    candidate = episodes("new", "yn", task="hard") + episodes("new", "yn", first=2, task="easy")
    verdict = judge_trials(before + candidate, "old", "new", SETTINGS)
    assert verdict is not None and verdict.promoted
    assert verdict.before is not None and (verdict.before.successes, verdict.before.episodes) == (2, 4)


@pytest.mark.parametrize(("trials", "promoted"), [("yyyn", True), ("nnnn", False)])
def test_without_episodes_of_the_policy_before_it_must_succeed_at_all(trials: str, promoted: bool):
    verdict = judge_trials(episodes("new", trials), "old", "new", SETTINGS)
    assert verdict is not None and verdict.promoted is promoted and verdict.before is None
    assert verdict.reason.startswith("the candidate stays" if promoted else "the candidate is rolled back: 0 of 4")


def test_without_simulation_there_is_only_sft():
    settings = from_dict(TrainerFile, {"worlds_in": "none", "gate": {"mode": "trials"}, "tasks": ["reach"]}, "test")
    with pytest.raises(SettingsError, match="stage: cycle practises in simulation, and there is none"):
        settings.complete(JobRequest())
    assert settings.complete(JobRequest(stage="sft")).stage == "sft"
    with pytest.raises(SettingsError, match="gate: mode: without simulated worlds"):
        from_dict(TrainerFile, {"worlds_in": "none"}, "test")


def test_a_job_holds_no_episode_out():
    with pytest.raises(SettingsError, match="sft: validation_share: must be 0"):
        from_dict(TrainerFile, {"sft": {"validation_share": 0.2}}, "test")

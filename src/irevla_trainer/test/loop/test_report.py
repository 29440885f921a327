"""The report of a run: made from its folder alone, whatever state that is in, with the numbers that are in there."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from sample_run import RL, SampleRun, categories, ppo_line

from irevla_trainer.loop.account import AccountError, read_account
from irevla_trainer.loop.report import write_report
from irevla_trainer.statistics import Rate


@pytest.fixture
def run(tmp_path: Path) -> SampleRun:
    return SampleRun(tmp_path / "run")


def _rows(text: str) -> list[list[str]]:
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def _row(text: str, *start: str) -> list[str]:
    """The only row that begins with these cells."""
    (found,) = [row for row in _rows(text) if tuple(row[: len(start)]) == start]
    return found


def test_a_finished_run_is_shown_with_the_numbers_of_its_files(run: SampleRun) -> None:
    run.finished()
    text = write_report(run.folder).read_text()
    assert "unfinished" not in text
    for category, label in (("expert", "expert, test"), ("rl", "RL, test"), ("unseen", "unseen, test")):
        values = categories(43, 50)[category]
        rate = Rate(values["successes"], values["episodes"])
        low, high = rate.interval()
        figures = f"[{low:.2f}, {high:.2f}], {rate.successes} of {rate.episodes}"
        assert f"<b>{rate.value:.2f}</b><span>{label}: {figures}</span>" in text
    assert "<b>stage 2</b><span>selected: 02-stage2-window-close-new</span>" in text
    assert "<b>12,000</b><span>decisions in the environment" in text
    # Eleven steps of 12.5 s: five stages, their evaluations, and the test.
    assert "<b>2.3 min</b>" in text
    stage_1 = _row(text, "stage 1, drawer-open:blue", "12.5 s")
    assert stage_1 == ["stage 1, drawer-open:blue", "12.5 s", "4,000", "0.15", "0.85", "200", "", "converged"]
    stage_2 = _row(text, "stage 2, window-close:new", "12.5 s")
    assert stage_2 == ["stage 2, window-close:new", "12.5 s", "", "", "", "150", "0.0456", "300 updates"]
    expected = [str(Rate(n, m)) for n, m in ((18, 20), (16, 20), (9, 10))]
    assert _row(text, "stage 2, window-close:new", "12,000")[2:] == expected
    assert _row(text, "RL", "drawer-open:blue")[2:] == [str(Rate(3, 10)), str(Rate(42, 50)), "21.5"]


def test_the_sections_of_a_finished_run(run: SampleRun) -> None:
    run.finished({"drawer-open-0": True})
    text = write_report(run.folder).read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Success after every stage",
        "Stages beside the paper",
        "Test, task by task",
        "Videos",
        "Stage 1: reinforcement learning",
        "Stages 0 and 2: supervised fine-tuning",
        "All stages",
        "Settings",
    ]
    assert re.findall(r"<h3>(.*?)</h3>", text) == list(RL)
    # Success over decisions, bars, one figure for each RL task, losses.
    assert text.count("<svg") == 5
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


def test_other_worlds_stand_beside_no_numbers_of_the_paper(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run", task_file="my-tasks.yaml")
    run.finished()
    assert "paper" not in write_report(run.folder).read_text()


def test_failures_are_filmed_first_and_a_few_successes_with_them(run: SampleRun) -> None:
    films = {f"good-{number}": True for number in range(5)} | {f"bad-{number}": False for number in range(7)}
    run.finished(films)
    text = write_report(run.folder).read_text()
    shown = [base64.b64decode(data).decode() for data in re.findall(r'src="data:video/mp4;base64,([^"]*)"', text)]
    assert shown == [f"film of bad-{number}" for number in range(5)] + [f"film of good-{number}" for number in range(3)]
    assert "8 of 12 filmed test episodes (7 failed)" in text


@pytest.mark.slow
def test_large_films_stay_out(run: SampleRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irevla_trainer.loop.report._FILM_BYTES", 30)
    run.finished({"first": False, "second": False, "third": False})
    assert write_report(run.folder).read_text().count("<video") == 2


def test_an_unfinished_run_says_so_and_how_far_it_is(run: SampleRun) -> None:
    text = write_report(run.folder).read_text()
    assert "This run is unfinished: 0 of 5 stages are done." in text
    run.until_stage_0()
    run.step("01-stage1-drawer-open-blue", None, [ppo_line(1, 700), ppo_line(2, 1400)])
    text = write_report(run.folder).read_text()
    assert "This run is unfinished: 1 of 5 stages are done, stage 1, drawer-open:blue has begun" in text
    assert "best on validation so far: 00-stage0" in text
    assert "Not done: 1,400 decisions so far." in text
    assert _row(text, "stage 1, drawer-open:blue")[1:] == [""] * 6 + ["not done"]


def test_the_report_follows_the_run(run: SampleRun) -> None:
    run.until_stage_0()
    before = write_report(run.folder).read_text()
    run.task(1, RL[0], 4000, 6)
    after = write_report(run.folder).read_text()
    assert "<h3>drawer-open:blue</h3>" not in before and "<h3>drawer-open:blue</h3>" in after
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.yaml", "report.html", "steps"]


@pytest.mark.parametrize("broken", ["", '{"iteration": 1.0, "deci', "null"])
def test_files_that_a_kill_left_half_written_are_left_out(run: SampleRun, broken: str) -> None:
    run.until_stage_0()
    path = run.step("01-stage1-drawer-open-blue", None, [ppo_line(1, 700)])
    with (path / "metrics.jsonl").open("a") as file:
        file.write(broken)
    (path / "step.json").write_text(broken)
    assert "Not done: 700 decisions so far." in write_report(run.folder).read_text()


@pytest.mark.slow
def test_every_moment_of_a_run_has_a_report(run: SampleRun, tmp_path: Path) -> None:
    """Whatever files are there yet: without one after the other, from the last to the first."""
    run.finished({"drawer-open-0": True})
    files = [path for path in sorted(run.folder.rglob("*"), reverse=True) if path.is_file()]
    files = [path for path in files if path.name not in ("config.yaml", "report.html")]
    for number, path in enumerate(files):
        path.unlink()
        if number % 5 == 0 or path == files[-1]:  # drawing takes a second
            write_report(run.folder)


def test_figures_that_are_not_finite_leave_a_gap(run: SampleRun) -> None:
    run.until_stage_0()
    line = ppo_line(2, 1400) | {"kl": float("nan")}
    run.step("01-stage1-drawer-open-blue", None, [ppo_line(1, 700), line])
    write_report(run.folder)


def test_supervised_learning_alone(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run", stage1={"enabled": False})
    run.until_stage_0()
    text = write_report(run.folder).read_text()
    assert "1 of 1 stages are done" in text and "Stage 1: reinforcement learning" not in text


def test_decisions_are_those_of_all_tasks_so_far(run: SampleRun) -> None:
    run.finished()
    assert [stage.decisions for stage in read_account(run.folder).stages] == [0, 4000, 4000, 12000, 12000]


def test_another_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match=r"no run here, expected a folder of irevla train with config\.yaml"):
        write_report(tmp_path)

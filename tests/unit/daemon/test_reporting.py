"""When the final report is asked for, and what becomes of a failure."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tracksided.jobs import JobFailed, ReportDone, ReportJob
from tracksided.reporting import FinalReport


@dataclass
class FakePool:
    jobs: list[ReportJob] = field(default_factory=list)

    def submit(self, job: ReportJob) -> int:
        self.jobs.append(job)
        return 40 + len(self.jobs)


def test_report_is_asked_for_once_and_waited_for(tmp_path: Path) -> None:
    report, pool = FinalReport(tmp_path), FakePool()

    assert not report.finish(pool)
    assert not report.finish(pool)
    assert not report.receive(7, ReportDone())
    assert report.receive(41, ReportDone())
    assert report.finish(pool)
    assert pool.jobs == [ReportJob(tmp_path)]


def test_report_that_fails_is_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report, pool = FinalReport(tmp_path), FakePool()
    report.finish(pool)

    assert report.receive(41, JobFailed("disk full", is_output=True))

    assert report.finish(pool)
    assert len(pool.jobs) == 1
    assert caplog.messages == [f"the final report of {tmp_path} is missing: disk full"]

"""From the journal to what the reports show."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightmill.engine.items import Status
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.engine.record import Failure, ReportData, Session

SHEET = 6  # items on the contact sheet
LISTED = 500  # items of one kind that a report lists


def report_data(journal: Journal, sheet: int) -> ReportData:
    """All that is known of a run."""
    counts = journal.counts()
    unfinished = counts.get(Status.PENDING, 0) + counts.get(Status.RUNNING, 0)
    return ReportData(
        recipe=journal.recall("recipe") or "",
        version=journal.recall("version") or "",
        source=journal.recall("source") or "",
        config=journal.recall("config") or {},
        counts={status: n for status, n in counts.items() if n},
        total=sum(counts.values()),
        failures=[Failure(r.key, r.stage, r.error_class, r.error) for r in islice(journal.rows(Status.FAILED), LISTED)],
        failure_classes=journal.failure_classes(),
        recovered=[(row.key, row.error) for row in islice(journal.rows(Status.RECOVERED), LISTED)],
        filtered=[(row.key, row.error) for row in islice(journal.rows(Status.FILTERED), LISTED)],
        warnings=journal.warnings(),
        sessions=[Session.from_json(record) for record in journal.sessions()],
        sheet=journal.previews(sheet),
        exports=journal.recall("exports") or [],
        outputs=journal.output_count(),
        sections=[(title, html) for title, html in journal.recall("sections") or []],
        how_to_continue="the same command again goes on from here" if unfinished else None,
    )


def write_reports(outputs: Outputs, data: ReportData, *, whole: bool) -> None:
    """report.html at any time; report.json, like the manifest, only of a run that is through."""
    from lightmill.engine.report import render_html, summary_json  # only needed when all pictures are done

    outputs.write_if_changed("report.html", _encoded(render_html(data)))
    if whole:
        text = json.dumps(summary_json(data), indent=2, ensure_ascii=False) + "\n"
        outputs.write_if_changed("report.json", _encoded(text))


def status_json(journal: Journal) -> dict[str, Any]:
    """What `lightmill status --json` prints."""
    counts = journal.counts()
    return {
        "recipe": journal.recall("recipe"),
        "source": journal.recall("source"),
        "total": sum(counts.values()),
        "counts": {status: counts.get(status, 0) for status in Status},
        "failures": journal.failure_classes(),
        "warnings": journal.warnings(),
        "sessions": journal.sessions(),
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"{status['recipe']}: {status['source']}"]
    lines += [f"  {n:>9,} {name}" for name, n in status["counts"].items() if n]
    lines += [f"  {n:>9,} failed as {what}" for what, n in status["failures"].items()]
    lines += [f"warning: {text}" for text in status["warnings"]]
    for session in status["sessions"][-1:]:
        lines.append(f"last session: {session['outcome']}, {session['ended']} items in {session['wall_s']:.1f} s")
    return lines


def _encoded(text: str) -> Iterator[bytes]:
    yield text.encode("utf-8", "backslashreplace")

"""Figures that tests measured (`record_property`) are printed at the end of a run."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = {f"{name}: {value}" for report in reports for name, value in getattr(report, "user_properties", ())}
    if lines:
        terminalreporter.section("measured")
        for line in sorted(lines):
            terminalreporter.write_line(line)

"""What the benchmarks found, for the terminal and as RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import chart


@dataclass(frozen=True)
class Finding:
    """One row of a table."""

    what: str
    goal: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Picture:
    """A drawing of a section, in a file of its own beside RESULTS.md."""

    name: str
    title: str
    svg: str


@dataclass
class Section:
    """What one benchmark found."""

    name: str
    claim: str
    findings: list[Finding] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class Report:
    """Filled by the benchmarks, one section each. Only what is wrong fails a run; what is slow is written down."""

    quick: bool
    sections: list[Section] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    bars: list[chart.Bar] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def begin(self, name: str, claim: str) -> None:
        self.sections.append(Section(name, claim))
        self.say(f"== {name}: {claim}")

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    def goal(self, what: str, goal: str, measured: str, met: bool) -> None:
        """Something that has to be fast. Quick runs are too small to tell."""
        self.add(Finding(what, goal, measured, "not judged" if self.quick else "met" if met else "missed"))

    def check(self, what: str, goal: str, found: str, holds: bool) -> None:
        """Something that has to be so, however slow the machine."""
        self.add(Finding(what, goal, found, "met" if holds else "WRONG"))
        if not holds:
            self.wrong.append(f"{self.sections[-1].name}: {what}: {found} instead of {goal}")

    def note(self, what: str, measured: str) -> None:
        """Something worth knowing that has no goal."""
        self.add(Finding(what, "", measured, ""))

    def skip(self, what: str, reason: str) -> None:
        self.add(Finding(what, "", reason, "skipped"))

    def fail(self, error: BaseException) -> None:
        self.check("the benchmark runs to its end", "it does", f"{type(error).__name__}: {error}", False)

    def add(self, finding: Finding) -> None:
        self.sections[-1].findings.append(finding)
        goal = f" (goal: {finding.goal})" if finding.goal else ""
        verdict = f" - {finding.verdict}" if finding.verdict else ""
        self.say(f"{finding.what}: {finding.measured}{goal}{verdict}")

    def add_picture(self, name: str, title: str, svg: str) -> None:
        self.sections[-1].pictures.append(Picture(name, title, svg))

    def write(self, directory: Path, server_version: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "RESULTS.md").write_text(self.markdown(server_version))
        if self.bars:
            (directory / "results.svg").write_text(self.drawing(server_version))
        for picture in (picture for section in self.sections for picture in section.pictures):
            (directory / f"{picture.name}.svg").write_text(picture.svg)

    def drawing(self, server_version: str) -> str:
        release = server_version.split(maxsplit=1)[0]
        conditions = f"PostgreSQL {release} with pgbench on the same {os.cpu_count()} cores, prepared statements"
        return chart.draw("Heartbeats per second", conditions, self.bars)

    def markdown(self, server_version: str) -> str:
        lines = ["# Results", "", *self.preamble(server_version), ""]
        if self.bars:
            lines += ["![Heartbeats per second](results.svg)", ""]
        for section in self.sections:
            lines += [f"## {section.name}", "", f"{section.claim}.", ""]
            for picture in section.pictures:
                lines += [f"![{picture.title}]({picture.name}.svg)", ""]
            lines += ["| what | goal | measured | |", "| --- | --- | --- | --- |"]
            lines += [row(finding) for finding in section.findings]
            lines.append("")
        return "\n".join(lines)

    def preamble(self, server_version: str) -> list[str]:
        today = datetime.datetime.now(datetime.timezone.utc).date()
        lines = [
            f"Measured on {today} with PostgreSQL {server_version}, fsync on: {machine()}. The load generator ran on "
            "the same machine. Ratios are medians over rounds in which what is compared ran side by side; what each "
            "line means is in [README.md](README.md)."
        ]
        if self.quick:
            lines += ["", "**A quick run**: right or wrong can be told, fast or slow cannot."]
        return lines


def row(finding: Finding) -> str:
    cells = (finding.what, finding.goal, finding.measured, finding.verdict)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def machine() -> str:
    """The machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({processor()}), {memory:.0f} GiB of memory, {platform.system()}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

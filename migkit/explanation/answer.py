"""What comes out of an explanation: answers as data, each with its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from migkit.errors import unknown
from migkit.explanation.verdict import Verdict
from migkit.trace import Trace

Figure = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question: yes, no or cannot tell. `basis` says how it is known: observed, bounded, modelled or
    unknowable; `from_s` and `until_s` when it was so; `figures` are what it rests on, each name telling its unit."""

    question: str
    answer: str
    basis: str
    from_s: float | None = None
    until_s: float | None = None
    figures: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a migration went as it did.

    Attributes:
        trace: what was explained.
        verdict: `limited_by` (candidates, the likeliest first; empty: it cannot be told), `converges` (yes, no, cannot
            tell), the fault's window, and on which grounds.
        time_s: where the time went: prepare, disk, first pass, later passes, post-copy, and what of it was lost in
            stalls and on a slow path.
        answers: one `Answer` a question, in the order in which an operator asks them.
    """

    trace: Trace
    verdict: Verdict
    time_s: Mapping[str, float]
    answers: tuple[Answer, ...]

    @property
    def limited_by(self) -> tuple[str, ...]:
        """What held it up: the candidates that the trace leaves, the likeliest first."""
        return self.verdict.limited_by

    @property
    def converges(self) -> str:
        """Whether it ended, or would have as long as its guest wrote as it did, without anybody's help: yes, no or
        cannot tell."""
        return self.verdict.converges

    def __getitem__(self, question: str) -> Answer:
        """The answer to a question, by its name. Raises UsageError, with the nearest name, where there is none."""
        by_name = {one.question: one for one in self.answers}
        if question not in by_name:
            raise unknown("question", question, by_name)
        return by_name[question]

    @property
    def table(self) -> pd.DataFrame:
        """One row a question: question, answer, basis, from_s, until_s, evidence (in words)."""
        from migkit.explanation.evidence import evidence

        rows = [(a.question, a.answer, a.basis, a.from_s, a.until_s, evidence(a)) for a in self.answers]
        columns = ["question", "answer", "basis", "from_s", "until_s", "evidence"]
        return pd.DataFrame(rows, columns=columns).astype({"from_s": "float64", "until_s": "float64"})

    @property
    def paragraph(self) -> str:
        """The explanation in a few sentences."""
        from migkit.explanation.text import paragraph

        return paragraph(self)

    def to_json(self) -> str:
        """Everything as one JSON object; numbers unrounded but to the microsecond."""
        verdict, end = self.verdict, self.trace.meta.end
        known = {
            "trace": self.trace.name,
            "provenance": self.trace.meta.provenance,
            "outcome": end.outcome,
            "error_text": end.error_text or None,
            "limited_by": list(verdict.limited_by),
            "because": verdict.because,
            "converges": verdict.converges,
            "because_converges": verdict.because_converges,
            "fault_from_s": _plain(verdict.fault_from_s),
            "fault_until_s": _plain(verdict.fault_until_s),
            "time_s": {name: _plain(value) for name, value in self.time_s.items()},
            "answers": {a.question: _as_json(a) for a in self.answers},
            "paragraph": self.paragraph,
        }
        return json.dumps(known)

    def __repr__(self) -> str:
        said = " or ".join(self.limited_by) or "cannot tell"
        return f"<Explanation of {self.trace.name or 'a trace'}: {said}, converges: {self.converges}>"


def _as_json(answer: Answer) -> dict[str, object]:
    figures = {name: _plain(value) for name, value in answer.figures.items()}
    return {"answer": answer.answer, "basis": answer.basis, "from_s": _plain(answer.from_s),
            "until_s": _plain(answer.until_s), **figures}  # fmt: skip


def _plain(value: Figure) -> Figure:
    if value is None or isinstance(value, str):
        return value
    return round(float(value), 6) if value == value and abs(value) != float("inf") else None

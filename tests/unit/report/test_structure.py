"""The report's structure, against a golden file: sections, headings, columns, figures, no numbers.

After a change that is meant, renew the file: python -m tests.unit.report.test_structure
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from crossfold.data.examination.findings import DataFacts, Pair, PairCounts
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels.confused_classes import ConfusedClasses, ConfusedPair
from crossfold.diagnosis.labels.label_errors import ClassLabels, LabelErrors, LabelIssue
from crossfold.diagnosis.labels.outliers import Outlier, Outliers
from crossfold.records import DivergedEntry, DivergedFold, Evaluation, Leaderboard, Registration
from crossfold.report.drawings import draw
from crossfold.report.page import render
from crossfold.report.pictures import DataSummary

GOLDEN = Path(__file__).with_name("structure.txt")
RECORDED = Path(__file__).parents[1] / "recorded"
PICTURE = "data:,"


class Outline(HTMLParser):
    """Lists an HTML page's landmarks in their order, a line each; a row's headings share one."""

    TEXTS = ("title", "h1", "h2", "h3", "dt", "th", "summary")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.text: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        label = known.get("aria-label") or ""
        if tag == "section":
            self.lines.append(f"section #{known['id']}")
        elif tag == "a":
            self.lines.append(f"  link {known['href']}")
        elif tag == "img":
            self.lines.append("  picture")
        elif known.get("role") == "region":
            self.lines.append(f"  region {label}")
        elif known.get("role") == "img":
            subject, *_ = re.split("[:.,]", label)  # the rest has numbers
            self.lines.append(f"  figure {subject}")
        elif tag in self.TEXTS:
            self.text = f"#{known['id']} " if "id" in known else ""

    def handle_data(self, data: str) -> None:
        if self.text is not None:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if self.text is None or tag not in self.TEXTS:
            return
        text, self.text = re.sub(r"\b\d[\d.]*", "N", self.text), None
        if tag == "th" and self.lines[-1].startswith("  th "):
            self.lines[-1] += f" | {text}"
        else:
            self.lines.append(f"  {tag} {text}")


def _label_findings(name: str) -> dict[str, Any]:
    """Make findings of each kind for one image and one pair of classes."""
    issue = LabelIssue(
        path="a.png",
        label=name,
        suggested=name,
        label_probability=0.1,
        suggested_probability=0.9,
    )
    of_class = ClassLabels(name=name, num_images=6, num_issues=1, num_errors=1)
    outlier = Outlier(path="a.png", label=name, distance=0.5, z_score=9)
    pair = ConfusedPair(
        classes=(name, name),
        num_images=(6, 6),
        first_as_second=3,
        second_as_first=2,
        expected=0.1,
        p_value=0.01,
    )
    return {
        "label_errors": LabelErrors(
            num_images=6,
            num_mistakes=1,
            num_issues=1,
            error_share=0.1,
            classes=(of_class,),
            issues=(issue,),
        ),
        "outliers": Outliers(
            num_judged=6, num_outliers=1, num_references=None, outliers=(outlier,)
        ),
        "confused_classes": ConfusedClasses(num_pairs=1, pairs=(pair,)),
    }


def structure() -> str:
    board = Leaderboard.read(RECORDED / "leaderboard.json")
    diverged = DivergedEntry(
        candidate=board.chosen.candidate, folds=(DivergedFold(fold=0, epoch=1),)
    )
    evaluation = Evaluation.read(RECORDED / "evaluation.json")
    mistaken = (1, *evaluation.labels[1:])
    evaluation = evaluation.model_copy(update={"labels": mistaken})
    first, *_ = evaluation.paths
    pair = Pair(
        paths=("a.png", first), correlation=0.99, other_class=False, places=("fold 0", "test")
    )
    counts = PairCounts(pairs=1, images=2, leaks=1, leaked=1)
    facts = DataFacts(num_images=9, num_test=3, pair_counts=counts, leaked=(first,), leaks=(pair,))
    name, *_ = evaluation.classes
    data = DataSummary(
        counts={"train": {name: 6}, "test": {name: 3}},
        data_hash=evaluation.data_hash,
        skipped=("b.png",),
        facts=facts,
        samples={name: {"a.png": PICTURE}},
        tested=dict.fromkeys(evaluation.paths, PICTURE),
        overlays=dict.fromkeys(evaluation.paths, PICTURE),
        leaks=dict.fromkeys(pair.paths, PICTURE),
        diagnosed={"a.png": PICTURE},
    )
    board = board.model_copy(update={"diverged": (diverged,)})
    found = Diagnosis(left_out={}, **_label_findings(name))
    html = render(
        evaluation,
        board,
        found,
        data,
        draw(evaluation, board, found),
        registration=Registration.read(RECORDED / "registration.json"),
        lineage={"git_commit": "abc", "libraries": "{}", "settings": "{}"},
    )
    return "\n".join(Outline(html).lines) + "\n"


def test_the_report_has_its_structure() -> None:
    assert structure() == GOLDEN.read_text(encoding="utf-8"), __doc__


if __name__ == "__main__":
    GOLDEN.write_text(structure(), encoding="utf-8")

from pathlib import Path

import pytest

from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.errors import UserError
from crossfold.review.label_issues import read_issues


def test_issues_are_read_as_a_run_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "label_issues.csv"
    header = ",".join(LabelIssue.model_fields)
    path.write_text(f'{header}\n"cat/ä, b.png",cat,dog,0.0123,0.9\n', encoding="utf-8")
    (issue,) = read_issues(path)
    assert tuple(issue.model_dump().values()) == ("cat/ä, b.png", "cat", "dog", 0.0123, 0.9)
    path.write_text(f"{header}\n")
    assert read_issues(path) == ()
    path.write_text(f"{header}\ncat/0.png,cat\n")
    with pytest.raises(UserError, match="has been modified"):
        read_issues(path)
    path.unlink()
    with pytest.raises(UserError, match="`crossfold run` writes it"):
        read_issues(path)

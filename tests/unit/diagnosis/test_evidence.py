from crossfold.diagnosis.evidence import number_by_content


def test_groups_are_numbered_by_their_content() -> None:
    contents = ["d", "b", "c", "a"]
    assert number_by_content([7, 3, 3, 9], contents).tolist() == [2, 1, 1, 0]
    assert number_by_content([1, 5, 5, 2], contents).tolist() == [2, 1, 1, 0]

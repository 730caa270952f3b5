from crossfold.data.grouping.joining import join_images


def test_a_chain_of_groups_copies_and_pairs_is_one_group() -> None:
    groups = ["a", "a", "b", "b", "c", "d"]
    contents = ["1", "2", "2", "3", "4", "5"]  # a copy ties a and b
    assert join_images([contents, groups]) == [0, 0, 0, 0, 1, 2]
    assert join_images([contents, groups], [(4, 0)]) == [0, 0, 0, 0, 0, 1]
    assert join_images([contents]) == [0, 1, 1, 2, 3, 4]


def test_a_value_of_one_key_is_no_value_of_another() -> None:
    assert join_images([["a", "b"], ["b", "a"]]) == [0, 1]


def test_no_images_have_no_groups() -> None:
    assert join_images([[]]) == []

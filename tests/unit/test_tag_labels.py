from crossfold import tag_labels


def test_no_tag_is_listed_twice_and_a_section_is_in_one_piece() -> None:
    tags = tag_labels.tags()
    names = [tag.name for tag in tags]
    assert len(names) == len(set(names))
    sections = [tag.section for tag in tags]
    assert sections == sorted(sections, key=sections.index)

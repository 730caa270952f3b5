from pathlib import Path

import pytest

from crossfold.data.disk_need import estimate_need
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.versioning.dvc import Pointer

SQUARES = (SquareGeometry(100), SquareGeometry(200))  # 30,000 and 120,000 bytes
MD5 = "0a1b0a1b0a1b0a1b0a1b0a1b0a1b0a1b.dir"


def test_training_images_take_their_squares_and_test_images_their_files() -> None:
    need = estimate_need(Pointer(MD5, "data", 1000 * 4_000_000, 1000), 0.2, SQUARES)
    assert need.squares == 1000 * 150_000
    assert need.table == 800 * 150_000 + 200 * 4_000_000
    assert need.total == need.squares + need.table


def test_files_of_small_images_take_the_place_of_squares() -> None:
    need = estimate_need(Pointer(MD5, "data", 1000 * 500, 1000), 0.5, SQUARES)
    assert (need.squares, need.table) == (1000 * 1000, 500 * 1000 + 500 * 500)


def test_a_compressed_photograph_takes_a_square_though_its_file_is_smaller() -> None:
    need = estimate_need(Pointer(MD5, "data", 1000 * 25_000, 1000), 0.5, SQUARES)
    assert need.squares == 1000 * 150_000


@pytest.mark.parametrize("numbers", [(0, 0), (10**18, 0), (0, 10**12)])
def test_without_both_numbers_nothing_is_estimated(numbers: tuple[int, int]) -> None:
    assert estimate_need(Pointer(MD5, "data", *numbers), 0.2, SQUARES).total == 0


def test_an_unknown_share_of_test_images_counts_the_larger_of_file_and_squares() -> None:
    for size, larger in ((4_000_000, 4_000_000), (25_000, 150_000)):
        need = estimate_need(Pointer(MD5, "data", 1000 * size, 1000), None, SQUARES)
        assert need.table == 1000 * larger


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    estimate_need(Pointer(MD5, "data", 10**6, 10), 0.2, SQUARES).require(tmp_path)
    need = estimate_need(Pointer(MD5, "data", 4 * 10**18, 10**12), 0.2, SQUARES)
    with pytest.raises(UserError, match=rf"1000000000000 images .* {tmp_path} has [\d.]+ GB free"):
        need.require(tmp_path)

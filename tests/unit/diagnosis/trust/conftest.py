from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As diagnose_data does."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield

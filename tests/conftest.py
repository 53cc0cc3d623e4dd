"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

REAL = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real MRI beside the checkout; its README says what it holds."""
    if not REAL.is_dir():
        pytest.skip(
            f"real MRI absent: no folder {REAL.parent.name}/{REAL.name} beside the checkout"
        )
    return REAL

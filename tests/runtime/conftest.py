"""The kernel library, brought up to date before these tests."""

from __future__ import annotations

import pytest

from graffiti.ops.kernels import build
from graffiti.runtime import library


@pytest.fixture(scope="session", autouse=True)
def kernels() -> library.Library:
    """The loaded library."""
    build.build()
    return library.load()


def pytest_generate_tests(metafunc):
    """``tier`` runs over every tier of the ABI; the ones this CPU lacks skip."""
    if "tier" in metafunc.fixturenames:
        metafunc.parametrize("tier", library.TIERS[1:], indirect=True)


@pytest.fixture
def tier(request, kernels) -> str:
    """One instruction set."""
    if request.param not in kernels.tiers():
        pytest.skip(f"this CPU has no {request.param}")
    return request.param

import os
import platform
import subprocess
import sys

import pytest
from tests.conftest import checkout_env

from lightmill.train.threads import wait_patiently


@pytest.mark.parametrize(("given", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_hears_of_it_before_torch_comes(given: str | None, wanted: str) -> None:
    """OpenMP says itself what it goes by."""
    environment = checkout_env() | {"OMP_DISPLAY_ENV": "true"}
    environment.pop("OMP_WAIT_POLICY", None)
    if given:
        environment["OMP_WAIT_POLICY"] = given
    code = "from lightmill.train.threads import wait_patiently as w; assert w(); import torch; assert not w()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch's OpenMP does not say what it goes by")
    assert f"OMP_WAIT_POLICY = '{wanted}'" in done.stderr


def test_it_says_where_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert not wait_patiently()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems have no mallopt")
def test_memory_of_arrays_that_are_gone_is_there_again() -> None:
    """Page faults, as the system counts them, of arrays that come and go."""
    code = (
        "import resource, numpy as np\n"
        "from lightmill.train.threads import keep_memory\n"
        "count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def faults():\n"
        "    np.ones(1 << 24, np.uint8)\n"
        "    before = count()\n"
        "    for _ in range(20): np.ones(1 << 24, np.uint8)\n"
        "    return count() - before\n"
        "before = faults(); assert keep_memory(); print(before, faults())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=checkout_env(), capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10

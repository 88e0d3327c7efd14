"""The attacks of `tests/acceptance/nobody_starves.py`, a second of each: nobody else is refused, waits five seconds, or sees the memory go."""

import subprocess
import sys

import nobody_starves
import pytest
from conftest import ROOT

ATTACKS = [attack.__name__ for attack in [*nobody_starves.SHARES, *nobody_starves.IN_THE_WAY]]


@pytest.mark.parametrize("attack", ATTACKS)
def test_honest_callers_are_answered_beside(attack, binary):
    script = ROOT / "tests" / "acceptance" / "nobody_starves.py"
    command = [sys.executable, str(script), "--binary", str(binary), "--only", attack, "--short"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

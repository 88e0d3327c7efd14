"""Where promtool is, which holds the alerting rules against their scenarios: on the PATH, or out of Debian's package, unpacked under `target/`
(no daemon is installed or started by that, and no root is needed where apt has its lists)."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNPACKED = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "prometheus"
# A mirror that does not answer must not hold up the tests.
APT_SECONDS_MAX = 180


class Missing(Exception):
    """There is no promtool, and why none could be had."""


def find():
    """The path of promtool; `Missing` where there is none and Debian's package cannot be had either."""
    if on_path := shutil.which("promtool"):
        return on_path
    tool = UNPACKED / "usr" / "bin" / "promtool"
    if not tool.exists():
        unpack(tool)
    return str(tool)


def unpack(tool):
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing("promtool is not on the PATH, and there is no apt-get to have Debian's package 'prometheus' from")
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED) as folder:
        if not download(folder):
            # A fresh image has no lists; only root can fetch them.
            apt("update", folder=folder)
            if not download(folder):
                raise Missing("promtool is not on the PATH, and apt-get cannot download the package 'prometheus'")
        package = next(pathlib.Path(folder).glob("prometheus_*.deb"))
        subprocess.run(["dpkg-deb", "--extract", package, f"{folder}/files"], check=True)
        tool.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, also when two test runs meet here.
        os.replace(f"{folder}/files/usr/bin/promtool", tool)


def download(folder):
    return apt("download", "prometheus", folder=folder) and any(pathlib.Path(folder).glob("prometheus_*.deb"))


def apt(*arguments, folder):
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    try:
        return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=APT_SECONDS_MAX).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    try:
        print(find())
    except Missing as missing:
        sys.exit(str(missing))

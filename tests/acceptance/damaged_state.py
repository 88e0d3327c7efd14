"""Every file a server keeps, damaged one by one: the start goes through, inference answers, the routes that need the file say why not,
nothing is overwritten, `store check --repair` mends it, and the next start is whole.

    python3 tests/acceptance/damaged_state.py [BINARY]

Prints a line a damage; exits with 1 if one is not as it should be. About two starts of a second each for every damage.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from server import ROOT, Failure, Server, default_binary

ROWS = b"text,label\n" + b"".join(b"text number %d,%s\n" % (at, b"ab"[at % 2:at % 2 + 1]) for at in range(40))
ALIAS = {"targets": [{"adapter": "emotion"}]}


def garbage(path):
    path.write_bytes(b"{damaged" * 100)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def longer(path):
    path.write_bytes(b" " * (5 << 20))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    (path / "versions" / "1").mkdir(parents=True)


def loop(path):
    path.unlink()
    path.symlink_to(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


HARMS = [garbage, empty, cut, longer, pipe, folder, loop, device]

# File below the server's folder; a route that needs it (None: another adapter's matter, or none); the part of `trunkline_degraded`.
FILES = [
    ("adapters/aliases.json", ("GET", "/v1/admin/aliases", None), "aliases"),
    ("adapters/emotion/versions/1/version.json", ("POST", "/v1/classify", {"inputs": "a", "adapter": "emotion@1"}), "adapters"),
    ("adapters/emotion/current", ("POST", "/v1/classify", {"inputs": "a", "adapter": "emotion"}), "adapters"),
    ("adapters/retired.json", None, None),
    ("state/backbones.json", ("POST", "/v1/admin/backbone/activate", {"backbone": "default"}), "backbones"),
    ("state/jobs.sqlite", ("GET", "/v1/admin/jobs", None), "jobs"),
    ("state/datasets/mail/dataset.json", ("GET", "/v1/admin/datasets/mail", None), "datasets"),
]

# What a file may say after a harm and still be right: a shortened number, an empty list of jobs.
HARMLESS = {("adapters/emotion/current", cut), ("adapters/emotion/current", longer), ("state/jobs.sqlite", empty)}


def furnish(binary, root):
    """Shipped adapters, one of them retired, an alias, a dataset, journals."""
    shutil.copytree(ROOT / "adapters", root / "adapters")
    server = Server(binary, root / "state", root / "adapters").start()
    server.call("PUT", "/v1/admin/aliases/mood", ALIAS)
    server.call("PUT", "/v1/admin/datasets/mail?family=classify&split=train", ROWS)
    server.call("DELETE", "/v1/admin/adapters/everyday-entities") if "everyday-entities" not in aliased(server) else None
    server.stop()
    (root / "adapters" / "retired.json").touch(exist_ok=True)
    if not (root / "adapters" / "retired.json").read_text():
        (root / "adapters" / "retired.json").write_text("[]\n")


def aliased(server):
    return json.dumps(server.call("GET", "/v1/admin/aliases"))


def status(server, method, path, body):
    try:
        server.call(method, path, body)
        return 200, ""
    except Failure as failure:
        return failure.status, failure.problem


def contents(path):
    return path.read_bytes() if path.is_file() and not path.is_symlink() else os.lstat(path).st_mode


def one(binary, template, name, route, part, harm):
    """Whatever is wrong, as text."""
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        shutil.copytree(template, root, dirs_exist_ok=True)
        path = root / name
        harm(path)
        damaged = contents(path)
        harmless = (name, harm) in HARMLESS
        server = Server(binary, root / "state", root / "adapters", log=root / "log").start()
        problems = []
        if status(server, "POST", "/v1/classify", {"inputs": "a", "adapter": "sms-spam"})[0] != 200:
            problems.append("inference is gone")
        if route and not harmless:
            got, problem = status(server, *route)
            if got != 503 or pathlib.Path(name).name not in problem:
                problems.append(f"{route[0]} {route[1]} answers {got} {problem[:200]}")
        if part and not harmless and f'trunkline_degraded{{part="{part}"}} 1' not in server.call("GET", "/metrics").decode():
            problems.append(f"trunkline_degraded does not say {part}")
        if server.stop() != 0:
            problems.append("it does not stop in order")
        if not harmless and contents(path) != damaged:
            problems.append("it was overwritten")
        command = [str(binary), "store", "check", "--adapters-dir", root / "adapters", "--state-dir", root / "state"]
        if not harmless and subprocess.run(command, capture_output=True, timeout=60).returncode != 1:
            problems.append("a check finds nothing")
        repaired = subprocess.run([*command, "--repair"], capture_output=True, text=True, timeout=60)
        if repaired.returncode != 0:
            problems.append(f"the repair fails: {repaired.stdout}{repaired.stderr}")
        if subprocess.run(command, capture_output=True, timeout=60).returncode != 0:
            problems.append("it is damaged after the repair")
        server = Server(binary, root / "state", root / "adapters", log=root / "log").start()
        if route and status(server, *route)[0] >= 500:
            problems.append(f"after the repair {route[1]} answers {status(server, *route)}")
        if "} 1" in "".join(line for line in server.call("GET", "/metrics").decode().splitlines() if line.startswith("trunkline_degraded")):
            problems.append("still degraded after the repair")
        server.stop()
        return "; ".join(problems)


def main():
    binary = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default_binary()
    failed = 0
    with tempfile.TemporaryDirectory() as template:
        template = pathlib.Path(template)
        furnish(binary, template)
        for name, route, part in FILES:
            for harm in HARMS:
                problem = one(binary, template, name, route, part, harm)
                failed += bool(problem)
                print(f"{name} {harm.__name__}: {problem or 'ok'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

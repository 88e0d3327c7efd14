"""Generated requests against the document the server itself gives out: no answer is a 5xx, none has a status or a shape that the document
lacks, nothing that the document allows is refused as malformed, and nothing that it forbids is taken.

    pip install -r tests/acceptance/schemathesis_requirements.txt
    python3 tests/acceptance/schemathesis_run.py --cases 30000

Starts its own server with copies of the shipped adapters, and keys for both roles. Ends with exit code 1 if anything was found.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import server

ADMIN_KEY, INFER_KEY = "generated-admin", "generated-infer"

# A request can have the right shape and the wrong content: a data set that is none, a job whose numbers do not fit it.
CONFIG = f"""\
[auth.openapi.key]
bearer = "{ADMIN_KEY}"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "503"]

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "409", "413", "415", "422", "429"]

[checks.missing_required_header]
expected-statuses = ["400", "401", "403", "404"]
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=None, help="the built program (default: target/release, else target/debug)")
    parser.add_argument("--cases", type=int, default=3000, help="generated requests, about so many")
    parser.add_argument("--seed", type=int, default=1, help="of the generator; the same seed draws the same requests")
    parser.add_argument("--seconds", type=int, default=3600, help="ends the run after so long, whatever is left")
    parser.add_argument("--include", default=None, help="only operations whose path matches this regular expression")
    parser.add_argument("flags", nargs="*", help="after --: flags of trunkline serve")
    return parser.parse_args()


def operations(document, include):
    methods = {"get", "put", "post", "delete"}
    return sum(len(methods & set(item)) for path, item in document["paths"].items() if not include or re.search(include, path))


def command(base, examples, args):
    line = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json", "--checks", "all",
        "--phases", "examples,coverage,fuzzing", "--mode", "all",
        "--max-examples", str(examples), "--seed", str(args.seed), "--generation-deterministic", "--continue-on-failure",
        "--suppress-health-check", "all", "--request-timeout", "60", "--no-color",
        # Objects that were deleted are looked for again by requests that run beside the deletion.
        "--exclude-checks", "use_after_free,ensure_resource_availability",
    ]
    return line + (["--include-path-regex", args.include] if args.include else [])


def main():
    args = arguments()
    binary = args.binary or server.default_binary()
    with tempfile.TemporaryDirectory(prefix="trunkline-generated-") as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(server.ROOT / "adapters", folder / "adapters")
        (folder / "schemathesis.toml").write_text(CONFIG)
        os.environ.update(TRUNKLINE_ADMIN_KEY=ADMIN_KEY, TRUNKLINE_INFER_KEY=INFER_KEY)
        with server.serving(binary, *args.flags, adapters=folder / "adapters") as running:
            document = running.call("GET", "/openapi.json")
            examples = max(1, args.cases // operations(document, args.include))
            line = command(f"http://127.0.0.1:{running.port}", examples, args)
            try:
                found = subprocess.run(line, cwd=folder, timeout=args.seconds).returncode
            except subprocess.TimeoutExpired:
                print(f"ended after {args.seconds} s")
                found = 1
            if running.process.poll() is not None:
                print(f"the server ended with exit code {running.process.returncode}")
                found = 1
        sys.exit(found)


if __name__ == "__main__":
    main()

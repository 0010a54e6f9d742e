"""Run the commands of `.readthedocs.yaml` as Read the Docs would: one after another, in a new environment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Install and build; ends with the status of the command that failed."""
    jobs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["build"]["jobs"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        environment = {
            **os.environ,
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "VIRTUAL_ENV": folder,
            "READTHEDOCS_OUTPUT": str(ROOT / "docs/_build/readthedocs"),
        }
        # There is no folder of data sets there.
        for name in ("SCSSL_DATA_DIR", "PYTHONPATH"):
            environment.pop(name, None)
        for command in [*jobs["install"], *jobs["build"]["html"]]:
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            print(f"$ {command}", flush=True)
            status = subprocess.run(command, shell=True, cwd=ROOT, env=environment).returncode
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"  {time.monotonic() - start:.0f} s, {cpu:.0f} s of CPU; the largest process so far had "
                f"{used.ru_maxrss / 2**20:.1f} GB",
                flush=True,
            )
            if status:
                sys.exit(status)


if __name__ == "__main__":
    main()

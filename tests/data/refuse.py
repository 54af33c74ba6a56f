"""What refusing hostile files costs: in a process of its own, whose memory is watched."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
_SCRIPT = r"""
import json, re, sys, time
from jaxvid.base.errors import JaxvidError
IMPORTS
for path in sys.argv[1:]:
    began, said = time.process_time(), ""
    try:
        CODE
    except JaxvidError as error:
        said = str(error)
    # Not getrusage: that counts what the process was before it became this one, too.
    peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) >> 10
    print(json.dumps([said, peak, time.process_time() - began]))
"""


def refusals(imports: str, code: str, *paths: pathlib.Path) -> list[str]:
    """Runs `code`, which reads `path`, for each; returns the sentences that they are refused with.

    Fails where one is not, or takes ten seconds or a gigabyte.
    """
    script = _SCRIPT.replace("IMPORTS", imports).replace("CODE", code)
    command = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for path, (said, peak, seconds) in zip(paths, results, strict=True):
        assert said and "\n" not in said, f"{path} was not refused in one sentence: {said!r}"
        assert peak < 1024 and seconds < 10, f"{path}: {peak} MiB, {seconds:.1f} s"
    return [said for said, _, _ in results]

"""What a user sees who installed jaxvid without the extra `data`."""

import subprocess
import sys


def test_missing_tensorflow_names_the_extra(tmp_path):
    arguments = ["--config=configs/tsm_r50.py:runlocal", f"--workdir={tmp_path}"]
    code = f"""
import sys
sys.modules["tensorflow"] = None  # as if it were not installed
sys.argv = {["main", *arguments]!r}
from jaxvid import main
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "jaxvid[data]" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_google_crc32c_names_the_extra():
    code = """
import sys
sys.modules["google_crc32c"] = None
from jaxvid.data import build, crc32c
from jaxvid.base.exits import exit_on_error
with exit_on_error():
    crc32c.masked(b"")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "error: records need google-crc32c: pip install 'jaxvid[data]'\n"

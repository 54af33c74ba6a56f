"""Mutated records of checkpoints, notes of downloads and answers of servers, under watch.

`python -m tests.converters.fuzz_words 2000` makes and reads that many. Each must be read as it was
or be refused in one sentence, in time and within memory; the first that is not is kept and named,
and the exit code is 1.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from converters import checkpoints, download
from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError
from jaxvid.inference import predictor
from tests.converters.fuzz import SECONDS, _limit_memory, _raise_late
from tests.converters.liar import answering
from tests.converters.test_checkpoints import random_variables

NETWORK = "tsm_test"
NAME = "x3d_m.pyth"
BODY = bytes(range(256)) * 20
VALUES = [
    *(0, -1, 1, 3, 10**9, 10**18, 10**40, 0.5, 1e300, float("nan"), float("inf"), True, None),
    *("", "x", "\x1b[2J", "\ud800", "9" * 5000, "a" * 100_000, "ema", "rgb", "softmax", "dense"),
    *(
        [],
        [1],
        ["a", "b", "c"],
        [[[]]],
        [10**9] * 3,
        {},
        {"a": 1},
        {"dtype": "uint8", "shape": [1 << 40]},
    ),
]
HEADERS = [
    *("Content-Length", "Content-Range", "Content-Encoding", "Transfer-Encoding", "Location"),
    *("ETag", "Last-Modified", "Retry-After", "Content-Type"),
]
TEXTS = [
    *("0", "-1", "9" * 5000, "1e9", "10", "5120", "chunked", "gzip", "text/html", "\x1b[2J", "é"),
    *(
        "bytes 0-9/10",
        "bytes 5-9/10",
        "bytes 9-5/1",
        "bytes */*",
        "http://[::1",
        "file:///etc/passwd",
    ),
    *(
        "http://" + "a" * 70 + ".com",
        "/files/" + NAME,
        "http://127.0.0.1:1/x",
        "//",
        "",
        '"a"',
        'W/"a"',
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="jaxvid-fuzz-"))
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "no_proxy": "127.0.0.1"}
    download.DELAY = download._MAX_DELAY = 0.001
    download.ATTEMPTS, download.TIMEOUT, download.WINDOW = 2, 2.0, 2.0
    record = _sound(folder / "checkpoint")
    signal.signal(signal.SIGALRM, _raise_late)
    _limit_memory()
    kinds = {"record": _record, "note": _note, "answer": _answer}
    outcomes, slowest = Counter(), 0.0
    for number in range(args.count):
        kind = draw.choice(list(kinds))
        started = time.perf_counter()
        try:
            signal.alarm(SECONDS)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                outcome = kinds[kind](draw, folder, record)
            problem = "a sign that moves the cursor" if "\x1b" in out.getvalue() else None
        except JaxvidError as error:
            outcome, problem = "refused", None
            if "\n" in str(error) or len(str(error)) > 2000:
                problem = f"more than a sentence: {error}"
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        if problem:
            sys.exit(f"{kind} {number} of seed {args.seed}, kept in {folder}: {problem[:500]}")
        outcomes[f"{kind}: {outcome}"] += 1
        slowest = max(slowest, time.perf_counter() - started)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{args.count} words, slowest {slowest:.2f} s, process at most {peak} MiB")
    shutil.rmtree(folder)


def _sound(folder: Path) -> dict:
    variables = random_variables(NETWORK, num_classes=3)
    tensors = checkpoints.to_torch(NETWORK, variables)
    variables, meta, _ = checkpoints.convert_and_tell(NETWORK, tensors, classes=["a", "b", "c"])
    meta |= {
        "test": {"crop": 32, "short_side": 32, "sampling": {"num_clips": 8}},
        "loss": "softmax",
    }
    meta |= {"short_side": 64}
    checkpoint.save(folder, variables, meta)
    predictor.Predictor(folder)  # Sound as it is, and all that reading imports is imported now.
    return json.loads((folder / checkpoint.RECORD).read_text())


def _record(draw: random.Random, folder: Path, record: dict) -> str:
    changed = copy.deepcopy(record)
    for _ in range(draw.choice((1, 1, 2, 4))):
        inside = draw.choice([changed, changed["meta"], changed["meta"]]) or changed
        for _ in range(3):
            key = draw.choice([*inside, "nope"])
            if not isinstance(inside.get(key), dict) or draw.random() < 0.4:
                break
            inside = inside[key]
            if not inside:
                break
        inside[draw.choice([*inside, "nope"])] = draw.choice(VALUES)
        if not isinstance(changed.get("meta"), dict):
            break
    data = bytearray(json.dumps(changed).encode())
    if draw.random() < 0.2:
        where = draw.randrange(len(data))
        data[where : where + draw.randrange(20)] = draw.choice(
            (b"[" * 50_000, b"9" * 5000, b"\xff", b"")
        )
    (folder / "checkpoint" / checkpoint.RECORD).write_bytes(data)
    meta = checkpoint.load_meta(folder / "checkpoint")
    if draw.random() < 0.5:
        tensors = checkpoints.to_torch(NETWORK, checkpoint.load(folder / "checkpoint"), meta)
        assert sum(tensor.nbytes for tensor in tensors.values()) < 1 << 28
        return "written back"
    made = predictor.Predictor(folder / "checkpoint")
    assert len(made.classes) == 3
    return "made ready"


def _note(draw: random.Random, folder: Path, _: dict) -> str:
    cache = download.cache()
    cache.mkdir(parents=True, exist_ok=True)
    for entry in cache.iterdir():
        download._discard(entry)
    (cache / f"{NAME}.part").write_bytes(BODY[: draw.randrange(len(BODY))])
    about = {"bytes": draw.choice([len(BODY), *VALUES]), "proof": draw.choice(['"a"', *VALUES])}
    text = draw.choice([json.dumps(about), json.dumps(about)[: draw.randrange(20)], "[" * 99_999])
    (cache / f"{NAME}.part.json").write_text(text)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with answering(head + BODY) as address:
        assert download.fetch(f"{address}/files/{NAME}").read_bytes() == BODY
    return "downloaded"


def _answer(draw: random.Random, folder: Path, _: dict) -> str:
    cache = download.cache()
    for entry in cache.iterdir() if cache.is_dir() else ():
        download._discard(entry)
    with answering(_said(draw), _said(draw)) as address:
        path = download.fetch(f"{address}/files/{NAME}")
    # Without a sum nothing tells a body from another: but it is one, and whole.
    assert 0 < path.stat().st_size <= 2 * len(BODY)
    return "downloaded"


def _said(draw: random.Random) -> bytes:
    status = draw.choice(
        (200, 200, 200, 206, 206, 301, 302, 308, 404, 416, 429, 500, 503, 999, 10**9)
    )
    headers = {"Content-Length": str(len(BODY)), "ETag": '"a"'}
    for _ in range(draw.randrange(4)):
        headers[draw.choice(HEADERS)] = draw.choice(TEXTS)
    lines = [f"HTTP/1.1 {status} {draw.choice(['OK', chr(27) + '[2J', ''])}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    data = bytearray("\r\n".join(lines).encode() + b"\r\n\r\n" + BODY)
    if draw.random() < 0.3:
        where = draw.randrange(200)
        data[where : where + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
    return bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))])


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()

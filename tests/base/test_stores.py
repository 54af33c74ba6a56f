"""Object stores: paths, files, parts of files and locks in a simulated one that fails at times."""

import contextlib
import multiprocessing
import os
import pathlib
import pickle
import random
import time

import pytest

from jaxvid.base import arrays, blocks, csvs, jsons, leases, locks, paths, stores, whole
from jaxvid.base.errors import JaxvidError
from tests import store

pytest.importorskip("s3fs", reason="object stores need s3fs: pip install 'jaxvid[stores]'")


@pytest.fixture(scope="module")
def address():
    with store.running() as found:
        yield found


@pytest.fixture
def bucket(address, monkeypatch, request, tmp_path):
    """A folder of a store that works."""
    yield from clients(address, monkeypatch, request, tmp_path)


@pytest.fixture
def faulty(monkeypatch, request, tmp_path):
    """A folder of a store in which a fifth of all requests fail or stall."""
    monkeypatch.setattr(stores, "_STALL", 0.4)
    with store.running(errors=0.15, stalls=0.05, seed=1) as found:
        yield from clients(found, monkeypatch, request, tmp_path)


def clients(address, monkeypatch, request, tmp_path):
    for name, value in store.environment(address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stores._client_of.cache_clear()
    yield paths.anywhere(f"s3://bucket/{request.node.name[:40]}", "--out")
    stores._client_of.cache_clear()


def test_paths_are_paths(bucket):
    path = bucket / "a" / "b.txt"
    assert isinstance(path, pathlib.Path) and str(path) == f"{bucket}/a/b.txt"
    assert (path.name, path.stem, path.suffix) == ("b.txt", "b", ".txt")
    assert path.parent.parent == bucket and path.with_name("c").parent == path.parent
    assert [str(each) for each in path.parents][-1] == "s3://bucket"
    assert pickle.loads(pickle.dumps(path)) == path and path.absolute() is path
    assert os.fspath(path) == str(path)


def test_files_of_a_store_are_files(bucket):
    path = bucket / "in" / "a.txt"
    assert not path.exists() and not path.parent.is_dir() and list(bucket.iterdir()) == []
    for read in (path.read_bytes, path.stat, path.unlink):
        with pytest.raises(FileNotFoundError):
            read()
    before = time.time_ns()
    path.write_text("é\n", encoding="utf-8")
    assert path.is_file() and not path.is_dir() and path.parent.is_dir()
    assert path.read_text(encoding="utf-8") == "é\n" and path.stat().st_size == 3
    assert abs(path.stat().st_mtime_ns - before) < 3e9
    with path.open("a", encoding="utf-8") as file:
        file.write("more")
    assert path.read_text(encoding="utf-8") == "é\nmore"
    (bucket / "b.txt").touch()
    assert (bucket / "b.txt").read_bytes() == b""
    assert list(bucket.iterdir()) == [bucket / "b.txt", bucket / "in"]
    assert list(bucket.glob("*.txt")) == [bucket / "b.txt"]
    moved = path.replace(bucket / "c.txt")
    assert moved.read_bytes() == b"\xc3\xa9\nmore" and not path.exists()
    with pytest.raises(FileExistsError):
        stores.write(moved, b"", new=True)
    with pytest.raises(RuntimeError), moved.open("w") as file:
        file.write("half")
        raise RuntimeError
    assert moved.read_bytes() == b"\xc3\xa9\nmore"
    stores.remove_folder(bucket)
    assert not bucket.exists()


def test_what_is_written_by_the_library_is_whole(bucket):
    path = bucket / "a"
    whole.text(path, "old")
    with pytest.raises(RuntimeError), whole.file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with whole.folder(bucket / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_bytes(b"x")
        (folder / "last").write_bytes(b"")
    assert (bucket / "folder" / "inner" / "x").read_bytes() == b"x"
    csvs.write(bucket / "a.csv", ["n", "text"], [[1, "=x"]])
    assert csvs.read(bucket / "a.csv") == [["1", "=x"]]
    whole.arrays(bucket / "a.npz", n=[1, 2])
    assert arrays.read_npz(bucket / "a.npz", 1 << 20)["n"].tolist() == [1, 2]
    whole.text(bucket / "a.json", "[1]")
    assert jsons.read(bucket / "a.json") == [1]
    assert paths.readable(bucket, "--out") == paths.writable(bucket, "--out") == bucket
    with pytest.raises(JaxvidError, match=f"--out={bucket}/no does not exist"):
        paths.readable(bucket / "no", "--out")
    growing = whole.Growing(path)
    growing.write(b" and new")
    growing.flush()
    assert path.read_bytes() == b"old"  # not at every line
    growing.flush(now=True)
    assert path.read_bytes() == b"old and new"
    growing.close()
    names = {each.name for each in bucket.iterdir()}
    assert names == {"a", "folder", "a.csv", "a.npz", "a.json"}


def test_nothing_is_lost_though_requests_fail_and_stall(faulty, tmp_path):
    rng = random.Random(0)
    content = {f"{n}": rng.randbytes(rng.randrange(1, 3000)) for n in range(30)}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
        stores.upload(tmp_path / name, faulty / name)
    assert {name: file.size for name, file in stores.listing(faulty).items()} == {
        name: len(data) for name, data in content.items()
    }
    assert all((faulty / name).read_bytes() == data for name, data in content.items())
    stores.download_folder(faulty, tmp_path / "back")
    for name, data in content.items():
        assert (tmp_path / "back" / name).read_bytes() == data
        ranges = [(n, min(n + 100, len(data))) for n in range(0, len(data), 100)]
        assert b"".join(stores.read_ranges(faulty / name, ranges)) == data
    stores.remove_folder(faulty)
    assert stores.listing(faulty) == {}
    counts = store.counts(os.environ["AWS_ENDPOINT_URL"])
    assert counts["error"] > 15 and counts["stall"] > 5


def test_a_store_that_is_away_is_said_in_one_sentence(bucket, monkeypatch):
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._client_of.cache_clear()
    with pytest.raises(JaxvidError) as caught:
        paths.writable(bucket, "--out")
    assert str(caught.value).startswith(f"cannot write --out={bucket} (")
    assert "127.0.0.1:9" in str(caught.value) and "\n" not in str(caught.value)


def test_the_library_that_is_missing_is_named(bucket, monkeypatch):
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda scheme: __import__("no_such_client"))
    with pytest.raises(JaxvidError, match=r"s3:// needs s3fs: pip install 'jaxvid\[stores\]'"):
        bucket.exists()


@contextlib.contextmanager
def requests(address):
    """A list that holds, after the block, how many requests were made in it."""
    before, made = sum(store.counts(address).values()), []
    yield made
    made.append((sum(store.counts(address).values()) - before) // 2)  # By method, and by fate.


def put(path, data):
    stores.write(path, data)
    return stores.listing(path.parent)[path.name]


def test_parts_are_read_in_few_requests_and_kept(bucket, address, tmp_path):
    data = random.Random(0).randbytes(20 * blocks.BLOCK + 17)
    path = bucket / "shard"
    found = put(path, data)
    spans = [(n, n + 50) for n in range(5, 3 * blocks.BLOCK, 20_000)]
    spans += [(len(data) - 20, len(data)), (15 * blocks.BLOCK - 3, 15 * blocks.BLOCK + 3), (0, 0)]
    wanted = [data[start:stop] for start, stop in spans]
    reader = pickle.loads(pickle.dumps(blocks.Reader(room=100 << 20, folder=tmp_path / "kept")))
    with requests(address) as made:
        assert reader.read(path, found, spans) == wanted
    assert made == [3]
    with requests(address) as made:
        assert reader.read(path, found, spans) == wanted
    assert made == [0]
    for block in (tmp_path / "kept").rglob("*"):
        if block.is_file():
            block.write_bytes(b"damaged" + block.read_bytes()[7:])
    with requests(address) as made:
        assert reader.read(path, found, spans) == wanted
    assert made == [3]
    # Another file of the same name and length.
    other = put(path, data[::-1])
    assert reader.read(path, other, [(0, 9)]) == [data[::-1][:9]]
    with requests(address) as made:
        assert blocks.Reader(room=0).read(path, other, [(0, 9)]) == [data[::-1][:9]]
        assert blocks.Reader(room=0).read(path, other, [(0, 9)]) == [data[::-1][:9]]
    assert made == [2] and not (tmp_path / "cache").exists()


def test_the_cache_keeps_to_its_bound_and_forgets_what_is_old(bucket, address, tmp_path):
    data = random.Random(0).randbytes(40 * blocks.BLOCK)
    path = bucket / "shard"
    found = put(path, data)
    reader = blocks.Reader(room=16 * blocks.BLOCK, folder=tmp_path / "kept")
    with requests(address) as made:
        for number in range(40):
            for each in (0, number):  # The first one is used all the time.
                start = blocks.BLOCK * each
                assert reader.read(path, found, [(start, start + 9)]) == [data[start : start + 9]]
                time.sleep(0.002)
            kept = [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]
            assert sum(file.stat().st_size for file in kept) <= 16 * (blocks.BLOCK + 4)
    assert made == [40]
    assert {"0", "39"} <= {file.name for file in kept} and len(kept) > 8


@pytest.mark.parametrize("given", ["x", "-1", "nan"])
def test_a_bound_that_is_none_is_refused(given):
    with pytest.raises(JaxvidError, match="JAXVID_STORE_CACHE_GB="):
        blocks.room_from({"JAXVID_STORE_CACHE_GB": given})
    assert blocks.room_from({}) == 10_000_000_000


@pytest.fixture
def quick(monkeypatch):
    """Leases that show signs of life every tenth of a second."""
    for name, seconds in (("_BEAT", 0.1), ("_LOOK", 0.15), ("_DEAD", 0.6)):
        monkeypatch.setattr(leases, name, seconds)


def test_one_at_a_time_holds_a_folder_of_a_store(bucket, quick):
    said = f"--out={bucket} is being written by process {os.getpid()}"
    with locks.hold(bucket, "--out"), pytest.raises(JaxvidError, match=said):
        leases.take(bucket / locks.NAME, f"--out={bucket}", locks._card(), wait=False)
    with locks.hold(bucket, "--out"):
        pass
    assert not bucket.exists()


@pytest.mark.parametrize("here", [True, False])
def test_a_lock_of_the_dead_in_a_store_is_taken_over(bucket, quick, monkeypatch, here):
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    gone.join()
    machine = leases._machine()
    monkeypatch.setattr(leases, "_machine", lambda: machine if here else "another")
    stores.write(
        bucket / locks.NAME,
        jsons.dump(locks._card() | {"pid": gone.pid, "machine": machine, "key": "x"}).encode(),
    )
    begun = time.monotonic()
    with locks.hold(bucket, "--out"):
        took = time.monotonic() - begun
        assert (took < 0.5) == here
    assert not (bucket / locks.NAME).exists()


def test_who_lost_a_lock_does_not_take_it_back(bucket, quick, capsys):
    with locks.hold(bucket, "--out"):
        stores.write(bucket / locks.NAME, b'{"key": "another"}')
        time.sleep(0.4)
        assert "was taken over by another process" in capsys.readouterr().err
    assert (bucket / locks.NAME).read_bytes() == b'{"key": "another"}'

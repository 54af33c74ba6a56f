"""Files of the Hugging Face hub, named as `hf:ORG/REPO/FILE`: by its library, and without it."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import converters
from converters import checkpoints, hub, hugging_face_write
from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError
from tests.converters.test_checkpoints import ROOT, equal, random_variables, run

NAME = "videomae_test"
VARIABLES = random_variables(NAME)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ONE = "hf:org/net/model.safetensors"
SHARDS = "hf:org/net@v1.0/large/model.safetensors.index.json"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A folder with the same network in one file, and below `large` in shards."""
    folder = tmp_path_factory.mktemp("hub") / "net"
    tensors, config = checkpoints.to_hugging_face(NAME, VARIABLES)
    hugging_face_write.write(folder, tensors, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hugging_face_write, "MAX_SHARD", 10_000)
        hugging_face_write.write(folder / "large", tensors, config)
    return folder


# ---- by a stand-in of the library


@pytest.fixture
def library(repository, tmp_path, monkeypatch):
    """Stands in for huggingface_hub; gives what it was asked for."""
    asked = []

    def hf_hub_download(repo_id, filename, revision=None):
        asked.append((repo_id, filename, revision))
        path = tmp_path / "snapshots" / COMMIT / filename
        if not (repository / filename).is_file():
            raise type("EntryNotFoundError", (OSError,), {})("404 Client Error.\nmore")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(repository / filename)  # As the cache of the library does.
        return str(path)

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_file_is_asked_for_by_repository_name_and_revision(library):
    assert equal(converters.convert(NAME, ONE), VARIABLES)
    assert equal(converters.convert(NAME, "hf://org/net@refs/model.safetensors"), VARIABLES)
    assert library == [
        ("org/net", "model.safetensors", None),
        ("org/net", "model.safetensors", "refs"),
    ]


def test_shards_are_brought_along_with_their_index_of_one_commit(library, repository, tmp_path):
    run(f"--model={NAME}", f"--checkpoint={SHARDS}", f"--out={tmp_path / 'w'}")
    assert equal(checkpoint.load(tmp_path / "w"), VARIABLES)
    names = {f"large/{path.name}" for path in (repository / "large").glob("*.safetensors")}
    assert library[0] == ("org/net", "large/model.safetensors.index.json", "v1.0")
    assert sorted(library[1:]) == [("org/net", name, COMMIT) for name in sorted(names)]


def test_an_index_may_name_no_file_outside_of_its_folder(library, repository):
    index = repository / "evil.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(JaxvidError, match="names files that are not in its folder"):
        converters.convert(NAME, "hf:org/net/evil.index.json")
    assert len(library) == 1


def test_heads_and_image_weights_may_lie_there_too(library, tmp_path):
    base = [f"--model={NAME}", f"--out={tmp_path / 'w'}"]
    with pytest.raises(JaxvidError, match="is no encoder with a probe"):
        run(*base, f"--checkpoint={ONE}", f"--head={ONE}")
    assert len(library) == 2
    with pytest.raises(JaxvidError):
        run(*base, f"--checkpoint={ONE}", "--image-weights")
    assert len(library) == 3


@pytest.mark.parametrize(
    "address, match",
    [
        ("hf:org", "names no file on the hub: write hf:ORG/REPO/FILE"),
        ("hf:org/net", "names no file on the hub"),
        ("hf:org/net/", "names no file on the hub"),
        ("hf:org/net@v1", "names no file on the hub"),
        ("hf:org/net/none.bin", "^--checkpoint=hf:org/net/none.bin cannot be had, .*no such file"),
    ],
)
def test_what_is_not_there_or_no_address_is_said(library, tmp_path, address, match):
    with pytest.raises(JaxvidError, match=match):
        run(f"--model={NAME}", f"--checkpoint={address}", f"--out={tmp_path / 'w'}")


def test_errors_that_are_not_known_are_said_in_a_line(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("first line\nsecond")

    module = types.SimpleNamespace(hf_hub_download=fails)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(JaxvidError, match="'first line': check the network, HF_ENDPOINT") as error:
        hub.local(ONE)
    assert "\n" not in str(error.value)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(JaxvidError, match=r"needs huggingface_hub: pip install 'jaxvid\[hub\]'"):
        converters.convert(NAME, ONE)


def test_what_is_written_takes_a_checkpoint_of_ours(library, tmp_path):
    for way in ("torch", "hf"):
        with pytest.raises(JaxvidError, match=f"--to={way} is for checkpoints of jaxvid"):
            run(f"--to={way}", f"--checkpoint={ONE}", f"--out={tmp_path / 'w'}")
    assert library == []


def test_a_file_of_that_name_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./hf:a", "a/hf:b", "hf.pth"):
        assert not hub.is_address(hub.door(path, "--checkpoint"))
    assert hub.local("a/hf:b") == Path("a/hf:b")
    assert hub.is_address(hub.door("hf://a/b/c", "--checkpoint"))


# ---- by the library itself


@contextlib.contextmanager
def serving(folder):
    """A hub with one repository, org/net, of any revision but `none`; gives its address."""
    tokens = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            tokens.append(self.headers.get("Authorization"))
            begin, _, rest = self.path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            error = None
            if begin != "/org/net":
                error = "RepoNotFound"
            elif revision == "none":
                error = "RevisionNotFound"
            elif not (folder / name).is_file():
                error = "EntryNotFound"
            data = b"" if error else (folder / name).read_bytes()
            self.send_response(404 if error else 200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{abs(hash(data)):x}"')
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", tokens
        finally:
            server.shutdown()


def test_the_librarys_own_variables_lead_to_files_and_shards(repository, tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub, of the extra hub, is not here")

    def convert(address, out, **environment):
        words = [f"--model={NAME}", f"--checkpoint={address}", f"--out={tmp_path / out}"]
        done = subprocess.run(
            [sys.executable, "-m", "converters", *words],
            cwd=ROOT,
            env=os.environ | {"HF_HOME": str(tmp_path / "home")} | environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    with serving(repository) as (address, tokens):
        here = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret"}
        for number, name in enumerate((ONE, SHARDS)):
            code, said = convert(name, f"w{number}", **here)
            assert code == 0, said
            assert equal(checkpoint.load(tmp_path / f"w{number}"), VARIABLES)
        assert "Bearer hf_secret" in tokens
        for name, match in (
            ("hf:org/net/none.bin", "the repository has no such file"),
            ("hf:org/net@none/model.safetensors", "the repository has no such revision"),
            ("hf:org/other/model.safetensors", "there is no such repository"),
            ("hf:org/-net-/model.safetensors", "the hub knows no such names"),
        ):
            code, said = convert(name, "x", **here)
            assert code == 1 and match in said and "Traceback" not in said
            assert "hf_secret" not in said
    # What was brought once is in the cache, whether or not the hub is there.
    assert convert(ONE, "w2", **here | {"HF_HUB_OFFLINE": "1"})[0] == 0
    code, said = convert("hf:org/net/config.json", "x", **here | {"HF_HUB_OFFLINE": "1"})
    assert code == 1 and "it is not in the cache" in said

"""The store: versions that never change, in a folder, in memory, and in S3 as moto's server speaks it."""

import errno
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from streamer.broker import free_port
from taggen import adapter
from taggen.adapter import CARD, CONFIG, FILES, MAX_BYTES, RULES, TENSORS, Adapter
from taggen.errors import AdapterError, StoreUnavailable
from taggen.reference import Reference
from taggen.store import Store
from tests.tiny import Tiny, make_tiny_adapter


class CountingStore(Store):
    """Counts what it reads, and may wait before each reading."""

    reads = 0
    may_read: threading.Event | None = None

    def _read(self, reference: Reference) -> Adapter:
        self.reads += 1
        if self.may_read is not None:
            assert self.may_read.wait(30)
        return super()._read(reference)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a running S3 with a bucket named `adapters`, in the environment as boto's tools read it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir("adapters")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of each kind."""
    return make_root(request, tmp_path)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of both kinds that cost little."""
    return make_root(request, tmp_path)


def make_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of the kind that the fixture's parameter names."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://adapters/{uuid.uuid4().hex}"
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny adapter, to be edited."""
    return Path(shutil.copytree(tiny.adapter, tmp_path / "adapter"))


@pytest.fixture(scope="session")
def three(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of one size."""
    folder = tmp_path_factory.mktemp("three")
    return [make_tiny_adapter(tiny.base, folder / str(seed), seed) for seed in (1, 2, 3)]


def edit_card(folder: Path, **changes: object) -> None:
    """Change the card."""
    (folder / CARD).write_text(json.dumps(json.loads((folder / CARD).read_text()) | changes))


def write(root: str, path: str, data: bytes) -> None:
    """Write a file below a root behind the store's back."""
    files, base = fsspec.core.url_to_fs(root)
    files.pipe_file(f"{base}/{path}", data)


def paths(root: str) -> set[str]:
    """All files below a root, hidden ones too."""
    files, base = fsspec.core.url_to_fs(root, use_listings_cache=False, skip_instance_cache=True)
    return {path.removeprefix(f"{base}/") for path in files.find(base)}


def test_what_was_put_is_loaded(any_root: str, folder: Path) -> None:
    """Under name and version of the card, rules included; another process finds it by its reference."""
    (folder / RULES).write_text('{"color": {"synonyms": {"deep sea": ["navy"]}}}')
    reference = Store(any_root).put(folder)
    assert reference == Reference("tiny-0", "1", adapter.read(folder).digest)
    assert paths(any_root) - {"tiny-0/1/digest"} == {f"tiny-0/1/{name}" for name in FILES}
    loaded = Store(any_root).load(reference)
    assert loaded.digest == reference.digest
    assert loaded.card == adapter.read(folder).card
    assert loaded.rules.normalize("color", "navy") == "deep sea"


def test_a_version_never_changes(any_root: str, folder: Path) -> None:
    """Putting it again does nothing; other content is refused and changes nothing; as another version it is taken."""
    store = Store(any_root)
    reference = store.put(folder)
    assert store.put(folder) == reference
    for changes in ({"scores": {"f1": 1}}, {"training": {"rows": 7}}):
        edit_card(folder, **changes)
        with pytest.raises(AdapterError, match=r"tiny-0/1 is there with other content.*give it a new one") as raised:
            store.put(folder)
        assert raised.value.reason == "taken"
    (folder / RULES).write_text("{}")
    with pytest.raises(AdapterError, match="other content"):
        store.put(folder)
    assert Store(any_root).load(reference).digest == reference.digest
    edit_card(folder, version="2")
    assert store.put(folder).version == "2"


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_an_upload_that_was_cut_off_goes_on(root: str, folder: Path, tiny: Tiny, tmp_path: Path) -> None:
    """With the same content; with another one the version is refused, and nothing of the first is overwritten."""
    digest = adapter.read(folder).digest
    write(root, "tiny-0/1/digest", digest.encode())
    write(root, f"tiny-0/1/{TENSORS}", (folder / TENSORS).read_bytes()[:100])
    other = make_tiny_adapter(tiny.base, tmp_path / "other", seed=5)
    edit_card(other, name="tiny-0")
    with pytest.raises(AdapterError, match="other content"):
        Store(root).put(other)
    assert paths(root) == {"tiny-0/1/digest", f"tiny-0/1/{TENSORS}"}
    reference = Store(root).put(folder)
    assert Store(root).load(reference).digest == reference.digest == digest


def test_of_several_writers_one_wins(any_root: str, three: list[Path], tmp_path: Path) -> None:
    """Different contents of one version at the same time: one is there, whole, and the others are told so."""
    folders = [Path(shutil.copytree(path, tmp_path / path.name)) for path in three]
    for path in folders:
        edit_card(path, name="shoes")
    (folders[0] / RULES).write_text("{}")
    start = threading.Barrier(len(folders))
    refusals: list[str] = []

    def put(path: Path) -> Reference | None:
        store = Store(any_root)
        start.wait()
        try:
            return store.put(path)
        except AdapterError as error:
            refusals.append(error.reason)
            return None

    with ThreadPoolExecutor(len(folders)) as threads:
        [winner] = [reference for reference in threads.map(put, folders) if reference]
    assert refusals == ["taken", "taken"]
    assert Store(any_root).load(winner).digest == winner.digest
    assert {path.split("/")[1] for path in paths(any_root)} == {"1"}  # nothing half-written is left


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is not there, nor part of it; the next try succeeds."""
    root = tmp_path / "store"
    with monkeypatch.context() as patched:

        def full(path: Path, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreUnavailable, match=r"tiny-0/1: No space left on device"):
            Store(root).put(folder)
    assert list(root.rglob("*")) == [root / "tiny-0"]
    assert Store(root).put(folder).version == "1"


def test_what_is_no_adapter_is_not_put(root: str, folder: Path) -> None:
    """A damaged folder, a name that would lead out of the root."""
    edit_card(folder, name="../tiny")
    with pytest.raises(AdapterError, match="adapter name") as raised:
        Store(root).put(folder)
    assert raised.value.reason == "name"
    (folder / TENSORS).write_bytes(b"")
    with pytest.raises(AdapterError, match=TENSORS):
        Store(root).put(folder)
    assert paths(root) == set()


@pytest.mark.parametrize("name", [CONFIG, TENSORS, CARD, RULES])
def test_content_with_another_digest_is_refused(root: str, folder: Path, name: str) -> None:
    """Cut, changed or added behind our back, in any file: seen before anything is made of it."""
    reference = Store(root).put(folder)
    data = (folder / name).read_bytes()[:-1] if (folder / name).exists() else b"{}"
    write(root, f"tiny-0/1/{name}", data)
    with pytest.raises(AdapterError, match=rf"digest \w+, not {reference.digest}") as raised:
        Store(root).load(reference)
    assert raised.value.reason == "digest"


def test_too_large_a_file_is_not_read(folder: Path, tmp_path: Path) -> None:
    """A gigabyte (of holes, here) never comes into memory."""
    reference = Store(tmp_path / "store").put(folder)
    with (tmp_path / "store" / "tiny-0" / "1" / TENSORS).open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(AdapterError, match=f"larger than {MAX_BYTES} bytes") as raised:
        Store(tmp_path / "store").load(reference)
    assert raised.value.reason == "size"


@pytest.mark.parametrize("name", [CONFIG, TENSORS, CARD])
def test_what_is_not_there_yet_may_come(root: str, folder: Path, name: str) -> None:
    """A missing file is no refusal: the same store loads the version once it is whole."""
    source = Store(root)
    reference = source.put(folder)
    store = Store(root)
    files, base = fsspec.core.url_to_fs(root)
    files.rm_file(f"{base}/tiny-0/1/{name}")
    with pytest.raises(StoreUnavailable, match="tiny-0/1"):
        store.load(reference)
    write(root, f"tiny-0/1/{name}", (folder / name).read_bytes())
    assert store.load(reference).digest == reference.digest


def test_calls_at_the_same_time_read_once(root: str, folder: Path) -> None:
    """All get the same adapter; the next call reads nothing."""
    store = CountingStore(root)
    reference = store.put(folder)
    assert len({id(one) for one in _together(store, reference, 8)}) == 1
    store.load(reference)
    assert store.reads == 1


def test_calls_at_the_same_time_fail_together_and_the_next_tries_again(root: str, folder: Path) -> None:
    """An error is not remembered."""
    store = CountingStore(root)
    reference = Store(root).put(folder)
    files, base = fsspec.core.url_to_fs(root)
    files.rm_file(f"{base}/tiny-0/1/{CARD}")
    assert {type(one) for one in _together(store, reference, 8)} == {StoreUnavailable}
    assert store.reads == 1
    write(root, f"tiny-0/1/{CARD}", (folder / CARD).read_bytes())
    assert store.load(reference).digest == reference.digest


def _together(store: CountingStore, reference: Reference, calls: int) -> list[Adapter | Exception]:
    """What so many calls come to of which the first reads only when all have been made."""
    store.may_read = threading.Event()
    called = threading.Semaphore(0)

    def load() -> Adapter | Exception:
        called.release()
        try:
            return store.load(reference)
        except StoreUnavailable as error:
            return error

    with ThreadPoolExecutor(calls) as threads:
        loading = [threads.submit(load) for _ in range(calls)]
        for _ in range(calls):
            called.acquire()
        store.may_read.set()
        return [one.result() for one in loading]


def test_memory_holds_what_was_used_last(three: list[Path], tmp_path: Path) -> None:
    """Up to its bytes: of three, with room for two, the one that was not used is read again."""
    store = CountingStore(tmp_path, cache_bytes=2 * adapter.read(three[0]).nbytes)
    first, second, third = (store.put(path) for path in three)
    for reference in (first, second, first, third, first):
        store.load(reference)
    assert store.reads == 3
    assert store.cached(second) is None
    assert [store.cached(one) is not None for one in (first, third)] == [True, True]
    assert store.held == 2 * adapter.read(three[0]).nbytes
    store.load(second)
    assert (store.reads, store.cached(first)) == (4, None)


def test_a_store_without_memory_reads_each_time(folder: Path, tmp_path: Path) -> None:
    """And serves all the same."""
    store = CountingStore(tmp_path / "store", cache_bytes=0)
    reference = store.put(folder)
    assert store.load(reference) is not store.load(reference)


def _in_a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(b"")
    return str(tmp_path / "file")


@pytest.mark.parametrize("call", ["put", "load"])
def test_a_root_that_cannot_be_used_is_trouble_not_a_refusal(call: str, folder: Path, tmp_path: Path) -> None:
    """A file where the folder should be, say."""
    store = Store(_in_a_file(tmp_path))
    use: dict[str, Callable[[], object]] = {
        "put": lambda: store.put(folder),
        "load": lambda: store.load(Reference("tiny-0", "1", "0" * 64)),
    }
    with pytest.raises(StoreUnavailable, match="tiny-0/1: Not a directory"):
        use[call]()


def test_an_object_store_that_does_not_answer_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at its address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreUnavailable, match=r"adapters/tiny-0/1: \w+"):
        Store("s3://adapters").load(Reference("tiny-0", "1", "0" * 64))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(("root", "message"), [("gs://bucket", "gcsfs"), ("nowhere://x", "Protocol not known")])
def test_a_root_of_an_unknown_kind_is_named_at_once(root: str, message: str) -> None:
    """With what to install, where that is the remedy."""
    with pytest.raises(StoreUnavailable, match=rf"{root}: .*{message}"):
        Store(root)

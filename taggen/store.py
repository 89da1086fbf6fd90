"""The store of merchants' adapters: immutable versions below a root that fsspec opens.

ROOT/NAME/VERSION/{adapter_config.json, adapter_model.safetensors, tagger.json[, rules.json]}; in object stores also the
object `digest`, by which a writer claims the version.

A reference names a version and the digest that its content must have, so what was changed behind our back is noticed
and refused. Trouble on the way (network, time-out, permission, a file that is not there yet) says nothing of the
content: it is StoreUnavailable, and worth another try.
"""

import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import fsspec
from fsspec.implementations.local import LocalFileSystem

from taggen import adapter as adapters
from taggen.adapter import CARD, FILES, RULES, Adapter
from taggen.errors import AdapterError, StoreUnavailable
from taggen.reference import Reference

CACHE_BYTES = 512 * 2**20
CLAIM = "digest"  # object that says which content a version is for


class Store:
    """Versions of adapters below a root: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX.

    What was read last is kept in memory, up to `cache_bytes` of tensors, least recently used out. All methods block
    and may be called from several threads.
    """

    def __init__(self, root: str | Path, cache_bytes: int = CACHE_BYTES) -> None:
        """Raises StoreUnavailable for a root of a kind that nothing installed here opens."""
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[Reference, Adapter] = OrderedDict()
        self._held = 0  # bytes of the cached
        self._loading: dict[Reference, Future[Adapter]] = {}
        self._lock = RLock()
        # No listing is remembered: a version that another process has just written would not be there.
        try:
            self._files, self._root = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
        except (ImportError, ValueError) as error:  # "install s3fs to access S3"; "protocol not known"
            raise StoreUnavailable(f"{root}: {error}") from None

    def load(self, reference: Reference) -> Adapter:
        """The adapter of a reference, out of memory or the store; calls at the same time for one read it once.

        Raises AdapterError for content that is too large, has another digest or is not an adapter, StoreUnavailable
        for everything else.
        """
        with self._lock:
            adapter = self.cached(reference)
            if adapter is not None:
                return adapter
            loading = self._loading.get(reference)
            mine = loading is None
            if loading is None:
                loading = self._loading[reference] = Future()
        if mine:
            self._load(reference, loading)
        return loading.result()

    @property
    def held(self) -> int:
        """Bytes of tensors in memory."""
        return self._held

    def cached(self, reference: Reference) -> Adapter | None:
        """The adapter of a reference if it is in memory, which counts as a use of it; never waits for the store."""
        with self._lock:
            adapter = self._cached.get(reference)
            if adapter is not None:
                self._cached.move_to_end(reference)
            return adapter

    def _load(self, reference: Reference, loading: "Future[Adapter]") -> None:
        """Read the version and give it, or the error, to all who wait."""
        try:
            adapter = self._read(reference)
        except BaseException as error:
            with self._lock:
                del self._loading[reference]
            loading.set_exception(error)
            return
        with self._lock:
            self._cached[reference] = adapter
            self._held += adapter.nbytes
            while self._held > self._cache_bytes:
                self._held -= self._cached.popitem(last=False)[1].nbytes
            del self._loading[reference]
        loading.set_result(adapter)

    def _read(self, reference: Reference) -> Adapter:
        files = self._read_files(reference.name, reference.version)
        digest = adapters.digest(files)
        if digest != reference.digest:
            raise AdapterError(
                f"{self._path(reference.name, reference.version)}: digest {digest}, not {reference.digest}", "digest"
            )
        return adapters.parse(files)

    def put(self, folder: Path) -> Reference:
        """Copy an adapter folder to the place that its card's name and version give; returns its reference.

        Readers see all of a version or no card of it, and a version never changes: putting the same content again
        does nothing, another one raises AdapterError (reason `taken`), as does what `adapter.read` refuses.
        StoreUnavailable: try again, the same content may go on where this call ended.
        """
        files = adapters.read_files(folder)
        card = adapters.parse(files).card
        reference = Reference(card.name, card.version, adapters.digest(files))
        path = self._path(reference.name, reference.version)
        with self._translated(path):
            if isinstance(self._files, LocalFileSystem):
                self._create_folder(Path(path), files)
            else:
                self._create_objects(path, files, reference.digest)
        if adapters.digest(self._read_files(reference.name, reference.version)) != reference.digest:
            raise _taken(path)
        return reference

    def _create_folder(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Write beside, then rename: one of several writers wins, and nothing half-written is ever there."""
        partial = path.parent / f".{path.name}.{uuid.uuid4().hex}"  # no reference can name it
        try:
            partial.mkdir(parents=True)
            for name, data in files.items():
                (partial / name).write_bytes(data)
            try:
                partial.rename(path)
            except OSError:
                if not path.exists():  # else it is there already, with this content or another
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _create_objects(self, path: str, files: Mapping[str, bytes], digest: str) -> None:
        """Claim the version for this content, which one of several writers can, then write the objects, the card last.

        Whoever holds the claim writes the same bytes, so a second writing of them changes nothing.
        """
        try:
            self._files.pipe_file(f"{path}/{CLAIM}", digest.encode(), mode="create")
        except FileExistsError:
            if self._files.cat_file(f"{path}/{CLAIM}", start=0, end=len(digest)) != digest.encode():
                raise _taken(path) from None
        for name in sorted(files, key=lambda name: name == CARD):
            self._files.pipe_file(f"{path}/{name}", files[name])

    def _read_files(self, name: str, version: str) -> dict[str, bytes]:
        path = self._path(name, version)
        files = {}
        with self._translated(path):
            for file in FILES:
                try:
                    files[file] = self._read_file(f"{path}/{file}", file)
                except FileNotFoundError:
                    if file != RULES:
                        raise
        return files

    def _read_file(self, path: str, name: str) -> bytes:
        size = self._files.info(path)["size"]
        adapters.check_size(path, name, size)
        data: bytes = self._files.cat_file(path, start=0, end=size) if size else b""
        return data

    def _path(self, name: str, version: str) -> str:
        return f"{self._root}/{name}/{version}"

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Raise what goes wrong in a file system as StoreUnavailable: their clients' errors have no common root."""
        try:
            yield
        except AdapterError:
            raise
        except Exception as error:
            problem = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            raise StoreUnavailable(f"{path}: {problem}") from error


def _taken(path: str) -> AdapterError:
    return AdapterError(f"{path} is there with other content, and a version never changes: give it a new one", "taken")

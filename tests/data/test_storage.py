"""Remote folders: an HTTP and an S3 server on loopback, the cache under its limit, transfers that fail."""

import hashlib
import http.server
import multiprocessing
import os
import pickle
import threading
from collections import Counter
from pathlib import Path

import pytest

from adhmr.config.data import FilterConfig
from adhmr.data import storage
from adhmr.data.filters import build_filter
from adhmr.data.index import DataSetIndex
from adhmr.data.node_cache import NodeCache
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import shard_name
from adhmr.data.verify import verify
from adhmr.errors import AdhmrError


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the folder of its server; counts requests; fails or cuts the first `failures` of each shard."""

    def do_GET(self):
        server, name = self.server, Path(self.path).name
        with server.lock:
            server.requests[name] += 1
            failing = name.endswith(".tar") and server.requests[name] <= server.failures
        path = server.folder / name
        if failing and server.sort == "error":
            return self.send_error(503)
        if not path.exists():
            return self.send_error(404)
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if failing else data)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADHMR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADHMR_CACHE_GB", "1")
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def serve(cache):
    """serve(folder, failures, sort) -> (URL, server); `sort` is "error" or "cut"."""
    servers = []

    def start(folder, failures=0, sort="error"):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.folder, server.failures, server.sort = folder, failures, sort
        server.requests, server.lock = Counter(), threading.Lock()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/{folder.name}", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_same_samples(remote, folder, rows=range(0, 25, 4)):
    local = ShardReader(folder)
    assert remote.index.keys == local.index.keys and remote.index.fingerprint == local.index.fingerprint
    for row in rows:
        assert remote.read_members(row) == local.read_members(row)


def cached(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_file())


def test_a_folder_on_a_web_server_is_read_through_the_cache(make_set, serve, cache):
    folder = make_set("people", 25)
    url, server = serve(folder)
    reader = ShardReader(url)
    assert reader.name == "people" and server.requests == {"index.json": 1}  # nothing else is asked for yet
    assert_same_samples(reader, folder)
    assert_same_samples(pickle.loads(pickle.dumps(reader)), folder)
    assert_same_samples(ShardReader(url), folder)
    counts = dict(server.requests)
    assert counts.pop("index.json") == 2 and set(counts.values()) == {1} and len(counts) == 5
    assert len(cached(cache)) == 5
    assert verify(url) == []
    with pytest.raises(AdhmrError, match=r"cannot be written .* copy the file there"):
        build_filter(url, FilterConfig(min_joints=1))


def test_an_s3_bucket_is_read_and_filtered(make_set, cache, monkeypatch):
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        folder, url = make_set("people", 25), "s3://bucket/data/people"
        bucket = s3fs.S3FileSystem(skip_instance_cache=True)
        bucket.mkdir("bucket")
        for path in folder.iterdir():
            bucket.put_file(str(path), f"bucket/data/people/{path.name}")
        assert_same_samples(ShardReader(url), folder)
        filter = FilterConfig(min_joints=12)
        with pytest.raises(AdhmrError, match=f"adhmr data filter {url} --min-joints 12"):
            ShardReader(url, filter=filter)
        keys = list(build_filter(url, filter).keys)
        assert keys == build_filter(folder, filter).keys
        assert [ShardReader(url, filter=filter).read(row).key for row in range(3)] == keys[:3]
        bucket.rm("bucket/data/people/000002.tar")
        for name in cached(cache):
            (cache / name).unlink()
        with pytest.raises(AdhmrError, match=r"000002.tar is missing but listed"):
            ShardReader(url).read(24)
    finally:
        server.stop()


def test_file_and_memory_urls(make_set, cache):
    import fsspec

    folder = make_set("people", 25)
    assert isinstance(DataSetIndex.load(f"file://{folder}").folder, Path)  # read where it is
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/people/{path.name}", path.read_bytes())
    assert_same_samples(ShardReader("memory://people"), folder)
    with pytest.raises(AdhmrError, match="no storage of this kind"):
        ShardReader("nothing://people")


@pytest.mark.parametrize("sort", ["error", "cut"])
def test_a_server_that_fails_twice_then_works(make_set, serve, cache, sort):
    folder = make_set("people", 25)
    url, server = serve(folder, failures=2, sort=sort)
    assert_same_samples(ShardReader(url), folder)
    assert server.requests["000000.tar"] == 3


@pytest.mark.parametrize("sort", ["error", "cut"])
def test_a_server_that_goes_on_failing_ends_it_with_one_error(make_set, serve, cache, sort):
    folder = make_set("people", 25)
    url, server = serve(folder, failures=10**9, sort=sort)
    reader = ShardReader(url)
    with pytest.raises(AdhmrError, match=rf"000001.tar cannot be fetched, {storage.ATTEMPTS} attempts failed"):
        reader.read(12)
    assert server.requests["000001.tar"] == storage.ATTEMPTS
    assert all(path.stat().st_size < 10_000 for path in cache.iterdir() if path.is_file())  # tables only, no parts
    (folder / "index.json").unlink()
    with pytest.raises(AdhmrError, match=r"people has no index.json"):
        ShardReader(url)


def test_a_shard_that_was_replaced_is_refused(make_set, serve, cache):
    folder = make_set("people", 25)
    url, _ = serve(folder)
    data = bytearray((folder / shard_name(0)).read_bytes())
    data[700] ^= 1
    (folder / shard_name(0)).write_bytes(bytes(data))
    with pytest.raises(AdhmrError, match=r"000000.tar cannot be fetched.*SHA-256.*upload the shard"):
        ShardReader(url).read(0)


def _read_all(url, started, results):
    reader = ShardReader(url)
    started.wait()
    results.put([len(reader.read_members(row)["jpg"]) for row in range(len(reader))])


@pytest.mark.slow
def test_four_processes_fetch_each_file_once(make_set, serve, cache):
    folder = make_set("people", 25)
    url, server = serve(folder)
    context = multiprocessing.get_context("spawn")
    started, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_read_all, args=(url, started, results)) for _ in range(4)]
    for process in processes:
        process.start()
    sizes = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sizes == [sizes[0]] * 4
    assert server.requests.pop("index.json") == 4
    assert server.requests == dict.fromkeys(["index-samples.npy", *map(shard_name, range(3))], 1)  # no key was read


def fetch_of(data):
    return lambda path: path.write_bytes(data)


def hashed(data):
    return hashlib.sha256(data).hexdigest()


def test_the_least_recently_used_go_first_and_what_is_open_stays(tmp_path, caplog):
    cache = NodeCache(tmp_path, limit=1000)
    files = [bytes([number]) * 300 for number in range(6)]

    def open_file(number, fetch=None):
        descriptor = cache.open(hashed(files[number]), 300, fetch or fetch_of(files[number]))
        os.utime(descriptor, (number, number))  # file 0 was used longest ago
        return descriptor

    def there():
        return [number for number, data in enumerate(files) if (tmp_path / hashed(data)).exists()]

    held = [open_file(0)]
    for number in (1, 2, 3):
        os.close(open_file(number))
    assert there() == [0, 2, 3]  # 1 is older than 2 and 3; 0 is open
    assert os.pread(held[0], 300, 0) == files[0]
    os.close(held.pop())
    held = [open_file(4)]
    assert there() == [2, 3, 4]
    held += [open_file(2, pytest.fail), open_file(3, pytest.fail)]  # no fetching: they are there
    held.append(open_file(5))
    assert there() == [2, 3, 4, 5] and "more than its limit" in caplog.text
    for descriptor in held:
        os.close(descriptor)
    with pytest.raises(AdhmrError, match="does not fit into the cache"):
        cache.open("ab" * 32, 1001, pytest.fail)


def test_parts_of_killed_processes_are_removed(tmp_path):
    cache = NodeCache(tmp_path, limit=1000)
    left = tmp_path / f".{'ab' * 32}.900.1.part"
    left.write_bytes(b"half")
    os.close(cache.open(hashed(b"x" * 300), 300, fetch_of(b"x" * 300)))
    assert not left.exists()


def test_a_mapped_table_stays_in_the_cache(tmp_path, make_set):
    data = next(make_set().glob("index-keys.npy")).read_bytes()
    cache = NodeCache(tmp_path / "cache", limit=len(data) + 10)
    array = storage.map_array(cache.open(hashed(data), len(data), fetch_of(data)))
    os.close(cache.open(hashed(b"x" * 20), 20, fetch_of(b"x" * 20)))
    assert (tmp_path / "cache" / hashed(data)).exists() and bytes(array[:6]) == b"person"
    del array
    os.close(cache.open(hashed(b"y" * 20), 20, fetch_of(b"y" * 20)))
    assert not (tmp_path / "cache" / hashed(data)).exists()


@pytest.mark.parametrize("limit", ["0", "-3", "much", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, limit):
    monkeypatch.setenv("ADHMR_CACHE_GB", limit)
    with pytest.raises(AdhmrError, match="ADHMR_CACHE_GB"):
        NodeCache.of_this_node()

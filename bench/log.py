"""The log at the speed of its signatures: appending, auditing, proving, against one verification in the same run.

Some minutes: it makes a log of a million entries, every one of them signed. Peers beside it: a naive service with one
commit for each request, npm's hypercore where node is there, and a plain Merkle root: nothing can be cheaper than that.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil

from bench import Figures, report
from bench.receipts import CONSORTIUM, Consortium, attest, found, key, publish
from client.auditor import Auditor
from client.work import works
from ledger.register import FileRegister
from ledger.store import Row, SqlStore
from shared_models.ledger_http import LedgerHttp
from shared_models.processes import free_port
from shared_models.published import bundles, reader
from shared_models.records import merkle, tlog
from shared_models.records.keys import VerifyKey
from shared_models.rules.books import Books
from shared_models.rules.skim import skim

MEMBERS, NODES = 100, 100
CONNECTIONS, AT_ONCE = 64, 100
AUDITED, ALL = 200_000, 1_000_000
PROOFS = 400
os.environ["CONSORTIUM_ED25519"] = "cryptography"  # The base install's, here and in every process that is started.
HYPERCORE = "hypercore@11.24.0"
NAIVE = 3_200  # Requests.

MEANING = {
    "verify_us": "CPU-µs to verify the signature of a receipt, many keys in turn: the unit of what follows",
    "batch_append_verify_ratio": "server CPU for one receipt of 100 in a request / verify; at most 1.5",
    "single_append_verify_ratio": "the same for one in a request, 64 connections / verify; at most 4",
    "single_append_p50_ms": "and until it is answered; at most 25",
    "audit_verify_bound_share": "full audit of 200,000 receipts: time to verify on both cores / time; at least 0.85",
    "audit_rss_mb": "memory of all its processes together, what they share counted in each; at most 200",
    "find_work_verify_ratio": "CPU of each to find 5,000 of these, and what was signed before / verify; at most 0.25",
    "attested_audit_1m_s": "attested audit of 1,000,000 entries, seconds; at most 10",
    "inclusion_proof_ms": "server CPU for a proof of inclusion in 1,000,000 entries; at most 2",
    "naive_single_ratio": "peer: FastAPI + SQLModel, a commit for each request, nothing verified / verify",
    "naive_single_p50_ms": "and until it is answered",
    "hypercore_single_ratio": "peer: npm hypercore, a block at a time, in process, nothing verified / verify",
    "hypercore_batch_ratio": "peer: the same, 100 blocks at a time / verify",
    "merkle_root_ratio": "floor: a Merkle root with hashlib, for each leaf / verify",
}

Signed = list[tuple[VerifyKey, bytes, bytes]]  # (key, signature, text) of some receipts.


def figures() -> Figures:
    consortium = found(MEMBERS)
    batches = list(consortium.receipts(NODES))
    signed = _signed(leaf for batch in batches[:30] for leaf in batch)
    measured = {"verify_us": verify_us(signed)}
    measured |= _appending(consortium, batches, signed) | _naive(batches, signed) | _hypercore(signed)
    measured["merkle_root_ratio"] = _merkle_root_us([leaf for batch in batches for leaf in batch]) / verify_us(signed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, part = Path(scratch) / "log", Path(scratch) / "part"
        begin_and_rounds = (leaf for leaves in (consortium.begin, consortium.rounds(ALL)) for leaf in leaves)
        publish(whole, islice(begin_and_rounds, ALL))
        attest(whole, consortium.members)
        read = reader(str(whole))
        publish(part, islice((leaf for each in bundles(read, ALL) for leaf in each.leaves), AUDITED))
        measured |= _audited(part, signed)
        measured["find_work_verify_ratio"] = find_work(part, signed)
        shutil.rmtree(part)
        measured["attested_audit_1m_s"] = _audit(whole, "attested")[0]
        measured["inclusion_proof_ms"] = _proving(whole, consortium)
    return measured


# The unit.


def _signed(leaves: Iterable[bytes]) -> Signed:
    found = []
    for leaf in leaves:
        text, _, line = leaf.rpartition(b"\n\n")
        _, name, encoded = line.rstrip(b"\n").split(b" ")
        found.append((key(name.decode()).verify_key, binascii.a2b_base64(encoded)[4:], text + b"\n"))
    return found


def verify_us(signed: Signed, runs: int = 3) -> float:
    """CPU-µs of one verification; the median of some runs over all of these."""
    measured = []
    for _ in range(runs):
        started = time.process_time()
        for verify_key, signature, text in signed:
            assert verify_key.verifies(signature, text)
        measured.append((time.process_time() - started) / len(signed))
    return 1e6 * statistics.median(measured)


def _against(signed: Signed, work: Callable[[], float]) -> float:
    """CPU-µs that `work` tells, in units of a verification before and behind it."""
    before = verify_us(signed)
    measured = work()
    return measured / statistics.mean((before, verify_us(signed)))


# Appending.


@contextmanager
def _serving(arguments: list[str], url: str, **environment: str) -> Iterator[psutil.Process]:
    """`python -m` these, once this address of it answers."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - of a server that was started here.
                break
            except OSError:
                assert process.poll() is None, f"{arguments} ended with code {process.returncode}"
                time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def serving_ledger(folder: Path) -> Iterator[tuple[psutil.Process, LedgerHttp]]:
    """`consortium serve` on this folder."""
    write_log_key(folder)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _serving(["consortium", "serve", "--dir", str(folder), "--port", str(port)], f"{url}/healthz") as process:
        yield process, LedgerHttp(url)


def write_log_key(folder: Path) -> None:
    log = key(f"{CONSORTIUM}/log")
    seed = base64.b64encode(log.verify_key.kind + log._private.private_bytes_raw()).decode()
    (folder / "log.key").write_text(f"PRIVATE+KEY+{log.name}+{log.verify_key.id.hex()}+{seed}\n")


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _appending(consortium: Consortium, batches: list[list[bytes]], signed: Signed) -> dict[str, float]:
    by_member = [list(column) for column in zip(*batches, strict=True)]
    latencies = list[float]()

    def append(columns: list[list[list[bytes]]], path: str) -> Callable[[], float]:
        def work() -> float:
            with tempfile.TemporaryDirectory() as folder, serving_ledger(Path(folder)) as (process, ledger):
                for leaf in consortium.begin:
                    ledger.append(leaf)
                started, count = cpu_s(process), sum(len(leaves) for column in columns for leaves in column)
                latencies[:] = asyncio.run(_post(int(ledger.url.rpartition(":")[2]), columns, path))
                return 1e6 * (cpu_s(process) - started) / count

        return work

    shared = [by_member[at::8] for at in range(8)]  # Eight senders, each for a share of the members.
    rows = [[leaf for row in zip(*columns, strict=True) for leaf in row] for columns in shared]
    together = [[row[at : at + AT_ONCE] for at in range(0, len(row), AT_ONCE)] for row in rows]
    alone = [[[leaf] for leaf in column] for column in by_member[:CONNECTIONS]]
    batch = _against(signed, append(together, "/v1/batch"))
    single = _against(signed, append(alone, "/v1/entries"))
    return {
        "batch_append_verify_ratio": batch,
        "single_append_verify_ratio": single,
        "single_append_p50_ms": 1e3 * statistics.median(latencies),
    }


async def _post(port: int, columns: list[list[list[bytes]]], path: str) -> list[float]:
    """Send each column over a connection of its own, a body after another; seconds until each was answered."""
    latencies = list[float]()

    async def send(bodies: list[list[bytes]]) -> None:
        ours, theirs = await asyncio.open_connection("127.0.0.1", port)
        for leaves in bodies:
            body = tlog.pack(leaves) if path == "/v1/batch" else leaves[0]
            started = time.perf_counter()
            theirs.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)))
            theirs.write(body)
            head = (await ours.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            answer = await ours.readexactly(int(length.partition(b":")[2]))
            latencies.append(time.perf_counter() - started)
            assert head[9:12] in (b"200", b"201"), answer
            assert path != "/v1/batch" or all(isinstance(each, int) for each in json.loads(answer)["entries"])
        theirs.close()

    await asyncio.gather(*(send(bodies) for bodies in columns))
    return latencies


# Peers.


def _naive(batches: list[list[bytes]], signed: Signed) -> dict[str, float]:
    columns = [[[leaf] for leaf in column] for column in islice(zip(*batches, strict=True), CONNECTIONS)]
    columns = [column[: NAIVE // CONNECTIONS] for column in columns]
    latencies = list[float]()

    def work() -> float:
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["uvicorn", "bench.naive:app", "--port", str(port), "--log-level", "critical"]
            url = f"http://127.0.0.1:{port}/openapi.json"
            with _serving(arguments, url, NAIVE_URL=f"sqlite:///{folder}/naive.db") as process:
                started = cpu_s(process)
                latencies[:] = asyncio.run(_post(port, columns, "/v1/entries"))
                return 1e6 * (cpu_s(process) - started) / NAIVE

    ratio = _against(signed, work)
    return {"naive_single_ratio": ratio, "naive_single_p50_ms": 1e3 * statistics.median(latencies)}


def _hypercore(signed: Signed) -> dict[str, float]:
    """Nothing where there is no node, or no package index."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "package.json").write_text('{"private": true}')
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", HYPERCORE]
        if subprocess.run(install, cwd=folder, check=False, capture_output=True).returncode:
            return {}
        shutil.copy(Path(__file__).with_name("hypercore.mjs"), folder)

        def work(count: int, at_once: int) -> Callable[[], float]:
            command = ["node", "hypercore.mjs", str(count), str(len(signed[0][2]) + 120), str(at_once)]
            environment = {**os.environ, "TMPDIR": folder}
            return lambda: float(json.loads(subprocess.check_output(command, cwd=folder, env=environment))["us"])

        return {
            "hypercore_single_ratio": _against(signed, work(3_000, 1)),
            "hypercore_batch_ratio": _against(signed, work(20_000, AT_ONCE)),
        }


def _merkle_root_us(leaves: list[bytes]) -> float:
    sha256, started = hashlib.sha256, time.process_time()
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [sha256(b"\x01" + one + other).digest() for one, other in zip(level[::2], level[1::2], strict=False)]
        level += odd
    return 1e6 * (time.process_time() - started) / len(leaves)


# Auditing.


def _audit(folder: Path, mode: str) -> tuple[float, float]:
    """(seconds, largest memory of all its processes together in MB) of `consortium audit` on this log."""
    command = [sys.executable, "-m", "consortium", "audit", str(folder), "--mode", mode, "--json"]
    os.sync()  # That a log of a gigabyte was written just now is not the audit's to wait for.
    started, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            most = max(most, _memory(psutil.Process(process.pid)))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        assert process.stdout is not None
        told = json.loads(process.stdout.read())
    assert (told["findings"], process.returncode) == ([], 0), told
    return seconds, most / 1e6


def _memory(process: psutil.Process) -> int:
    found = 0
    try:
        for each in (process, *process.children()):
            found += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return found


def _audited(folder: Path, signed: Signed) -> dict[str, float]:
    before = _bound_s(signed)
    seconds, memory = _audit(folder, "full")
    bound = statistics.mean((before, _bound_s(signed)))
    return {"audit_verify_bound_share": AUDITED * bound / seconds, "audit_rss_mb": memory}


def find_work(folder: Path, signed: Signed, count: int = 5_000) -> float:
    """CPU for each entry of a pass over this log that finds so many receipts of its second half / verify."""
    books = Auditor(mode="sampled", share=0.0).run(str(folder)).books
    size = books.tree.size
    wanted = {books.tree.leaf(index).hex() for index in range(size // 2, size, max(1, size // 2 // count))}

    def look() -> float:
        started = time.process_time()
        works(reader(str(folder)), books, wanted)
        return 1e6 * (time.process_time() - started) / size

    return _against(signed, look)


def _bound_s(signed: Signed) -> float:
    """Seconds for one verification when every core does nothing else: what no audit of all signatures can be below."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        pool.map(_warm, range(cores))
        started = time.perf_counter()
        pool.starmap(_verify_all, [(signed, 4)] * cores, chunksize=1)
        return (time.perf_counter() - started) / (4 * cores * len(signed))


def _warm(_: int) -> None:
    time.sleep(0.1)


def _verify_all(signed: Signed, times: int) -> None:
    for _ in range(times):
        for verify_key, signature, text in signed:
            assert verify_key.verifies(signature, text)


# Proving.


def _proving(log: Path, consortium: Consortium) -> float:
    """CPU-ms of a ledger of this log for one `GET /v1/proof`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.move(log, folder / "log")
        fill(folder, consortium)
        with serving_ledger(folder) as (process, ledger):
            assert ledger.size() == ALL
            started = cpu_s(process)
            for _ in range(PROOFS):
                ledger.proof(random.randrange(ALL))
            return 1e3 * (cpu_s(process) - started) / PROOFS


def fill(folder: Path, consortium: Consortium, count: int = ALL) -> None:
    """The database and the register of a published log of so many entries, as its ledger has them."""
    store, books, tree = SqlStore(f"sqlite:///{folder / 'ledger.db'}", folder), Books(), merkle.Tree()
    read = reader(str(folder / "log"))
    try:
        for bundle in bundles(read, count):
            rows = list[Row]()
            for leaf in bundle.leaves:
                context = books.context
                seen = skim(leaf, context, verify=False) if context is not None else None
                if seen is None:
                    entry = books.open(leaf)
                    names = entry.about
                    if tree.size < len(consortium.begin):  # Keys and the run; what follows needs no books.
                        books.add(entry)
                else:
                    names = seen.author, "receipt", seen.idem
                rows.append(Row(tree.size, *names, leaf))
                tree.append(merkle.leaf_hash(leaf))
            store.append(rows, tree.size, tree.root())
    finally:
        store.close()
    FileRegister(folder / "register").swap(None, (folder / "log" / tlog.HEAD).read_bytes())


if __name__ == "__main__":
    report("log", figures(), MEANING)

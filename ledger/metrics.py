"""What a ledger tells Prometheus: how long its log is, who has witnessed how much of it, and who is waited for.

Everything is read when it is asked for, from what the log says; nothing is counted beside it. It has an address of its
own, for those who watch the machine: Prometheus signs no requests. Rules for alerts are in alerts.yml, a dashboard for
Grafana in grafana.json, beside this file; docs/the-log.md says how to use them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger.sequencer import Sequencer
from ledger.witnesses import Witnesses
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import RoundOpen
from shared_models.records.refusals import Refusal, Refused


class Metrics(Collector):
    """The state of one open log. Each family's help says its unit."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer, self._log, self._witnesses = sequencer, sequencer.log, Witnesses(sequencer.log)

    def collect(self) -> Iterator[Metric]:
        """Raises nothing: a log that has failed to write shows no more than that, and its process ends."""
        yield _one("log_writable", "1 while the log can be written to", 1 - (self._log.stopped is not None))
        if self._log.stopped is not None:
            return
        yield _one("log_entries", "Entries in the log, on the disk", self._log.head.size)
        yield _one("log_waiting_entries", "Entries taken in and not written yet", self._sequencer.waiting)
        yield _one("log_cosigned_entries", "Of the newest head that a quorum has witnessed", self._cosigned())
        if self._log.head.size:
            yield from self._witnessed()
            yield from self._training()

    def _cosigned(self) -> int:
        try:
            return tlog.unsigned(self._witnesses.published("cosigned")).size
        except Refused as refused:
            if refused.refusal not in (Refusal.NOT_FOUND, Refusal.NO_CHARTER):
                raise
            return 0

    def _witnessed(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("consortium_witnessed_entries", "Of the head it witnessed last", labels=["member"])
        when = GaugeMetricFamily("consortium_witness_timestamp_seconds", "When it did, Unix time", labels=["member"])
        state = self._witnesses.state()
        with self._log.reading() as books:
            present, quorum = books.agreement.present(), books.charter.quorum
            unbilled = books.tree.size - (books.statements[-1].end if books.statements else 0)
        for member in present:
            seen = state.get(member, {"size": 0, "time": 0})
            size.add_metric([member], seen["size"])
            when.add_metric([member], seen["time"])
        yield from (size, when)
        yield _one("members", "Members that have not left", len(present))
        yield _one("witness_quorum", "Members that must witness what a statement covers", quorum)
        yield _one("unbilled_entries", "Entries that no statement covers", unbilled)

    def _training(self) -> Iterator[Metric]:
        """Of the newest run."""
        with self._log.reading() as books:
            name = next(reversed(books.runs), None)
            if name is None:
                return
            run = books.runs[name]
            turn = run.rounds[-1] if run.rounds else None
            done = [each.closed for each in run.rounds[-2:] if each.closed is not None]
            unats = done[-1].loss_unats if done else run.manifest.loss_unats
            asked = sorted(turn.invited) if turn else []
            answered = {member for member, _ in turn.said} if turn else set[str]()
            is_open = turn is not None and turn.closed is None and run.ended is None
            excluded = {member for member, _ in done[-1].excluded} if done else set[str]()
            author, number = f"{books.charter.consortium}/coordinator", turn.number if turn else 0
        yield _one("run_round", "The newest round of the newest run", number, run=name)
        yield _one("run_rounds", "Rounds that its manifest asks for", run.manifest.rounds, run=name)
        yield _one("run_ended", "1 when it has ended", run.ended is not None, run=name)
        yield _one("run_loss_nats", "Held-out loss of its newest checkpoint, nats per byte", unats / 1e6, run=name)
        waited = GaugeMetricFamily(
            "consortium_round_waited_for", "1 while an open round has no answer of it", labels=["run", "member"]
        )
        out = GaugeMetricFamily(
            "consortium_round_left_out", "1 if the last closed round left its answer out", labels=["run", "member"]
        )
        for member in asked:
            waited.add_metric([name, member], is_open and member not in answered)
            out.add_metric([name, member], member in excluded)
        yield from (waited, out)
        if is_open:
            opened = entries.peek(self._log.find(author, RoundOpen.kind, f"{name}/{number}")[1])
            assert isinstance(opened, RoundOpen)
            until = opened.deadline_ms / 1000
            yield _one("round_deadline_timestamp_seconds", "Until when it waits, Unix time", until, run=name)


def _one(name: str, what: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"consortium_{name}", what, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


@contextmanager
def serving(address: str, sequencer: Sequencer) -> Iterator[None]:
    """Answer Prometheus at HOST:PORT, `/metrics`, as long as the context lasts; nowhere, if it is empty.

    Raises `Refused`: BAD_FIELD if it is no such address, LOCKED if something listens there.
    """
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise Refused(Refusal.BAD_FIELD, f"metrics = {address!r} is not of the form HOST:PORT")
    registry = CollectorRegistry()
    for each in (ProcessCollector, PlatformCollector, GCCollector):
        each(registry=registry)
    registry.register(Metrics(sequencer))
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise Refused(Refusal.LOCKED, f"metrics at {address}: {error.strerror or error}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

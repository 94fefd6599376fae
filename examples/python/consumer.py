"""A member of a consumer group: one stream, records in order per key, acknowledged one by one.

    with Consumer(channel, "billing") as consumer:
        consumer.run(handle)

`handle(delivery)` returns when the record is done. What it raises is a failure: the broker tries the record again after
the group's delay, holds the later records of its key back meanwhile, and moves it to the dead letters when the tries are
spent. An exception with the attribute `retry_after` (seconds) asks for another delay, `Dead` for no further try.
"""

import concurrent.futures
import queue
import threading
import traceback
import uuid
from dataclasses import dataclass, field

from sawlog.v1 import consume_pb2 as pb
from sawlog.v1 import consume_pb2_grpc, types_pb2

PING_S = 3


class Dead(Exception):
    """This record will never succeed."""


class Refused(Exception):
    """The broker refused a verb, or did something else than asked."""


@dataclass
class Delivery:
    """A record and what its acknowledgement needs."""

    topic: str
    partition: int
    offset: int
    record: types_pb2.Record
    attempt: int
    last_try: bool
    source_id: int = field(repr=False)
    assignment_epoch: int = field(repr=False)
    entry: pb.EntryMark | None = None

    def work(self) -> pb.Work:
        work = pb.Work(source_id=self.source_id, assignment_epoch=self.assignment_epoch)
        if self.entry is None:
            work.offsets.add(**{"from": self.offset})
        else:
            work.entries.add(dlq_id=self.entry.dlq_id)
        return work


class Consumer:
    """One session of one member."""

    def __init__(self, channel, group: str, *, credit: int = 64, credit_bytes: int = 8 << 20) -> None:
        self._asked: queue.Queue = queue.Queue()
        self._deliveries: queue.Queue = queue.Queue()
        self._results: dict[int, concurrent.futures.Future] = {}
        self._sources: dict[int, pb.Source] = {}
        self._sequence = 0
        self._lock = threading.Lock()
        join = pb.Join(group=group, member_id=str(uuid.uuid4()), client_id="python", client_version="example")
        join.credit.CopyFrom(pb.Credit(records=credit, bytes=credit_bytes))
        self._asked.put(pb.ConsumeRequest(join=join))
        self._stream = consume_pb2_grpc.ConsumeServiceStub(channel).Consume(self._frames())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Consumer":
        return self

    def __exit__(self, *_) -> None:
        self.leave()

    def __iter__(self):
        """Deliveries, until the session ends."""
        while (delivery := self._deliveries.get()) is not None:
            if isinstance(delivery, Exception):
                raise delivery
            yield delivery

    def run(self, handle, until=lambda: False) -> None:
        """Calls `handle` with each delivery until `until()` is true after one of them."""
        for delivery in self:
            try:
                handle(delivery)
            except Exception as error:  # noqa: BLE001: whatever the handler raises is a failure of the record
                self.nack(delivery, error)
            else:
                self.ack(delivery)
            if until():
                return

    def ack(self, delivery: Delivery) -> concurrent.futures.Future:
        """The record is done; the future is done once that is durable."""
        return self._verb(lambda sequence: pb.ConsumeRequest(ack=pb.Ack(sequence=sequence, work=[delivery.work()])))

    def nack(self, delivery: Delivery, error: Exception) -> concurrent.futures.Future:
        """The record is not done."""
        told = pb.HandlerError(
            **{"class": type(error).__name__},
            message=str(error),
            stack="".join(traceback.format_tb(error.__traceback__)),
        )
        kind = pb.NACK_KIND_DEAD if isinstance(error, Dead) else pb.NACK_KIND_RETRY
        nack = pb.Nack(work=[delivery.work()], kind=kind, error=told)
        if (seconds := getattr(error, "retry_after", None)) is not None:
            nack.retry_after_ms = int(seconds * 1000)

        def frame(sequence: int) -> pb.ConsumeRequest:
            nack.sequence = sequence
            return pb.ConsumeRequest(nack=nack)

        return self._verb(frame)

    def leave(self) -> None:
        """Lets the units go, and waits until what was acknowledged is durable."""
        self._asked.put(pb.ConsumeRequest(leave=pb.Leave()))
        self._reader.join(timeout=30)
        self._stream.cancel()

    def _verb(self, frame) -> concurrent.futures.Future:
        done: concurrent.futures.Future = concurrent.futures.Future()
        with self._lock:
            self._sequence += 1
            self._results[self._sequence] = done
            self._asked.put(frame(self._sequence))
        return done

    def _frames(self):
        """What is sent; a ping where there was nothing to send for a while."""
        while True:
            try:
                frame = self._asked.get(timeout=PING_S)
            except queue.Empty:
                frame = pb.ConsumeRequest(ping=pb.Ping())
            yield frame
            if frame.WhichOneof("frame") == "leave":
                return

    def _read(self) -> None:
        end = None
        try:
            for response in self._stream:
                self._take(response)
        except Exception as error:  # noqa: BLE001: told to whoever waits
            end = error
        for waiting in self._results.values():
            waiting.set_exception(end or Refused("the session is over"))
        self._deliveries.put(end)

    def _take(self, response: pb.ConsumeResponse) -> None:
        kind = response.WhichOneof("frame")
        if kind == "assign":
            for unit in response.assign.units:
                self._sources[unit.source.source_id] = unit.source
        elif kind == "records":
            for delivered in response.records.deliveries:
                self._deliveries.put(self._delivery(response.records, delivered))
        elif kind == "revoke" and not response.revoke.lost:
            # What was delivered is still ours until it is settled; nothing new comes.
            revoke = response.revoke
            self._asked.put(pb.ConsumeRequest(revoked=pb.Revoked(source_id=revoke.source_id, slots=revoke.slots)))
        elif kind == "ack_result":
            result = response.ack_result
            with self._lock:
                done = self._results.pop(result.sequence)
            odd = [pb.WorkOutcome.Name(one.outcome) for one in result.results]
            if result.HasField("failure"):
                done.set_exception(Refused(result.failure.message))
            elif any(name != "WORK_OUTCOME_ALREADY_SETTLED" for name in odd):
                done.set_exception(Refused(", ".join(odd)))
            else:
                done.set_result(None)

    def _delivery(self, frame: pb.Records, delivered: pb.Delivery) -> Delivery:
        source = self._sources[frame.source_id]
        return Delivery(
            topic=source.topic,
            partition=source.partition,
            offset=delivered.offset,
            record=delivered.record,
            attempt=delivered.attempt,
            last_try=delivered.attempt == frame.max_attempts,
            source_id=frame.source_id,
            assignment_epoch=frame.assignment_epoch,
            entry=delivered.entry if delivered.HasField("entry") else None,
        )

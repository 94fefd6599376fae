"""A small client of sawlog: produce, read again from anywhere, consume as a member of a group.

    client = Client(channel)
    client.produce("orders", [("order-7", b"one teapot")])
    with client.consumer("billing") as consumer:
        consumer.run(handle)

`handle(delivery)` returns when the record is done. What it raises is a failure: the broker tries the record again after
the group's delay, holds the later records of its key back meanwhile, and moves it to the dead letters when the tries are
spent. An exception with the attribute `retry_after` (seconds) asks for another delay, `Dead` for no further try.
"""

import queue
import threading
import traceback
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field

from sawlog.v1 import consume_pb2 as pb
from sawlog.v1 import consume_pb2_grpc, produce_pb2, produce_pb2_grpc, read_pb2, read_pb2_grpc, types_pb2

PING_S = 3


class Dead(Exception):
    """This record will never succeed."""


class Refused(Exception):
    """The broker refused a verb, or did something else than asked."""


class Client:
    """Produces with a number in each request, so that one that is repeated after a cut is appended once."""

    def __init__(self, channel) -> None:
        self._channel, self._producer, self._number = channel, None, 0
        self._produce, self._read = produce_pb2_grpc.ProduceServiceStub(channel), read_pb2_grpc.ReadServiceStub(channel)

    def produce(self, topic: str, records, timeout: float = 30) -> list[tuple[int, int]]:
        """Appends (key, value) pairs; returns partition and offset of each once all are durable."""
        self._producer = self._producer or self._produce.InitProducer(
            produce_pb2.InitProducerRequest(name=f"python-{uuid.uuid4()}"), timeout=timeout
        )
        numbered = produce_pb2.ProducerRequest(
            producer_id=self._producer.producer_id, producer_epoch=self._producer.producer_epoch, request_number=self._number
        )
        self._number += 1
        request = produce_pb2.ProduceRequest(topic=topic, producer=numbered)
        for key, value in records:
            request.records.records.add().record.CopyFrom(types_pb2.Record(key=key.encode(), value=value))
        answer = self._produce.Produce(request, timeout=timeout)
        for part in answer.parts:
            if part.HasField("failure"):
                raise Refused(part.failure.message)
        return [(record.partition, record.offset) for record in answer.records]

    def read(self, topic: str, **more):
        """Reads a topic again: (partition, offset, record) of all of it up to its end; `more` as in `ReadRequest`."""
        for frame in self._read.Read(read_pb2.ReadRequest(topic=topic, **more)):
            for found in frame.records.records:
                yield frame.records.partition, found.offset, found.record

    def consumer(self, group: str, **more) -> "Consumer":
        return Consumer(self._channel, group, **more)


@dataclass
class Delivery:
    """A record and what its acknowledgement needs."""

    partition: int
    offset: int
    record: types_pb2.Record
    attempt: int
    replay: bool
    work: pb.Work = field(repr=False)


class Consumer:
    """One session of one member."""

    def __init__(self, channel, group: str, *, credit: int = 64, credit_bytes: int = 8 << 20) -> None:
        self._asked, self._deliveries = queue.Queue(), queue.Queue()
        self._results: dict[int, Future] = {}
        self._partitions: dict[int, int] = {}
        self._sequence, self._lock = 0, threading.Lock()
        credits = pb.Credit(records=credit, bytes=credit_bytes)
        self._asked.put(pb.ConsumeRequest(join=pb.Join(group=group, member_id=str(uuid.uuid4()), client_id="python", credit=credits)))
        self._stream = consume_pb2_grpc.ConsumeServiceStub(channel).Consume(self._frames())
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Consumer":
        return self

    def __exit__(self, *_) -> None:
        """Lets the units go, and waits until what was acknowledged is durable."""
        self._asked.put(pb.ConsumeRequest(leave=pb.Leave()))
        self._reader.join(timeout=30)
        self._stream.cancel()

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

    def ack(self, delivery: Delivery) -> Future:
        """The record is done; the future is done once that is durable."""
        return self._verb("ack", pb.Ack(work=[delivery.work]))

    def nack(self, delivery: Delivery, error: Exception) -> Future:
        """The record is not done."""
        stack = "".join(traceback.format_tb(error.__traceback__))
        told = pb.HandlerError(message=str(error), stack=stack, **{"class": type(error).__name__})
        nack = pb.Nack(work=[delivery.work], error=told, kind=pb.NACK_KIND_DEAD if isinstance(error, Dead) else pb.NACK_KIND_RETRY)
        if (seconds := getattr(error, "retry_after", None)) is not None:
            nack.retry_after_ms = int(seconds * 1000)
        return self._verb("nack", nack)

    def _verb(self, name: str, verb) -> Future:
        with self._lock:
            self._sequence += 1
            verb.sequence = self._sequence
            done = self._results[verb.sequence] = Future()
            self._asked.put(pb.ConsumeRequest(**{name: verb}))
        return done

    def _frames(self):
        """What is sent; a ping where there was nothing to send for a while."""
        frame = pb.ConsumeRequest()
        while frame.WhichOneof("frame") != "leave":
            try:
                frame = self._asked.get(timeout=PING_S)
            except queue.Empty:
                frame = pb.ConsumeRequest(ping=pb.Ping())
            yield frame

    def _receive(self) -> None:
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
            self._partitions.update((unit.source.source_id, unit.source.partition) for unit in response.assign.units)
        elif kind == "records":
            for delivered in response.records.deliveries:
                self._deliveries.put(self._delivery(response.records, delivered))
        elif kind == "revoke" and not response.revoke.lost:
            # What was delivered is still ours until it is settled; nothing new comes.
            revoked = pb.Revoked(source_id=response.revoke.source_id, slots=response.revoke.slots)
            self._asked.put(pb.ConsumeRequest(revoked=revoked))
        elif kind == "ack_result":
            with self._lock:
                done = self._results.pop(response.ack_result.sequence)
            odd = [one.outcome for one in response.ack_result.results if one.outcome != pb.WORK_OUTCOME_ALREADY_SETTLED]
            if odd or response.ack_result.HasField("failure"):
                names = ", ".join(pb.WorkOutcome.Name(outcome) for outcome in odd)
                done.set_exception(Refused(response.ack_result.failure.message or names))
            else:
                done.set_result(None)

    def _delivery(self, frame: pb.Records, delivered: pb.Delivery) -> Delivery:
        work = pb.Work(source_id=frame.source_id, assignment_epoch=frame.assignment_epoch)
        if delivered.HasField("entry"):
            work.entries.add(dlq_id=delivered.entry.dlq_id)
        else:
            work.offsets.add(**{"from": delivered.offset})
        partition = self._partitions[frame.source_id]
        return Delivery(partition, delivered.offset, delivered.record, delivered.attempt, delivered.replay, work)

"""A small client of sawlog: produce, read again from anywhere, consume as a member of a group, replay into a group.

    Client(channel).produce("orders", [("order-7", b"one teapot")])
    with Consumer(channel, "billing") as consumer:
        consumer.run(handle)
    with Consumer(channel, "audit", replay=Client(channel).replay("orders", "audit").replay_id) as consumer:
        consumer.run(handle)  # returns once the replay has ended

`handle(delivery)` returns when the record is done. What it raises is a failure: the broker tries the record again after
the group's delay, holds later ones of its key back, and moves it to the dead letters once its tries are spent. An
exception with `retry_after` (seconds) asks for another delay, `Dead` for no further try.
"""
import itertools
import queue
import threading
import traceback
import uuid
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import NamedTuple

from sawlog.v1 import consume_pb2 as pb
from sawlog.v1 import consume_pb2_grpc, produce_pb2, produce_pb2_grpc, read_pb2, read_pb2_grpc, replay_pb2, replay_pb2_grpc
from sawlog.v1.types_pb2 import Record

PING_S = 3
Dead = type("Dead", (Exception,), {"__doc__": "This record will never succeed."})
Refused = type("Refused", (Exception,), {"__doc__": "The broker refused a verb, or did something else than asked."})


class Client:
    """Produces with a number in each request, so that one that is repeated after a cut is appended once."""

    def __init__(self, channel) -> None:
        self._produce, self._read = produce_pb2_grpc.ProduceServiceStub(channel), read_pb2_grpc.ReadServiceStub(channel)
        self._replays = replay_pb2_grpc.ReplayServiceStub(channel)
        own = self._produce.InitProducer(produce_pb2.InitProducerRequest(name=f"python-{uuid.uuid4()}"), timeout=30)
        self._producer = produce_pb2.ProducerRequest(producer_id=own.producer_id, producer_epoch=own.producer_epoch)

    def produce(self, topic: str, records, timeout: float = 30) -> list[tuple[int, int]]:
        """Appends (key, value) pairs; returns partition and offset of each once all are durable."""
        request = produce_pb2.ProduceRequest(topic=topic, producer=self._producer)
        self._producer.request_number += 1
        for key, value in records:
            request.records.records.add(record=Record(key=key.encode(), value=value))
        answer = self._produce.Produce(request, timeout=timeout)
        if failures := [part.failure.message for part in answer.parts if part.HasField("failure")]:
            raise Refused(*failures)
        return [(record.partition, record.offset) for record in answer.records]

    def read(self, topic: str, **more):
        """Reads a topic again: (partition, offset, record) of all of it up to its end; `more` as in `ReadRequest`."""
        for frame in self._read.Read(read_pb2.ReadRequest(topic=topic, **more)):
            for found in frame.records.records:
                yield frame.records.partition, found.offset, found.record

    def replay(self, topic: str, group: str, **more) -> replay_pb2.Replay:
        """Delivers a topic up to its present end to a group made for it; `more` as in `StartReplayRequest`."""
        target = replay_pb2.ReplayTarget(new_group=replay_pb2.ReplayGroup(name=group))
        request = replay_pb2.StartReplayRequest(topics=[topic], target=target, **more)
        return self._replays.StartReplay(request, timeout=30).replay


class Delivery(NamedTuple):
    """A record, what is told of it (`replay`: it is part of one), and what its acknowledgement needs."""

    partition: int
    offset: int
    record: Record
    attempt: int
    replay: bool
    work: pb.Work


class Consumer(AbstractContextManager):
    """One session of one member; with `replay` its deliveries end with that replay."""

    def __init__(self, channel, group: str, *, replay: str = "", credit: int = 64) -> None:
        self._asked, self._deliveries, self._replay = queue.Queue(), queue.Queue(), replay
        self._results, self._partitions, self._sequence = {}, {}, itertools.count(1)
        credits = pb.Credit(records=credit, bytes=8 << 20)
        join = pb.Join(group=group, member_id=str(uuid.uuid4()), client_id="python", credit=credits)
        self._asked.put(pb.ConsumeRequest(join=join))
        self._stream = consume_pb2_grpc.ConsumeServiceStub(channel).Consume(self._frames())
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def __exit__(self, *_) -> None:
        """Lets the units go, and waits until what was acknowledged is durable."""
        self._asked.put(pb.ConsumeRequest(leave=pb.Leave()))
        self._reader.join(timeout=30)
        self._stream.cancel()

    def __iter__(self):
        """Deliveries, until the session or the replay ends."""
        while (delivery := self._deliveries.get()) is not None:
            if isinstance(delivery, Exception):
                raise delivery
            yield delivery

    def run(self, handle, until=lambda: False) -> None:
        """Calls `handle` with each delivery until `until()` is true after one of them."""
        for delivery in self:
            try:
                handle(delivery)
                self.ack(delivery)
            except Exception as error:  # noqa: BLE001: whatever the handler raises is a failure of the record
                self.nack(delivery, error)
            if until():
                return

    def ack(self, delivery: Delivery) -> Future:
        """The record is done; the future is done once that is durable."""
        return self._verb("ack", pb.Ack(work=[delivery.work]))

    def nack(self, delivery: Delivery, error: Exception) -> Future:
        """The record is not done."""
        stack = "".join(traceback.format_tb(error.__traceback__))
        told = pb.HandlerError(message=str(error), stack=stack, **{"class": type(error).__name__})
        kind = pb.NACK_KIND_DEAD if isinstance(error, Dead) else pb.NACK_KIND_RETRY
        after = getattr(error, "retry_after", None)
        nack = pb.Nack(work=[delivery.work], error=told, kind=kind, retry_after_ms=after and int(after * 1000))
        return self._verb("nack", nack)

    def _verb(self, name: str, verb) -> Future:
        verb.sequence = next(self._sequence)
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
                kind = response.WhichOneof("frame")
                getattr(self, f"_on_{kind}", lambda _: None)(getattr(response, kind))
        except Exception as error:  # noqa: BLE001: told to whoever waits
            end = error
        for waiting in self._results.values():
            waiting.set_exception(end or Refused("the session is over"))
        self._deliveries.put(end)

    def _on_assign(self, assign: pb.Assign) -> None:
        self._partitions.update((unit.source.source_id, unit.source.partition) for unit in assign.units)

    def _on_revoke(self, revoke: pb.Revoke) -> None:
        if not revoke.lost:  # What was delivered is still ours until it is settled; nothing new comes.
            self._asked.put(pb.ConsumeRequest(revoked=pb.Revoked(source_id=revoke.source_id, slots=revoke.slots)))

    def _on_records(self, frame: pb.Records) -> None:
        for got in frame.deliveries:
            work = pb.Work(source_id=frame.source_id, assignment_epoch=frame.assignment_epoch)
            if got.HasField("entry"):
                work.entries.add(dlq_id=got.entry.dlq_id)
            else:
                work.offsets.add(**{"from": got.offset})
            partition = self._partitions[frame.source_id]
            self._deliveries.put(Delivery(partition, got.offset, got.record, got.attempt, got.replay, work))

    def _on_replay_done(self, ended: pb.ReplayDone) -> None:
        if ended.replay_id == self._replay and not ended.HasField("source_id"):
            self._deliveries.put(None)

    def _on_ack_result(self, result: pb.AckResult) -> None:
        done = self._results.pop(result.sequence)
        odd = [one.outcome for one in result.results if one.outcome != pb.WORK_OUTCOME_ALREADY_SETTLED]
        if odd or result.HasField("failure"):
            done.set_exception(Refused(result.failure.message or ", ".join(map(pb.WorkOutcome.Name, odd))))
        else:
            done.set_result(None)

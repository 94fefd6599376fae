#!/usr/bin/env python3
"""Tries a running sawlog broker from Python, with nothing but grpcio and stubs made from the protos.

Usage: check.py URL [--protos FOLDER] [--build FOLDER]

It creates a topic, produces (plain records of an idempotent producer, then a stream of requests with a bad one among
them), reads everything back, looks into the details of errors, and consumes all of it as a member of a group whose
handler fails for one record: a retry, a dead letter with its key's later records behind it, and their redrive. It exits
with 0 only if all of it is as the protos
say; what is not is told on standard error.
"""

import argparse
import pathlib
import subprocess
import sys
import time
import uuid

import grpc

HERE = pathlib.Path(__file__).resolve().parent


def generate(protos: pathlib.Path, build: pathlib.Path) -> None:
    """Makes the stubs; they are never committed."""
    build.mkdir(parents=True, exist_ok=True)
    files = sorted(str(file) for file in (protos / "sawlog" / "v1").glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={build}", f"--grpc_python_out={build}"]
    subprocess.run(command + files, check=True)
    sys.path.insert(0, str(build))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try a running sawlog broker from Python.")
    parser.add_argument("url", help="where the broker is, such as http://127.0.0.1:7070")
    parser.add_argument("--protos", type=pathlib.Path, default=HERE.parent.parent / "proto")
    parser.add_argument("--build", type=pathlib.Path, default=HERE / "build")
    return parser.parse_args()


ARGUMENTS = parse_arguments()
generate(ARGUMENTS.protos, ARGUMENTS.build)

from google.rpc import error_details_pb2  # noqa: E402
from grpc_status import rpc_status  # noqa: E402
from sawlog.v1 import consume_pb2, dead_letter_pb2, dead_letter_pb2_grpc, group_pb2, group_pb2_grpc  # noqa: E402
from sawlog.v1 import produce_pb2, produce_pb2_grpc, read_pb2, read_pb2_grpc, replay_pb2, replay_pb2_grpc  # noqa: E402
from sawlog.v1 import topic_pb2, topic_pb2_grpc, types_pb2  # noqa: E402

from client import Client, Consumer  # noqa: E402

DEADLINE_S = 30


class Difference(Exception):
    """Something is not as the protos say."""


def expect(found, wanted, what: str) -> None:
    if found != wanted:
        raise Difference(f"{what}: found {found!r}, expected {wanted!r}")


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo among the details of a failed call."""
    status = rpc_status.from_call(error)
    if status is None:
        raise Difference(f"a status without details: {error.code()} {error.details()}")
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            return info
    raise Difference(f"no ErrorInfo among {[detail.type_url for detail in status.details]}")


def refused(call, code: grpc.StatusCode, reason: str) -> dict:
    """Makes a call that must fail in this way; returns the facts."""
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code(), code, f"code of {reason}")
        info = error_info(error)
        expect((info.reason, info.domain), (reason, "sawlog"), "reason and domain")
        return dict(info.metadata)
    raise Difference(f"a call succeeded that must fail with {reason}")


class Broker:
    """The services of a broker."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.topics = topic_pb2_grpc.TopicServiceStub(channel)
        self.produce = produce_pb2_grpc.ProduceServiceStub(channel)
        self.read = read_pb2_grpc.ReadServiceStub(channel)
        self.groups = group_pb2_grpc.GroupServiceStub(channel)
        self.dead_letters = dead_letter_pb2_grpc.DeadLetterServiceStub(channel)
        self.channel = channel

    def records(self, topic: str) -> list:
        """Every record of a topic as (partition, offset, key, value, headers, event time)."""
        found = []
        for response in self.read.Read(read_pb2.ReadRequest(topic=topic), timeout=DEADLINE_S):
            if response.WhichOneof("frame") != "records":
                continue
            for positioned in response.records.records:
                record = positioned.record
                headers = [(header.key, header.value) for header in record.headers]
                key = record.key if record.HasField("key") else None
                value = record.value if record.HasField("value") else None
                found.append((response.records.partition, positioned.offset, key, value, headers, record.timestamp_ms))
        return found


def plain(topic: str, records: list, producer: tuple | None = None) -> produce_pb2.ProduceRequest:
    request = produce_pb2.ProduceRequest(topic=topic)
    for record in records:
        request.records.records.add().record.CopyFrom(record)
    if producer is not None:
        producer_id, epoch, number = producer
        request.producer.CopyFrom(
            produce_pb2.ProducerRequest(producer_id=producer_id, producer_epoch=epoch, request_number=number)
        )
    return request


def check_topics(broker: Broker, topic: str) -> None:
    config = topic_pb2.TopicConfig(partitions=3, keyed=True)
    created = broker.topics.CreateTopic(topic_pb2.CreateTopicRequest(name=topic, config=config), timeout=DEADLINE_S)
    expect(created.created, True, "a new topic")
    again = broker.topics.CreateTopic(topic_pb2.CreateTopicRequest(name=topic, config=config), timeout=DEADLINE_S)
    expect((again.created, again.topic.topic_id), (False, created.topic.topic_id), "the same topic again")
    expect(again.topic.config.ack_floor, types_pb2.ACK_LEVEL_DURABLE, "durable by default")


def check_idempotent_records(broker: Broker, topic: str) -> list:
    """A request that is sent twice is appended once (PR-7)."""
    producer = broker.produce.InitProducer(produce_pb2.InitProducerRequest(name=f"{topic}-check"), timeout=DEADLINE_S)
    header = types_pb2.Header(key="source", value=b"python")
    records = [
        types_pb2.Record(key=f"key-{number % 5}".encode(), value=f"value {number}".encode(), headers=[header], timestamp_ms=1000 + number)
        for number in range(50)
    ]
    request = plain(topic, records, (producer.producer_id, producer.producer_epoch, 0))
    first = broker.produce.Produce(request, timeout=DEADLINE_S)
    expect([part.HasField("failure") for part in first.parts], [False] * len(first.parts), "parts that failed")
    expect({part.ack for part in first.parts}, {types_pb2.ACK_LEVEL_DURABLE}, "levels reached")
    expect(any(part.duplicate for part in first.parts), False, "duplicates in a first request")
    repeated = broker.produce.Produce(request, timeout=DEADLINE_S)
    expect(all(part.duplicate for part in repeated.parts), True, "a repeat is told")
    places = [(result.partition, result.offset) for result in first.records]
    expect([(result.partition, result.offset) for result in repeated.records], places, "positions of the repeat")
    return [(*place, record.key, record.value, [("source", b"python")], record.timestamp_ms) for place, record in zip(places, records)]


def check_stream(broker: Broker, topic: str) -> list:
    """A bad request on a stream is answered in its place and ends nothing."""
    good = [types_pb2.Record(key=b"stream", value=f"stream {number}".encode(), timestamp_ms=2000 + number) for number in range(20)]
    bad = types_pb2.Record(value=b"no key", timestamp_ms=1)
    requests = [plain(topic, [record]) for record in good[:10]] + [plain(topic, [bad])] + [plain(topic, [record]) for record in good[10:]]
    stream = (produce_pb2.ProduceStreamRequest(request_id=number, request=request) for number, request in enumerate(requests))
    expected = []
    answers = list(broker.produce.ProduceStream(stream, timeout=DEADLINE_S))
    expect([answer.request_id for answer in answers], list(range(len(requests))), "answers in the order of the requests")
    for number, answer in enumerate(answers):
        if number == 10:
            check_bad_record(answer)
            continue
        expect(answer.WhichOneof("outcome"), "response", f"outcome of request {number}")
        (result,) = answer.response.records
        record = good[number if number < 10 else number - 1]
        expected.append((result.partition, result.offset, record.key, record.value, [], record.timestamp_ms))
    return expected


def check_bad_record(answer: produce_pb2.ProduceStreamResponse) -> None:
    if answer.WhichOneof("outcome") == "failure":
        failures = [answer.failure]
    else:
        failures = [failure.failure for part in answer.response.parts for failure in part.record_failures]
    reasons = {types_pb2.ErrorReason.Name(failure.reason) for failure in failures}
    expect(reasons, {"ERROR_REASON_KEY_REQUIRED"}, "reason of the record without a key")


def check_client(channel: grpc.Channel, topic: str) -> list:
    """What the wrapper produces it reads again."""
    client = Client(channel)
    places = client.produce(topic, [("wrapped", b"first"), ("wrapped", b"second")])
    expect(places[1], (places[0][0], places[0][1] + 1), "records of a key stand in one partition, in order")
    start = read_pb2.ReadStart(offset=places[0][1])
    found = list(client.read(topic, partitions=[places[0][0]], start=start))
    expect([(partition, offset) for partition, offset, _ in found], places, "places read from an offset")
    return [(*place, b"wrapped", record.value, [], record.timestamp_ms) for place, (_, _, record) in zip(places, found)]


def check_errors(broker: Broker, topic: str) -> None:
    missing = f"{topic}-missing"
    facts = refused(
        lambda: broker.topics.GetTopic(topic_pb2.GetTopicRequest(name=missing), timeout=DEADLINE_S),
        grpc.StatusCode.NOT_FOUND,
        "TOPIC_NOT_FOUND",
    )
    expect(facts.get("topic"), missing, "fact `topic`")
    refused(
        lambda: broker.topics.CreateTopic(topic_pb2.CreateTopicRequest(name="../etc"), timeout=DEADLINE_S),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_NAME",
    )
    start = read_pb2.ReadStart(offset=1 << 40)
    facts = refused(
        lambda: list(broker.read.Read(read_pb2.ReadRequest(topic=topic, partitions=[0], start=start), timeout=DEADLINE_S)),
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET_OUT_OF_RANGE",
    )
    expect(facts.get("earliest"), "0", "fact `earliest`")
    expect(facts.get("latest", "").isdigit(), True, "fact `latest` is a number")


class Handler:
    """Fails always for one record until it is repaired, and once for another."""

    def __init__(self, poison: tuple, hiccup: tuple) -> None:
        self.poison, self.hiccup = poison, hiccup
        self.handled: list = []
        self.tries: dict = {}

    def __call__(self, delivery) -> None:
        place = (delivery.partition, delivery.offset)
        self.tries[place] = self.tries.get(place, 0) + 1
        if place == self.poison:
            raise ValueError("this record is poison")
        if place == self.hiccup and self.tries[place] == 1:
            raise TimeoutError("try again")
        self.handled.append((*place, delivery.record.key))


def in_order(handled: list, records: list, what: str) -> None:
    """Each record was handled once, and those of a key in the order of the log."""
    expect(sorted(handled), sorted(records), what)
    for key in {key for _, _, key in records}:
        offsets = [offset for _, offset, of in handled if of == key]
        expect(offsets, sorted(offsets), f"order of key {key!r}")


def check_group(broker: Broker, topic: str, found: list) -> None:
    """One record that always fails: its key is parked behind it, every other key goes on."""
    group = f"{topic}-group"
    records = [(partition, offset, key) for partition, offset, key, *_ in found]
    of_key = [record for record in records if record[2] == b"key-3"]
    others = [record for record in records if record[2] != b"key-3"]
    retry = group_pb2.RetryPolicy(max_attempts=3, list=group_pb2.BackoffList(delays_ms=[1]))
    config = group_pb2.GroupConfig(topics=group_pb2.TopicNames(names=[topic]), retry=retry)
    broker.groups.CreateGroup(group_pb2.CreateGroupRequest(name=group, config=config), timeout=DEADLINE_S)
    handler = Handler(poison=of_key[0][:2], hiccup=others[0][:2])
    entries = lambda: broker.dead_letters.ListEntries(  # noqa: E731
        dead_letter_pb2.ListEntriesRequest(group=group, with_records=True), timeout=DEADLINE_S
    ).entries
    with Consumer(broker.channel, group) as consumer:
        consumer.run(handler, until=lambda: len(handler.handled) == len(others) and handler.tries.get(handler.poison) == 3)
        # What waits behind the dead letter is moved without being delivered.
        ended = time.monotonic() + DEADLINE_S
        while len(parked := entries()) < len(of_key) and time.monotonic() < ended:
            time.sleep(0.01)
    in_order(handler.handled, others, "records handled")
    expect(handler.tries[handler.hiccup], 2, "tries of the record that failed once")
    expect([(entry.source.partition, entry.source.offset, entry.key) for entry in parked], of_key, "dead letters")
    kinds = [consume_pb2.ENTRY_KIND_FAILED] + [consume_pb2.ENTRY_KIND_PARKED] * (len(of_key) - 1)
    expect([entry.kind for entry in parked], kinds, "the first failed, the others wait behind it")
    head = parked[0]
    found_error = (head.attempts, getattr(head.error, "class"), head.error.message, head.record.key)
    expect(found_error, (3, "ValueError", "this record is poison", b"key-3"), "what is told of the dead letter")
    selector = dead_letter_pb2.EntrySelector(dlq_ids=[head.dlq_id])
    redrive = dead_letter_pb2.StartRedriveRequest(group=group, selector=selector, note="repaired")
    broker.dead_letters.StartRedrive(redrive, timeout=DEADLINE_S)
    repaired = Handler(poison=(), hiccup=())
    with Consumer(broker.channel, group) as consumer:
        consumer.run(repaired, until=lambda: len(repaired.handled) == len(of_key))
    in_order(repaired.handled, of_key, "records redriven")
    expect(len(entries()), 0, "open dead letters after the redrive")
    facts = refused(
        lambda: list(Consumer(broker.channel, f"{group}-missing")), grpc.StatusCode.NOT_FOUND, "GROUP_NOT_FOUND"
    )
    expect(facts.get("group"), f"{group}-missing", "fact `group`")
    broker.groups.DeleteGroup(group_pb2.DeleteGroupRequest(name=group), timeout=DEADLINE_S)


def check_replay(channel: grpc.Channel, broker: Broker, topic: str, found: list) -> None:
    """A replay delivers everything once more, marked, at its rate, and says when it has ended (RP-1, RP-2, RP-4, RP-5)."""
    client, group, seen = Client(channel), f"{topic}-replay", []
    replay = client.replay(topic, group, rate=replay_pb2.ReplayRate(records_per_second=1000), note="check")
    expect((replay.records, replay.left), (len(found), len(found)), "what a replay will deliver")
    with Consumer(channel, group, replay=replay.replay_id) as consumer:
        consumer.run(lambda delivery: seen.append((delivery.partition, delivery.offset, delivery.record.key, delivery.replay)))
    in_order([record[:3] for record in seen], [(partition, offset, key) for partition, offset, key, *_ in found], "records replayed")
    expect({record[3] for record in seen}, {True}, "the mark of a replay")
    request = replay_pb2.GetReplayRequest(replay_id=replay.replay_id)
    ended = replay_pb2_grpc.ReplayServiceStub(channel).GetReplay(request, timeout=DEADLINE_S).replay
    expect((ended.state, ended.done, ended.left), (replay_pb2.REPLAY_STATE_DONE, len(found), 0), "the end of the replay")
    refused(lambda: client.replay(topic, group), grpc.StatusCode.ALREADY_EXISTS, "GROUP_EXISTS")
    broker.groups.DeleteGroup(group_pb2.DeleteGroupRequest(name=group), timeout=DEADLINE_S)


def main() -> None:
    target = ARGUMENTS.url.removeprefix("http://").rstrip("/")
    topic = f"python-{uuid.uuid4()}"
    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=DEADLINE_S)
        except grpc.FutureTimeoutError:
            raise Difference(f"no broker answers at {ARGUMENTS.url}") from None
        broker = Broker(channel)
        began = time.monotonic()
        check_topics(broker, topic)
        expected = check_idempotent_records(broker, topic)
        expected += check_stream(broker, topic)
        expected += check_client(channel, topic)
        found = broker.records(topic)
        expect(sorted(found), sorted(expected), "records read back")
        for partition in range(3):
            offsets = [offset for place, offset, *_ in found if place == partition]
            expect(offsets, list(range(len(offsets))), f"offsets of partition {partition}")
        check_errors(broker, topic)
        check_group(broker, topic, found)
        check_replay(channel, broker, topic, found)
        broker.topics.DeleteTopic(topic_pb2.DeleteTopicRequest(name=topic), timeout=DEADLINE_S)
        milliseconds = (time.monotonic() - began) * 1e3
    print(f"python: {len(found)} records produced, read back, consumed in a group and replayed, error details as they should be, {milliseconds:.0f} ms")


if __name__ == "__main__":
    try:
        main()
    except Difference as difference:
        sys.exit(f"python: {difference}")

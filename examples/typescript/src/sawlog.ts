/**
 * A small client of sawlog: produce, read again from anywhere, consume as a member of a group, replay into a group.
 *
 * Offsets are strings, because they may pass what a number can hold. What `consume`'s handler throws is a failure: the
 * broker tries the record again after the group's delay, holds the later records of its key back meanwhile, and moves
 * it to the dead letters when the tries are spent. `new Dead(...)` asks for no further try.
 */
import { randomUUID } from "node:crypto";
import * as path from "node:path";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType as ConsumeProtos } from "./proto/consume";
import type { ProtoGrpcType as LetterProtos } from "./proto/dead_letter";
import type { ProtoGrpcType as GroupProtos } from "./proto/group";
import type { ProtoGrpcType as ProduceProtos } from "./proto/produce";
import type { ProtoGrpcType as ReadProtos } from "./proto/read";
import type { ProtoGrpcType as ReplayProtos } from "./proto/replay";
import type { ProtoGrpcType as TopicProtos } from "./proto/topic";
import type { ConsumeRequest } from "./proto/sawlog/v1/ConsumeRequest";
import type { ConsumeResponse__Output } from "./proto/sawlog/v1/ConsumeResponse";
import type { Delivery__Output } from "./proto/sawlog/v1/Delivery";
import type { ReadRequest } from "./proto/sawlog/v1/ReadRequest";
import type { ReadResponse__Output } from "./proto/sawlog/v1/ReadResponse";
import type { StartReplayRequest } from "./proto/sawlog/v1/StartReplayRequest";
import type { Record as WireRecord } from "./proto/sawlog/v1/Record";
import type { Work } from "./proto/sawlog/v1/Work";

type Protos = ConsumeProtos & LetterProtos & GroupProtos & ProduceProtos & ReadProtos & ReplayProtos & TopicProtos;
const FOLDER = path.join(__dirname, "..", "..", "..", "proto");
const FILES = ["consume", "dead_letter", "group", "produce", "read", "replay", "topic"].map((name) => `sawlog/v1/${name}.proto`);
const OPTIONS = { includeDirs: [FOLDER], longs: String, enums: String, defaults: true, oneofs: true };
const api = (grpc.loadPackageDefinition(loader.loadSync(FILES, OPTIONS)) as unknown as Protos).sawlog.v1;
const PING_MS = 3_000;

/** This record will never succeed. */
export class Dead extends Error {}
/** A record as it was read or delivered; `attempt` counts from 1, and is 0 outside of a group. */
export type Found = { partition: number; offset: string; attempt: number; key: string; value: Buffer; replay: boolean };
/** Where a record went. */
export type Place = { partition: number; offset: string };

/** Makes a promise of a unary call. */
export function call<Q, A>(stub: grpc.Client, method: (request: Q, done: grpc.requestCallback<A>) => unknown, request: Q) {
  return new Promise<A>((resolve, reject) =>
    method.call(stub, request, (error, answer) => (error || !answer ? reject(error) : resolve(answer))),
  );
}

export class Sawlog {
  readonly topics;
  readonly groups;
  readonly letters;
  readonly replays;
  private readonly producing;
  private readonly reading;
  private readonly consuming;
  private producer?: Promise<{ id: string; epoch: number; next: number }>;

  constructor(url: string) {
    const [address, insecure] = [url.replace(/^http:\/\//, "").replace(/\/$/, ""), grpc.credentials.createInsecure()];
    this.topics = new api.TopicService(address, insecure);
    this.groups = new api.GroupService(address, insecure);
    this.letters = new api.DeadLetterService(address, insecure);
    this.replays = new api.ReplayService(address, insecure);
    this.producing = new api.ProduceService(address, insecure);
    this.reading = new api.ReadService(address, insecure);
    this.consuming = new api.ConsumeService(address, insecure);
  }

  /** Appends records; a request that is repeated after a cut is appended once, because it has a number. */
  async produce(topic: string, records: { key?: string; value: string }[]): Promise<Place[]> {
    this.producer ??= call(this.producing, this.producing.initProducer, { name: `ts-${randomUUID()}` }).then((made) => ({
      id: made!.producerId, epoch: made!.producerEpoch, next: 0,
    }));
    const producer = await this.producer;
    const numbered = { producerId: producer.id, producerEpoch: producer.epoch, requestNumber: producer.next++ };
    const wire = records.map(({ key, value }): { record: WireRecord } => ({
      record: { value: Buffer.from(value), ...(key === undefined ? {} : { key: Buffer.from(key) }) },
    }));
    const request = { topic, producer: numbered, records: { records: wire } };
    const answer = await call(this.producing, this.producing.produce, request);
    const failed = answer!.parts.find((part) => part.failure);
    if (failed) throw new Error(failed.failure!.message);
    return answer!.records.map((record) => ({ partition: record.partition, offset: record.offset! }));
  }

  /** Reads a topic again, by default all of it up to its present end. */
  async *read(topic: string, more: ReadRequest = {}): AsyncGenerator<Found> {
    for await (const { records } of this.reading.read({ topic, ...more }) as AsyncIterable<ReadResponse__Output>) {
      for (const { offset, record } of records?.records ?? []) yield found(records!.partition, offset, 0, record!, false);
    }
  }

  /** Delivers a topic up to its present end to a group made for it; returns the replay's id. */
  async replay(topic: string, group: string, more: StartReplayRequest = {}): Promise<string> {
    const request = { topics: [topic], target: { newGroup: { name: group } }, ...more };
    return (await call(this.replays, this.replays.startReplay, request)).replay!.replayId;
  }

  /**
   * Handles records as a member of a group until the signal, or until the replay `ends` has ended; then lets its units go,
   * acknowledged work being durable.
   */
  async consume(group: string, handle: (record: Found) => Promise<void>, signal: AbortSignal, ends = "", credit = 64): Promise<void> {
    const stream = this.consuming.consume();
    const send = (frame: ConsumeRequest) => void (stream.writable && stream.write(frame));
    const partitions = new Map<number, number>();
    let sequence = 0;
    const take = async (frame: ConsumeResponse__Output) => {
      for (const { source } of frame.assign?.units ?? []) partitions.set(source!.sourceId, source!.partition);
      const { sourceId, slots, lost } = frame.revoke ?? {};
      // What was delivered is still ours until it is settled; nothing new comes.
      if (slots && !lost) send({ revoked: { sourceId, slots } });
      const { replayId, _sourceId: part } = frame.replayDone ?? {};
      if (ends && replayId === ends && part === undefined) leave();
      await Promise.all((frame.records?.deliveries ?? []).map(async (delivery) => {
        const { sourceId, assignmentEpoch } = frame.records!;
        const work: Work[] = [{ sourceId, assignmentEpoch, ...(delivery.entry
          ? { entries: [{ dlqId: delivery.entry.dlqId }] } : { offsets: [{ from: delivery.offset }] }) }];
        try {
          await handle(delivered(partitions.get(sourceId)!, delivery));
          send({ ack: { sequence: ++sequence, work } });
        } catch (thrown) {
          const { name, message, stack } = thrown instanceof Error ? thrown : new Error(String(thrown));
          const kind = thrown instanceof Dead ? "NACK_KIND_DEAD" : "NACK_KIND_RETRY";
          send({ nack: { sequence: ++sequence, work, kind, error: { class: name, message, stack } } });
        }
      }));
    };
    const ping = setInterval(() => send({ ping: {} }), PING_MS);
    const leave = () => (send({ leave: {} }), stream.end());
    signal.addEventListener("abort", leave, { once: true });
    send({ join: { group, memberId: randomUUID(), clientId: "typescript", credit: { records: credit, bytes: 8 << 20 } } });
    try {
      await new Promise<void>((resolve, reject) => {
        stream.on("data", (frame: ConsumeResponse__Output) => take(frame).catch(reject));
        stream.on("end", resolve).on("error", reject);
      });
    } finally {
      clearInterval(ping);
      signal.removeEventListener("abort", leave);
    }
  }

  close(): void {
    for (const stub of [this.topics, this.groups, this.letters, this.replays, this.producing, this.reading, this.consuming]) stub.close();
  }
}

const delivered = (partition: number, { offset, attempt, record, replay }: Delivery__Output) =>
  found(partition, offset, attempt, record!, replay);

function found(partition: number, offset: string, attempt: number, record: WireRecord, replay: boolean): Found {
  const text = (bytes: unknown) => Buffer.from((bytes as Buffer | undefined) ?? []);
  return { partition, offset, attempt, key: text(record.key).toString(), value: text(record.value), replay };
}

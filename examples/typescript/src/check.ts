/**
 * Tries a running broker: produces, consumes in a group with a record that always fails and one that fails once, looks
 * at the dead letters, redrives them, reads everything again, and replays it into another group. Exits with 0 only if all of it is as it should be.
 *
 * Usage: node build/check.js http://127.0.0.1:7070
 */
import * as assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { call, Found, Sawlog } from "./sawlog";

const RECORDS = 60;
const place = (record: { partition: number; offset: string }) => `${record.partition}/${record.offset}`;
const offsets = (records: Found[], key: string) => records.filter((found) => found.key === key).map((found) => Number(found.offset));

async function main(url: string): Promise<void> {
  const sawlog = new Sawlog(url);
  const topic = `typescript-${randomUUID()}`;
  const group = `${topic}-group`;
  await call(sawlog.topics, sawlog.topics.createTopic, { name: topic, config: { partitions: 3, keyed: true } });
  const records = Array.from({ length: RECORDS }, (_, n) => ({ key: `key-${n % 6}`, value: `value ${n}` }));
  const places = (await sawlog.produce(topic, records)).map(place);

  const all: Found[] = [];
  for await (const record of sawlog.read(topic)) all.push(record);
  assert.deepEqual(all.map(place).sort(), [...places].sort(), "everything is read back");

  const retry = { maxAttempts: 3, list: { delaysMs: [1] } };
  await call(sawlog.groups, sawlog.groups.createGroup, { name: group, config: { topics: { names: [topic] }, retry } });
  const ofKey3 = all.filter((record) => record.key === "key-3").length;
  let tries = 0;
  const others = (handled: Found[]) => handled.length === RECORDS - ofKey3 && tries === 3;
  const handled = await work(sawlog, group, others, (record) => {
    if (record.key === "key-3" && ++tries) throw new TypeError("this record is poison");
    if (place(record) === places[0] && record.attempt === 1) throw new Error("try again");
  });
  for (const key of new Set(handled.map((record) => record.key))) {
    assert.deepEqual(offsets(handled, key), offsets(all, key), `each record of ${key} once and in order`);
  }
  const answer = await awaitLetters(sawlog, group, places);
  assert.equal(answer.length, ofKey3, "the key that failed is in the dead letters");
  const [head] = answer;
  assert.deepEqual([head!.kind, head!.error!.class, head!.attempts], ["ENTRY_KIND_FAILED", "TypeError", 3]);

  await call(sawlog.letters, sawlog.letters.startRedrive, { group, selector: { dlqIds: [head!.dlqId] }, note: "mended" });
  const redriven = await work(sawlog, group, (handled) => handled.length === ofKey3, () => {});
  assert.deepEqual(offsets(redriven, "key-3"), offsets(all, "key-3"), "redriven in order");
  await replay(sawlog, topic, all);
  await call(sawlog.groups, sawlog.groups.deleteGroup, { name: group });
  await call(sawlog.topics, sawlog.topics.deleteTopic, { name: topic });
  sawlog.close();
  console.log(`typescript: ${RECORDS} records produced, read again, consumed in a group, redriven and replayed`);
}

/** A replay delivers everything once more, marked, and says when it has ended. */
async function replay(sawlog: Sawlog, topic: string, all: Found[]): Promise<void> {
  const group = `${topic}-replay`;
  const id = await sawlog.replay(topic, group, { rate: { recordsPerSecond: 1_000 }, note: "check" });
  const seen: Found[] = [];
  await sawlog.consume(group, async (record) => void seen.push(record), new AbortController().signal, id);
  assert.ok(seen.every((record) => record.replay), "what is replayed is marked");
  assert.ok(all.every((record) => !record.replay), "what is read is not");
  assert.deepEqual(seen.map(place).sort(), all.map(place).sort(), "everything is replayed once");
  for (const key of new Set(seen.map((record) => record.key))) assert.deepEqual(offsets(seen, key), offsets(all, key));
  const { replay: ended } = await call(sawlog.replays, sawlog.replays.getReplay, { replayId: id });
  assert.deepEqual([ended!.state, ended!.done, ended!.left], ["REPLAY_STATE_DONE", String(all.length), "0"]);
  await call(sawlog.groups, sawlog.groups.deleteGroup, { name: group });
}

/** Consumes until `enough` says so of what was handled. */
async function work(
  sawlog: Sawlog, group: string, enough: (handled: Found[]) => boolean, handle: (record: Found) => void,
): Promise<Found[]> {
  const done = new AbortController();
  const handled: Found[] = [];
  await sawlog.consume(group, async (record) => {
    try {
      handle(record);
      handled.push(record);
    } finally {
      // After the verdict about this one was sent.
      if (enough(handled)) setImmediate(() => done.abort());
    }
  }, done.signal);
  return handled;
}

/** Waits until the group has decided about every record, then lists its dead letters. */
async function awaitLetters(sawlog: Sawlog, group: string, places: string[]) {
  const topicId = (await call(sawlog.topics, sawlog.topics.getTopic, { name: group.replace(/-group$/, "") }))!.topic!.topicId;
  const tokens = places.map((at) => ({ topicId, partition: Number(at.split("/")[0]), offset: at.split("/")[1]! }));
  const decided = await call(sawlog.groups, sawlog.groups.awaitProcessed, { name: group, tokens, timeoutMs: 30_000 });
  const pending = decided!.tokens.filter((token) => token.state === "PROCESSED_STATE_PENDING");
  assert.equal(pending.length, 0, "nothing is undecided");
  return (await call(sawlog.letters, sawlog.letters.listEntries, { group }))!.entries;
}

main(process.argv[2] ?? "http://127.0.0.1:7070").catch((error) => {
  console.error(error);
  process.exit(1);
});

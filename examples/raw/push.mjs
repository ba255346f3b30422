// Follow a partition: the bindings zeromq and @msgpack/msgpack, after docs/protocol.md, section Push.
//
//     node push.mjs 127.0.0.1:5755 lines 0
//
// The same as push.py, for Node. Reads batches that are not compressed.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, decodeMulti, encode } from "@msgpack/msgpack";
import { Dealer, Subscriber } from "zeromq";

const [HELLO, PING, METADATA, FETCH, SUBSCRIBE] = [1, 2, 3, 6, 10];
const LISTS = ["topics", "partitions", "subjects"]; // of replies, in which an error may stand

class BeginAnew extends Error {} // another broker leads, or nobody answers
class Damaged extends Error {}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, crc) => {
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(bytes, crc = 0) {
  crc = ~crc;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** For each batch of a frame: the offset behind it, its leader epoch, offsets and values. */
function* batches(data, [topicId, partition]) {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(partition);
  const seed = crc32c(number, crc32c(topicId));
  while (data.length) {
    if (data.length < 92) throw new Damaged("too few bytes for a batch");
    const base = Number(data.readBigUInt64BE(0));
    const size = data.readUInt32BE(8);
    const [lastDelta, count] = [data.readUInt32BE(48), data.readUInt32BE(52)];
    const head = crc32c(data.subarray(36, 40), crc32c(data.subarray(0, 32)));
    if (
      head !== data.readUInt32BE(32) ||
      crc32c(data.subarray(40, size), seed) !== data.readUInt32BE(36) ||
      data.toString("latin1", 40, 44) !== "zmb\x01" ||
      data.readUInt32BE(44) !== 0
    )
      throw new Damaged(`the batch at ${base} is damaged, compressed or of a later version`);
    const columns = {};
    let at = size;
    const directory = decodeMulti(data.subarray(92, size)).next().value;
    for (const [column, stored] of directory.reverse()) {
      columns[column] = decode(data.subarray(at - stored, at));
      at -= stored;
    }
    const offsets = (columns[1] ?? [...Array(count).keys()]).map((delta) => base + delta);
    yield [base + lastDelta + 1, data.readUInt32BE(12), offsets, columns[15]];
    data = data.subarray(size);
  }
}

/** What was read of a partition, and what to do when something comes. */
export class Reader {
  epoch = 0; // of the leader that was asked
  lastEpoch = null; // leader epoch of the last batch read

  constructor(deliver, place = null, start = 0) {
    this.deliver = deliver;
    this.place = place;
    this.next = start;
  }

  take(data) {
    for (const [behind, epoch, offsets, values] of batches(data, this.place)) {
      if (behind <= this.next) continue; // it was seen already
      offsets.forEach((offset, i) => offset >= this.next && this.deliver(offset, values[i]));
      [this.next, this.lastEpoch] = [behind, epoch];
    }
  }

  fetched(end, data) {
    this.take(data);
    return this.next < end ? "fetch" : "wait";
  }

  // A HEAD has neither `prev` nor data.
  published({ end, epoch, prev }, data) {
    if (epoch !== this.epoch) return epoch > this.epoch ? "begin" : "wait";
    try {
      if (data && prev <= this.next) {
        this.take(data);
        return "wait"; // what follows will be published too, or announced
      }
    } catch (error) {
      if (!(error instanceof Damaged)) throw error;
    }
    return this.next < end ? "fetch" : "wait";
  }
}

/** A session, in which one request after the other is answered. */
class Broker {
  read = 0;

  static async connect(open, endpoint) {
    const broker = new Broker();
    broker.socket = open(new Dealer({ linger: 0, receiveTimeout: 5_000 }), endpoint);
    await broker.call(HELLO, { client: "raw", min: 1, max: 1, session: randomBytes(16) });
    return broker;
  }

  async call(api, fields) {
    await this.socket.send(encode([api, 1, 1, { rx: this.read, ...fields }]));
    this.calledAt = Date.now();
    const [header, ...bodies] = await receive(this.socket, "no answer in 5 s");
    for (const body of bodies) this.read += body.length;
    const reply = decode(header)[3];
    for (const entry of [reply, ...LISTS.flatMap((name) => reply[name] ?? [])]) {
      const error = entry.error ?? entry;
      if (error.retriable === undefined) continue;
      throw new (error.retriable ? BeginAnew : Error)(`${error.name}: ${error.detail}`);
    }
    return [reply, Buffer.concat(bodies)];
  }
}

async function receive(socket, otherwise) {
  try {
    return await socket.receive();
  } catch (error) {
    throw error.code === "EAGAIN" ? new BeginAnew(otherwise) : error;
  }
}

async function fetchAll(leader, reader) {
  let then = "fetch";
  while (then === "fetch") {
    const wanted = [...reader.place, reader.next, 1 << 20, reader.epoch, reader.lastEpoch];
    const [reply, data] = await leader.call(FETCH, { partitions: [wanted] });
    then = reader.fetched(reply.partitions[0][1], data);
  }
}

async function follow(open, endpoint, topic, partition, reader) {
  const [about] = await (await Broker.connect(open, endpoint)).call(METADATA, { topics: [topic] });
  const found = about.topics[0];
  reader.place ??= [found.id, partition];
  const [id, epoch] = found.partitions[partition];
  reader.epoch = epoch;
  const address = about.brokers.find(([broker]) => broker === id)?.[1];
  if (!address) throw new BeginAnew("nobody leads the partition");
  const leader = await Broker.connect(open, address);
  await fetchAll(leader, reader);
  const [joined] = await leader.call(SUBSCRIBE, { partitions: [reader.place] });
  const socket = open(new Subscriber({ linger: 0, receiveTimeout: 3_000 }), joined.endpoint);
  socket.subscribe(joined.subjects[0]);
  for (;;) {
    const [, header, ...data] = await receive(socket, "nothing was published for 3 s");
    const fields = decode(header)[3];
    const then = reader.published(fields, ...data);
    if (then === "begin") throw new BeginAnew("another broker leads");
    if (then === "fetch") {
      console.error(`fetching ${reader.next} to ${fields.end}`);
      await fetchAll(leader, reader);
    } else if (Date.now() > leader.calledAt + 5_000) {
      await leader.call(PING, {}); // the subscription ends with the session
    }
  }
}

async function main(endpoint, topic, partition) {
  const reader = new Reader((_, value) => {
    process.stdout.write(Buffer.concat([value ?? Buffer.alloc(0), Buffer.from("\n")]));
  });
  for (;;) {
    const sockets = [];
    const open = (socket, address) => {
      sockets.push(socket);
      socket.connect(`tcp://${address}`);
      return socket;
    };
    try {
      await follow(open, endpoint, topic, Number(partition), reader);
    } catch (error) {
      if (!(error instanceof BeginAnew)) throw error;
      console.error(`beginning anew at ${reader.next}: ${error.message}`);
      await sleep(200);
    } finally {
      for (const socket of sockets) socket.close();
    }
  }
}

if (process.argv[1]?.endsWith("push.mjs")) await main(...process.argv.slice(2));

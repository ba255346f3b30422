// What the reader of push.mjs does with docs/vectors/following.json: node follow.mjs FILE, beside push.mjs.
import { readFileSync } from "node:fs";
import { Reader } from "./push.mjs";

const vectors = JSON.parse(readFileSync(process.argv[2]));
const place = [Buffer.from(vectors["topic id"], "hex"), vectors.partition];
const happened = vectors.sequences.map(({ start, steps }) => {
  const delivers = [];
  const reader = new Reader((offset) => delivers.push(offset), place, start);
  return steps.map(({ event, epoch, end, body, fields, frames }) => {
    delivers.length = 0;
    let then = event === "silence" ? "begin" : "wait";
    if (event === "METADATA") [reader.epoch, then] = [epoch, "fetch"];
    if (event === "FETCH") then = reader.fetched(end, Buffer.from(body, "hex"));
    if (frames) then = reader.published(fields, frames[2] && Buffer.from(frames[2], "hex"));
    return { delivers: [...delivers], next: reader.next, "last epoch": reader.lastEpoch, then };
  });
});
console.log(JSON.stringify(happened));

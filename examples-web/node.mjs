#!/usr/bin/env node
/* Has a server's network look at images that the server does not get to see, through a bridge: client.c in JavaScript. */
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import WebSocket from "ws";
import { readImage } from "./pgm.mjs";
import { Safenet, webSocketChannel } from "./safenet.mjs";

const USAGE = `usage: node.mjs --url URL PUBLIC [options] IMAGE...

Has the server behind the bridge at URL (ws: or wss:) evaluate its network on images, without showing them. PUBLIC is the file with the
public part of the server's model. An IMAGE is an 8-bit binary PGM (P5) or PPM (P6) of the size of the model's input, scaled to
0 .. 1. Prints each image's class (the largest output), scores, bytes and times.

  --url URL          address of the bridge
  --ot EXTENSION     2, 4 or 8 (4): more sends less and computes more; silent: sends least, takes memory
  --round-trips N    2 or 3 (3), of a ReLU of at most 13 bits: 2 sends more than twice the bytes
  --wasm FILE        the library (target/wasm32-unknown-unknown/web/safenet.wasm)
  --json FILE        also write one JSON object per image and line to FILE
  --help             this text`;

class Misuse extends Error {}

function options() {
  let given;
  try {
    given = parseArgs({
      allowPositionals: true,
      options: {
        url: { type: "string" },
        ot: { type: "string", default: "4" },
        "round-trips": { type: "string", default: "3" },
        wasm: {
          type: "string",
          default: join(dirname(fileURLToPath(import.meta.url)), "../target/wasm32-unknown-unknown/web/safenet.wasm"),
        },
        json: { type: "string" },
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    throw new Misuse(error.message);
  }
  const { values, positionals } = given;
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const [model, ...images] = positionals;
  if (!values.url || !model || images.length === 0) {
    throw new Misuse(`expected ${!values.url ? "--url URL" : !model ? "PUBLIC" : "an IMAGE"}, got none`);
  }
  const choice = (name, text, codes) => {
    if (!(text in codes)) {
      throw new Misuse(`${name}: expected ${Object.keys(codes).join(", ")}, got '${text}'`);
    }
    return codes[text];
  };
  return {
    url: values.url,
    wasm: values.wasm,
    json: values.json,
    model,
    images,
    session: {
      otExtension: choice("--ot", values.ot, { 2: 2, 4: 4, 8: 8, silent: 1 }),
      reluRoundTrips: choice("--round-trips", values["round-trips"], { 2: 2, 3: 3 }),
    },
  };
}

/** What the work costs: milliseconds, bytes of both directions, round trips; and its result. */
async function measured(client, work) {
  const all = ({ setup, prepare, infer }, of) => of(setup) + of(prepare) + of(infer);
  const before = client.stats();
  const start = performance.now();
  const result = await work();
  const ms = performance.now() - start;
  const after = client.stats();
  const spent = (of) => all(after, of) - all(before, of);
  return { result, ms, bytes: spent((phase) => phase.sent + phase.received), rounds: spent((phase) => phase.rounds) };
}

const cost = ({ ms, bytes, rounds }) => `${ms.toFixed(1)} ms, ${bytes} bytes, ${rounds} rounds`;

async function main() {
  const { url, wasm, json, model: path, images, session } = options();
  const safenet = await Safenet.load(readFile(wasm));
  const model = safenet.model(await readFile(path));
  const { info } = model;
  const { channels, height, width } = info.inputShape;
  console.log(`model ${info.name}: input ${channels}x${height}x${width}, ${info.outputs} outputs`);
  // Whatever can be wrong on this side is found before the server is asked for anything.
  const inputs = [];
  for (const image of images) {
    inputs.push(readImage(image, await readFile(image), info.inputShape));
  }
  const channel = await webSocketChannel(new WebSocket(url, { perMessageDeflate: false }));
  const client = model.client(channel, session);
  const records = [];
  try {
    console.log(`session: ${cost(await measured(client, () => client.prepare(0)))}`);
    for (const [i, image] of images.entries()) {
      const prepare = await measured(client, () => client.prepare(1));
      const online = await measured(client, () => client.infer(inputs[i]));
      const { scores, outputs } = online.result;
      const found = info.classOutput ? outputs[0] : outputs.indexOf(Math.max(...outputs));
      console.log(
        `${image}: class ${found}\n  scores ${[...scores].map((score) => Number(score.toPrecision(6))).join(" ")}`,
      );
      console.log(`  prepare ${cost(prepare)}; online ${cost(online)}`);
      records.push({
        image,
        class: found,
        outputs: [...outputs],
        scores: [...scores],
        prepare_ms: prepare.ms,
        online_ms: online.ms,
        prepare_bytes: prepare.bytes,
        online_bytes: online.bytes,
        rounds_prepare: prepare.rounds,
        rounds_online: online.rounds,
      });
    }
    await client.close();
    console.log(`memory of the module: ${safenet.memoryBytes} bytes`);
  } finally {
    client.free();
    channel.close();
  }
  if (json) {
    await writeFile(json, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  }
}

try {
  await main();
} catch (error) {
  console.error(`node.mjs: ${error.message}${error instanceof Misuse ? " (try --help)" : ""}`);
  process.exitCode = error instanceof Misuse ? 2 : 1;
}

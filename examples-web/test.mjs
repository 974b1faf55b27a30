/* What a session with a server does not show: drawings, images, errors of the wrapper, and whom the bridge lets through. `node --test`. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { get, request } from "node:http";
import { createServer } from "node:net";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { SIDE, normalise } from "./digit.mjs";
import { readImage } from "./pgm.mjs";
import { Safenet, SafenetError, webSocketChannel } from "./safenet.mjs";

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const wasm = await readFile(file("../target/wasm32-unknown-unknown/web/safenet.wasm"));
const publicPart = await readFile(file("../models/mnist-mixed.public"));

/* Drawings. */

/** A drawing of `size` x `size` with ink in a rectangle. */
function drawing(size, [left, top, right, bottom]) {
  const ink = new Uint8Array(size * size);
  for (let y = top; y < bottom; y++) {
    ink.fill(255, y * size + left, y * size + right);
  }
  return ink;
}

/** The rectangle of a digit's ink, and its centre of weight. */
function extent(digit) {
  const box = { left: SIDE, top: SIDE, right: 0, bottom: 0, x: 0, y: 0 };
  let weight = 0;
  digit.forEach((value, i) => {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    assert.ok(value >= 0 && value <= 1);
    if (value > 0.01) {
      Object.assign(box, { left: Math.min(box.left, x), right: Math.max(box.right, x + 1) });
      Object.assign(box, { top: Math.min(box.top, y), bottom: Math.max(box.bottom, y + 1) });
    }
    box.x += value * (x + 0.5);
    box.y += value * (y + 0.5);
    weight += value;
  });
  return { ...box, x: box.x / weight, y: box.y / weight };
}

test("a drawing is scaled to 20 x 20 and centred, wherever it was", () => {
  assert.equal(normalise(new Uint8Array(100), 10, 10), null);
  for (const [box, width, height] of [
    [[0, 0, 280, 280], 20, 20],
    [[200, 40, 240, 240], 4, 20],
    [[10, 250, 110, 270], 20, 4],
    [[100, 100, 200, 200], 20, 20],
  ]) {
    const { left, right, top, bottom, x, y } = extent(normalise(drawing(280, box), 280, 280));
    assert.deepEqual([right - left, bottom - top, x.toFixed(3), y.toFixed(3)], [width, height, "14.000", "14.000"]);
  }
  // A dot becomes no blot.
  const dot = extent(normalise(drawing(280, [5, 5, 12, 12]), 280, 280));
  assert.ok(dot.right - dot.left <= 6, `${dot.right - dot.left}`);
  // A T's weight, not its middle, is centred; of an L, whose weight is too far out for that, all ink stays.
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  for (const [bar, other, centred] of [
    [[80, 40, 240, 60], [150, 60, 170, 240], true],
    [[40, 200, 240, 240], [40, 40, 60, 200], false],
  ]) {
    const ink = drawing(280, bar);
    drawing(280, other).forEach((value, i) => (ink[i] |= value));
    const digit = normalise(ink, 280, 280);
    assert.ok(Math.abs(sum(digit) - sum(ink) / 255 / 100) < 0.01);
    const { x, y } = extent(digit);
    assert.equal(Math.abs(x - 14) < 0.01 && Math.abs(y - 14) < 0.01, centred, `${x} ${y}`);
  }
});

test("images are read as they should be, and others are refused", () => {
  const shape = { channels: 3, height: 1, width: 2 };
  const image = (text, ...pixels) => readImage("x", Uint8Array.from([...Buffer.from(text), ...pixels]), shape);
  const values = [...image("P6 # a comment\n2 1\n10\n", 0, 1, 2, 3, 4, 5)].map((value) => Math.round(value * 10));
  assert.deepEqual(values, [0, 3, 1, 4, 2, 5]);
  assert.throws(() => image("GIF89a"), /expected a binary PGM or PPM image/);
  assert.throws(() => image("P5 2 1 255\n", 0, 0), /expected an image of the model's 3x1x2 .* got 1x1x2/);
  assert.throws(() => image("P6 2 1 65535\n"), /got largest value 65535/);
  assert.throws(() => image("P6 2 1 255\n", 1), /expected 6 bytes of pixels after the header, got 1/);
  assert.throws(() => image("P6 2 1 10\n", 0, 0, 0, 0, 0, 11), /values of at most 10, got 11 at pixel byte 5/);
});

/* The wrapper. */

const load = async () => (await Safenet.load(wasm)).model(publicPart);
/** A channel on which the given pieces come, and then its end. */
const replay = (...pieces) => ({ read: async () => pieces.shift() ?? null, write: async () => {} });
const error = (status, text) => (thrown) => {
  assert.ok(thrown instanceof SafenetError, `${thrown.stack}`);
  assert.equal(thrown.status, status, thrown.message);
  assert.match(thrown.message, text);
  return true;
};

test("a model's numbers are the header's", async () => {
  const { info } = await load();
  assert.equal(info.name, "mnist-mixed");
  assert.deepEqual([info.inputs, info.outputs, info.classOutput], [784, 10, false]);
  assert.deepEqual(info.inputShape, { channels: 1, height: 28, width: 28 });
  assert.deepEqual(info.outputShape, { channels: 10, height: 1, width: 1 });
  assert.ok(info.inputMin <= 0 && info.inputMax >= 1 << info.inputFractionBits);
});

test("models that are none are refused", async () => {
  const safenet = await Safenet.load(wasm);
  assert.throws(() => safenet.model(publicPart.subarray(0, 99)), error(-5, /./));
  assert.throws(() => safenet.model(new Uint8Array(0)), error(-5, /./));
  // Larger than what the host has set aside.
  assert.throws(() => safenet.model(new Uint8Array(3 << 20)), error(-5, /./));
  assert.equal(safenet.model(publicPart).info.inputs, 784);
});

test("a session that goes wrong says why, and is over", async () => {
  const model = await load();
  assert.throws(() => model.client(replay(), { otExtension: 3 }), error(-3, /got 3/));
  const cut = model.client(replay());
  await assert.rejects(cut.infer(new Float32Array(784)), error(-10, /prepare first/));
  await assert.rejects(cut.prepare(1), error(-11, /./));
  await assert.rejects(cut.prepare(1), error(-11, /./));
  cut.free();
  await assert.rejects(cut.prepare(1), error(-1, /freed/));
  const junk = model.client(replay(new Uint8Array(1000).fill(7)));
  await assert.rejects(junk.prepare(1), error(-8, /expected/));
  const broken = model.client({ read: async () => null, write: async () => Promise.reject(new Error("cable gone")) });
  await assert.rejects(broken.prepare(1), error(-13, /cable gone/));
  await assert.rejects(broken.infer([1, 2, 3]), TypeError);
});

test("without randomness there is no session", async () => {
  const model = await load();
  crypto.getRandomValues = () => assert.fail();
  after(() => delete crypto.getRandomValues);
  assert.throws(() => model.client(replay()), error(-12, /source of randomness/));
  delete crypto.getRandomValues;
  model.client(replay()).free();
});

test("after a fault nothing is called any more", async () => {
  const safenet = await Safenet.load(wasm);
  const model = safenet.model(publicPart);
  const client = model.client(replay());
  assert.throws(() => safenet.call("safenet_client_bundles", 0x7ffffff0, safenet.places.result), error(-2, /./));
  assert.ok(safenet.stopped);
  assert.throws(() => safenet.version, error(-2, /has stopped/));
  await assert.rejects(client.prepare(1), error(-2, /has stopped/));
  client.free();
  model.free();
});

test("sessions' memory is used again", async () => {
  const safenet = await Safenet.load(wasm);
  const model = safenet.model(publicPart);
  const once = async () => {
    const client = model.client(replay());
    await assert.rejects(client.prepare(1), error(-11, /./));
    client.free();
  };
  await once();
  const before = safenet.memoryBytes;
  for (let i = 0; i < 20; i++) {
    await once();
  }
  assert.equal(safenet.memoryBytes, before);
});

/* The bridge, before servers of this file's own. */

const cleanups = [];
after(() => cleanups.forEach((cleanup) => cleanup()));
process.once("SIGTERM", () => {
  cleanups.forEach((cleanup) => cleanup());
  process.exit(1);
});

/** A TCP server on a port of its own; what `serve` does with a connection. */
async function server(serve) {
  const tcp = createServer(serve);
  await new Promise((resolve) => tcp.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => tcp.close());
  return tcp.address().port;
}

/** The bridge to a port; where it listens. */
async function bridge(port, ...more) {
  const child = spawn(process.execPath, [file("bridge.mjs"), `127.0.0.1:${port}`, ...more], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  cleanups.push(() => child.kill());
  for await (const chunk of child.stdout) {
    return /http:\/\/(\S+)\//.exec(chunk)[1];
  }
}

/** How an attempt to connect ends: "open", or the HTTP status. */
function attempt(address, headers = {}) {
  const socket = new WebSocket(`ws://${address}/`, { headers });
  cleanups.push(() => socket.terminate());
  return new Promise((resolve) => {
    socket.on("open", () => resolve("open"));
    socket.on("unexpected-response", (_, response) => resolve(response.statusCode));
    socket.on("error", (error) => resolve(error.message));
  });
}

/** The code and reason with which a connection is closed. */
const closed = (socket) => new Promise((resolve) => socket.on("close", (code, reason) => resolve([code, `${reason}`])));

test("bytes come through in order, both ways, however many", async () => {
  const address = await bridge(await server((socket) => socket.pipe(socket)));
  const channel = await webSocketChannel(new WebSocket(`ws://${address}/`));
  const sent = Buffer.alloc(20 << 20, "0123456789abcdef!");
  const sending = (async () => {
    for (let at = 0; at < sent.length; at += 200_000) {
      await channel.write(sent.subarray(at, at + 200_000));
    }
  })();
  const received = [];
  for (let count = 0; count < sent.length;) {
    const bytes = await channel.read();
    received.push(bytes);
    count += bytes.length;
  }
  await sending;
  assert.ok(Buffer.concat(received).equals(sent));
  channel.close();
  assert.equal(await channel.read(), null);
});

test("a side that does not read stops the other", async () => {
  let count = 0;
  const sink = await bridge(await server((socket) => socket.pause()));
  const source = await bridge(
    await server((socket) => {
      const more = () => {
        do {
          count += 1 << 16;
        } while (count < 64 << 20 && socket.write(Buffer.alloc(1 << 16)));
      };
      socket.on("drain", more);
      socket.on("error", () => {});
      more();
    }),
  );
  const socket = new WebSocket(`ws://${sink}/`);
  await new Promise((resolve) => socket.on("open", resolve));
  for (let i = 0; i < 64; i++) {
    socket.send(Buffer.alloc(1 << 20));
  }
  const reader = new WebSocket(`ws://${source}/`);
  await new Promise((resolve) => reader.on("open", resolve));
  reader.pause();
  await sleep(1500);
  // The systems' buffers hold some megabytes, the bridge half of one.
  assert.ok(socket.bufferedAmount > 48 << 20, `${socket.bufferedAmount}`);
  assert.ok(count < 16 << 20, `${count}`);
  [socket, reader].forEach((one) => one.terminate());
});

test("a page that is sent too much too early gives up", async () => {
  const address = await bridge(await server((socket) => socket.on("error", () => {}).write(Buffer.alloc(4 << 20))));
  const channel = await webSocketChannel(new WebSocket(`ws://${address}/`), { receiveLimit: 1 << 20 });
  await sleep(500);
  await assert.rejects(channel.read(), /at most 1048576 bytes ahead/);
});

test("only this machine's pages and sites that were named may connect", async () => {
  const address = await bridge(await server(() => {}), "--origin", "https://example.org");
  assert.equal(await attempt(address), "open");
  assert.equal(await attempt(address, { Origin: `http://${address}` }), "open");
  assert.equal(await attempt(address, { Origin: "https://example.org", Host: "example.org" }), "open");
  for (const origin of [
    "https://evil.example",
    "null",
    "http://127.0.0.1",
    `https://${address}`,
    "https://example.org.evil.example",
  ]) {
    assert.equal(await attempt(address, { Origin: origin }), 403, origin);
  }
  // A name that someone else has pointed to this machine.
  assert.equal(await attempt(address, { Origin: "http://evil.example", Host: "evil.example" }), 403);
  const page = (headers) =>
    new Promise((resolve) => get(`http://${address}/`, { headers }, (response) => resolve(response.statusCode)));
  assert.equal(await page({ Host: "evil.example" }), 421);
  assert.equal(await page({}), 200);
});

test("nothing but the page's files can be asked for", async () => {
  const address = await bridge(await server(() => {}));
  const [host, port] = address.split(":");
  const ask = (path, method = "GET") =>
    new Promise((resolve) => {
      request({ host, port, path, method }, (response) =>
        resolve([response.statusCode, response.headers["content-type"]]),
      ).end();
    });
  assert.deepEqual(await ask("/safenet.wasm"), [200, "application/wasm"]);
  assert.deepEqual(await ask("/digits/00-7.pgm"), [200, "image/x-portable-graymap"]);
  for (const path of [
    "/../Cargo.toml",
    "/%2e%2e/Cargo.toml",
    "/digits/../bridge.mjs",
    "/bridge.mjs",
    "//etc/passwd",
    "/__proto__",
  ]) {
    assert.equal((await ask(path))[0], 404, path);
  }
  assert.equal((await ask("/", "POST"))[0], 405);
});

test("what is not the protocol's ends the connection", async () => {
  const address = await bridge(await server((socket) => socket.on("error", () => {})), "--connections", "2");
  const open = async () => {
    const socket = new WebSocket(`ws://${address}/`);
    await new Promise((resolve) => socket.on("open", resolve));
    return socket;
  };
  const [text, large] = [await open(), await open()];
  assert.equal(await attempt(address), 503);
  const ends = Promise.all([text, large].map(closed));
  text.send("hello");
  large.send(Buffer.alloc((1 << 20) + 1));
  const [[code, reason], [tooLarge]] = await ends;
  assert.deepEqual([code, reason, tooLarge], [1003, "expected binary messages, got a text", 1009]);
  assert.equal(await attempt(address), "open");
});

test("a server that is not there is told of", async () => {
  const address = await bridge(1);
  const channel = await webSocketChannel(new WebSocket(`ws://${address}/`));
  await assert.rejects(channel.read(), /closed \(1011, the server does not listen\)/);
  await assert.rejects(webSocketChannel(new WebSocket("ws://127.0.0.1:1/")), /expected it to open, it was closed/);
});

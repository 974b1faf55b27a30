/*
 * The page's other half: the library and the connection, in a thread of their own, so that the page stays quick. What it is told:
 * { type: "start" }, { type: "infer", input } and { type: "stop" }. What it tells: { type: "preparing" }, { type: "ready", ... },
 * { type: "answer", ... } and { type: "failed", text }.
 */
import { Safenet, webSocketChannel } from "./safenet.mjs";

let safenet = null;
let model = null;
let session = null;

/** Milliseconds, bytes of each direction and round trips that the work costs. */
async function measured(client, work) {
  const sum = (of) => Object.values(client.stats()).reduce((total, phase) => total + (of(phase) ?? 0), 0);
  const costs = () => [sum((phase) => phase.sent), sum((phase) => phase.received), sum((phase) => phase.rounds)];
  const before = costs();
  const start = performance.now();
  const result = await work();
  const ms = performance.now() - start;
  const [sent, received, rounds] = costs().map((cost, i) => cost - before[i]);
  return { result, cost: { ms, sent, received, rounds } };
}

/** A session with an inference prepared: the one there is, or a new one. */
async function prepared() {
  if (!session) {
    const url = new URL("./", self.location);
    url.protocol = url.protocol.replace("http", "ws");
    const channel = await webSocketChannel(new WebSocket(url));
    const client = model.client(channel);
    session = { client, channel, setup: null, prepare: null };
    session.setup = (await measured(client, () => client.prepare(0))).cost;
  }
  if (session.client.prepared === 0) {
    session.prepare = (await measured(session.client, () => session.client.prepare(1))).cost;
  }
  return session;
}

/** Drops the session, whatever its state. */
function drop() {
  session?.client.free();
  session?.channel.close();
  session = null;
}

async function start() {
  if (!model || safenet.stopped) {
    const contents = await fetch("model.public");
    if (!contents.ok) {
      throw new Error(`model.public: expected the public part of a model, got HTTP status ${contents.status}`);
    }
    safenet = await Safenet.load(fetch("safenet.wasm"));
    model = safenet.model(new Uint8Array(await contents.arrayBuffer()));
  }
  self.postMessage({ type: "preparing" });
  const { setup, prepare } = await prepared();
  self.postMessage({ type: "ready", setup, prepare, network: model.info.name });
}

async function infer(input) {
  const { client, prepare } = await prepared();
  const { result, cost } = await measured(client, () => client.infer(input));
  self.postMessage({ type: "answer", scores: result.scores, prepare, online: cost });
}

/** One message after another. An inference on a connection that was cut while nothing went on is tried once more, on a new one. */
let queue = Promise.resolve();
self.addEventListener("message", ({ data }) => {
  queue = queue.then(async () => {
    try {
      if (data.type === "stop") {
        await session?.client.close();
        return drop();
      }
      if (data.type === "infer") {
        const idle = session !== null;
        await infer(data.input).catch(async (error) => {
          drop();
          if (!idle) {
            throw error;
          }
          self.postMessage({ type: "preparing" });
          await infer(data.input);
        });
      }
      await start();
    } catch (error) {
      drop();
      self.postMessage({ type: "failed", text: error.message });
    } finally {
      data.input?.fill(0);
    }
  });
});

#!/usr/bin/env node
/*
 * Carries bytes between WebSockets and an ordinary SAFENet server's TCP port, and serves the page of this folder. It sees what
 * any node on the network between the parties sees, and understands none of it.
 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { dirname, join, resolve } from "node:path";
import { pipeline } from "node:stream";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { WebSocketServer, createWebSocketStream } from "ws";

const USAGE = `usage: bridge.mjs HOST:PORT [options]

Serves the page of this folder, and connects its WebSockets to the SAFENet server at HOST:PORT. Prints the address of the page.

  --port P           port to listen on, on this machine alone; 0 (the default) lets the system choose one
  --model PUBLIC     public part of the server's model (models/mnist-mixed.public)
  --wasm FILE        the library (target/wasm32-unknown-unknown/web/safenet.wasm)
  --origin ORIGIN    a site, such as https://example.org, whose pages may connect too, and under whose name the page may be asked
                     for, by a proxy that does TLS before this program; may be given more than once
  --connections N    most WebSockets at a time; more are turned away (64)
  --help             this text`;

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(HERE);

/** The most bytes of a message; what is larger ends the connection. The client sends less. */
const MESSAGE_BYTES = 1 << 20;
/** Bytes that wait on either side, above which the other is not read. */
const WAITING_BYTES = 1 << 18;
/** How long the server may take to accept a connection, and a page to begin with a request. */
const PATIENCE_MS = 10_000;

const DIGITS = [
  "00-7", "01-2", "02-1", "03-0", "04-4", "05-1", "06-4", "07-9", "08-5", "09-9", "10-0", "11-6", "12-5", "13-7", "14-3", "15-6",
  "16-3", "17-2", "18-8", "19-8",
]; // prettier-ignore

const TYPES = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  mjs: "text/javascript; charset=utf-8",
  wasm: "application/wasm",
  pgm: "image/x-portable-graymap",
  public: "application/octet-stream",
};

const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; worker-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "Cache-Control": "no-cache",
};

function fail(text) {
  console.error(`bridge: ${text}`);
  process.exit(2);
}

/** A whole number of an option. */
function number(name, text, least, most) {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  return value >= least && value <= most
    ? value
    : fail(`${name}: expected a number from ${least} to ${most}, got '${text}'`);
}

function options() {
  let given;
  try {
    given = parseArgs({
      allowPositionals: true,
      options: {
        port: { type: "string", default: "0" },
        model: { type: "string", default: join(ROOT, "models/mnist-mixed.public") },
        wasm: { type: "string", default: join(ROOT, "target/wasm32-unknown-unknown/web/safenet.wasm") },
        origin: { type: "string", multiple: true, default: [] },
        connections: { type: "string", default: "64" },
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    fail(`${error.message} (try --help)`);
  }
  const { values, positionals } = given;
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const target = positionals.length === 1 ? /^(.+):(\d{1,5})$/.exec(positionals[0]) : null;
  if (!target) {
    fail(`expected one HOST:PORT, got '${positionals.join(" ")}' (try --help)`);
  }
  for (const origin of values.origin) {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin) {
      fail(`--origin: expected a site such as https://example.org, got '${origin}'`);
    }
  }
  return {
    target: { host: target[1].replace(/^\[(.*)\]$/, "$1"), port: number("port of the server", target[2], 1, 65535) },
    port: number("--port", values.port, 0, 65535),
    connections: number("--connections", values.connections, 1, 100000),
    origins: values.origin,
    model: resolve(values.model),
    wasm: resolve(values.wasm),
  };
}

/** All that can be asked for: nothing else of the file system can be named. */
function files({ model, wasm }) {
  const all = new Map([["/safenet.wasm", wasm], ["/model.public", model], ["/", join(HERE, "index.html")]]); // prettier-ignore
  for (const name of ["style.css", "page.mjs", "worker.mjs", "safenet.mjs", "digit.mjs", "pgm.mjs"]) {
    all.set(`/${name}`, join(HERE, name));
  }
  for (const name of DIGITS) {
    all.set(`/digits/${name}.pgm`, join(ROOT, `models/digits/${name}.pgm`));
  }
  return all;
}

async function answer(all, request, response) {
  const refuse = (status, text) => {
    response.writeHead(status, { ...HEADERS, "Content-Type": "text/plain; charset=utf-8" });
    response.end(`${text}\n`);
  };
  const path = request.url.split("?")[0];
  const file = all.get(path);
  if (request.method !== "GET" && request.method !== "HEAD") {
    return refuse(405, `expected GET or HEAD, got ${request.method}`);
  }
  if (!file) {
    return refuse(404, "expected the address of a file that there is");
  }
  let size;
  try {
    size = (await stat(file)).size;
  } catch (error) {
    console.error(`bridge: ${file}: expected a file, got: ${error.message}`);
    return refuse(500, `${path}: expected a file, the bridge has none`);
  }
  const type = TYPES[file.slice(file.lastIndexOf(".") + 1)] ?? "application/octet-stream";
  response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": size });
  if (request.method === "HEAD") {
    response.end();
  } else {
    pipeline(createReadStream(file), response, () => {});
  }
}

/** Joins a WebSocket and a connection to the server: each is read no faster than the other takes its bytes. */
function carry(socket, { host, port }) {
  socket.pause();
  socket.on("error", () => {});
  socket.on("message", (_, binary) => binary || socket.close(1003, "expected binary messages, got a text"));
  const tcp = connect({ host, port, noDelay: true, highWaterMark: WAITING_BYTES });
  const refuse = (error) => {
    const why = error.code === "ECONNREFUSED" ? "the server does not listen" : "the server cannot be reached";
    socket.resume();
    socket.close(1011, why);
    tcp.destroy();
  };
  const patience = setTimeout(() => tcp.destroy(new Error(`${host}: expected a connection, got none`)), PATIENCE_MS);
  tcp.once("error", refuse);
  tcp.once("connect", () => {
    clearTimeout(patience);
    tcp.off("error", refuse);
    const stream = createWebSocketStream(socket, { highWaterMark: WAITING_BYTES });
    // An error of either ends both; an end is passed on.
    const done = (error) => error && tcp.destroy();
    pipeline(stream, tcp, done);
    pipeline(tcp, stream, done);
  });
}

const settings = options();
const all = files(settings);

/** The names under which this program may be asked: others point here by a name server's trick. */
const hosts = new Set(settings.origins.map((origin) => new URL(origin).host));
const known = (request) => hosts.has(request.headers.host);

/** Browsers say which site's page connects, other programs nothing. */
const welcome = ({ headers: { origin, host } }) =>
  origin === undefined || origin === `http://${host}` || settings.origins.includes(origin);

const http = createServer({ requestTimeout: PATIENCE_MS, headersTimeout: PATIENCE_MS }, (request, response) => {
  if (known(request)) {
    answer(all, request, response).catch((error) => response.destroy(error));
  } else {
    response.writeHead(421, { "Content-Type": "text/plain; charset=utf-8" });
    response.end("expected this program's own name as Host, or that of an --origin\n");
  }
});
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: MESSAGE_BYTES,
  perMessageDeflate: false,
  clientTracking: true,
});
http.on("upgrade", (request, connection, head) => {
  const refuse = (status) => connection.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  connection.on("error", () => connection.destroy());
  if (!known(request) || !welcome(request)) {
    refuse("403 Forbidden");
  } else if (sockets.clients.size >= settings.connections) {
    refuse("503 Service Unavailable");
  } else {
    sockets.handleUpgrade(request, connection, head, (socket) => carry(socket, settings.target));
  }
});
http.on("error", (error) => fail(`port ${settings.port}: expected to listen on it, got: ${error.message}`));
http.listen(settings.port, "127.0.0.1", () => {
  const { port } = http.address();
  hosts.add(`127.0.0.1:${port}`).add(`localhost:${port}`);
  console.log(`page at http://127.0.0.1:${port}/`);
});

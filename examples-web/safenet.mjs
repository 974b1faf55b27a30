/**
 * SAFENet's client in JavaScript: a thin layer over the C interface (include/safenet.h) of the library compiled to
 * WebAssembly. It runs in Node and in browsers, there best in a worker, because the library computes without pause for as
 * long as a step takes.
 *
 *   const safenet = await Safenet.load(fetch("safenet.wasm"));
 *   const model = safenet.model(new Uint8Array(await (await fetch("model.public")).arrayBuffer()));
 *   const client = model.client(await webSocketChannel(new WebSocket("wss://example.org/")));
 *   await client.prepare(1);                         // before the input is known
 *   const { scores } = await client.infer(input);    // a Float32Array of model.info.inputs values
 *   await client.close();
 *
 * A channel is any object with two functions: `read()` resolves to a Uint8Array of at least one byte, or to null once the
 * connection has ended; `write(bytes)` resolves when the channel can take more, and keeps nothing of `bytes` thereafter.
 */

/** The SAFENET_ABI_VERSION that this file is written for. */
const ABI_VERSION = 0;

const STATUS = { pointer: -1, aborted: -11, transport: -13 };
const STATE = { wantsInput: 1, hasOutput: 2, idle: 3, closed: 4 };

/* Structs as the header lays them out where size_t and pointers have 32 bits. */
const INFO_BYTES = 92;
const OPTIONS_BYTES = 28;
const STATS_BYTES = 88;

/* What the host and the library hand each other lies in memory of the host's own, which it adds to the module's. */
const PAGE = 1 << 16;
const TEXT_BYTES = 512;
const STRUCT_BYTES = 256;
/** What moves in one call. */
const MOVE_BYTES = 4 * PAGE;

/** An error of the library: its text says what was expected and what came, `status` is the safenet_status of the header. */
export class SafenetError extends Error {
  constructor(status, text) {
    super(text);
    this.name = "SafenetError";
    this.status = status;
  }
}

/** The library, with a memory of its own. */
export class Safenet {
  #exports;
  #host = 0;
  #fault = null;

  /** Loads the module: from its bytes, a Response, or a promise of either. */
  static async load(source) {
    let given = await source;
    if (typeof Response !== "undefined" && given instanceof Response) {
      if (!given.ok) {
        throw new Error(`${given.url}: expected the library's module, got HTTP status ${given.status}`);
      }
      given = await given.arrayBuffer();
    }
    return new Safenet(await WebAssembly.compile(given));
  }

  /** Use `load`. */
  constructor(module) {
    const imports = {
      safenet: {
        random: (out, size) => this.#random(out, size),
        fault: (text) => {
          throw new SafenetError(-2, this.text(text));
        },
      },
    };
    this.#exports = new WebAssembly.Instance(module, imports).exports;
    const version = this.call("safenet_abi_version");
    if (version !== ABI_VERSION) {
      throw new Error(`safenet.wasm: expected version ${ABI_VERSION} of the interface, got ${version}`);
    }
    const pages = 1 + (2 * MOVE_BYTES) / PAGE;
    this.#host = this.#exports.memory.grow(pages) * PAGE;
  }

  /** The library's version. */
  get version() {
    return this.text(this.call("safenet_version"));
  }

  /** How many bytes the module's memory has; it never shrinks. */
  get memoryBytes() {
    return this.#exports.memory.buffer.byteLength;
  }

  /** Whether a fault has ended it: nothing can be called any more, and what belongs to it is of no use. */
  get stopped() {
    return this.#fault !== null;
  }

  /** Loads the public part of a model from the bytes of its file. */
  model(contents) {
    return new Model(this, contents);
  }

  /*
   * The rest serves the classes below.
   */

  /** Calls a function. After a fault in the library its memory may be in any state, and nothing is called any more. */
  call(name, ...args) {
    if (this.#fault) {
      throw new SafenetError(
        this.#fault.status,
        `expected a library that runs, got one that has stopped: ${this.#fault.message}`,
      );
    }
    try {
      return this.#exports[name](...args);
    } catch (error) {
      // Of its own accord, or by a trap of the engine.
      this.#fault =
        error instanceof SafenetError ? error : new SafenetError(-2, `fault in the library: ${error.message}`);
      throw this.#fault;
    }
  }

  /** Frees an object; after a fault its memory goes with the module's. */
  release(name, pointer) {
    if (!this.stopped) {
      this.call(name, pointer);
    }
  }

  /** Calls a function that leaves its error text in a buffer given last. */
  callWithText(name, ...args) {
    const status = this.call(name, ...args, this.places.text, TEXT_BYTES);
    if (status !== 0) {
      throw new SafenetError(status, this.text(this.places.text));
    }
  }

  /** Addresses of the host's own memory. */
  get places() {
    const text = this.#host;
    const struct = text + TEXT_BYTES;
    const result = struct + STRUCT_BYTES;
    const input = this.#host + PAGE;
    return { text, struct, result, input, output: input + MOVE_BYTES };
  }

  bytes(at, size) {
    return new Uint8Array(this.#exports.memory.buffer, at, size);
  }

  view(at, size) {
    return new DataView(this.#exports.memory.buffer, at, size);
  }

  /** A text that ends with a NUL. */
  text(at) {
    const memory = new Uint8Array(this.#exports.memory.buffer);
    return new TextDecoder().decode(memory.subarray(at, memory.indexOf(0, at)));
  }

  /** An address for `size` bytes of input: the host's own memory if they fit, else more of it. */
  room(size) {
    if (size <= MOVE_BYTES) {
      return this.places.input;
    }
    return this.#exports.memory.grow(Math.ceil(size / PAGE)) * PAGE;
  }

  #random(out, size) {
    try {
      crypto.getRandomValues(this.bytes(out, size));
      return 0;
    } catch {
      return -1;
    }
  }
}

/** The public part of a model. `info` has its numbers; integers v and reals x are related by v = x * 2^fractionBits. */
export class Model {
  #library;
  #pointer;

  /** Use `Safenet.model`. */
  constructor(library, contents) {
    this.#library = library;
    const { struct, result } = library.places;
    const at = library.room(contents.length);
    library.bytes(at, contents.length).set(contents);
    library.callWithText("safenet_client_model_load", at, contents.length, result);
    this.#pointer = library.view(result, 4).getUint32(0, true);
    library.view(struct, 4).setUint32(0, INFO_BYTES, true);
    library.callWithText("safenet_client_model_info", this.#pointer, struct);
    const info = library.view(struct, INFO_BYTES);
    const number = (at) => info.getUint32(at, true);
    const signed = (at) => info.getInt32(at, true);
    const shape = (at) => ({ channels: number(at), height: number(at + 4), width: number(at + 8) });
    this.info = Object.freeze({
      name: library.text(number(4)),
      inputs: number(8),
      outputs: number(12),
      inputShape: Object.freeze(shape(16)),
      outputShape: Object.freeze(shape(28)),
      inputFractionBits: signed(40),
      outputFractionBits: signed(44),
      /** Whether the only output is the class; else the outputs are scores. */
      classOutput: signed(48) === 1,
      inputMin: signed(52),
      inputMax: signed(56),
    });
  }

  /**
   * Begins a session over a channel, which is the session's own from then on. Options: `otExtension` (1 is the silent one; 2, 4 or
   * 8 a depth) and `reluRoundTrips` (2 or 3), as in safenet_options.
   */
  client(channel, { otExtension = 0, reluRoundTrips = 0 } = {}) {
    const { struct, result } = this.#library.places;
    const options = this.#library.view(struct, OPTIONS_BYTES);
    [OPTIONS_BYTES, otExtension, reluRoundTrips, 0, 0, 0, 0].forEach((value, i) =>
      options.setUint32(4 * i, value, true),
    );
    this.#library.callWithText("safenet_client_new", this.#pointer, struct, result);
    return new Client(this.#library, this, this.#library.view(result, 4).getUint32(0, true), channel);
  }

  /** Gives the model's memory back. Sessions go on. */
  free() {
    const pointer = this.#pointer;
    this.#pointer = 0;
    this.#library.release("safenet_client_model_free", pointer);
  }
}

/** A session. It does one thing at a time: wait for what a function promises before you call the next. */
export class Client {
  #library;
  #model;
  #pointer;
  #channel;
  /** What has come and is not yet taken. */
  #pending = new Uint8Array(0);

  /** Use `Model.client`. */
  constructor(library, model, pointer, channel) {
    this.#library = library;
    this.#model = model;
    this.#pointer = pointer;
    this.#channel = channel;
  }

  /** Prepares inferences, before their inputs are known. The first call also opens the session. */
  async prepare(count = 1) {
    this.#call("safenet_client_prepare", count);
    await this.#run();
  }

  /** How many prepared inferences are left. */
  get prepared() {
    const { result } = this.#library.places;
    this.#call("safenet_client_bundles", result);
    return this.#library.view(result, 4).getUint32(0, true);
  }

  /**
   * One inference, on the oldest that is prepared. The input is a Float32Array of real numbers, or an Int32Array of integers. Resolves to
   * the outputs: `scores`, real numbers, and `outputs`, the same as integers.
   */
  async infer(input) {
    const fixed = input instanceof Int32Array;
    if (!fixed && !(input instanceof Float32Array)) {
      throw new TypeError(
        `input: expected a Float32Array or an Int32Array, got ${Object.prototype.toString.call(input)}`,
      );
    }
    const at = this.#library.room(input.byteLength);
    const values = new input.constructor(this.#library.bytes(at, input.byteLength).buffer, at, input.length);
    values.set(input);
    try {
      this.#call(fixed ? "safenet_client_infer_fixed" : "safenet_client_infer", 0, at, input.length);
    } finally {
      this.#library.bytes(at, input.byteLength).fill(0);
    }
    await this.#run();
    return {
      scores: this.#output("safenet_client_output", Float32Array),
      outputs: this.#output("safenet_client_output_fixed", Int32Array),
    };
  }

  #output(name, Type) {
    const count = this.#model.info.outputs;
    const at = this.#library.room(4 * count);
    this.#call(name, at, count);
    const values = new Type(this.#library.bytes(at, 4 * count).buffer, at, count);
    const copy = values.slice();
    values.fill(0);
    return copy;
  }

  /** What the session has cost so far, by phase: bytes `sent` and `received`, and `rounds`, round trips. */
  stats() {
    const { struct } = this.#library.places;
    this.#library.view(struct, 4).setUint32(0, STATS_BYTES, true);
    this.#call("safenet_client_stats", struct);
    const stats = this.#library.view(struct, STATS_BYTES);
    const number = (at) => Number(stats.getBigUint64(at, true));
    const phase = (at) => ({ sent: number(at), received: number(at + 8), rounds: number(at + 16) });
    return { setup: phase(8), prepare: phase(32), infer: phase(56), inferences: number(80) };
  }

  /** Ends the session: tells the server, erases what is left of prepared inferences. */
  async close() {
    this.#call("safenet_client_close");
    await this.#run();
  }

  /** Erases the session and gives its memory back. */
  free() {
    const pointer = this.#pointer;
    this.#pointer = 0;
    this.#library.release("safenet_client_free", pointer);
  }

  #call(name, ...args) {
    if (this.#pointer === 0) {
      throw new SafenetError(STATUS.pointer, "client: expected a session, got one that was freed");
    }
    const status = this.#library.call(name, this.#pointer, ...args);
    if (status !== 0) {
      throw new SafenetError(status, this.#library.text(this.#library.call("safenet_client_error", this.#pointer)));
    }
  }

  /** One call that moves bytes: what came is taken from the front of `#pending`. */
  #advance() {
    const { result, input, output } = this.#library.places;
    const size = Math.min(this.#pending.length, MOVE_BYTES);
    this.#library.bytes(input, size).set(this.#pending.subarray(0, size));
    this.#call("safenet_client_advance", input, size, output, MOVE_BYTES, result, result + 4, result + 8);
    const results = this.#library.view(result, 12);
    this.#pending = this.#pending.subarray(results.getUint32(0, true));
    return {
      produced: this.#library.bytes(output, results.getUint32(4, true)).slice(),
      state: results.getInt32(8, true),
    };
  }

  /** Carries out the operation that was started. After an error the session is over. */
  async #run() {
    for (;;) {
      const { produced, state } = this.#advance();
      if (produced.length > 0) {
        await this.#transport(this.#channel.write(produced));
      }
      if (state === STATE.wantsInput && this.#pending.length === 0) {
        const bytes = await this.#transport(this.#channel.read());
        if (bytes === null) {
          this.#call("safenet_client_input_ended");
        } else {
          this.#pending = bytes;
        }
      } else if (state === STATE.idle || state === STATE.closed) {
        if (this.#pending.length > 0) {
          this.#call("safenet_client_input_ended");
          throw new SafenetError(-8, `expected nothing after the last message, got ${this.#pending.length} bytes`);
        }
        return;
      }
    }
  }

  /** Waits for the channel. If it fails, the session is over and its secrets are erased. */
  async #transport(promise) {
    try {
      return await promise;
    } catch (error) {
      this.#call("safenet_client_input_ended");
      throw new SafenetError(STATUS.transport, `channel: expected it to carry bytes, it failed: ${error.message}`);
    }
  }
}

/** Most bytes that wait in a page for the library: more than any message of the networks in models/ has. */
const RECEIVE_LIMIT = 64 << 20;
/** Bytes that wait for the network, above which a write waits. */
const SEND_LIMIT = 1 << 20;
/** Codes of a WebSocket that was closed as it should be: with a code, and without one. */
const NORMAL_CLOSURES = [1000, 1005];

/**
 * A channel over a WebSocket: a browser's, or one of Node's package `ws`. Resolves when it is open. The channel has `close()` too.
 *
 * A browser cannot be told to stop reading, so what comes before it is asked for is kept, up to `receiveLimit` bytes.
 */
export function webSocketChannel(socket, { receiveLimit = RECEIVE_LIMIT } = {}) {
  const received = [];
  let waiting = 0;
  let ended = false;
  let failure = null;
  /** Wakes who reads. */
  let wake = () => {};
  const fail = (text) => {
    failure ??= new Error(text);
    received.length = 0;
    socket.close();
    wake();
  };
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) => {
    if (!(data instanceof ArrayBuffer)) {
      fail("WebSocket: expected binary messages, got a text");
    } else if (waiting + data.byteLength > receiveLimit) {
      fail(`WebSocket: expected at most ${receiveLimit} bytes ahead of their use, got more`);
    } else if (data.byteLength > 0 && !failure) {
      waiting += data.byteLength;
      received.push(new Uint8Array(data));
      wake();
    }
  });
  const channel = {
    async read() {
      while (received.length === 0 && !ended && !failure) {
        await new Promise((resolve) => (wake = resolve));
      }
      // What came before the end is read before it.
      if (received.length === 0 && failure) {
        throw failure;
      }
      const bytes = received.shift() ?? null;
      waiting -= bytes?.length ?? 0;
      return bytes;
    },
    async write(bytes) {
      socket.send(bytes);
      // No event tells when there is room again.
      while (socket.bufferedAmount > SEND_LIMIT && !ended) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      if (ended) {
        throw new Error("WebSocket: expected it to be open, it was closed");
      }
    },
    close() {
      socket.close();
    },
  };
  return new Promise((resolve, reject) => {
    socket.addEventListener("open", () => resolve(channel));
    socket.addEventListener("close", ({ code, reason }) => {
      ended = true;
      const said = reason ? `${code}, ${reason}` : `${code}`;
      if (!NORMAL_CLOSURES.includes(code)) {
        failure ??= new Error(`WebSocket: expected it to stay open, it was closed (${said})`);
      }
      reject(new Error(`WebSocket ${socket.url}: expected it to open, it was closed (${said})`));
      wake();
    });
    // What is wrong comes with the closing.
    socket.addEventListener("error", () => {});
  });
}

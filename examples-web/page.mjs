/* The page: a drawing goes to the worker, the worker's answer comes here. Nothing else leaves the page. */
import { SIDE, normalise } from "./digit.mjs";
import { readImage } from "./pgm.mjs";

const SAMPLES = ["03-0", "02-1", "01-2", "14-3", "04-4", "08-5", "11-6", "00-7", "18-8", "07-9"];
/** Of the drawing's 280: a tenth of it is what a pen's line is in MNIST. */
const PEN = 22;

const element = (id) => document.getElementById(id);
const paper = element("paper");
const pen = paper.getContext("2d", { willReadFrequently: true });
const worker = new Worker("worker.mjs", { type: "module" });

/** The network's input: null as long as there is none. */
let input = null;
let ready = false;
let asked = false;

function enable() {
  element("ask").disabled = !ready || !input || asked;
}

function state(text, failed = false) {
  element("state").textContent = text;
  element("state").classList.toggle("failed", failed);
  element("retry").hidden = !failed;
}

/** Takes an input, and shows it as the network gets it. */
function take(digit) {
  input = digit;
  const context = element("sent").getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) {
    image.data.fill(Math.round(255 * (digit?.[i] ?? 0)), 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  enable();
}

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, paper.width, paper.height);
  take(null);
}

/** The drawing as the network's input. */
function read() {
  const { data } = pen.getImageData(0, 0, paper.width, paper.height);
  const ink = new Uint8Array(paper.width * paper.height);
  ink.forEach((_, i) => (ink[i] = data[4 * i]));
  take(normalise(ink, paper.width, paper.height));
}

/** Where the pen is, in the drawing's own units. */
function position(event) {
  const box = paper.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * paper.width) / box.width,
    ((event.clientY - box.top) * paper.height) / box.height,
  ];
}

function line(from, to) {
  pen.strokeStyle = "#fff";
  pen.lineWidth = PEN;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

let last = null;
paper.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || last) {
    return;
  }
  if (element("sample").value) {
    element("sample").value = "";
    clear();
  }
  paper.setPointerCapture(event.pointerId);
  last = { id: event.pointerId, at: position(event) };
  line(last.at, last.at);
});
paper.addEventListener("pointermove", (event) => {
  if (last?.id === event.pointerId) {
    const at = position(event);
    line(last.at, at);
    last.at = at;
  }
});
for (const end of ["pointerup", "pointercancel"]) {
  paper.addEventListener(end, (event) => {
    if (last?.id === event.pointerId) {
      last = null;
      read();
    }
  });
}

element("clear").addEventListener("click", () => {
  element("sample").value = "";
  clear();
});

for (const name of SAMPLES) {
  element("sample").add(new Option(name.slice(-1), name));
}
element("sample").addEventListener("change", async () => {
  const name = element("sample").value;
  clear();
  if (!name) {
    return;
  }
  try {
    const response = await fetch(`digits/${name}.pgm`);
    if (!response.ok) {
      throw new Error(`${response.url}: expected an image, got HTTP status ${response.status}`);
    }
    const shape = { channels: 1, height: SIDE, width: SIDE };
    const digit = readImage(name, new Uint8Array(await response.arrayBuffer()), shape);
    if (element("sample").value !== name) {
      return;
    }
    // A sample is the network's input as it is.
    take(digit);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(element("sent"), 0, 0, paper.width, paper.height);
  } catch (error) {
    state(error.message, true);
  }
});

const size = (bytes) =>
  bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;

function showCost(id, cost) {
  const row = element(id);
  row.querySelectorAll("td").forEach((cell) => cell.remove());
  const cells = cost
    ? [`${cost.ms.toFixed(1)} ms`, size(cost.sent), size(cost.received), `${cost.rounds}`]
    : ["–", "–", "–", "–"];
  for (const text of cells) {
    row.insertCell().textContent = text;
  }
}

function showScores(scores) {
  const list = element("scores");
  list.replaceChildren();
  const values = scores ?? new Array(10).fill(null);
  const [low, high] = scores ? [Math.min(...scores), Math.max(...scores)] : [0, 1];
  for (const [digit, score] of values.entries()) {
    const item = document.createElement("li");
    const [name, meter, number] = ["span", "meter", "span"].map((tag) => item.appendChild(document.createElement(tag)));
    name.textContent = digit;
    meter.min = 0;
    meter.max = 1;
    meter.value = score === null ? 0 : (score - low) / (high - low || 1);
    meter.setAttribute("aria-hidden", "true");
    number.textContent = score === null ? "–" : score.toFixed(2);
    list.append(item);
  }
}

element("ask").addEventListener("click", () => {
  asked = true;
  enable();
  state("Asking.");
  worker.postMessage({ type: "infer", input: input.slice() });
});

element("retry").addEventListener("click", () => {
  state("Connecting.");
  worker.postMessage({ type: "start" });
});

worker.addEventListener("message", ({ data }) => {
  if (data.type === "preparing") {
    ready = false;
    state("Preparing an inference, before the digit is known.");
  } else if (data.type === "ready") {
    ready = true;
    showCost("setup", data.setup);
    element("prepare").dataset.next = data.prepare.ms;
    state(`Ready. Network: ${data.network}.`);
  } else if (data.type === "answer") {
    asked = false;
    const digit = data.scores.indexOf(Math.max(...data.scores));
    element("digit").textContent = digit;
    element("remark").textContent = ` is what the network reads`;
    showScores(data.scores);
    showCost("prepare", data.prepare);
    showCost("online", data.online);
    // Last: who waits for it finds the rest there.
    element("answer").dataset.count = Number(element("answer").dataset.count ?? 0) + 1;
  } else {
    ready = false;
    asked = false;
    state(`It failed: ${data.text}`, true);
  }
  enable();
});
worker.addEventListener("error", (event) =>
  state(`It failed: ${event.message || "the worker could not be started"}`, true),
);

/* Who leaves says goodbye, and who comes back, as from the page before, begins anew. */
addEventListener("pagehide", () => worker.postMessage({ type: "stop" }));
addEventListener("pageshow", ({ persisted }) => persisted && worker.postMessage({ type: "start" }));

clear();
showScores(null);
["setup", "prepare", "online"].forEach((id) => showCost(id, null));
worker.postMessage({ type: "start" });

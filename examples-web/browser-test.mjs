#!/usr/bin/env node
/*
 * Uses the page as a person does: draws digits with the mouse, picks a sample, and looks at what the page then shows.
 *
 *   browser-test.mjs URL BROWSER [SCREENSHOT]      BROWSER: a program such as /usr/bin/chromium
 */
import { chromium } from "playwright-core";

const [url, executablePath, screenshot] = process.argv.slice(2);
const PATIENCE_MS = 60_000;

/** A digit's strokes, in 280ths of the paper's side. */
const STROKES = {
  7: [[[75, 65], [205, 65], [185, 115], [150, 175], [125, 235]]],
  1: [[[150, 45], [146, 110], [140, 175], [136, 235]]],
}; // prettier-ignore

function expect(what, got, expected) {
  if (got !== expected) {
    throw new Error(`${what}: expected ${expected}, got ${got}`);
  }
}

const browser = await chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) {
      complaints.push(`a request to ${request.url()}`);
    }
  });
  await page.goto(url);

  let answers = 0;
  /** Asks the server and returns the digit that the page then shows, and what it took. */
  const ask = async () => {
    await page.getByRole("button", { name: "Ask the server" }).click();
    answers += 1;
    await page.locator(`#answer[data-count="${answers}"]`).waitFor();
    const digit = await page.locator("#digit").innerText();
    const row = (id) => page.locator(`#${id} td`).allInnerTexts();
    const [prepare, online] = [await row("prepare"), await row("online")];
    for (const [time, sent, received, rounds] of [prepare, online]) {
      for (const [text, form] of [
        [time, /^\d+\.\d ms$/],
        [sent, /^[\d.]+ [kM]B$/],
        [received, /^[\d.]+ [kM]B$/],
        [rounds, /^\d+$/],
      ]) {
        if (!form.test(text) || !(parseFloat(text) > 0)) {
          throw new Error(`figures: expected ${form} and more than 0, got '${text}'`);
        }
      }
    }
    const scores = (await page.locator("#scores li span:last-child").allInnerTexts()).map(Number);
    expect("number of scores", scores.length, 10);
    expect("digit of the largest score", scores.indexOf(Math.max(...scores)), Number(digit));
    return { digit, prepare, online };
  };

  const drawn = [];
  let last;
  for (const [digit, strokes] of Object.entries(STROKES)) {
    const box = await page.locator("#paper").boundingBox();
    const place = ([x, y]) => [box.x + (x * box.width) / 280, box.y + (y * box.height) / 280];
    for (const [first, ...rest] of strokes) {
      await page.mouse.move(...place(first));
      await page.mouse.down();
      for (const point of rest) {
        await page.mouse.move(...place(point), { steps: 8 });
      }
      await page.mouse.up();
    }
    last = await ask();
    expect(`a ${digit} drawn with the mouse`, last.digit, digit);
    drawn.push(`drew a ${digit} and saw ${last.digit}`);
    await page.getByRole("button", { name: "Clear" }).click();
    expect(
      "asking without a digit: enabled",
      await page.getByRole("button", { name: "Ask the server" }).isEnabled(),
      false,
    );
  }
  for (const digit of ["4", "8"]) {
    await page.getByRole("combobox", { name: "Pick a sample" }).selectOption({ label: digit });
    expect(`the sample of a ${digit}`, (await ask()).digit, digit);
  }
  if (screenshot) {
    await page.locator("#state").filter({ hasText: "Ready" }).waitFor();
    await page.screenshot({ path: screenshot, fullPage: true });
  }
  if (complaints.length > 0) {
    throw new Error(`the browser complained: ${complaints.join("; ")}`);
  }
  console.log(`browser ${drawn.join(", ")}, prepare ${last.prepare[0]}, online ${last.online[0]}`);
} catch (error) {
  console.error(`browser-test: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}

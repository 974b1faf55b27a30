/** Reads 8-bit binary images, PGM (P5) and PPM (P6), as a model takes them. */

/** The values of an image, 0 to 1, channel after channel; `shape` is that of the model's input. `name` is for error texts. */
export function readImage(name, contents, { channels, height, width }) {
  const header = /^P([56])(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s/.exec(
    new TextDecoder("latin1").decode(contents.subarray(0, 1024)),
  );
  if (!header) {
    throw new Error(`${name}: expected a binary PGM or PPM image (P5, P6), got something else`);
  }
  const got = [header[1] === "5" ? 1 : 3, Number(header[3]), Number(header[2])].join("x");
  const expected = [channels, height, width].join("x");
  if (got !== expected) {
    throw new Error(`${name}: expected an image of the model's ${expected} (channels x height x width), got ${got}`);
  }
  const most = Number(header[4]);
  if (most < 1 || most > 255) {
    throw new Error(`${name}: expected an image of 8 bits (largest value 1 to 255), got largest value ${most}`);
  }
  const pixels = contents.subarray(header[0].length);
  const plane = height * width;
  if (pixels.length !== channels * plane) {
    throw new Error(`${name}: expected ${channels * plane} bytes of pixels after the header, got ${pixels.length}`);
  }
  // Files hold pixels one after another, tensors hold channels one after another.
  const values = new Float32Array(pixels.length);
  pixels.forEach((value, at) => {
    if (value > most) {
      throw new Error(`${name}: expected values of at most ${most}, got ${value} at pixel byte ${at}`);
    }
    values[(at % channels) * plane + Math.floor(at / channels)] = value / most;
  });
  return values;
}

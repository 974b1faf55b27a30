/** Makes of a drawing what the network was trained on: MNIST's digits, 28x28, of which the ink fits 20x20 and is centred by its weight. */

export const SIDE = 28;
const BOX = 20;

/**
 * `ink` holds the drawing's `width` x `height` pixels, row after row, 0 (paper) to 255 (ink). Returns 28x28 values, 0 to 1, or null if
 * there is no ink.
 */
export function normalise(ink, width, height) {
  const box = inked(ink, width, height);
  if (!box) {
    return null;
  }
  // Pixels of the drawing for each of the digit's; never enlarges more than the drawing's own 28th part.
  const unit = Math.max(box.right - box.left, box.bottom - box.top, SIDE) / BOX;
  let [x, y, weight] = [0, 0, 0];
  for (let row = box.top; row < box.bottom; row++) {
    for (let column = box.left; column < box.right; column++) {
      const value = ink[row * width + column];
      weight += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
    }
  }
  // The centre of weight lies in the middle, as long as no ink falls off the edge.
  const start = (centre, low, high) => Math.min(low, Math.max(high - SIDE * unit, centre - (SIDE / 2) * unit));
  const left = start(x / weight, box.left, box.right);
  const top = start(y / weight, box.top, box.bottom);
  const digit = new Float32Array(SIDE * SIDE);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      digit[row * SIDE + column] = mean(ink, width, height, left + column * unit, top + row * unit, unit) / 255;
    }
  }
  return digit;
}

/** The smallest rectangle that holds all ink. */
function inked(ink, width, height) {
  const box = { left: width, top: height, right: 0, bottom: 0 };
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (ink[row * width + column] > 0) {
        box.left = Math.min(box.left, column);
        box.right = Math.max(box.right, column + 1);
        box.top = Math.min(box.top, row);
        box.bottom = Math.max(box.bottom, row + 1);
      }
    }
  }
  return box.right > 0 ? box : null;
}

/** The mean of a square of the drawing; what lies outside is paper. Pixels that it cuts count in part. */
function mean(ink, width, height, left, top, side) {
  let sum = 0;
  for (let row = Math.max(0, Math.floor(top)); row < Math.min(height, top + side); row++) {
    const tall = Math.min(row + 1, top + side) - Math.max(row, top);
    for (let column = Math.max(0, Math.floor(left)); column < Math.min(width, left + side); column++) {
      sum += ink[row * width + column] * tall * (Math.min(column + 1, left + side) - Math.max(column, left));
    }
  }
  return sum / (side * side);
}

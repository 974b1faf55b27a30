//! Convolutions on integers, exactly.
//!
//! Values are cut into *limbs*, x = Σ xₖ·2^(16k) with −2^15 <= xₖ < 2^15, so that the inner loop is a scalar product of
//! 16-bit integers with 32-bit sums, which compilers turn into the multiply-and-add instructions that even the oldest
//! vector units have (`pmaddwd` of SSE2, `smlal` of NEON). Calibrated activations mostly fit one limb. What a kernel reads
//! for an output is copied into one row (a *patch*), a few outputs at a time, so that patches stay in the cache.

use safenet_core::model::{Convolution, Shape};

/// Rows of patches and weights are filled up with zeros to a multiple of this, so that no vector loop has a rest.
const LANES: usize = 16;

/// Elements of the patches that are made at a time.
const PATCHES: usize = 1 << 16;

/// Weight rows by which each patch is multiplied while it is in the nearest cache.
const ROWS: usize = 4;

/// A convolution's weights and which of its outputs are wanted.
pub(crate) struct Kernel<'a> {
    pub(crate) conv: &'a Convolution,
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    pub(crate) weights: &'a [i16],
    pub(crate) bias: &'a [i32],
    /// Output channels that no one reads: left 0.
    pub(crate) unread: &'a [bool],
}

impl Kernel<'_> {
    /// y = Σ w·x + bias, for x in [−2^31, 2^31).
    pub(crate) fn apply(&self, x: &[i64]) -> Vec<i64> {
        let mut y = self.products(x, |w| w);
        self.add_bias(&mut y);
        y
    }

    /// The exact interval of y over independent intervals of x: each weight takes the end that its sign calls for.
    ///
    /// With c = low + high and r = high − low these are the ends (Σ w·c ± Σ |w|·r) / 2.
    pub(crate) fn apply_interval(&self, low: &[i64], high: &[i64]) -> (Vec<i64>, Vec<i64>) {
        let ends = || low.iter().zip(high);
        // Below 2^32 · 2^8 · 2^22 (FAN_IN_LIMIT) each, and so are their sum and difference, which are twice what y can be.
        let mut lower = self.products(&ends().map(|(l, h)| l + h).collect::<Vec<_>>(), |w| w);
        let mut upper = self.products(&ends().map(|(l, h)| h - l).collect::<Vec<_>>(), i16::abs);
        for (centre, radius) in lower.iter_mut().zip(&mut upper) {
            (*centre, *radius) = ((*centre - *radius) / 2, (*centre + *radius) / 2);
        }
        self.add_bias(&mut lower);
        self.add_bias(&mut upper);
        (lower, upper)
    }

    fn add_bias(&self, y: &mut [i64]) {
        let channels = y.chunks_exact_mut(self.output.plane()).zip(self.bias).zip(self.unread);
        for ((channel, &bias), _) in channels.filter(|(_, unread)| !**unread) {
            channel.iter_mut().for_each(|y| *y += i64::from(bias));
        }
    }

    /// Σ f(w)·x, for x in [−2^32, 2^32].
    fn products(&self, x: &[i64], f: impl Fn(i16) -> i16) -> Vec<i64> {
        let limbs = limbs(x);
        let groups = self.conv.groups as usize;
        let (inputs, outputs) = (self.input.channels as usize / groups, self.output.channels as usize / groups);
        let (plane, out_plane) = (self.input.plane(), self.output.plane());
        let length = (inputs * self.conv.taps()).next_multiple_of(LANES);
        let mut products = vec![0; self.output.elements()];
        let (mut pixels, mut rows) = (vec![0; inputs * plane], Vec::new());
        let tile = (PATCHES / length).clamp(1, out_plane);
        let mut patches = vec![0; tile * length];
        for group in 0..groups {
            let wanted: Vec<usize> = (group * outputs..(group + 1) * outputs).filter(|&o| !self.unread[o]).collect();
            let heaviest = self.pack(&wanted, inputs, length, &f, &mut rows);
            for (k, limb) in limbs.iter().enumerate() {
                let limb = &limb[group * inputs * plane..(group + 1) * inputs * plane];
                interleave(limb, inputs, &mut pixels);
                let largest = limb.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
                let chunk = safe_length(heaviest, largest);
                for first in (0..out_plane).step_by(tile) {
                    let patches = &mut patches[..tile.min(out_plane - first) * length];
                    for (patch, place) in patches.chunks_exact_mut(length).zip(first..) {
                        self.patch(&pixels, inputs, place, patch);
                    }
                    for (outputs, rows) in wanted.chunks(ROWS).zip(rows.chunks(ROWS * length)) {
                        for (patch, place) in patches.chunks_exact(length).zip(first..) {
                            for (&o, sum) in outputs.iter().zip(dots(patch, rows, chunk)) {
                                products[o * out_plane + place] += sum << (16 * k);
                            }
                        }
                    }
                }
            }
        }
        products
    }

    /// The weights of some outputs as rows of `length` in the order of patches, \[kernel row\]\[kernel column\]\[input\]. Returns
    /// the largest absolute value.
    fn pack(&self, wanted: &[usize], inputs: usize, length: usize, f: impl Fn(i16) -> i16, rows: &mut Vec<i16>) -> u16 {
        let taps = self.conv.taps();
        rows.clear();
        rows.resize(wanted.len() * length, 0);
        for (row, &o) in rows.chunks_exact_mut(length).zip(wanted) {
            let weights = &self.weights[o * inputs * taps..(o + 1) * inputs * taps];
            for (input, weights) in weights.chunks_exact(taps).enumerate() {
                for (slot, &w) in row[input..].iter_mut().step_by(inputs).zip(weights) {
                    *slot = f(w);
                }
            }
        }
        rows.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0)
    }

    /// What the kernel reads for the output at `place`, zeros for padding.
    fn patch(&self, pixels: &[i16], inputs: usize, place: usize, patch: &mut [i16]) {
        patch.fill(0);
        let [rows, columns] = self.conv.kernel;
        let output = [place / self.output.width as usize, place % self.output.width as usize];
        let at = |axis: usize, tap: u32, size: u32| {
            let tap = i64::from(tap) * i64::from(self.conv.dilation[axis]);
            let at = output[axis] as i64 * i64::from(self.conv.stride[axis]) + tap - i64::from(self.conv.padding[axis]);
            (0..i64::from(size)).contains(&at).then_some(at as usize)
        };
        let mut taps = patch.chunks_exact_mut(inputs);
        for row in 0..rows {
            let row = at(0, row, self.input.height);
            for (column, tap) in (0..columns).zip(&mut taps) {
                if let (Some(i), Some(j)) = (row, at(1, column, self.input.width)) {
                    let pixel = (i * self.input.width as usize + j) * inputs;
                    tap.copy_from_slice(&pixels[pixel..pixel + inputs]);
                }
            }
        }
    }
}

/// The limbs of values, the lowest first; as many as the largest value needs, and at least one.
fn limbs(x: &[i64]) -> Vec<Vec<i16>> {
    let mut rest = x.to_vec();
    let mut limbs = Vec::new();
    while limbs.is_empty() || rest.iter().any(|&x| x != 0) {
        limbs.push(rest.iter().map(|&x| x as i16).collect());
        rest.iter_mut().for_each(|x| *x = (*x - i64::from(*x as i16)) >> 16);
    }
    limbs
}

/// From \[channel\]\[place\] to \[place\]\[channel\].
fn interleave(planes: &[i16], channels: usize, pixels: &mut [i16]) {
    for (c, plane) in planes.chunks_exact(planes.len() / channels).enumerate() {
        for (slot, &x) in pixels[c..].iter_mut().step_by(channels).zip(plane) {
            *slot = x;
        }
    }
}

/// How many products of weights and values up to these fit a 32-bit sum, as a multiple of [`LANES`].
fn safe_length(heaviest: u16, largest: u16) -> usize {
    let product = (u32::from(heaviest) * u32::from(largest)).max(1);
    // At least 256: weights are at most 255 (`WEIGHT_LIMIT`) and limbs at most 2^15 in absolute value.
    (i32::MAX as u32 / product) as usize / LANES * LANES
}

/// The scalar products of a patch with some rows of weights; partial ones over `chunk` elements fit 32 bits.
fn dots<'a>(patch: &'a [i16], rows: &'a [i16], chunk: usize) -> impl Iterator<Item = i64> + 'a {
    rows.chunks_exact(patch.len())
        .map(move |row| patch.chunks(chunk).zip(row.chunks(chunk)).map(|(x, w)| i64::from(dot(x, w))).sum())
}

/// Σ w·x. The sum fits 32 bits ([`safe_length`]), so nothing wraps; said so, it needs no checks.
fn dot(x: &[i16], w: &[i16]) -> i32 {
    x.iter().zip(w).map(|(&x, &w)| i32::from(x).wrapping_mul(i32::from(w))).fold(0, i32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Σ w·(x where w > 0, else x') + bias, as a textbook has it.
    fn textbook(kernel: &Kernel<'_>, positive: &[i64], negative: &[i64]) -> Vec<i64> {
        let Kernel { conv, input, output, weights, bias, unread } = kernel;
        let (inputs, outputs) = (input.channels / conv.groups, output.channels / conv.groups);
        let [rows, columns] = conv.kernel;
        let mut y = Vec::new();
        for o in 0..output.channels {
            for i in 0..output.height {
                for j in 0..output.width {
                    let mut sum = i64::from(bias[o as usize]);
                    for c in 0..inputs {
                        for kr in 0..rows {
                            for kc in 0..columns {
                                let row =
                                    i64::from(i * conv.stride[0] + kr * conv.dilation[0]) - i64::from(conv.padding[0]);
                                let column =
                                    i64::from(j * conv.stride[1] + kc * conv.dilation[1]) - i64::from(conv.padding[1]);
                                if row < 0
                                    || row >= i64::from(input.height)
                                    || column < 0
                                    || column >= i64::from(input.width)
                                {
                                    continue;
                                }
                                let channel = o / outputs * inputs + c;
                                let at = (i64::from(channel * input.height) + row) * i64::from(input.width) + column;
                                let w = i64::from(weights[(((o * inputs + c) * rows + kr) * columns + kc) as usize]);
                                sum += w * if w > 0 { positive[at as usize] } else { negative[at as usize] };
                            }
                        }
                    }
                    y.push(if unread[o as usize] { 0 } else { sum });
                }
            }
        }
        y
    }

    fn check(conv: Convolution, input: Shape, weights: &[i16], unread: &[bool], low: &[i64], high: &[i64]) {
        let size = |i: usize, size: u32| {
            (size + conv.padding[i] + conv.padding[i + 2] - (conv.kernel[i] - 1) * conv.dilation[i] - 1)
                / conv.stride[i]
                + 1
        };
        let output = Shape { channels: conv.out_channels, height: size(0, input.height), width: size(1, input.width) };
        let bias: Vec<i32> = (0..conv.out_channels as i32).map(|o| o * 1000 - 700).collect();
        let kernel = Kernel { conv: &conv, input, output, weights, bias: &bias, unread };
        assert_eq!(kernel.apply(low), textbook(&kernel, low, low));
        assert_eq!(kernel.apply_interval(low, high), (textbook(&kernel, low, high), textbook(&kernel, high, low)));
    }

    #[test]
    fn the_largest_sums_are_exact() {
        // Chunks of 256 of the heaviest products, in all limbs, with both signs.
        let input = Shape { channels: 4608, height: 1, width: 1 };
        let conv = Convolution {
            out_channels: 2,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: 1,
            packed_outputs: u32::MAX,
        };
        let weights: Vec<i16> = (0..9216).map(|i| if i < 4608 { 255 } else { -255 }).collect();
        for x in [-32768, 32767, 1 << 24, -(1 << 31), (1 << 31) - 1] {
            check(conv, input, &weights, &[false; 2], &[x; 4608], &[x; 4608]);
            check(conv, input, &weights, &[false; 2], &[-(1 << 31); 4608], &[x; 4608]);
        }
    }

    proptest! {
        #[test]
        fn the_fast_one_is_the_textbooks(
            seed: u64, groups in 1u32..4, sizes in (1u32..4, 1u32..4, 3u32..7, 4u32..9),
            kernel in (1u32..4, 1u32..4), stride in (1u32..3, 1u32..4), dilation in (1u32..3, 1u32..3), padding: [bool; 4],
            bits in 1u32..32,
        ) {
            let mut state = seed;
            let mut next = || {
                // Knuth's linear congruential generator (MMIX); its upper bits are good enough here.
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 32) as i64
            };
            let input = Shape { channels: groups * sizes.0, height: sizes.2, width: sizes.3 };
            let conv = Convolution {
                out_channels: groups * sizes.1,
                kernel: [kernel.0, kernel.1],
                stride: [stride.0, stride.1],
                padding: padding.map(|p| if p { 2 } else { 0 }),
                dilation: [dilation.0, dilation.1],
                groups,
                packed_outputs: u32::MAX,
            };
            prop_assume!((0..2).all(|i| {
                [input.height, input.width][i] + conv.padding[i] + conv.padding[i + 2] > (conv.kernel[i] - 1) * conv.dilation[i]
            }));
            let count = conv.out_channels * sizes.0 * kernel.0 * kernel.1;
            let weights: Vec<i16> = (0..count).map(|_| (next() % 256) as i16 * if next() & 256 == 0 { 1 } else { -1 }).collect();
            let unread: Vec<bool> = (0..conv.out_channels).map(|_| next() & 768 == 0).collect();
            let ends: Vec<(i64, i64)> = (0..input.elements()).map(|_| {
                let [a, b] = [(); 2].map(|()| next() % (1 << bits) - (1 << (bits - 1)));
                (a.min(b), a.max(b))
            }).collect();
            let (low, high): (Vec<i64>, Vec<i64>) = ends.into_iter().unzip();
            check(conv, input, &weights, &unread, &low, &high);
        }
    }
}

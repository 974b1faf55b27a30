//! The linear nodes on plain 64-bit integers.

use safenet_core::model::{Convolution, Pool, Shape};

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

/// Weights between one input and one output channel.
pub(crate) fn taps(conv: &Convolution) -> usize {
    conv.kernel[0] as usize * conv.kernel[1] as usize
}

/// For an output position along one axis, where the window starts in the input, and which of its taps are inside.
fn window(position: usize, stride: u32, before: u32, kernel: u32, size: u32) -> (i64, usize, usize) {
    let start = position as i64 * i64::from(stride) - i64::from(before);
    let first = (-start).clamp(0, i64::from(kernel)) as usize;
    let last = (i64::from(size) - start).clamp(first as i64, i64::from(kernel)) as usize;
    (start, first, last)
}

impl Kernel<'_> {
    /// y = Σ w·x + bias.
    pub(crate) fn apply(&self, x: &[i64]) -> Vec<i64> {
        self.sums(x, x)
    }

    /// The exact interval of y over independent intervals of x: each weight takes the end that its sign calls for.
    pub(crate) fn apply_interval(&self, low: &[i64], high: &[i64]) -> (Vec<i64>, Vec<i64>) {
        (self.sums(low, high), self.sums(high, low))
    }

    /// Σ w·(x where w > 0, else x') + bias.
    fn sums(&self, positive: &[i64], negative: &[i64]) -> Vec<i64> {
        let [kernel_rows, kernel_columns] = self.conv.kernel;
        let taps = taps(self.conv);
        let (plane, out_plane) = (self.input.plane(), self.output.plane());
        let width = self.input.width as usize;
        let mut sums = vec![0i64; self.output.elements()];
        for o in 0..self.output.channels as usize {
            if self.unread[o] {
                continue;
            }
            let sums = &mut sums[o * out_plane..(o + 1) * out_plane];
            sums.fill(i64::from(self.bias[o]));
            for i in 0..self.input.channels as usize {
                let weights = &self.weights[(o * self.input.channels as usize + i) * taps..][..taps];
                let positive = &positive[i * plane..(i + 1) * plane];
                let negative = &negative[i * plane..(i + 1) * plane];
                for row in 0..self.output.height as usize {
                    let (top, first_row, last_row) =
                        window(row, self.conv.stride[0], self.conv.padding[0], kernel_rows, self.input.height);
                    for column in 0..self.output.width as usize {
                        let (left, first, last) =
                            window(column, self.conv.stride[1], self.conv.padding[1], kernel_columns, self.input.width);
                        let mut sum = 0;
                        for kr in first_row..last_row {
                            let at = (top + kr as i64) as usize * width;
                            for kc in first..last {
                                let w = i64::from(weights[kr * kernel_columns as usize + kc]);
                                let x = if w > 0 { positive } else { negative };
                                sum += w * x[at + (left + kc as i64) as usize];
                            }
                        }
                        sums[row * self.output.width as usize + column] += sum;
                    }
                }
            }
        }
        sums
    }
}

/// Sums over windows; those that do not fit 64 bits are held at the nearest end.
pub(crate) fn sum_pool(pool: &Pool, input: Shape, output: Shape, x: &[i64]) -> Vec<i64> {
    let mut sums = Vec::with_capacity(output.elements());
    for channel in x.chunks_exact(input.plane()) {
        for row in 0..output.height as usize {
            for column in 0..output.width as usize {
                // Convolutions reach 2^61 and windows 2^26 elements.
                let mut sum = 0i128;
                for kr in 0..pool.kernel[0] as usize {
                    let at =
                        (row * pool.stride[0] as usize + kr) * input.width as usize + column * pool.stride[1] as usize;
                    sum += channel[at..at + pool.kernel[1] as usize].iter().map(|&x| i128::from(x)).sum::<i128>();
                }
                sums.push(sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_do_not_fit_are_held() {
        let pool = Pool { kernel: [4, 4], stride: [4, 4] };
        let (input, output) = (Shape { channels: 2, height: 4, width: 4 }, Shape { channels: 2, height: 1, width: 1 });
        let x: Vec<i64> = (0..32).map(|i| if i < 16 { 1 << 61 } else { -(1 << 61) }).collect();
        assert_eq!(sum_pool(&pool, input, output, &x), [i64::MAX, i64::MIN]);
        assert_eq!(sum_pool(&pool, input, output, &[3; 32]), [48, 48]);
    }
}

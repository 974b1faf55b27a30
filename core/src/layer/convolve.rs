//! Convolution of plain words.

use crate::model::{Convolution, Shape};

/// Adds W · x to `out`: x of shape `input`, weights [out][in / groups][kernel row][kernel column], `out` of shape `output`.
///
/// Output channels for which `skip` is true are left as they are. Wrapping arithmetic; zero padding.
pub(crate) fn convolve(
    conv: &Convolution,
    (input, x): (Shape, &[u32]),
    weights: &[i16],
    skip: &[bool],
    (output, out): (Shape, &mut [u32]),
) {
    let [kernel_rows, kernel_columns] = conv.kernel.map(|k| k as usize);
    let [row_stride, column_stride] = conv.stride.map(|s| s as usize);
    let [top, left, ..] = conv.padding.map(|p| p as usize);
    let (rows, columns) = (input.height as usize, input.width as usize);
    let (out_rows, out_columns) = (output.height as usize, output.width as usize);
    let groups = conv.groups as usize;
    // Channels of a group: those that each output channel reads, and those that read the same.
    let (inputs, outputs) = (input.channels as usize / groups, output.channels as usize / groups);
    let filters = weights.chunks_exact(inputs * kernel_rows * kernel_columns);
    let planes = filters.zip(out.chunks_exact_mut(output.plane())).enumerate().zip(skip);
    for ((o, (filter, plane)), _) in planes.filter(|(_, skip)| !**skip) {
        let kernels = filter.chunks_exact(kernel_rows * kernel_columns);
        for (kernel, image) in kernels.zip(x.chunks_exact(input.plane()).skip(o / outputs * inputs)) {
            for (k, &weight) in kernel.iter().enumerate() {
                let weight = i32::from(weight) as u32;
                let kernel_row = k / kernel_columns * conv.dilation[0] as usize;
                let kernel_column = k % kernel_columns * conv.dilation[1] as usize;
                // Output columns whose input column j · stride + kernel_column - left lies in the image.
                let first = left.saturating_sub(kernel_column).div_ceil(column_stride);
                let last = match (columns + left).checked_sub(kernel_column + 1) {
                    Some(reach) => (reach / column_stride + 1).min(out_columns),
                    None => 0,
                };
                if first >= last {
                    continue;
                }
                let start = first * column_stride + kernel_column - left;
                for i in 0..out_rows {
                    let Some(row) = (i * row_stride + kernel_row).checked_sub(top).filter(|&row| row < rows) else {
                        continue;
                    };
                    let line = &image[row * columns + start..(row + 1) * columns];
                    let target = &mut plane[i * out_columns + first..i * out_columns + last];
                    if column_stride == 1 {
                        for (t, &v) in target.iter_mut().zip(line) {
                            *t = t.wrapping_add(weight.wrapping_mul(v));
                        }
                    } else {
                        for (t, &v) in target.iter_mut().zip(line.iter().step_by(column_stride)) {
                            *t = t.wrapping_add(weight.wrapping_mul(v));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Op;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    /// The textbook sum, one output at a time.
    fn plain(conv: &Convolution, input: Shape, x: &[u32], weights: &[i16], output: Shape) -> Vec<u32> {
        let [kr, kc] = conv.kernel;
        let (inputs, outputs) = (input.channels / conv.groups, output.channels / conv.groups);
        let mut out = Vec::new();
        for o in 0..output.channels {
            for i in 0..output.height {
                for j in 0..output.width {
                    let mut sum = 0u32;
                    for g in 0..inputs {
                        let c = o / outputs * inputs + g;
                        for a in 0..kr {
                            for b in 0..kc {
                                let row =
                                    i64::from(i * conv.stride[0] + a * conv.dilation[0]) - i64::from(conv.padding[0]);
                                let column =
                                    i64::from(j * conv.stride[1] + b * conv.dilation[1]) - i64::from(conv.padding[1]);
                                if (0..i64::from(input.height)).contains(&row)
                                    && (0..i64::from(input.width)).contains(&column)
                                {
                                    let v = x[((c * input.height + row as u32) * input.width + column as u32) as usize];
                                    let w = weights[(((o * inputs + g) * kr + a) * kc + b) as usize];
                                    sum = sum.wrapping_add(v.wrapping_mul(i32::from(w) as u32));
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn convolution_is_the_textbook_sum(
            (c, h, w) in (1u32..4, 1u32..9, 1u32..9),
            (o, kr, kc) in (1u32..4, 1u32..6, 1u32..6),
            stride in [1u32..4, 1u32..4],
            padding in [0u32..4, 0u32..4, 0u32..4, 0u32..4],
            dilation in [1u32..3, 1u32..3],
            groups in 1u32..4,
            seed in any::<u32>(),
        ) {
            let (c, o) = (c * groups, o * groups);
            let input = Shape { channels: c, height: h, width: w };
            let conv =
                Convolution { out_channels: o, kernel: [kr, kc], stride, padding, dilation, groups, packed_outputs: u32::MAX };
            let output = Op::Convolution(conv).output(&[input]);
            prop_assume!(output.is_ok());
            let output = output.unwrap();
            let value = |i: usize| (seed ^ i as u32).wrapping_mul(0x9e37_79b9).rotate_left(13);
            let x: Vec<u32> = (0..input.elements()).map(value).collect();
            let weights: Vec<i16> = (0..(o * c / groups * kr * kc) as usize).map(|i| (value(i + 999) % 511) as i16 - 255).collect();
            let mut out = vec![0; output.elements()];
            convolve(&conv, (input, &x), &weights, &vec![false; o as usize], (output, &mut out));
            prop_assert_eq!(out, plain(&conv, input, &x, &weights, output));
        }
    }
}

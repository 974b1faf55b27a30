//! The operators that both parties apply to what they hold, on plain integers.

use safenet_core::model::{Op, Pool, Shape, Sum};

/// What an operator gives that only moves elements; none for the others.
pub(crate) fn moved<T: Clone>(op: &Op, inputs: &[&[T]], input: Shape, zero: &T) -> Option<Vec<T>> {
    let first = *inputs.first()?;
    match op {
        Op::Flatten => Some(first.to_vec()),
        Op::Concat => Some(inputs.concat()),
        Op::Channels(channels) => {
            let (range, plane) = (channels.range(), input.plane());
            Some(first[range.start * plane..range.end * plane].to_vec())
        }
        Op::Window(window) => {
            let [rows, columns] = [(0, input.height), (1, input.width)]
                .map(|(axis, size)| window.places(axis, size).collect::<Vec<Option<usize>>>());
            let mut elements = Vec::with_capacity(input.channels as usize * rows.len() * columns.len());
            for channel in first.chunks_exact(input.plane()) {
                for row in &rows {
                    elements.extend(columns.iter().map(|column| match (row, column) {
                        (Some(row), Some(column)) => channel[row * input.width as usize + column].clone(),
                        _ => zero.clone(),
                    }));
                }
            }
            Some(elements)
        }
        _ => None,
    }
}

/// Where a pooling window's elements lie along an axis, as far as they are inside.
fn inside(pool: &Pool, axis: usize, place: usize, size: u32) -> std::ops::Range<usize> {
    let start = place as i64 * i64::from(pool.stride[axis]) - i64::from(pool.padding[axis]);
    let end = (start + i64::from(pool.kernel[axis])).min(i64::from(size));
    start.max(0) as usize..end.max(0) as usize
}

/// Sums over windows, weighted where the pool says so; those that do not fit 64 bits are held at the nearest end.
pub(crate) fn sum_pool(pool: &Pool, input: Shape, output: Shape, x: &[i64]) -> Vec<i64> {
    let [row_weights, column_weights] = pool.weights(input, output);
    let places = |axis: usize, weights: &[u32], size: u32| {
        let place = |(place, &weight): (usize, &u32)| (inside(pool, axis, place, size), i128::from(weight));
        weights.iter().enumerate().map(place).collect::<Vec<_>>()
    };
    let (rows, columns) = (places(0, &row_weights, input.height), places(1, &column_weights, input.width));
    let mut sums = Vec::with_capacity(output.elements());
    for channel in x.chunks_exact(input.plane()) {
        for (rows, row_weight) in &rows {
            for (columns, column_weight) in &columns {
                // Convolutions reach 2^61, windows 2^26 elements and weights 2^24.
                let mut sum = 0i128;
                for row in rows.clone() {
                    let row = &channel[row * input.width as usize..][columns.clone()];
                    sum += row.iter().map(|&x| i128::from(x)).sum::<i128>();
                }
                sums.push(held(sum * row_weight * column_weight));
            }
        }
    }
    sums
}

/// The smallest and the largest number that a constant image is multiplied by: elements inside times weights.
pub(crate) fn pool_gains(pool: &Pool, input: Shape, output: Shape) -> [i128; 2] {
    let [rows, columns] = pool.weights(input, output);
    [(0, rows, input.height), (1, columns, input.width)]
        .map(|(axis, weights, size)| {
            let gain =
                |(place, weight): (usize, u32)| i128::from(weight) * inside(pool, axis, place, size).len() as i128;
            let gains = || weights.iter().copied().enumerate().map(gain);
            [gains().min().unwrap_or(0), gains().max().unwrap_or(0)]
        })
        .into_iter()
        .fold([1, 1], |all, axis| [all[0] * axis[0], all[1] * axis[1]])
}

/// Σ m·(x where m > 0, else x') + constant, channel by channel; sums that do not fit 64 bits are held at the nearest end.
///
/// With the two inputs the same this is the sum; with the low and the high ends, or the reverse, the sum's low or high end.
pub(crate) fn sum(sum: &Sum, constants: &[i32], plane: usize, positive: &[&[i64]], negative: &[&[i64]]) -> Vec<i64> {
    let mut sums = Vec::with_capacity(constants.len() * plane);
    // Convolutions reach 2^61, multipliers 2^31, and there are at most 2^10 inputs.
    let mut channel = vec![0i128; plane];
    for (c, &constant) in constants.iter().enumerate() {
        channel.fill(constant.into());
        for ((multipliers, positive), negative) in sum.multipliers.iter().zip(positive).zip(negative) {
            let m = multipliers[c];
            let x = if m > 0 { positive } else { negative };
            for (sum, &x) in channel.iter_mut().zip(&x[c * plane..(c + 1) * plane]) {
                *sum += i128::from(x) * i128::from(m);
            }
        }
        sums.extend(channel.iter().map(|&sum| held(sum)));
    }
    sums
}

fn held(sum: i128) -> i64 {
    sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_do_not_fit_are_held() {
        let pool = Pool { kernel: [4, 4], stride: [4, 4], padding: [0; 4], inside_only: false };
        let (input, output) = (Shape { channels: 2, height: 4, width: 4 }, Shape { channels: 2, height: 1, width: 1 });
        let x: Vec<i64> = (0..32).map(|i| if i < 16 { 1 << 61 } else { -(1 << 61) }).collect();
        assert_eq!(sum_pool(&pool, input, output, &x), [i64::MAX, i64::MIN]);
        assert_eq!(sum_pool(&pool, input, output, &[3; 32]), [48, 48]);
        let twice = Sum { multipliers: vec![vec![i32::MAX; 2], vec![i32::MAX; 2]] };
        let x: &[i64] = &[1 << 61, 0];
        assert_eq!(sum(&twice, &[5, 5], 1, &[x, x], &[&[0, 0], &[0, 0]]), [i64::MAX, 5]);
    }

    #[test]
    fn weighted_windows_are_averages_of_what_is_inside() {
        let pool = Pool { kernel: [3, 3], stride: [1, 1], padding: [1; 4], inside_only: true };
        let shape = Shape { channels: 1, height: 3, width: 3 };
        // 2 and 3 elements per axis: the factor is 6 · 6.
        assert_eq!(sum_pool(&pool, shape, shape, &[1; 9]), [36; 9]);
        assert_eq!(sum_pool(&pool, shape, shape, &[4, 0, 0, 0, 0, 0, 0, 0, 0]), [36, 24, 0, 24, 16, 0, 0, 0, 0]);
        assert_eq!(pool_gains(&pool, shape, shape), [36, 36]);
        let plain = Pool { inside_only: false, ..pool };
        assert_eq!(sum_pool(&plain, shape, shape, &[1; 9]), [4, 6, 4, 6, 9, 6, 4, 6, 4]);
        assert_eq!(pool_gains(&plain, shape, shape), [4, 9]);
    }
}

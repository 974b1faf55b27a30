//! What the search and the rounding need to know of a linear layer.

use super::TensorState;
use crate::engine::Statistics;
use crate::error::{Error, Result};
use crate::network::Linear;
use safenet_core::model::{Convolution, Shape, WEIGHT_LIMIT};

/// A linear layer with what is known of its input.
pub(super) struct Analysis<'a> {
    pub(super) linear: &'a Linear,
    pub(super) input: &'a TensorState,
    statistics: &'a [Statistics],
    /// Variance that rounding the weights and the bias gives each output of a group, in units of the output squared.
    rounding: Vec<f64>,
}

impl<'a> Analysis<'a> {
    /// `statistics` are those of the input's channels.
    pub(super) fn new(linear: &'a Linear, input: &'a TensorState, statistics: &'a [Statistics]) -> Self {
        let energy = |(seen, scale): (&Statistics, &f64)| moment(linear, seen) * scale * scale;
        let per_group = statistics.len() / linear.conv.groups as usize;
        let groups = statistics.chunks_exact(per_group).zip(input.scale.chunks_exact(per_group));
        let energies = groups.map(|(seen, scales)| seen.iter().zip(scales).map(energy).sum::<f64>());
        let rounding = energies.map(|energy| (energy * linear.taps() as f64 + 1.0) / 12.0).collect();
        Self { linear, input, statistics, rounding }
    }

    fn group(&self, output: usize) -> usize {
        output / (self.linear.bias.len() / self.linear.conv.groups as usize)
    }

    /// The input channels that an output reads.
    fn channels(&self, output: usize) -> std::ops::Range<usize> {
        let per_group = self.input.scale.len() / self.linear.conv.groups as usize;
        let first = self.group(output) * per_group;
        first..first + per_group
    }

    /// For each input channel of an output: the weights, and the channel.
    fn row(&self, output: usize) -> impl Iterator<Item = (&'a [f64], usize)> + use<'a> {
        self.linear.row(output).chunks_exact(self.linear.taps()).zip(self.channels(output))
    }

    /// Variance that rounding gives an output, in units of the output squared.
    pub(super) fn rounding(&self, output: usize) -> f64 {
        self.rounding[self.group(output)]
    }

    /// Largest integer weight per unit of the output's scale.
    pub(super) fn largest_weight(&self, output: usize) -> f64 {
        self.row(output).fold(0.0, |largest, (weights, c)| {
            weights.iter().fold(largest, |largest: f64, w| largest.max((w / self.input.scale[c]).abs()))
        })
    }

    /// Variance of an output that comes from errors of the inputs, as if these were independent.
    pub(super) fn carried(&self, output: usize) -> f64 {
        self.row(output).map(|(w, c)| w.iter().map(|w| w * w).sum::<f64>() * self.input.noise[c]).sum()
    }

    /// Largest error of an output that errors of the inputs make, in real numbers.
    pub(super) fn carried_error(&self, output: usize) -> f64 {
        self.row(output).map(|(w, c)| w.iter().map(|w| w.abs()).sum::<f64>() * self.input.error[c]).sum()
    }

    /// Largest error of an output that rounding its weights and its bias makes, in units of the output, for inputs as on the
    /// samples: half a unit of each weight times its input, and as much for the mean that the bias takes up.
    pub(super) fn rounding_error(&self, output: usize) -> f64 {
        let each = |c: usize| {
            let largest = self.statistics[c].low.abs().max(self.statistics[c].high.abs());
            self.linear.taps() as f64 * 0.5 * self.input.scale[c].abs() * (2.0 * largest + self.input.error[c])
        };
        self.channels(output).map(each).sum::<f64>() + 0.5
    }

    /// Smallest and largest value of an output over the intervals of the inputs.
    pub(super) fn worst_case(&self, output: usize) -> [f64; 2] {
        let padded = self.linear.conv.padding != [0; 4];
        let mut range = [self.linear.bias[output]; 2];
        for (weights, c) in self.row(output) {
            // Where the kernel reaches into the padding, the input is 0.
            let [low, high] = self.input.worst[c];
            let (low, high) = if padded { (low.min(0.0), high.max(0.0)) } else { (low, high) };
            for &w in weights {
                range[0] += (w * low).min(w * high);
                range[1] += (w * low).max(w * high);
            }
        }
        range
    }

    /// Rounds the weights and the bias of an output to integers of a scale; what is computed is factor · output + shift. The
    /// bias takes up the mean of what the weights' rounding changes.
    ///
    /// `coverage` is [`coverage`] of the layer.
    pub(super) fn round(
        &self,
        name: &str,
        output: usize,
        (factor, shift): (f64, f64),
        scale: f64,
        coverage: &[f64],
        weights: &mut Vec<i16>,
    ) -> Result<i32> {
        let mut bias = (self.linear.bias[output] * factor + shift) * scale;
        for (row, c) in self.row(output) {
            let (s, seen) = (self.input.scale[c], self.statistics[c].mean() * self.input.scale[c]);
            let mean = self.input.constant[c].unwrap_or(seen);
            for (w, inside) in row.iter().zip(coverage) {
                let exact = w * factor * scale / s;
                let rounded = exact.round();
                if rounded.is_nan() || rounded.abs() > f64::from(WEIGHT_LIMIT) {
                    return Err(Error::Network(format!(
                        "{name}, output {output}: expected weights of at most {WEIGHT_LIMIT} in the least scale that what \
                         follows needs, got {exact:e}; scale the scores, or the branch that this is added to, down"
                    )));
                }
                weights.push(rounded as i16);
                bias += inside * (exact * seen - rounded * mean);
            }
        }
        let bias = bias.round();
        if bias.is_nan() || bias.abs() > f64::from(i32::MAX) {
            return Err(Error::Network(format!(
                "{name}, output {output}: expected a bias within 32 bits, got {bias:e}"
            )));
        }
        Ok(bias as i32)
    }
}

/// What the error of a weight is multiplied by, in the mean square: the bias takes up the mean, but not at the borders, where
/// padding leaves out a part of it.
pub(super) fn moment(linear: &Linear, input: &Statistics) -> f64 {
    if linear.conv.padding == [0; 4] { input.variance() } else { input.mean_square() }
}

/// For each tap of a kernel, the part of the output places at which it reads the input and not its padding.
pub(super) fn coverage(conv: &Convolution, input: Shape, output: Shape) -> Vec<f64> {
    let axis = |i: usize, size: u32, places: u32| {
        let inside = move |tap: u32, place: u32| {
            let at = i64::from(place) * i64::from(conv.stride[i]) + i64::from(tap) * i64::from(conv.dilation[i])
                - i64::from(conv.padding[i]);
            (0..i64::from(size)).contains(&at)
        };
        let part = move |tap| (0..places).filter(|&p| inside(tap, p)).count() as f64 / f64::from(places);
        (0..conv.kernel[i]).map(part).collect::<Vec<f64>>()
    };
    let (rows, columns) = (axis(0, input.height, output.height), axis(1, input.width, output.width));
    rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
}

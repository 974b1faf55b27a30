//! One private inference as `infer` reports it and `verify` reads it: a JSON object on a line of its own.

use safenet_core::model::Output;
use serde::{Deserialize, Serialize};

/// What a private inference gave and cost. Bytes count both directions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where the input came from.
    pub(crate) image: String,
    /// Index of the largest score.
    pub(crate) class: usize,
    /// The network's output in fixed point.
    pub(crate) outputs: Vec<i32>,
    /// The network's output.
    pub(crate) scores: Vec<f32>,
    pub(crate) prepare_ms: f64,
    pub(crate) online_ms: f64,
    pub(crate) prepare_bytes: u64,
    pub(crate) online_bytes: u64,
    pub(crate) rounds_prepare: u64,
    pub(crate) rounds_online: u64,
}

/// The class that an answer names: the index of the largest score, the first of equal ones; or what the answer itself is.
pub(crate) fn class(answer: &[i32], output: Output) -> usize {
    match output {
        Output::Scores => largest(answer),
        Output::Class { .. } => answer.first().map_or(0, |&class| class as usize),
    }
}

fn largest(outputs: &[i32]) -> usize {
    outputs.iter().enumerate().rev().max_by_key(|&(_, value)| value).map_or(0, |(index, _)| index)
}

/// The middle value, or the mean of both in the middle; 0 of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest value that at least this share of all do not exceed; 0 of none.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_the_first_largest() {
        assert_eq!(class(&[-3, 5, 2, 5], Output::Scores), 1);
        assert_eq!(class(&[], Output::Scores), 0);
        assert_eq!(class(&[7], Output::Class { index_bits: 4 }), 7);
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(quantile(values.iter().copied(), 0.5), 10.0);
        assert_eq!(quantile(values.iter().copied(), 0.95), 19.0);
        assert_eq!(quantile(values, 1.0), 20.0);
        assert_eq!(quantile([7.0], 0.95), 7.0);
        assert_eq!(quantile([], 0.5), 0.0);
    }
}

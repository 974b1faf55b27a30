//! Which classes may win.
//!
//! A network that answers with a class ends in a tournament of maxima over values score · 2^bits + index. Intervals of the
//! values alone would leave every index possible as soon as a score may be one more or less. So up to the last node this
//! follows *candidates*: intervals of values with the same index.

use crate::Reference;
use crate::local::moved;
use crate::trace::Tensor;
use safenet_core::model::Op;

/// Values between two ends, and their low bits where all have the same; the ends then have them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    index: Option<u32>,
    low: i64,
    high: i64,
}

/// What an element may be: at most one candidate of each index.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    candidates: Vec<Candidate>,
    index_bits: u8,
}

impl Candidates {
    fn any(low: i64, high: i64, index_bits: u8) -> Self {
        Self { candidates: vec![Candidate { index: None, low, high }], index_bits }
    }

    /// The class that a value stands for.
    pub(crate) fn class(&self, value: i64) -> i32 {
        class(value, self.index_bits)
    }

    /// Whether some value has this class.
    pub(crate) fn hold(&self, class: i32) -> bool {
        let class = i64::from(class);
        let has = |c: &Candidate| match c.index {
            Some(index) => i64::from(index) == class,
            None => first_from(c.low, class, self.index_bits) <= c.high,
        };
        (0..1 << self.index_bits).contains(&class) && self.candidates.iter().any(has)
    }

    /// All classes that some value has, in ascending order.
    pub(crate) fn classes(&self) -> Vec<u32> {
        (0..1u32 << self.index_bits).filter(|&class| self.hold(class as i32)).collect()
    }

    /// What the larger of two independent values may be.
    fn larger(&self, other: &Self) -> Self {
        let bits = self.index_bits;
        let lowest = |of: &Self| of.candidates.iter().map(|c| c.low).min().unwrap_or(i64::MIN);
        let above = |of: &Self, low: i64| -> Vec<Candidate> {
            let winners = of.candidates.iter().filter(|c| c.high >= low);
            let raise = |c: &Candidate| {
                let low = c.low.max(low);
                Candidate { low: c.index.map_or(low, |index| first_from(low, index.into(), bits)), ..*c }
            };
            winners.map(raise).collect()
        };
        let mut candidates = above(self, lowest(other));
        candidates.extend(above(other, lowest(self)));
        candidates.sort_by_key(|c| c.index);
        candidates.dedup_by(|next, kept| {
            let same = next.index == kept.index;
            if same {
                (kept.low, kept.high) = (kept.low.min(next.low), kept.high.max(next.high));
            }
            same
        });
        Self { candidates, index_bits: bits }
    }
}

/// The class that a value stands for: its low bits, at most 16.
pub(crate) fn class(value: i64, index_bits: u8) -> i32 {
    value.rem_euclid(1 << index_bits) as i32
}

/// The first value from `low` on with the low bits of `index`.
fn first_from(low: i64, index: i64, index_bits: u8) -> i64 {
    low + (index - low).rem_euclid(1 << index_bits)
}

/// What each element of the network's output may be, given all tensors' intervals.
pub(crate) fn candidates(reference: &Reference, tensors: &[Tensor], index_bits: u8) -> Vec<Candidates> {
    let nodes = &reference.architecture.nodes;
    // The tournament: maxima and moves from the output back to anything else.
    let mut needed = vec![false; tensors.len()];
    needed[nodes.len()] = true;
    for (index, node) in nodes.iter().enumerate().rev() {
        if needed[index + 1] && passes_on(&node.op) {
            node.inputs.iter().for_each(|&input| needed[input as usize] = true);
        }
    }
    let ends = |tensor: &Tensor| -> Vec<Candidates> {
        tensor.low.iter().zip(&tensor.high).map(|(&low, &high)| Candidates::any(low, high, index_bits)).collect()
    };
    let mut all: Vec<Vec<Candidates>> = vec![if needed[0] { ends(&tensors[0]) } else { Vec::new() }];
    for (index, node) in nodes.iter().enumerate() {
        if !needed[index + 1] {
            all.push(Vec::new());
            continue;
        }
        let inputs: Vec<&[Candidates]> = node.inputs.iter().map(|&input| &all[input as usize][..]).collect();
        let shape = reference.shapes[node.inputs[0] as usize];
        let zero = Candidates::any(0, 0, index_bits);
        let own = match &node.op {
            Op::Max(_) => inputs[0].iter().zip(inputs[1]).map(|(a, b)| a.larger(b)).collect(),
            Op::Sum(sum) => {
                let mut own = ends(&tensors[index + 1]);
                let plane = shape.plane();
                for (c, &constant) in reference.constants(index).iter().enumerate() {
                    // Multiples of 2^bits leave the constant's low bits alone.
                    if sum.multipliers.iter().all(|m| m[c] & ((1 << index_bits) - 1) == 0) {
                        let index = constant.rem_euclid(1 << index_bits) as u32;
                        own[c * plane..(c + 1) * plane].iter_mut().for_each(|e| e.candidates[0].index = Some(index));
                    }
                }
                own
            }
            op => moved(op, &inputs, shape, &zero).unwrap_or_else(|| ends(&tensors[index + 1])),
        };
        all.push(own);
    }
    all.pop().unwrap_or_default()
}

fn passes_on(op: &Op) -> bool {
    matches!(op, Op::Max(_) | Op::Window(_) | Op::Channels(_) | Op::Concat | Op::Flatten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wide_intervals_without_an_index_hold_every_class() {
        let any = |low, high| Candidates::any(low, high, 2);
        assert_eq!(any(-1, 1).classes(), [0, 1, 3]);
        assert_eq!(any(5, 5).classes(), [1]);
        assert_eq!(any(-7, -4).classes(), [0, 1, 2, 3]);
        assert!(!any(0, 100).hold(4) && !any(0, 100).hold(-1));
    }

    proptest! {
        /// Against all scores of a tournament of four classes.
        #[test]
        fn winners_are_those_of_some_scores(scores in prop::array::uniform4((-5i64..5, 0i64..4))) {
            let element = |index: usize| {
                let (low, length) = scores[index];
                let end = |score: i64| score * 4 + index as i64;
                let candidate = Candidate { index: Some(index as u32), low: end(low), high: end(low + length) };
                Candidates { candidates: vec![candidate], index_bits: 2 }
            };
            let winner = element(0).larger(&element(1)).larger(&element(3).larger(&element(2)));
            let mut possible = [false; 4];
            for choice in 0..256i64 {
                let value = |i: usize| (scores[i].0 + (choice >> (2 * i) & 3).min(scores[i].1)) * 4 + i as i64;
                possible[(0..4).map(value).max().unwrap().rem_euclid(4) as usize] = true;
            }
            let expected: Vec<u32> = (0..4).filter(|&i| possible[i as usize]).collect();
            prop_assert_eq!(winner.classes(), expected);
        }
    }
}

//! Which channels have scales in common.
//!
//! The scale of a linear output is free: weights may be rounded in any. What is made of it by sums, averages and choices of
//! pixels or channels has a scale that follows from it. A [`Class`] is a set of such channels with one free scale: where a sum
//! joins two linear outputs, their scales are one. Where a sum adds a tensor whose scale is given already (an activation's
//! result, as in a residual network), the class can only take integer multiples of that scale: the sum multiplies, it does not
//! divide.

use crate::network::{Network, Op, Tensor};
use safenet_core::model::Shape;

/// Where the scale of one channel of a tensor comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Member {
    /// ratio times the scale of a class.
    Free { class: usize, ratio: f64 },
    /// ratio times the scale that a channel of a known tensor has.
    Given { tensor: Tensor, channel: usize, ratio: f64 },
}

impl Member {
    fn times(self, factor: f64) -> Self {
        match self {
            Self::Free { class, ratio } => Self::Free { class, ratio: ratio * factor },
            Self::Given { tensor, channel, ratio } => Self::Given { tensor, channel, ratio: ratio * factor },
        }
    }
}

/// An output of a linear layer whose scale is the class's times a ratio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) layer: usize,
    pub(super) output: usize,
    pub(super) ratio: f64,
}

/// A channel of a known tensor, added to channels whose scale is the class's times a ratio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addend {
    pub(super) tensor: Tensor,
    pub(super) channel: usize,
    /// Scale of the class per scale of the addend, before the multiple is taken.
    pub(super) ratio: f64,
}

/// Channels with one free scale.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub(super) sources: Vec<Source>,
    pub(super) addends: Vec<Addend>,
    /// Channels of activations that read it: the activation's layer, the channel, and the ratio of its input's scale.
    pub(super) readers: Vec<(usize, usize, f64)>,
    /// Once decided.
    pub(super) scale: Option<f64>,
}

/// The members of all tensors, and their classes.
pub(super) struct Classes {
    members: Vec<Vec<Member>>,
    /// For each class, the class that it was joined to and its scale in terms of that one's.
    joined: Vec<(usize, f64)>,
    classes: Vec<Class>,
}

impl Classes {
    /// `known` tells which tensors' scales are given by activations or by the input.
    pub(super) fn new(network: &Network, known: &[bool]) -> Self {
        let given = |tensor: Tensor, shape: Shape| {
            (0..shape.channels as usize)
                .map(|channel| Member::Given { tensor, channel, ratio: 1.0 })
                .collect::<Vec<_>>()
        };
        let mut all = Self { members: vec![given(0, network.input)], joined: Vec::new(), classes: Vec::new() };
        for (index, layer) in network.layers.iter().enumerate() {
            let first = layer.inputs.first().copied().unwrap_or_default();
            let members = match &layer.op {
                Op::Linear(linear) => {
                    let source = |output| Source { layer: index, output, ratio: 1.0 };
                    (0..linear.bias.len()).map(|output| all.found(source(output))).collect()
                }
                _ if known[index + 1] => given(index + 1, layer.shape),
                Op::Average(pool) => {
                    let factor = pool.factor(network.shape(first), layer.shape) as f64;
                    all.members[first].iter().map(|m| m.times(factor)).collect()
                }
                Op::Channels(channels) => all.members[first][channels.range()].to_vec(),
                Op::Concat => layer.inputs.iter().flat_map(|&t| all.members[t].clone()).collect(),
                Op::Flatten => {
                    let plane = network.shape(first).plane();
                    all.members[first].iter().flat_map(|&m| std::iter::repeat_n(m, plane)).collect()
                }
                Op::Sum { .. } => (0..layer.shape.channels as usize)
                    .map(|c| {
                        let terms: Vec<Member> = layer.inputs.iter().map(|&t| all.members[t][c]).collect();
                        all.sum(&terms)
                    })
                    .collect(),
                _ => all.members[first].clone(),
            };
            all.members.push(members);
        }
        for (index, layer) in network.layers.iter().enumerate() {
            if let Op::Activation(_) = &layer.op {
                for c in 0..layer.shape.channels as usize {
                    if let Member::Free { class, ratio } = all.member(layer.inputs[0], c) {
                        all.classes[class].readers.push((index, c, ratio));
                    }
                }
            }
        }
        all
    }

    fn found(&mut self, source: Source) -> Member {
        let class = self.classes.len();
        self.classes.push(Class { sources: vec![source], ..Class::default() });
        self.joined.push((class, 1.0));
        Member::Free { class, ratio: 1.0 }
    }

    /// The member that a sum of members is.
    fn sum(&mut self, terms: &[Member]) -> Member {
        let mut out: Option<(usize, f64)> = None;
        for term in terms {
            if let Member::Free { class, ratio } = *term {
                let (class, factor) = self.root(class);
                let ratio = ratio * factor;
                match out {
                    None => out = Some((class, ratio)),
                    Some((first, _)) if first == class => {}
                    Some((first, wanted)) => self.join(class, first, wanted / ratio),
                }
            }
        }
        let (class, ratio) = out.unwrap_or_else(|| {
            let class = self.classes.len();
            self.classes.push(Class::default());
            self.joined.push((class, 1.0));
            (class, 1.0)
        });
        for term in terms {
            if let Member::Given { tensor, channel, ratio: own } = *term {
                self.classes[class].addends.push(Addend { tensor, channel, ratio: own / ratio });
            }
        }
        Member::Free { class, ratio }
    }

    /// Makes `class` part of `into`: its scale is `factor` times that one's.
    fn join(&mut self, class: usize, into: usize, factor: f64) {
        let Class { sources, addends, .. } = std::mem::take(&mut self.classes[class]);
        self.joined[class] = (into, factor);
        let target = &mut self.classes[into];
        target.sources.extend(sources.into_iter().map(|s| Source { ratio: s.ratio * factor, ..s }));
        target.addends.extend(addends.into_iter().map(|a| Addend { ratio: a.ratio / factor, ..a }));
    }

    fn root(&self, class: usize) -> (usize, f64) {
        let (mut class, mut factor) = (class, 1.0);
        while self.joined[class].0 != class {
            factor *= self.joined[class].1;
            class = self.joined[class].0;
        }
        (class, factor)
    }

    /// Where the scale of a channel comes from; a class is one that was joined to no other.
    pub(super) fn member(&self, tensor: Tensor, channel: usize) -> Member {
        match self.members[tensor][channel] {
            Member::Free { class, ratio } => {
                let (class, factor) = self.root(class);
                Member::Free { class, ratio: ratio * factor }
            }
            given => given,
        }
    }

    pub(super) fn class(&self, class: usize) -> &Class {
        &self.classes[class]
    }

    pub(super) fn decide(&mut self, class: usize, scale: f64) {
        self.classes[class].scale = Some(scale);
    }
}

/// The least number that all of `scales` divide, where they are powers of two times small odd numbers, or multiples of each
/// other by integers; none otherwise.
pub(super) fn common_multiple(scales: impl Iterator<Item = f64>) -> Option<f64> {
    let mut multiple: Option<f64> = None;
    for scale in scales {
        multiple = Some(match multiple {
            None => scale,
            Some(m) => [m / scale, scale / m]
                .into_iter()
                .zip([m, scale])
                .find(|(quotient, _)| is_integer(*quotient))
                .map(|(_, larger)| larger)
                .or_else(|| odd_multiple(m, scale))?,
        });
    }
    multiple
}

fn is_integer(x: f64) -> bool {
    (0.5..f64::from(1u32 << 30)).contains(&x) && (x - x.round()).abs() < 1e-9 * x
}

/// Of a = p·2^i and b = q·2^j with odd p and q: lcm(p, q)·2^max(i, j).
fn odd_multiple(a: f64, b: f64) -> Option<f64> {
    let split = |x: f64| {
        let mut exponent = x.log2().floor() as i32;
        let mut odd = x / f64::from(exponent).exp2();
        while odd.fract() != 0.0 && odd < f64::from(1u32 << 20) {
            odd *= 2.0;
            exponent -= 1;
        }
        (odd.fract() == 0.0 && odd < f64::from(1u32 << 20)).then_some((odd as u64, exponent))
    };
    let ((p, i), (q, j)) = (split(a)?, split(b)?);
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    Some((p / gcd(p, q) * q) as f64 * f64::from(i.max(j)).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_common() {
        let of = |scales: &[f64]| common_multiple(scales.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0.3]), Some(0.3));
        assert_eq!(of(&[0.3, 1.2]), Some(1.2));
        assert_eq!(of(&[16.0, 0.25, 4.0]), Some(16.0));
        assert_eq!(of(&[9.0 * 8.0, 32.0]), Some(9.0 * 32.0));
        assert_eq!(of(&[9.0 * 8.0, 15.0 * 2.0]), Some(45.0 * 8.0));
        assert_eq!(of(&[0.3, 0.7]), None);
    }
}

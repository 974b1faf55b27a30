//! Which masks are still free when a linear layer encrypts them, so that its requests may choose them
//! ([`crate::rlwe::linear::encrypt_request`]) and take fewer bytes.
//!
//! Free are the masks of the network's input and of what activation layers give. A mask can be chosen once, by the first linear
//! layer that encrypts it; and it must be known before anything is computed with it. So a layer's input channel is fresh if
//!
//! - it is a channel of such a tensor, moved about by local operators but not computed with (its [`Origin`]);
//! - the mask is not a public zero, as that of a constant channel;
//! - no earlier layer, and no other channel of this one, encrypts any of its words;
//! - no linear layer encrypts what is computed from that tensor by local operators, or moves of it that are not followed here;
//! - the tensor is made in the batch of nodes that this layer is prepared with; the input counts to the first.

use super::schedule::{LinearStep, Origin, Schedule, Step};
use crate::model::{Architecture, Op, Shape};
use alloc::{vec, vec::Vec};

impl Schedule {
    /// Finds every linear layer's origins and fresh channels; batches are there.
    pub(super) fn choose_fresh(&mut self, architecture: &Architecture) {
        let origins = origins(architecture, &self.shapes);
        let computed = computed_with(architecture, &origins);
        // Which words a layer has encrypted, of each tensor of which it has any.
        let mut taken: Vec<Vec<Taken>> = vec![vec![]; self.shapes.len()];
        for batch in self.batches.clone() {
            for index in batch.clone() {
                let Step::Linear(step @ LinearStep { packing: Some(_), .. }) = &mut self.steps[index] else { continue };
                let source = architecture.nodes[index].inputs[0] as usize;
                let plane = self.shapes[source].plane();
                let chosen_here =
                    |o: &Origin| batch.contains(&o.tensor.wrapping_sub(1)) || (o.tensor, batch.start) == (0, 0);
                let origin = |&c: &usize| origins[source].get(c).copied().filter(chosen_here);
                step.origins = step.inputs.iter().map(origin).collect();
                let mut twice = false;
                for (fresh, origin) in step.fresh.iter_mut().zip(&step.origins) {
                    let Some(Origin { tensor, start }) = *origin else {
                        *fresh = false;
                        continue;
                    };
                    let taken = &mut taken[tensor];
                    if taken.is_empty() {
                        *taken = vec![Taken::Never; self.shapes[tensor].elements()];
                    }
                    let words = &mut taken[start..start + plane];
                    twice |= words.contains(&Taken::Here);
                    *fresh &= !computed[tensor] && !words.contains(&Taken::Before);
                    words.fill(Taken::Here);
                }
                for Origin { tensor, start } in step.origins.iter().flatten() {
                    taken[*tensor][*start..start + plane].fill(Taken::Before);
                }
                if twice {
                    step.fresh.fill(false);
                }
            }
        }
    }
}

/// Whether a word's mask is encrypted.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    Never,
    /// By an earlier layer.
    Before,
    /// By the layer that is looked at.
    Here,
}

/// Of every tensor, its channels' origins; nothing of tensors that are computed.
fn origins(architecture: &Architecture, shapes: &[Shape]) -> Vec<Vec<Origin>> {
    let own = |tensor: usize| -> Vec<Origin> {
        let (channels, plane) = (shapes[tensor].channels as usize, shapes[tensor].plane());
        (0..channels).map(|c| Origin { tensor, start: c * plane }).collect()
    };
    let mut all = vec![own(0)];
    for (index, node) in architecture.nodes.iter().enumerate() {
        let first = node.inputs[0] as usize;
        let moved = match &node.op {
            Op::Activation(_) | Op::Max(_) => own(index + 1),
            Op::Concat => node.inputs.iter().flat_map(|&t| all[t as usize].iter().copied()).collect(),
            Op::Channels(channels) => all[first].get(channels.range()).map_or(vec![], <[_]>::to_vec),
            Op::Flatten => {
                let plane = shapes[first].plane();
                let words = |&o: &Origin| (0..plane).map(move |k| Origin { start: o.start + k, ..o });
                all[first].iter().flat_map(words).collect()
            }
            _ => vec![],
        };
        // A concatenation of tensors of which some are computed would number its channels wrong.
        all.push(if moved.len() == shapes[index + 1].channels as usize { moved } else { vec![] });
    }
    all
}

/// The tensors of whose words a linear layer encrypts what local operators compute.
fn computed_with(architecture: &Architecture, origins: &[Vec<Origin>]) -> Vec<bool> {
    let mut computed = vec![false; origins.len()];
    for (index, node) in architecture.nodes.iter().enumerate().rev() {
        let encrypts = matches!(node.op, Op::Convolution(_)) && origins[node.inputs[0] as usize].is_empty();
        let local = !matches!(node.op, Op::Convolution(_) | Op::Activation(_) | Op::Max(_));
        if encrypts || local && computed[index + 1] {
            node.inputs.iter().for_each(|&t| computed[t as usize] = true);
        }
    }
    computed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, Channel, Channels, Convolution, Kind, Node, Output, Pool, Sum};

    /// Of each convolution of a chain of operators with their inputs, which live input channels are fresh.
    fn fresh(input: Shape, nodes: Vec<(Vec<u32>, Op)>) -> Vec<Vec<bool>> {
        let nodes = nodes.into_iter().map(|(inputs, op)| Node { name: "node".into(), inputs, op });
        let architecture = Architecture {
            name: "fresh".into(),
            input,
            input_fraction_bits: 6,
            input_range: [-64, 64],
            nodes: nodes.collect(),
            output: Output::Scores,
        };
        let schedule = Schedule::new(&architecture).unwrap();
        let linear = |step| if let Step::Linear(step) = step { Some(step.fresh) } else { None };
        schedule.steps.into_iter().filter_map(linear).collect()
    }

    const INPUT: Shape = Shape { channels: 2, height: 4, width: 4 };

    fn conv(channels: u32) -> Op {
        Op::Convolution(Convolution { padding: [1; 4], ..Convolution::new(channels, [3; 2]) })
    }

    fn act(kinds: &[Kind]) -> Op {
        let bits = |kind| if kind == Kind::Zero { (0, 0) } else { (20, 6) };
        let channel = |&kind| Channel { kind, bound_bits: bits(kind).0, shift: bits(kind).1, back_shift: 0 };
        Op::Activation(Activation { fraction_bits: 6, channels: kinds.iter().map(channel).collect() })
    }

    fn relu(channels: usize) -> Op {
        act(&vec![Kind::Relu; channels])
    }

    #[test]
    fn the_first_reader_of_a_mask_brings_it() {
        let nodes = vec![
            (vec![0], conv(3)),
            (vec![1], act(&[Kind::Relu, Kind::Zero, Kind::Linear])),
            (vec![2], conv(2)),
            (vec![2], conv(2)),
            (vec![3], relu(2)),
            (vec![4], relu(2)),
            (vec![5, 6], Op::Concat),
            (vec![7], Op::Flatten),
            (vec![8], Op::Convolution(Convolution::new(2, [1; 2]))),
            (vec![9], relu(2)),
        ];
        let fresh = fresh(INPUT, nodes);
        assert_eq!(fresh[..3], [vec![true; 2], vec![true; 2], vec![false; 2]]);
        assert_eq!(fresh[3], [true; 64]);
    }

    #[test]
    fn masks_of_what_is_computed_are_not_brought_nor_those_they_come_of() {
        let pool = Op::SumPool(Pool::new([1; 2], [1; 2]));
        let sum = Op::Sum(Sum { multipliers: vec![vec![1; 2]; 2] });
        let nodes = vec![
            (vec![0], conv(2)),
            (vec![1], relu(2)),
            // Read first, but the pool is of it, too.
            (vec![2], conv(2)),
            (vec![2], pool),
            (vec![4], conv(2)),
            (vec![3, 5], sum),
            (vec![6], relu(2)),
        ];
        assert_eq!(fresh(INPUT, nodes), [[true; 2], [false; 2], [false; 2]]);
    }

    #[test]
    fn a_layer_that_reads_words_twice_brings_none() {
        let second = Op::Channels(Channels { first: 1, count: 1 });
        let nodes = vec![
            (vec![0], second),
            (vec![0, 1], Op::Concat),
            (vec![2], conv(1)),
            (vec![3], relu(1)),
            (vec![4], conv(1)),
            (vec![5], relu(1)),
        ];
        assert_eq!(fresh(INPUT, nodes), [vec![false; 3], vec![true]]);
    }

    #[test]
    fn public_zeros_stay_zeros() {
        // In groups a constant channel counts as live with its group.
        let grouped = Op::Convolution(Convolution { groups: 2, ..Convolution::new(2, [1; 2]) });
        let kinds = [Kind::Relu, Kind::Zero, Kind::Relu, Kind::Relu];
        let nodes = vec![(vec![0], conv(4)), (vec![1], act(&kinds)), (vec![2], grouped), (vec![3], relu(2))];
        assert_eq!(fresh(INPUT, nodes)[1], [true, false, true, true]);
    }
}

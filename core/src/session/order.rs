//! The order in which a network's nodes are prepared, and what follows from it: which masks are still free when a linear layer
//! encrypts them, so that its requests may choose them ([`crate::rlwe::linear::encrypt_request`]) and take fewer bytes.
//!
//! Free are the masks of the network's input and of what activation layers give. A mask can be chosen once, by the first linear
//! layer that encrypts it; and it must be known before anything is computed with it. So a layer's input channel is fresh if
//!
//! - it is a channel of such a tensor, moved about by local operators but not computed with (its [`Origin`]);
//! - the mask is not a public zero, as that of a constant channel;
//! - no earlier layer, and no other channel of this one, encrypts any of its words;
//! - no linear layer encrypts what is computed from that tensor by local operators, or moves of it that are not followed here;
//! - the tensor is made in the batch of nodes that this layer is prepared with; the input counts to the first.

use super::schedule::{LinearStep, Schedule, Step};
use crate::model::{Architecture, Op, Shape};
use alloc::{vec, vec::Vec};
use core::ops::Range;

/// How an inference is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Prepared as a whole, then done.
    Ahead,
    /// Layer by layer: each is prepared when its inputs are there, and done at once.
    Streamed,
}

/// The order of preparing in one mode.
pub(crate) struct Order {
    /// Runs of nodes that are prepared in one round trip.
    pub(crate) batches: Vec<Range<usize>>,
    /// Of each node, where its masks come from.
    pub(crate) sources: Vec<Sources>,
}

/// Where a linear layer's input masks come from; both lists are empty where all are known when the layer is prepared, and for
/// other nodes.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    /// For each of the layer's live inputs, where its mask is chosen, if that is in the same batch of nodes; else the mask is known before.
    pub(crate) origins: Vec<Option<Origin>>,
    /// For each of them, whether the layer's requests bring its mask: it is the first to encrypt it.
    pub(crate) fresh: Vec<bool>,
}

/// A channel's words in the tensor whose mask the client chooses: the network's input, or what an activation layer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) tensor: usize,
    pub(crate) start: usize,
}

impl Order {
    pub(crate) fn new(architecture: &Architecture, schedule: &Schedule, mode: Mode) -> Self {
        let batches = match mode {
            Mode::Ahead => schedule.batches(),
            Mode::Streamed => layers(&schedule.steps),
        };
        let mut order = Self { batches, sources: vec![Sources::default(); schedule.steps.len()] };
        order.choose_fresh(architecture, schedule);
        order
    }

    /// Finds every linear layer's origins and fresh channels.
    fn choose_fresh(&mut self, architecture: &Architecture, schedule: &Schedule) {
        let shapes = &schedule.shapes;
        let origins = origins(architecture, shapes);
        let computed = computed_with(architecture, &origins);
        let constant = architecture.constant_channels(shapes);
        // Which words a layer has encrypted, of each tensor of which it has any.
        let mut taken: Vec<Vec<Taken>> = vec![vec![]; shapes.len()];
        for batch in &self.batches {
            for index in batch.clone() {
                let Step::Linear(LinearStep { packing: Some(_), inputs, .. }) = &schedule.steps[index] else {
                    continue;
                };
                let source = architecture.nodes[index].inputs[0] as usize;
                let plane = shapes[source].plane();
                let chosen_here =
                    |o: &Origin| batch.contains(&o.tensor.wrapping_sub(1)) || (o.tensor, batch.start) == (0, 0);
                let origin = |&c: &usize| origins[source].get(c).copied().filter(chosen_here);
                if inputs.iter().filter_map(origin).next().is_none() {
                    continue;
                }
                let origins: Vec<Option<Origin>> = inputs.iter().map(origin).collect();
                let mut twice = false;
                let fresh = inputs.iter().zip(&origins).map(|(&channel, origin)| {
                    let Some(Origin { tensor, start }) = *origin else { return false };
                    let taken = &mut taken[tensor];
                    if taken.is_empty() {
                        *taken = vec![Taken::Never; shapes[tensor].elements()];
                    }
                    let words = &mut taken[start..start + plane];
                    twice |= words.contains(&Taken::Here);
                    let free = !constant[source][channel] && !computed[tensor] && !words.contains(&Taken::Before);
                    words.fill(Taken::Here);
                    free
                });
                let mut fresh: Vec<bool> = fresh.collect();
                for Origin { tensor, start } in origins.iter().flatten() {
                    taken[*tensor][*start..start + plane].fill(Taken::Before);
                }
                if twice {
                    fresh.fill(false);
                }
                self.sources[index] = Sources { origins, fresh };
            }
        }
    }
}

/// Linear layers with what follows them: a batch begins with each linear layer that comes after an activation layer of the one before.
fn layers(steps: &[Step]) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut active) = (vec![], 0, false);
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Linear(_) if active => {
                batches.push(start..index);
                (start, active) = (index, false);
            }
            Step::Activation(_) => active = true,
            _ => {}
        }
    }
    batches.push(start..steps.len());
    batches
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
        order(input, nodes, Mode::Ahead).1
    }

    /// The batches, and what [`fresh`] tells.
    fn order(input: Shape, nodes: Vec<(Vec<u32>, Op)>, mode: Mode) -> (Vec<Range<usize>>, Vec<Vec<bool>>) {
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
        let Order { batches, sources } = Order::new(&architecture, &schedule, mode);
        let linear = schedule.steps.iter().zip(sources).filter_map(|(step, sources)| match step {
            Step::Linear(step) if sources.fresh.is_empty() => Some(vec![false; step.inputs.len()]),
            Step::Linear(_) => Some(sources.fresh),
            _ => None,
        });
        (batches, linear.collect())
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

    #[test]
    fn in_a_stream_each_linear_layer_begins_a_batch_and_the_input_alone_is_fresh() {
        let sum = Op::Sum(Sum { multipliers: vec![vec![1; 2]; 2] });
        let nodes = vec![
            (vec![0], conv(2)),
            (vec![1], relu(2)),
            (vec![2], conv(2)),
            (vec![2], conv(2)),
            (vec![3, 4], sum),
            (vec![5], relu(2)),
            (vec![6], Op::Flatten),
            (vec![7], Op::Convolution(Convolution::new(2, [1; 2]))),
            (vec![8], relu(2)),
        ];
        let (batches, fresh) = order(INPUT, nodes, Mode::Streamed);
        assert_eq!(batches, [0..2, 2..7, 7..9]);
        assert_eq!(fresh, [vec![true; 2], vec![false; 2], vec![false; 2], vec![false; 32]]);
    }
}

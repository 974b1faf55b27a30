//! What both parties derive from the public architecture before a byte flows: which channels are live, how layers are
//! packed into ciphertexts, and how channels form groups.

use crate::activation::{Group, RoundTrips, groups, parts};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, Channel, Convolution, Kind, Op, Output, Shape};
use crate::ot::softspoken;
use crate::ot::supply::Count;
use crate::prg::SecretVec;
use crate::rlwe::{
    linear::{ConvShape, Keep, LinearPacking, MIN_WORD_BITS},
    slots,
};
use crate::wire::bits::packed_bytes;
use alloc::{vec, vec::Vec};

/// What the server holds back until the client has sent all its requests of a batch of layers: at most about this much.
/// In tests a few requests, so that small networks have several batches.
const BATCH_BYTES: u64 = if cfg!(test) { 1 << 19 } else { 64 << 20 };
/// Most requests of one layer: 384 MiB at the server.
const LAYER_REQUESTS: usize = 4096;
/// Most answers of one layer: about 20 GiB of traffic.
const LAYER_RESPONSES: usize = 1 << 20;
/// Most bits of one message of inference: 1 GiB.
const MESSAGE_BITS: u64 = 1 << 33;

/// Everything derived from an architecture.
pub(crate) struct Schedule {
    /// Shape of every tensor.
    pub(crate) shapes: Vec<Shape>,
    /// One step per node.
    pub(crate) steps: Vec<Step>,
    /// What the client learns.
    pub(crate) output: Output,
    /// For every tensor, how many low bits of its words matter.
    pub(crate) word_bits: Vec<u32>,
    /// For every tensor, the last node that reads it.
    pub(crate) last_readers: Vec<Option<usize>>,
}

/// What a node takes to prepare and to infer.
#[allow(clippy::large_enum_variant, reason = "one per node, made once and never moved")]
pub(crate) enum Step {
    Linear(LinearStep),
    /// Local to both parties.
    Local,
    Activation(ActivationStep),
}

/// A convolution's live part.
pub(crate) struct LinearStep {
    /// None if no live input meets a live output: then both masks are zero.
    pub(crate) packing: Option<LinearPacking>,
    /// Input channels whose mask is not a public zero, and output channels that someone reads; of a convolution in groups,
    /// all channels of the groups that have some of either.
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    /// Which output channels no one reads.
    pub(crate) unread: Vec<bool>,
}

/// An activation layer.
pub(crate) struct ActivationStep {
    /// With ReLUs in three round trips, and in two. All that requests and masks depend on is the same.
    whole: [Part; 2],
    /// For each channel, by how many bits the words that it is applied to are shifted up before: see [`ActivationStep::align`].
    alignment: Vec<u32>,
}

impl Schedule {
    pub(crate) fn new(architecture: &Architecture) -> Result<Self> {
        let shapes = architecture.shapes()?;
        let constant = architecture.constant_channels(&shapes);
        let mut unread = architecture.unread_channels(&shapes);
        let word_bits = word_bits(architecture);
        let mut steps = Vec::with_capacity(architecture.nodes.len());
        for (index, node) in architecture.nodes.iter().enumerate() {
            // Every operator has at least one input.
            let first = node.inputs[0] as usize;
            let input = shapes[first];
            steps.push(match &node.op {
                Op::Convolution(conv) => {
                    let unread = core::mem::take(&mut unread[index + 1]);
                    let step = LinearStep::new(conv, input, &constant[first], unread, word_bits[index + 1]);
                    // A shape that the packing cannot take came with the model.
                    let malformed = |e: Error| match e.kind() {
                        ErrorKind::InvalidArgument => Error::new(ErrorKind::MalformedModel, e.message()),
                        _ => e,
                    };
                    Step::Linear(
                        step.map_err(|e| malformed(e).context(alloc::format!("node {index} ({})", node.name)))?,
                    )
                }
                Op::Activation(activation) => Step::Activation(ActivationStep::new(
                    &activation.channels,
                    input,
                    [word_bits[first], word_bits[index + 1]],
                )),
                Op::Max(max) => {
                    // max(a, b) = b + ReLU(a - b), of whole words: nothing is truncated.
                    let channel = Channel { kind: Kind::Relu, bound_bits: max.width, shift: 0, back_shift: 0 };
                    let channels = vec![channel; input.channels as usize];
                    Step::Activation(ActivationStep::new(&channels, input, [word_bits[first], word_bits[index + 1]]))
                }
                _ => Step::Local,
            });
        }
        let (output, last_readers) = (architecture.output, architecture.last_readers());
        let schedule = Self { shapes, steps, output, word_bits, last_readers };
        for (index, packing) in schedule.packings() {
            let counts = [packing.request_ciphertexts(), packing.response_ciphertexts()];
            if counts[0] > LAYER_REQUESTS || counts[1] > LAYER_RESPONSES {
                return Err(Error::new(
                    ErrorKind::UnsupportedModel,
                    alloc::format!(
                        "node {index}: expected at most {LAYER_REQUESTS} request ciphertexts of a layer and {LAYER_RESPONSES} \
                         answers, got {} and {}",
                        counts[0],
                        counts[1]
                    ),
                ));
            }
        }
        for (index, step) in schedule.activations(&(0..schedule.steps.len())) {
            let all = step.whole.iter().flat_map(|part| (0..part.rounds()).map(|round| part.round_bits(round)));
            if all.map(|(down, up)| down.max(up)).max().unwrap_or(0) > MESSAGE_BITS {
                return Err(Error::new(
                    ErrorKind::UnsupportedModel,
                    alloc::format!("node {index}: expected messages of at most 1 GiB, got more"),
                ));
            }
        }
        Ok(schedule)
    }

    /// Bytes of the masked input.
    pub(crate) fn input_bytes(&self) -> usize {
        packed_bytes(self.shapes[0].elements(), self.word_bits[0])
    }

    /// Bytes of the server's answer.
    pub(crate) fn answer_bytes(&self) -> usize {
        let elements = self.shapes.last().map_or(0, Shape::elements);
        packed_bytes(elements, self.output.bits().into())
    }

    /// The tensors that no node after this one reads. The output is not among them.
    pub(crate) fn last_read_by(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let last = self.last_readers.iter().enumerate();
        last.filter(move |(_, reader)| **reader == Some(index)).map(|(tensor, _)| tensor)
    }

    /// For each node, in which form a server keeps its weights: those of the smallest layers transformed, as long as all of
    /// these take at most `memory` bytes.
    pub(crate) fn kept_weights(&self, memory: u64) -> Vec<Keep> {
        let mut sizes: Vec<(u64, usize)> = self.packings().map(|(index, p)| (p.transformed_bytes(), index)).collect();
        sizes.sort_unstable();
        let mut kept = vec![Keep::Plain; self.steps.len()];
        let mut left = memory;
        for (bytes, index) in sizes {
            match left.checked_sub(bytes) {
                Some(rest) => (left, kept[index]) = (rest, Keep::Transformed),
                None => break,
            }
        }
        kept
    }

    /// The packings of the linear layers, with their node indices.
    pub(super) fn packings(&self) -> impl Iterator<Item = (usize, &LinearPacking)> {
        self.steps.iter().enumerate().filter_map(|(index, step)| match step {
            Step::Linear(LinearStep { packing: Some(packing), .. }) => Some((index, packing)),
            _ => None,
        })
    }

    /// Cuts the nodes into runs of bounded bytes.
    pub(super) fn batches(&self) -> Vec<core::ops::Range<usize>> {
        let (mut batches, mut start, mut bytes) = (vec![], 0, 0u64);
        for (index, step) in self.steps.iter().enumerate() {
            let own = match step {
                Step::Linear(LinearStep { packing: Some(p), .. }) => {
                    p.request_ciphertexts() as u64 * p.ciphertext_memory() as u64
                }
                Step::Activation(step) => {
                    let responses = step.whole(RoundTrips::Three).products().div_ceil(slots::SLOT_COUNT) as u64;
                    // A silent extension is begun as far ahead as the batch needs, at about a byte for each OT.
                    let whole = step.whole(RoundTrips::Three);
                    let ots: Count = whole.chunks(whole.elements()).iter().map(|chunk| chunk.ots).sum();
                    let ots = (ots.single + ots.wide) as u64;
                    responses * slots::slot_response_bytes() as u64 + whole.client_rots() as u64 * 8 + ots
                }
                Step::Linear(_) | Step::Local => 0,
            };
            if start < index && bytes + own > BATCH_BYTES {
                batches.push(start..index);
                (start, bytes) = (index, 0);
            }
            bytes += own;
        }
        batches.push(start..self.steps.len());
        batches
    }

    /// Products in F_p of one inference.
    pub(crate) fn products(&self) -> usize {
        self.activations(&(0..self.steps.len())).map(|(_, step)| step.whole(RoundTrips::Three).products()).sum()
    }

    /// The activation steps of a batch, with their node indices.
    pub(crate) fn activations(
        &self,
        batch: &core::ops::Range<usize>,
    ) -> impl Iterator<Item = (usize, &ActivationStep)> {
        batch.clone().filter_map(|index| match &self.steps[index] {
            Step::Activation(step) => Some((index, step)),
            _ => None,
        })
    }
}

impl LinearStep {
    fn new(conv: &Convolution, input: Shape, constant: &[bool], unread: Vec<bool>, word_bits: u32) -> Result<Self> {
        let chosen = |mask: &[bool]| (0..mask.len()).filter(|&c| !mask[c]).collect::<Vec<_>>();
        let (inputs, outputs, groups) = match conv.groups as usize {
            1 => (chosen(constant), chosen(&unread), 1),
            // A group is there as a whole or not at all, so that all groups that are there have the same size.
            groups => {
                let (inputs, outputs) = (constant.len() / groups, unread.len() / groups);
                let alive = |g: &usize| {
                    constant[g * inputs..(g + 1) * inputs].contains(&false)
                        && unread[g * outputs..(g + 1) * outputs].contains(&false)
                };
                let alive: Vec<usize> = (0..groups).filter(alive).collect();
                let all = |size: usize| alive.iter().flat_map(move |g| g * size..(g + 1) * size).collect();
                (all(inputs), all(outputs), alive.len())
            }
        };
        let packing = if inputs.is_empty() || outputs.is_empty() {
            None
        } else {
            let [top, left, bottom, right] = conv.padding.map(|p| p as usize);
            let shape = ConvShape {
                in_channels: inputs.len(),
                in_height: input.height as usize,
                in_width: input.width as usize,
                out_channels: outputs.len(),
                groups,
                kernel_height: conv.kernel[0] as usize,
                kernel_width: conv.kernel[1] as usize,
                dilation_height: conv.dilation[0] as usize,
                dilation_width: conv.dilation[1] as usize,
                stride_height: conv.stride[0] as usize,
                stride_width: conv.stride[1] as usize,
                pad_top: top,
                pad_left: left,
                pad_bottom: bottom,
                pad_right: right,
                word_bits: word_bits.max(MIN_WORD_BITS),
            };
            Some(LinearPacking::choose_quieter(&shape, conv.packed_outputs as usize)?)
        };
        Ok(Self { packing, inputs, outputs, unread })
    }

    /// Puts live output channels where they belong in a tensor; the others are 0.
    pub(crate) fn scatter_outputs(&self, shape: Shape, values: SecretVec<u32>) -> SecretVec<u32> {
        if values.len() == shape.elements() {
            return values;
        }
        let mut out = SecretVec::new(vec![0; shape.elements()]);
        for (&c, plane) in self.outputs.iter().zip(values.chunks_exact(shape.plane())) {
            out[c * shape.plane()..(c + 1) * shape.plane()].copy_from_slice(plane);
        }
        out
    }
}

/// A run of a group's elements whose random OTs come in one message.
pub(crate) struct Chunk {
    pub(crate) group: usize,
    pub(crate) elements: usize,
    /// Random OTs extended: those needed, rounded up to multiples of 128.
    pub(crate) ots: Count,
    /// Bytes in which the server tells of its indices.
    pub(crate) told_bytes: usize,
}

/// For every tensor, the low bits of its words that matter: all of the scores', and before them what the readers need.
///
/// Linear layers and local operators need of their inputs what is needed of their outputs. Truncation takes a word of b bits out of
/// one of b + 1 ([`ActivationStep::align`]). Without truncation the input's words are part of the output's.
fn word_bits(architecture: &Architecture) -> Vec<u32> {
    let mut bits = vec![0; architecture.nodes.len() + 1];
    bits[0] = 1;
    if let Some(last) = bits.last_mut() {
        *last = architecture.output.bits().into();
    }
    for (index, node) in architecture.nodes.iter().enumerate().rev() {
        // What no one reads is kept whole.
        let output = if bits[index + 1] == 0 { 32 } else { bits[index + 1] };
        bits[index + 1] = output;
        let needed = match &node.op {
            Op::Activation(activation) => {
                let needed = |channel: &Channel| match channel.kind {
                    Kind::Zero => 0,
                    Kind::Relu | Kind::Linear if channel.shift == 0 => output.max(channel.bound_bits.into()),
                    _ => u32::from(channel.bound_bits) + 1,
                };
                activation.channels.iter().map(needed).max().unwrap_or(0).max(1)
            }
            Op::Max(max) => output.max(max.width.into()),
            _ => output,
        };
        for &input in &node.inputs {
            let bits = &mut bits[input as usize];
            *bits = needed.max(*bits);
        }
    }
    bits
}

impl ActivationStep {
    /// A layer of whose inputs and outputs so many bits matter.
    fn new(channels: &[Channel], input: Shape, [input_bits, output_bits]: [u32; 2]) -> Self {
        let unused = 32 - input_bits;
        // Without truncation only the low bits are looked at.
        let shift = |channel: &Channel| match channel.kind {
            Kind::Zero => 0,
            Kind::Relu | Kind::Linear if channel.shift == 0 => 0,
            _ => unused,
        };
        let alignment: Vec<u32> = channels.iter().map(shift).collect();
        let aligned = channels.iter().zip(&alignment).map(|(channel, &up)| Channel {
            bound_bits: channel.bound_bits + up as u8,
            shift: channel.shift + up as u8,
            ..*channel
        });
        let aligned: Vec<Channel> = aligned.collect();
        let whole = [RoundTrips::Three, RoundTrips::Two].map(|trips| Part(groups(&aligned, input, output_bits, trips)));
        Self { whole, alignment }
    }

    /// Shifts words y + m, or m, of which the low k bits matter up by 32 - k bits. Truncation, of as many more bits, then finds
    /// where y + m wrapped at 2^k as it finds it at 2^32.
    pub(crate) fn align(&self, words: &mut [u32]) {
        let plane = words.len() / self.alignment.len().max(1);
        for (plane, &up) in words.chunks_exact_mut(plane.max(1)).zip(&self.alignment) {
            plane.iter_mut().for_each(|word| *word <<= up);
        }
    }

    /// What its lists take of the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let groups = self
            .whole
            .iter()
            .map(|part| size_of_val(&part.0[..]) + part.0.iter().map(Group::heap_bytes).sum::<usize>());
        groups.sum::<usize>() + size_of_val(&self.alignment[..])
    }

    /// The whole layer, with ReLUs in so many round trips.
    pub(crate) fn whole(&self, trips: RoundTrips) -> &Part {
        &self.whole[usize::from(trips == RoundTrips::Two)]
    }

    /// The layer in parts of at most so many elements.
    pub(crate) fn parts(&self, trips: RoundTrips, most: usize) -> impl Iterator<Item = Part> {
        parts(&self.whole(trips).0, most).map(Part)
    }
}

/// What of an activation layer goes through its rounds together: the whole, or a run of elements.
pub(crate) struct Part(Vec<Group>);

impl Part {
    pub(crate) fn groups(&self) -> &[Group] {
        &self.0
    }

    pub(crate) fn elements(&self) -> usize {
        self.0.iter().map(Group::elements).sum()
    }

    /// Products in F_p.
    pub(crate) fn products(&self) -> usize {
        self.0.iter().map(|g| g.products() * g.elements()).sum()
    }

    /// Random OTs with the client as receiver.
    pub(crate) fn client_rots(&self) -> usize {
        self.0.iter().map(|g| g.client_rots() * g.elements()).sum()
    }

    /// Bytes that both parties keep of it once it is prepared: (client, server).
    pub(crate) fn memory(&self) -> (u64, u64) {
        self.0.iter().map(Group::memory).fold((0, 0), |(c, s), (client, server)| (c + client, s + server))
    }

    /// The runs, of at most so many elements, in which the random OTs with the server as receiver are extended.
    pub(crate) fn chunks(&self, most: usize) -> Vec<Chunk> {
        let mut chunks = vec![];
        for (group, g) in self.0.iter().enumerate() {
            let rots = g.server_rots();
            if rots.each == Count::default() {
                continue;
            }
            for start in (0..g.elements()).step_by(most.max(1)) {
                let elements = (g.elements() - start).min(most);
                let Count { single, wide } = rots.of(elements);
                let ots = Count { single: round_up(single), wide: round_up(wide) };
                chunks.push(Chunk { group, elements, ots, told_bytes: rots.told_bytes(elements) });
            }
        }
        chunks
    }

    /// Rounds of the longest protocol.
    pub(crate) fn rounds(&self) -> usize {
        self.0.iter().map(|g| g.round_bits().len()).max().unwrap_or(0)
    }

    /// Bits of both messages of a round: (server -> client, client -> server).
    fn round_bits(&self, round: usize) -> (u64, u64) {
        let bits = self.0.iter().filter_map(|g| g.round_bits().get(round).copied());
        let (down, up) = bits.fold((0, 0), |(down, up), (d, u)| (down + d, up + u));
        (down, up)
    }

    /// Bytes of both messages of a round; within the limit that the schedule was checked against.
    pub(crate) fn round_bytes(&self, round: usize) -> (usize, usize) {
        let (down, up) = self.round_bits(round);
        (down.div_ceil(8) as usize, up.div_ceil(8) as usize)
    }
}

/// Random OTs are extended in multiples of so many.
pub(crate) fn round_up(ots: usize) -> usize {
    ots.next_multiple_of(softspoken::GROUP)
}

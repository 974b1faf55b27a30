//! What both parties derive from the public architecture before a byte flows: which channels are live, how layers are
//! packed into ciphertexts, how channels form groups, and how long every message is.

use super::meter::{Phase, Place, Traffic};
use crate::activation::{Group, RoundTrips, groups};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, Channel, Convolution, Kind, Op, Output, Shape};
use crate::ot::supply::{Cost, Count};
use crate::ot::{Extension, softspoken};
use crate::rlwe::{
    linear::{ConvShape, Keep, LinearPacking, MIN_WORD_BITS},
    slots,
};
use crate::wire::bits::packed_bytes;
use crate::wire::frame::HEADER_BYTES;
use alloc::{vec, vec::Vec};

/// Elements of a group whose random OTs are extended together: bounds what both parties hold at once.
const CHUNK_ELEMENTS: usize = 2048;
/// Random OTs that the client receives are extended in runs of at most this many.
const CHUNK_OTS: usize = 1 << 15;
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
    /// Runs of nodes that are prepared in one round trip.
    pub(crate) batches: Vec<core::ops::Range<usize>>,
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
    /// For each of `inputs`, where its mask is chosen, if that is in the same batch of nodes; else the mask is known before.
    pub(crate) origins: Vec<Option<Origin>>,
    /// For each of `inputs`, whether the layer's requests bring its mask: it is the first to encrypt it.
    pub(crate) fresh: Vec<bool>,
}

/// A channel's words in the tensor whose mask the client chooses: the network's input, or what an activation layer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) tensor: usize,
    pub(crate) start: usize,
}

/// An activation layer's groups.
pub(crate) struct ActivationStep {
    /// With ReLUs in three round trips, and in two. All that requests and masks depend on is the same.
    groups: [Vec<Group>; 2],
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
        let mut schedule = Self { shapes, steps, batches: vec![], output, word_bits, last_readers };
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
            let rounds = |trips| (0..step.rounds(trips)).map(move |round| step.round_bits(trips, round));
            let all = rounds(RoundTrips::Three).chain(rounds(RoundTrips::Two));
            if all.map(|(down, up)| down.max(up)).max().unwrap_or(0) > MESSAGE_BITS {
                return Err(Error::new(
                    ErrorKind::UnsupportedModel,
                    alloc::format!("node {index}: expected messages of at most 1 GiB, got more"),
                ));
            }
        }
        schedule.batches = schedule.batches();
        schedule.choose_fresh(architecture);
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
    fn packings(&self) -> impl Iterator<Item = (usize, &LinearPacking)> {
        self.steps.iter().enumerate().filter_map(|(index, step)| match step {
            Step::Linear(LinearStep { packing: Some(packing), .. }) => Some((index, packing)),
            _ => None,
        })
    }

    /// Cuts the nodes into runs of bounded bytes.
    fn batches(&self) -> Vec<core::ops::Range<usize>> {
        let (mut batches, mut start, mut bytes) = (vec![], 0, 0u64);
        for (index, step) in self.steps.iter().enumerate() {
            let own = match step {
                Step::Linear(LinearStep { packing: Some(p), .. }) => {
                    p.request_ciphertexts() as u64 * p.ciphertext_memory() as u64
                }
                Step::Activation(step) => {
                    let responses = step.products().div_ceil(slots::SLOT_COUNT) as u64;
                    // A silent extension is begun as far ahead as the batch needs, at about a byte for each OT.
                    let ots: Count = step.chunks(RoundTrips::Three).iter().map(|chunk| chunk.ots).sum();
                    let ots = (ots.single + ots.wide) as u64;
                    responses * slots::slot_response_bytes() as u64 + step.client_rots() as u64 * 8 + ots
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

    /// The runs in which a batch's random OTs with the client as receiver are extended, each a whole number of groups.
    pub(crate) fn client_rots(&self, batch: &core::ops::Range<usize>) -> Vec<usize> {
        let count: usize = self.activations(batch).map(|(_, step)| step.client_rots()).sum();
        (0..count).step_by(CHUNK_OTS).map(|start| round_up((count - start).min(CHUNK_OTS))).collect()
    }

    /// Random OTs that a batch takes.
    pub(crate) fn rots(&self, batch: &core::ops::Range<usize>, trips: RoundTrips) -> BothWays {
        let server = self.activations(batch).flat_map(|(_, step)| step.chunks(trips)).map(|chunk| chunk.ots).sum();
        BothWays { server, client: Count { single: self.client_rots(batch).iter().sum(), wide: 0 } }
    }

    /// Random OTs that so many inferences take.
    pub(crate) fn planned(&self, inferences: u32, trips: RoundTrips) -> BothWays {
        let all = |one: Count| Count {
            single: one.single.saturating_mul(inferences as usize),
            wide: one.wide.saturating_mul(inferences as usize),
        };
        let one = self.batches.iter().map(|batch| self.rots(batch, trips));
        let (server, client) = one.fold(Default::default(), |(s, c), one| (s + one.server, c + one.client));
        BothWays { server: all(server), client: all(client) }
    }

    /// Products in F_p of a batch.
    pub(crate) fn products(&self, batch: &core::ops::Range<usize>) -> usize {
        self.activations(batch).map(|(_, step)| step.products()).sum()
    }

    /// The traffic of one inference as the client counts it, by place, with its round trips by phase; of a silent extension's
    /// refills as many as a session's first inference takes. Setup is not part of it.
    pub(crate) fn forecast(&self, extension: Extension, trips: RoundTrips) -> Forecast {
        let frames = |count: usize, bytes: usize| (count * (HEADER_BYTES + bytes)) as u64;
        let mut traffic = vec![];
        let mut place = |phase, node: Option<usize>, sent, received| {
            traffic.push((Place { phase, node: node.map(|n| n as u32) }, Traffic { sent, received }));
        };
        let planned = self.planned(1, trips);
        let [to_server, to_client] = [planned.server, planned.client].map(|count| Cost::new(extension, count));
        let some = |bytes: usize| if bytes == 0 { 0 } else { frames(1, bytes) };
        let refills = |cost: &Cost| cost.refills.iter().map(|&bytes| frames(1, bytes)).sum::<u64>();
        let mut prepare_sent = frames(1, super::PREPARE_BYTES) + refills(&to_server) + some(to_client.seed);
        let mut prepare_received = refills(&to_client) + some(to_server.seed);
        for batch in &self.batches {
            let slot_frames = self.products(batch).div_ceil(slots::SLOT_COUNT);
            prepare_sent += frames(slot_frames, slots::slot_request_bytes());
            prepare_received += frames(slot_frames, slots::slot_response_bytes());
            for count in self.client_rots(batch) {
                prepare_sent += some(to_client.run_bytes(Count { single: count, wide: 0 }));
            }
        }
        place(Phase::Prepare, None, prepare_sent, prepare_received);
        let mut rounds = 1;
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Linear(LinearStep { packing: Some(p), fresh, .. }) => {
                    let received = (0..p.response_ciphertexts()).map(|j| frames(1, p.response_bytes(j))).sum();
                    let sent = (0..p.request_ciphertexts()).map(|i| frames(1, p.request_bytes(i, fresh))).sum();
                    place(Phase::Prepare, Some(index), sent, received);
                }
                Step::Activation(step) => {
                    let chunks = step.chunks(trips);
                    let received = chunks.iter().map(|c| some(to_server.run_bytes(c.ots) + c.told_bytes)).sum();
                    place(Phase::Prepare, Some(index), 0, received);
                    let (mut sent, mut received) = (0, 0);
                    for round in 0..step.rounds(trips) {
                        let (down, up) = step.round_bytes(trips, round);
                        sent += frames(1, up);
                        received += frames(1, down);
                    }
                    rounds += step.rounds(trips) as u64;
                    place(Phase::Infer, Some(index), sent, received);
                }
                _ => {}
            }
        }
        place(Phase::Infer, None, frames(1, super::BUNDLE_BYTES + self.input_bytes()), frames(1, self.answer_bytes()));
        Forecast {
            traffic,
            prepare_rounds: self.batches.len() as u64 + u64::from(to_server.seed > 0),
            infer_rounds: rounds,
            memory: self.memory(trips),
        }
    }

    fn memory(&self, trips: RoundTrips) -> Memory {
        let bytes = |shape: &Shape| 4 * shape.elements() as u64;
        let ends = self.shapes.first().into_iter().chain(self.shapes.last()).map(bytes);
        let mut memory = Memory { client_bundle: ends.sum(), ..Memory::default() };
        for (step, shape) in self.steps.iter().zip(&self.shapes[1..]) {
            match step {
                Step::Linear(_) => memory.server_bundle += bytes(shape),
                Step::Activation(step) => {
                    let groups = step.groups(trips).iter().map(Group::memory);
                    let (client, server) = groups.fold((0, 0), |(c, s), (client, server)| (c + client, s + server));
                    memory.client_bundle += client;
                    memory.server_bundle += server;
                }
                Step::Local => {}
            }
        }
        memory.weights = self.packings().map(|(_, packing)| packing.transformed_bytes()).sum();
        let requests = |batch: &core::ops::Range<usize>| {
            let packings = self.packings().filter(|(index, _)| batch.contains(index)).map(|(_, packing)| packing);
            let held = |p: &LinearPacking| {
                (p.request_ciphertexts() + p.answers_together()) as u64 * p.ciphertext_memory() as u64
            };
            packings.map(held).sum::<u64>()
        };
        memory.server_prepare = self.batches.iter().map(requests).max().unwrap_or(0);
        memory
    }
}

/// Random OTs, by receiver.
pub(crate) struct BothWays {
    pub(crate) server: Count,
    pub(crate) client: Count,
}

/// What one inference costs, known from the architecture alone.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Bytes that the client sends and receives, by place.
    pub traffic: Vec<(Place, Traffic)>,
    /// Round trips to prepare an inference.
    pub prepare_rounds: u64,
    /// Round trips of an inference.
    pub infer_rounds: u64,
    /// What both parties hold.
    pub memory: Memory,
}

/// Bytes of what grows with a model, as the architecture determines them; what is constant is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// One prepared inference at the client.
    pub client_bundle: u64,
    /// One prepared inference at the server.
    pub server_bundle: u64,
    /// Ciphertexts that the server holds at most while it prepares an inference.
    pub server_prepare: u64,
    /// All weights of the server, transformed; it may keep fewer ([`crate::session::ServerModel::load`]).
    pub weights: u64,
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
        let origins = vec![None; inputs.len()];
        // Those that could be; which of them are is found out when all layers are known.
        let fresh = inputs.iter().map(|&c| !constant[c]).collect();
        Ok(Self { packing, inputs, outputs, unread, origins, fresh })
    }

    /// Puts live output channels where they belong in a tensor; the others are 0.
    pub(crate) fn scatter_outputs(&self, shape: Shape, values: &[u32]) -> Vec<u32> {
        let mut out = vec![0; shape.elements()];
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
        let groups = [RoundTrips::Three, RoundTrips::Two].map(|trips| groups(&aligned, input, output_bits, trips));
        Self { groups, alignment }
    }

    /// Shifts words y + m, or m, of which the low k bits matter up by 32 - k bits. Truncation, of as many more bits, then finds
    /// where y + m wrapped at 2^k as it finds it at 2^32.
    pub(crate) fn align(&self, words: &mut [u32]) {
        let plane = words.len() / self.alignment.len().max(1);
        for (plane, &up) in words.chunks_exact_mut(plane.max(1)).zip(&self.alignment) {
            plane.iter_mut().for_each(|word| *word <<= up);
        }
    }

    /// The groups, with ReLUs in so many round trips.
    pub(crate) fn groups(&self, trips: RoundTrips) -> &[Group] {
        &self.groups[usize::from(trips == RoundTrips::Two)]
    }

    pub(crate) fn products(&self) -> usize {
        self.groups[0].iter().map(|g| g.products() * g.elements()).sum()
    }

    pub(crate) fn client_rots(&self) -> usize {
        self.groups[0].iter().map(|g| g.client_rots() * g.elements()).sum()
    }

    /// The runs in which the layer's random OTs with the server as receiver are extended.
    pub(crate) fn chunks(&self, trips: RoundTrips) -> Vec<Chunk> {
        let mut chunks = vec![];
        for (group, g) in self.groups(trips).iter().enumerate() {
            let rots = g.server_rots();
            if rots.each == Count::default() {
                continue;
            }
            for start in (0..g.elements()).step_by(CHUNK_ELEMENTS) {
                let elements = (g.elements() - start).min(CHUNK_ELEMENTS);
                let Count { single, wide } = rots.of(elements);
                let ots = Count { single: round_up(single), wide: round_up(wide) };
                chunks.push(Chunk { group, elements, ots, told_bytes: rots.told_bytes(elements) });
            }
        }
        chunks
    }

    /// Rounds of the layer: those of its longest protocol.
    pub(crate) fn rounds(&self, trips: RoundTrips) -> usize {
        self.groups(trips).iter().map(|g| g.round_bits().len()).max().unwrap_or(0)
    }

    /// Bits of both messages of a round: (server -> client, client -> server).
    fn round_bits(&self, trips: RoundTrips, round: usize) -> (u64, u64) {
        let bits = self.groups(trips).iter().filter_map(|g| g.round_bits().get(round).copied());
        let (down, up) = bits.fold((0, 0), |(down, up), (d, u)| (down + d, up + u));
        (down, up)
    }

    /// Bytes of both messages of a round; within the limit that the schedule was checked against.
    pub(crate) fn round_bytes(&self, trips: RoundTrips, round: usize) -> (usize, usize) {
        let (down, up) = self.round_bits(trips, round);
        (down.div_ceil(8) as usize, up.div_ceil(8) as usize)
    }
}

fn round_up(ots: usize) -> usize {
    ots.next_multiple_of(softspoken::GROUP)
}

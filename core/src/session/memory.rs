//! How much of the heap a client takes at most, known before it takes any: what is held at each step of its script, in bytes. An
//! upper bound, near what is measured (`core/tests/memory.rs`).

use super::course::{Batch, Course};
use super::order::Mode;
use super::schedule::{LinearStep, Part, Schedule, Step};
use super::{Options, Portions};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, Op};
use crate::ot::softspoken::Depth;
use crate::ot::supply::Count;
use crate::ot::{Direction, Extension, supply};
use crate::rlwe::{self, params};
use alloc::{format, vec, vec::Vec};

/// How a client's library was built, as far as its memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// For a system with memory to spare.
    Hosted,
    /// With the feature `small`, as for a microcontroller.
    Small,
}

impl Build {
    /// This library's.
    pub const THIS: Self = if cfg!(feature = "small") { Self::Small } else { Self::Hosted };
}

/// Bytes of the heap that a client takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientMemory {
    /// Most at once, of the model, the session and one inference: carried out in a stream, or prepared and then done.
    pub peak: u64,
    /// Each further inference that is prepared and waits.
    pub each: u64,
}

impl ClientMemory {
    /// Most at once, with so many inferences prepared.
    pub fn with_bundles(&self, count: u64) -> u64 {
        self.peak.saturating_add(self.each.saturating_mul(count.saturating_sub(1)))
    }
}

/// What the model's and the schedule's lists take, those of the course's order included.
fn model(architecture: &Architecture, schedule: &Schedule, course: &Course) -> u64 {
    let nodes = architecture.nodes.iter().zip(&schedule.steps).zip(&course.order.sources);
    let lists = nodes.map(|((node, step), sources)| {
        let op = match &node.op {
            Op::Sum(sum) => sum.multipliers.iter().map(|list| 24 + 4 * list.len()).sum(),
            Op::Activation(activation) => size_of_val(&activation.channels[..]),
            _ => 0,
        };
        let step = match step {
            Step::Linear(step) => (size_of_val(&step.inputs[..]) + size_of_val(&step.outputs[..])) + step.unread.len(),
            Step::Activation(step) => step.heap_bytes(),
            Step::Local => 0,
        };
        let sources = size_of_val(&sources.origins[..]) + sources.fresh.len();
        node.name.len() + 4 * node.inputs.len() + op + step + sources + 128
    });
    let each = size_of_val(&architecture.nodes[..]) + size_of_val(&schedule.steps[..]);
    (lists.sum::<usize>() + each + 64 * (schedule.steps.len() + 1)) as u64
}

/// Bytes in use, and the most that ever were.
#[derive(Default)]
struct Ledger {
    now: u64,
    peak: u64,
}

impl Ledger {
    fn take(&mut self, bytes: u64) {
        self.now += bytes;
        self.peak = self.peak.max(self.now);
    }

    fn give(&mut self, bytes: u64) {
        self.now -= bytes;
    }

    /// Taken for a moment.
    fn burst(&mut self, bytes: u64) {
        self.peak = self.peak.max(self.now + bytes);
    }
}

/// The client's script, with a ledger alone.
struct Walk<'a> {
    ledger: Ledger,
    architecture: &'a Architecture,
    schedule: &'a Schedule,
    course: &'a Course,
    extension: Extension,
    build: Build,
    /// Ciphertexts worked on at once.
    pieces: u64,
    /// Of each tensor, what its mask takes now.
    masks: Vec<u64>,
    /// What the prepared layers take.
    bundle: u64,
}

/// What a client takes for an inference in a course.
pub(super) fn client(
    architecture: &Architecture,
    schedule: &Schedule,
    course: &Course,
    extension: Extension,
    pieces: usize,
    build: Build,
) -> ClientMemory {
    let mut walk = Walk {
        ledger: Ledger::default(),
        architecture,
        schedule,
        course,
        extension,
        build,
        pieces: pieces as u64,
        masks: vec![0; schedule.shapes.len()],
        bundle: 0,
    };
    walk.ledger.take(model(architecture, schedule, course));
    walk.open();
    walk.infer();
    ClientMemory { peak: walk.ledger.peak, each: walk.bundle }
}

impl Walk<'_> {
    /// The session's set-up, and what stays of it.
    fn open(&mut self) {
        let has_products = self.schedule.products() > 0;
        let rings = [(&params::LINEAR, true), (&params::SLOTS, has_products)];
        for (ring, _) in rings.into_iter().filter(|(_, there)| *there) {
            self.ledger.take(rlwe::memory::key(ring, self.build));
            self.ledger.burst(rlwe::memory::public_key(ring, self.build));
        }
        for direction in [Direction::ServerReceives, Direction::ClientReceives] {
            self.ledger.take(supply::memory(direction, self.extension, self.build));
        }
        // Base OTs, their messages and the trees' corrections; buffers, generators, what is counted.
        self.ledger.burst(2 * 1024 * 24);
        self.ledger.take(match self.build {
            Build::Small => 18 << 10,
            Build::Hosted => 48 << 10,
        });
    }

    fn elements(&self, tensor: usize) -> u64 {
        self.schedule.shapes[tensor].elements() as u64
    }

    fn hold(&mut self, tensor: usize) {
        self.drop(tensor);
        self.masks[tensor] = 4 * self.elements(tensor);
        self.ledger.take(self.masks[tensor]);
    }

    fn drop(&mut self, tensor: usize) {
        self.ledger.give(core::mem::take(&mut self.masks[tensor]));
    }

    fn infer(&mut self) {
        let (schedule, course) = (self.schedule, self.course);
        let ahead = course.mode == Mode::Ahead;
        self.hold(0);
        if ahead {
            // The input's and the output's masks again, in the bundle.
            self.bundle = 4 * (self.elements(0) + self.elements(schedule.shapes.len() - 1));
            self.ledger.take(self.bundle);
        }
        for batch in &course.batches {
            if ahead {
                schedule.activations(&batch.nodes).for_each(|(index, _)| self.hold(index + 1));
            }
            self.ask(batch);
            let signs = if ahead { self.signs(&course.batch_runs(schedule, &batch.nodes)) } else { 0 };
            self.ledger.take(signs);
            if !batch.products.is_empty() {
                // Shares of products, held until all are used.
                let shares = 8 * batch.products.len() as u64;
                let answers = self.pieces * rlwe::memory::slot_answer(self.build);
                match self.build {
                    // Room is made for those of an answer when it has come: beside its slots, and those that are there before.
                    Build::Small => self
                        .ledger
                        .burst(answers.max((64 << 10) + shares.min(64 << 10)) + shares.saturating_sub(64 << 10)),
                    Build::Hosted => self.ledger.burst(shares + answers),
                }
                self.ledger.take(shares);
            }
            for index in batch.nodes.clone() {
                match &schedule.steps[index] {
                    Step::Linear(step) => self.linear(index, step),
                    Step::Local => self.hold(index + 1),
                    Step::Activation(step) => {
                        // Of the tensor that it is applied to, its own or a copy; of a maximum also the mask of the results less one.
                        let input = 4 * self.elements(index + 1);
                        let first = self.architecture.nodes[index].inputs[0] as usize;
                        let max = matches!(self.architecture.nodes[index].op, Op::Max(_));
                        let taken = !max && schedule.last_readers[first] == Some(index);
                        let copies = if max { 2 * input } else { u64::from(!taken) * input };
                        self.ledger.take(copies);
                        if !ahead {
                            self.hold(index + 1);
                        }
                        for part in course.parts(step) {
                            self.part(&part);
                        }
                        self.ledger.give(copies);
                    }
                }
                let last: Vec<usize> = schedule.last_read_by(index).collect();
                last.into_iter().for_each(|tensor| self.drop(tensor));
            }
            self.ledger.give(signs);
        }
        // The answer, and the output twice.
        self.ledger.burst(12 * self.elements(schedule.shapes.len() - 1));
    }

    /// A batch's requests.
    fn ask(&mut self, batch: &Batch) {
        let schedule = self.schedule;
        for index in batch.nodes.clone() {
            if let Step::Linear(step @ LinearStep { packing: Some(packing), .. }) = &schedule.steps[index] {
                let source = schedule.shapes[self.architecture.nodes[index].inputs[0] as usize];
                let gathered = 4 * (step.inputs.len() * source.plane()) as u64;
                let together = self.pieces.min(packing.request_ciphertexts() as u64);
                self.ledger.burst(gathered + together * rlwe::memory::request(self.build));
            }
        }
        if !batch.products.is_empty() {
            let factors = 8 * batch.products.len() as u64;
            self.ledger.burst(rlwe::memory::slot_request(self.pieces, factors, self.build));
        }
    }

    fn linear(&mut self, index: usize, step: &LinearStep) {
        let shape = self.schedule.shapes[index + 1];
        let live = 4 * (step.outputs.len() * shape.plane()) as u64;
        if let Some(packing) = &step.packing {
            let together = self.pieces.min(packing.response_ciphertexts() as u64);
            self.ledger.burst(live + together * rlwe::memory::answer(self.build));
        }
        if step.outputs.len() < shape.channels as usize {
            self.ledger.burst(live + 4 * shape.elements() as u64);
        }
        self.hold(index + 1);
    }

    /// Runs of OTs that the client receives: what stays of them, while they are made of more.
    fn signs(&mut self, runs: &[usize]) -> u64 {
        let kept = 5 * runs.iter().sum::<usize>() as u64;
        let most = runs.iter().copied().max().unwrap_or(0);
        let count = Count { single: most, wide: 0 };
        self.ledger.burst(kept + supply::receiver_memory(self.extension, count, self.build));
        kept
    }

    /// A part of an activation layer.
    fn part(&mut self, part: &Part) {
        let signs = self.signs(&self.course.part_runs(part));
        let (own, _) = part.memory();
        let shares = 8 * part.products() as u64;
        self.ledger.take(signs + own + shares);
        for chunk in part.chunks(self.course.chunk()) {
            let extended = supply::sender_memory(self.extension, chunk.ots, chunk.told_bytes, self.build);
            self.ledger.burst(extended);
        }
        let rounds = (0..part.rounds()).map(|round| part.round_bytes(round));
        let messages = rounds.map(|(down, up)| (down + up) as u64).max().unwrap_or(0);
        // Words of a block beside.
        self.ledger.burst(messages + 16 * 1024);
        self.ledger.give(signs + shares);
        match self.course.mode {
            Mode::Ahead => self.bundle += own,
            Mode::Streamed => self.ledger.give(own),
        }
    }
}

/// From the most memory to the least, and so from the fewest round trips to the most.
const PORTIONS: [Portions; 8] = [
    Portions { chunk: 2048, part: Portions::MOST },
    Portions { chunk: 2048, part: 4096 },
    Portions { chunk: 1024, part: 2048 },
    Portions { chunk: 512, part: 1024 },
    Portions { chunk: 256, part: 512 },
    Portions { chunk: 128, part: 512 },
    Portions { chunk: 128, part: 256 },
    Portions { chunk: 128, part: 128 },
];

/// Chooses portions and the extension's depth that fit, so that an inference can be prepared, if any do, else that one can be
/// carried out in a stream. `needs` gives what a client takes in either mode.
///
/// # Errors
/// [`ErrorKind::Memory`] if none do.
pub(super) fn fit(options: &Options, limit: u64, needs: impl Fn(Mode, &Options) -> u64) -> Result<Options> {
    let soft = |extension: &Extension| *extension == options.extension || *extension != Extension::Silent;
    let extensions = [options.extension, Extension::SoftSpoken(Depth::Four), Extension::SoftSpoken(Depth::Two)];
    let mut least = u64::MAX;
    for mode in [Mode::Ahead, Mode::Streamed] {
        for portions in PORTIONS {
            for extension in extensions.iter().copied().filter(soft) {
                let fitted = Options { extension, portions, ..*options };
                let needed = needs(mode, &fitted);
                if needed <= limit {
                    return Ok(fitted);
                }
                least = least.min(needed);
            }
        }
    }
    Err(too_little("an inference in a stream", limit, least))
}

/// The refusal of what takes more than is allowed.
pub(super) fn too_little(what: &str, limit: u64, needed: u64) -> Error {
    let kib = |bytes: u64| bytes.div_ceil(1024);
    Error::new(
        ErrorKind::Memory,
        format!("memory: {what} takes {} KiB of the heap, expected at most {} KiB", kib(needed), limit / 1024),
    )
}

//! What an inference costs, known from the architecture alone.

use super::course::Course;
use super::meter::{Meter, Phase, Place, Traffic};
use super::order::Mode;
use super::schedule::{LinearStep, Schedule, Step};
use super::{BUNDLE_BYTES, PREPARE_BYTES};
use crate::model::Shape;
use crate::ot::Extension;
use crate::ot::supply::{Cost, Count};
use crate::rlwe::linear::LinearPacking;
use crate::rlwe::slots;
use crate::wire::frame::HEADER_BYTES;
use alloc::vec::Vec;

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

impl Forecast {
    /// The cost of one inference as the client counts it, of a silent extension's refills as many as a session's first inference
    /// takes. Setup is not part of it.
    pub(crate) fn new(schedule: &Schedule, course: &Course, extension: Extension) -> Self {
        let mut walk = Walk { meter: Meter::default(), schedule, course, extension };
        walk.prepare();
        if course.mode == Mode::Ahead {
            walk.send(Phase::Infer, None, BUNDLE_BYTES + schedule.input_bytes());
            for (index, step) in schedule.activations(&(0..schedule.steps.len())) {
                course.parts(step).for_each(|part| walk.rounds(index, &part));
            }
        }
        walk.receive(Phase::Infer, None, schedule.answer_bytes());
        let meter = walk.meter;
        Self {
            traffic: meter.traffic(),
            prepare_rounds: meter.rounds(Phase::Prepare),
            infer_rounds: meter.rounds(Phase::Infer),
            memory: Memory::new(schedule, course),
        }
    }
}

/// The client's script, with a meter alone.
struct Walk<'a> {
    meter: Meter,
    schedule: &'a Schedule,
    course: &'a Course,
    extension: Extension,
}

impl Walk<'_> {
    fn enter(&mut self, phase: Phase, node: Option<usize>) {
        self.meter.enter(Place { phase, node: node.map(|n| n as u32) });
    }

    fn send(&mut self, phase: Phase, node: Option<usize>, bytes: usize) {
        self.enter(phase, node);
        self.meter.sent(HEADER_BYTES + bytes);
    }

    fn receive(&mut self, phase: Phase, node: Option<usize>, bytes: usize) {
        self.enter(phase, node);
        self.meter.received(HEADER_BYTES + bytes);
    }

    /// Preparing, and in a stream all between.
    fn prepare(&mut self) {
        let (schedule, course, phase) = (self.schedule, self.course, Phase::Prepare);
        let planned = course.planned(1);
        let [to_server, to_client] = [planned.server, planned.client].map(|count| Cost::new(self.extension, count));
        self.send(phase, None, if course.mode == Mode::Ahead { PREPARE_BYTES } else { 0 });
        if to_server.seed > 0 {
            self.receive(phase, None, to_server.seed);
        }
        to_server.refills.iter().for_each(|&bytes| self.send(phase, None, bytes));
        if to_client.seed > 0 {
            self.send(phase, None, to_client.seed);
        }
        for batch in &course.batches {
            let linear = |index: usize| match &schedule.steps[index] {
                Step::Linear(LinearStep { packing: Some(packing), .. }) => Some(packing),
                _ => None,
            };
            for index in batch.nodes.clone() {
                if let Some(packing) = linear(index) {
                    let fresh = &course.order.sources[index].fresh;
                    (0..packing.request_ciphertexts())
                        .for_each(|i| self.send(phase, Some(index), packing.request_bytes(i, fresh)));
                }
            }
            let slots = batch.products.len().div_ceil(slots::SLOT_COUNT);
            (0..slots).for_each(|_| self.send(phase, None, slots::slot_request_bytes()));
            if course.mode == Mode::Streamed && batch.nodes.start == 0 {
                self.send(Phase::Infer, None, schedule.input_bytes());
            }
            self.signs(&to_client, course.batch_runs(schedule, &batch.nodes));
            if batch.nodes.start == 0 {
                to_client.refills.iter().for_each(|&bytes| self.receive(phase, None, bytes));
            }
            (0..slots).for_each(|_| self.receive(phase, None, slots::slot_response_bytes()));
            for index in batch.nodes.clone() {
                if let Some(packing) = linear(index) {
                    (0..packing.response_ciphertexts())
                        .for_each(|j| self.receive(phase, Some(index), packing.response_bytes(j)));
                }
                if let Step::Activation(step) = &schedule.steps[index] {
                    for part in course.parts(step) {
                        self.signs(&to_client, course.part_runs(&part));
                        for chunk in part.chunks(course.chunk()) {
                            let bytes = to_server.run_bytes(chunk.ots) + chunk.told_bytes;
                            if bytes > 0 {
                                self.receive(phase, Some(index), bytes);
                            }
                        }
                        if course.mode == Mode::Streamed {
                            self.rounds(index, &part);
                        }
                    }
                }
            }
        }
    }

    /// Runs of random OTs that the client receives.
    fn signs(&mut self, cost: &Cost, runs: Vec<usize>) {
        for count in runs {
            let bytes = cost.run_bytes(Count { single: count, wide: 0 });
            if bytes > 0 {
                self.send(Phase::Prepare, None, bytes);
            }
        }
    }

    /// The rounds of a part of an activation layer.
    fn rounds(&mut self, index: usize, part: &super::schedule::Part) {
        for round in 0..part.rounds() {
            let (down, up) = part.round_bytes(round);
            self.receive(Phase::Infer, Some(index), down);
            self.send(Phase::Infer, Some(index), up);
        }
    }
}

impl Memory {
    fn new(schedule: &Schedule, course: &Course) -> Self {
        let bytes = |shape: &Shape| 4 * shape.elements() as u64;
        let ends = schedule.shapes.first().into_iter().chain(schedule.shapes.last()).map(bytes);
        let mut memory = Self { client_bundle: ends.sum(), ..Self::default() };
        for (step, shape) in schedule.steps.iter().zip(&schedule.shapes[1..]) {
            match step {
                Step::Linear(_) => memory.server_bundle += bytes(shape),
                Step::Activation(step) => {
                    let (client, server) = step.whole(course.trips).memory();
                    memory.client_bundle += client;
                    memory.server_bundle += server;
                }
                Step::Local => {}
            }
        }
        memory.weights = schedule.packings().map(|(_, packing)| packing.transformed_bytes()).sum();
        let requests = |batch: &core::ops::Range<usize>| {
            let packings = schedule.packings().filter(|(index, _)| batch.contains(index)).map(|(_, packing)| packing);
            let held = |p: &LinearPacking| {
                (p.request_ciphertexts() + p.answers_together()) as u64 * p.ciphertext_memory() as u64
            };
            packings.map(held).sum::<u64>()
        };
        memory.server_prepare = course.order.batches.iter().map(requests).max().unwrap_or(0);
        memory
    }
}

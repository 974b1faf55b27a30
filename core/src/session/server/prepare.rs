//! Preparing inferences, the server's side: answers to encrypted masks, and random OTs.

use super::{Bundle, Party, Private};
use crate::activation::{ReceiverRots, ServerLayer, product_word};
use crate::error::{ErrorKind, Result};
use crate::ot::supply::Count;
use crate::prg::{Prg, SecretVec, collect};
use crate::rlwe::linear::LinearResponder;
use crate::rlwe::{PublicKey, slots};
use crate::session::course::{Batch, Course};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::order::Mode;
use crate::session::schedule::{LinearStep, Part, Step};
use crate::session::stock::Stock;
use crate::session::{BundleId, PREPARE_BYTES, check_room};
use crate::wire::frame::FrameKind;
use alloc::collections::BTreeMap;
use alloc::{vec, vec::Vec};

/// Receives a batch's encrypted masks.
async fn receive_linear<'a>(
    link: &Link,
    private: &'a Private,
    course: &'a Course,
    batch: &Batch,
) -> Result<BTreeMap<usize, LinearResponder<'a>>> {
    let mut responders = BTreeMap::new();
    for index in batch.nodes.clone() {
        if let (Step::Linear(LinearStep { packing: Some(packing), .. }), Some(weights)) =
            (&private.schedule.steps[index], &private.weights[index])
        {
            let fresh = &course.order.sources[index].fresh;
            link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
            let mut responder = LinearResponder::new(weights, fresh);
            for run in private.threads.runs(packing.request_ciphertexts()) {
                let bytes = run.clone().map(|i| packing.request_bytes(i, fresh));
                let requests = link.receive_all(FrameKind::LinearRequest, bytes).await?;
                responder.absorb_all(&private.threads, run.start, &requests)?;
            }
            responders.insert(index, responder);
        }
    }
    Ok(responders)
}

/// A batch's requests.
pub(super) struct Asked<'a> {
    pub(super) responders: BTreeMap<usize, LinearResponder<'a>>,
    /// The answers to requests of products.
    responses: Vec<Vec<u8>>,
}

/// Multiplies a request's factors with fresh uniform u, gives (u, wS) of as many as are asked for, and the response.
fn multiply(key: &PublicKey, request: &[u8], mut prg: Prg, products: &mut [[u64; 2]]) -> Result<Vec<u8>> {
    let multipliers = collect(slots::SLOT_COUNT, (0..slots::SLOT_COUNT).map(|_| prg.below(crate::field::P)));
    let mut shares: SecretVec<u64> = vec![0; slots::SLOT_COUNT].into();
    let response = slots::multiply_slots(key, request, &multipliers, &mut prg, &mut shares)?;
    for (slot, (&u, &w)) in products.iter_mut().zip(multipliers.iter().zip(shares.iter())) {
        *slot = [u, w];
    }
    Ok(response)
}

impl Party {
    /// Prepares as many inferences as the message asks for.
    pub(super) async fn prepare(&mut self, link: &Link, message: &[u8], max_bundles: u32) -> Result<()> {
        let count = <[u8; PREPARE_BYTES]>::try_from(message).map_or(0, u32::from_le_bytes);
        check_room(ErrorKind::MalformedMessage, count, self.bundles.len(), max_bundles)?;
        for left in (1..=count).rev() {
            let bundle = self.prepare_bundle(link, left).await?;
            self.bundles.insert(BundleId::new(&self.session, self.prepared), bundle);
            self.prepared += 1;
        }
        Ok(())
    }

    /// Prepares one inference of the `left` that are asked for: everything that does not depend on its input.
    async fn prepare_bundle(&mut self, link: &Link, left: u32) -> Result<Bundle> {
        let (private, course) = (self.private.clone(), self.course(Mode::Ahead));
        let schedule = &private.schedule;
        let mut masks = vec![SecretVec::default(); schedule.steps.len()];
        let mut layers = Vec::new();
        layers.resize_with(schedule.steps.len(), || None);
        let mut products = Stock::new();
        for batch in &course.batches {
            let mut asked = self.take_requests(link, (&private, &course), batch, left, &mut products).await?;
            let signs = self.open(link, (&private, &course), batch, left, &mut asked).await?;
            let mut signs = &signs[..];
            for index in batch.nodes.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => {
                        masks[index] = self.respond(link, index, step, asked.responders.remove(&index)).await?;
                    }
                    Step::Local => {}
                    Step::Activation(step) => {
                        let whole = step.whole(course.trips);
                        let (own, rest) = signs.split_at(whole.client_rots());
                        signs = rest;
                        layers[index] = Some(self.fill(link, &course, (index, whole), own, &mut products).await?);
                    }
                }
            }
        }
        Ok(Bundle { masks, layers })
    }

    /// Receives a batch's requests.
    pub(super) async fn take_requests<'a>(
        &mut self,
        link: &Link,
        (private, course): (&'a Private, &'a Course),
        batch: &Batch,
        left: u32,
        products: &mut Stock<[u64; 2]>,
    ) -> Result<Asked<'a>> {
        let (needed, planned) = (batch.rots, course.planned(left));
        link.enter(Place { phase: Phase::Prepare, node: None });
        let seed = self.rot_receiver.seed(needed.server, planned.server)?;
        if !seed.is_empty() {
            link.send(FrameKind::OtSeed, seed).await?;
        }
        for set in self.rot_receiver.due(needed.server, planned.server) {
            let message = link.receive(FrameKind::OtRefill, set.refill_bytes()).await?;
            self.rot_receiver.refill(set, &message)?;
        }
        let seed = self.rot_sender.seed_bytes(needed.client, planned.client);
        if seed > 0 {
            let message = link.receive(FrameKind::OtSeed, seed).await?;
            self.rot_sender.seed(needed.client, planned.client, &message)?;
        }
        let responders = receive_linear(link, private, course, batch).await?;
        link.enter(Place { phase: Phase::Prepare, node: None });
        let responses = self.multiply(link, products.add(batch.products.len())).await?;
        Ok(Asked { responders, responses })
    }

    /// What comes before a batch's nodes: products are answered, and OTs received; their words are returned.
    pub(super) async fn open(
        &mut self,
        link: &Link,
        (private, course): (&Private, &Course),
        batch: &Batch,
        left: u32,
        asked: &mut Asked<'_>,
    ) -> Result<SecretVec<[u32; 2]>> {
        let schedule = &private.schedule;
        let (needed, planned) = (batch.rots, course.planned(left));
        link.enter(Place { phase: Phase::Prepare, node: None });
        for refill in self.rot_sender.refill(needed.client, planned.client)? {
            link.send(FrameKind::OtRefill, refill).await?;
        }
        let signs = self.receive_signs(link, &course.batch_runs(schedule, &batch.nodes)).await?;
        // Nothing is sent before the client has sent the whole batch, so that neither waits on the other's buffers.
        for response in asked.responses.drain(..) {
            link.send(FrameKind::SlotResponse, response).await?;
        }
        link.flush().await;
        Ok(signs)
    }

    /// Prepares a part of an activation layer: its tables get their random OTs.
    pub(super) async fn fill(
        &mut self,
        link: &Link,
        course: &Course,
        (index, part): (usize, &Part),
        signs: &[[u32; 2]],
        products: &mut Stock<[u64; 2]>,
    ) -> Result<ServerLayer> {
        let private = self.private.clone();
        let secrets = private.activation_secrets(index)?;
        let mut layer = ServerLayer::new(part.groups(), secrets, signs, products.take(part.products()));
        for chunk in part.chunks(course.chunk()) {
            let (mut message, received, wide) = self.rot_receiver.extend(chunk.ots)?;
            let mut rots = ReceiverRots::new(&received, wide.as_ref(), chunk.elements);
            layer.absorb(chunk.group, &mut rots);
            message.extend(rots.finish());
            if !message.is_empty() {
                link.send(FrameKind::OtExtension, message).await?;
                link.flush().await;
            }
        }
        Ok(layer)
    }

    /// Receives encrypted factors, multiplies each with a fresh uniform u, writes (u, wS), and returns the responses.
    async fn multiply(&mut self, link: &Link, products: &mut [[u64; 2]]) -> Result<Vec<Vec<u8>>> {
        let mut responses = vec![];
        if let Some(key) = &self.slot_key {
            let threads = &self.private.threads;
            for run in products.chunks_mut(threads.pieces() * slots::SLOT_COUNT) {
                let parts = run.chunks_mut(slots::SLOT_COUNT);
                let bytes = core::iter::repeat_n(slots::slot_request_bytes(), parts.len());
                let requests = link.receive_all(FrameKind::SlotRequest, bytes).await?;
                let pieces = parts.zip(requests).map(|(part, request)| (part, request, self.prg.fork()));
                let answers = threads.map(pieces, |(part, request, prg)| multiply(key, &request, prg, part));
                for answer in answers {
                    responses.push(answer?);
                }
            }
        }
        Ok(responses)
    }

    /// The words of random OTs with the client as receiver.
    pub(super) async fn receive_signs(&mut self, link: &Link, runs: &[usize]) -> Result<SecretVec<[u32; 2]>> {
        let mut words = SecretVec::new(Vec::with_capacity(runs.iter().sum()));
        for &count in runs {
            let count = Count { single: count, wide: 0 };
            let message = match self.rot_sender.run_bytes(count) {
                0 => vec![],
                bytes => link.receive(FrameKind::OtExtension, bytes).await?,
            };
            words.extend(self.rot_sender.extend(count, &message)?.0.iter().map(|keys| keys.map(product_word)));
        }
        Ok(words)
    }

    /// Sends the responses of a linear layer; returns s, in the shape of the layer's output.
    pub(super) async fn respond(
        &mut self,
        link: &Link,
        index: usize,
        step: &LinearStep,
        responder: Option<LinearResponder<'_>>,
    ) -> Result<SecretVec<u32>> {
        let private = self.private.clone();
        let shape = private.schedule.shapes[index + 1];
        let mut live: SecretVec<u32> = vec![0; step.outputs.len() * shape.plane()].into();
        if let (Some(packing), Some(mut responder)) = (&step.packing, responder) {
            let threads = &private.threads;
            for run in threads.runs(packing.response_ciphertexts()) {
                for response in responder.respond_all(threads, run, &self.linear_key, &mut self.prg, &mut live)? {
                    link.send(FrameKind::LinearResponse, response).await?;
                }
                link.flush().await;
            }
        }
        Ok(step.scatter_outputs(shape, live))
    }
}

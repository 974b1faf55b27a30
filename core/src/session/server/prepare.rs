//! Preparing inferences, the server's side: answers to encrypted masks, and random OTs.

use super::{Bundle, Party, Private};
use crate::activation::{ReceiverRots, ServerLayer, product_word};
use crate::error::{ErrorKind, Result};
use crate::ot::supply::Count;
use crate::prg::{Prg, SecretVec, collect};
use crate::rlwe::linear::LinearResponder;
use crate::rlwe::{PublicKey, slots};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::{LinearStep, Step};
use crate::session::{BundleId, PREPARE_BYTES, check_room};
use crate::wire::frame::FrameKind;
use alloc::collections::BTreeMap;
use alloc::{vec, vec::Vec};

/// Receives a batch's encrypted masks.
async fn receive_linear<'a>(
    link: &Link,
    private: &'a Private,
    batch: &core::ops::Range<usize>,
) -> Result<BTreeMap<usize, LinearResponder<'a>>> {
    let mut responders = BTreeMap::new();
    for index in batch.clone() {
        if let (Step::Linear(LinearStep { packing: Some(packing), fresh, .. }), Some(weights)) =
            (&private.schedule.steps[index], &private.weights[index])
        {
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
        let private = self.private.clone();
        let schedule = &private.schedule;
        let mut masks = vec![SecretVec::default(); schedule.steps.len()];
        let mut layers = Vec::new();
        layers.resize_with(schedule.steps.len(), || None);
        for batch in &schedule.batches {
            let (needed, planned) = (schedule.rots(batch, self.round_trips), schedule.planned(left, self.round_trips));
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
            let mut responders = receive_linear(link, &private, batch).await?;
            link.enter(Place { phase: Phase::Prepare, node: None });
            let (products, responses) = self.multiply(link, batch).await?;
            for refill in self.rot_sender.refill(needed.client, planned.client)? {
                link.send(FrameKind::OtRefill, refill).await?;
            }
            let signs = self.receive_signs(link, &schedule.client_rots(batch)).await?;
            // Nothing is sent before the client has sent the whole batch, so that neither waits on the other's buffers.
            for response in responses {
                link.send(FrameKind::SlotResponse, response).await?;
            }
            link.flush().await;
            let (mut signs, mut products) = (&signs[..], &products[..]);
            for index in batch.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => {
                        masks[index] =
                            self.respond(link, step, responders.remove(&index), schedule.shapes[index + 1]).await?;
                    }
                    Step::Local => {}
                    Step::Activation(step) => {
                        let (own_signs, rest) = signs.split_at(step.client_rots());
                        signs = rest;
                        let (own_products, rest) = products.split_at(step.products());
                        products = rest;
                        let secrets = private.activation_secrets(index)?;
                        let mut layer =
                            ServerLayer::new(step.groups(self.round_trips), secrets, own_signs, own_products);
                        for chunk in step.chunks(self.round_trips) {
                            let (mut message, received, wide) = self.rot_receiver.extend(chunk.ots)?;
                            let mut rots = ReceiverRots::new(&received, wide.as_ref(), chunk.elements);
                            layer.absorb(chunk.group, &mut rots);
                            message.extend(rots.finish());
                            if !message.is_empty() {
                                link.send(FrameKind::OtExtension, message).await?;
                                link.flush().await;
                            }
                        }
                        layers[index] = Some(layer);
                    }
                }
            }
        }
        Ok(Bundle { masks, layers })
    }

    /// Receives a batch's encrypted factors, multiplies each with a fresh uniform u, and returns (u, wS) and the responses.
    async fn multiply(
        &mut self,
        link: &Link,
        batch: &core::ops::Range<usize>,
    ) -> Result<(SecretVec<[u64; 2]>, Vec<Vec<u8>>)> {
        let mut products: SecretVec<[u64; 2]> = vec![[0; 2]; self.private.schedule.products(batch)].into();
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
        Ok((products, responses))
    }

    /// The words of a batch's random OTs with the client as receiver.
    async fn receive_signs(&mut self, link: &Link, runs: &[usize]) -> Result<SecretVec<[u32; 2]>> {
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
    async fn respond(
        &mut self,
        link: &Link,
        step: &LinearStep,
        responder: Option<LinearResponder<'_>>,
        shape: crate::model::Shape,
    ) -> Result<SecretVec<u32>> {
        let mut live: SecretVec<u32> = vec![0; step.outputs.len() * shape.plane()].into();
        if let (Some(packing), Some(mut responder)) = (&step.packing, responder) {
            let threads = &self.private.threads;
            for run in threads.runs(packing.response_ciphertexts()) {
                for response in responder.respond_all(threads, run, &self.linear_key, &mut self.prg, &mut live)? {
                    link.send(FrameKind::LinearResponse, response).await?;
                }
                link.flush().await;
            }
        }
        Ok(step.scatter_outputs(shape, &live).into())
    }
}

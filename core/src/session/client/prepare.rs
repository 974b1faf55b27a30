//! Preparing inferences, the client's side: masks are drawn and encrypted, answers decrypted, tables filled with random OTs.

use super::{Bundle, Done, Party, Public};
use crate::activation::{ClientLayer, ClientSecrets, SenderRots, product_word};
use crate::error::{Error, ErrorKind, Result};
use crate::layer;
use crate::map::Map;
use crate::model::{Op, Shape};
use crate::ot::supply::Count;
use crate::prg::{Prg, SecretVec, collect};
use crate::rlwe::{linear, slots};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::{LinearStep, Origin, Step};
use crate::session::{BundleId, PREPARE_BYTES, check_room, invalid_state};
use crate::share::Mask;
use crate::wire::frame::FrameKind;
use alloc::boxed::Box;
use alloc::{format, vec, vec::Vec};

/// Prepares inferences one after another.
pub(super) async fn prepare(link: &Link, mut party: Box<Party>, count: u32) -> Result<Done> {
    party.check_room(count)?;
    if count > 0 {
        link.enter(Place { phase: Phase::Prepare, node: None });
        let request: [u8; PREPARE_BYTES] = count.to_le_bytes();
        link.send(FrameKind::Prepare, request.to_vec()).await?;
    }
    for left in (1..=count).rev() {
        let bundle = party.prepare_bundle(link, left).await?;
        party.bundles.insert(BundleId::new(&party.session, party.prepared), bundle);
        party.prepared += 1;
    }
    Ok(Done { party: Some(party), output: None })
}

/// The masks of a bundle's tensors as they become known. Those of the input and of activation outputs are free: they are drawn at the
/// start, and where a linear layer's requests bring others ([`crate::session::fresh`]), replaced by these. Those of linear outputs come
/// from the server's responses.
struct Masks<'a> {
    public: &'a Public,
    tensors: Vec<Option<Mask>>,
}

impl Masks<'_> {
    /// Computes the mask of a local operator's output, if those of its inputs are known.
    fn compute(&mut self, index: usize) {
        let shapes = &self.public.schedule.shapes;
        let node = &self.public.architecture.nodes[index];
        let known = node.inputs.iter().map(|&t| Some((shapes[t as usize], &self.tensors[t as usize].as_ref()?[..])));
        let inputs: Option<Vec<_>> = known.collect();
        if let Some(mask) = inputs.and_then(|inputs| layer::local(&node.op, &inputs, shapes[index + 1])) {
            self.tensors[index + 1] = Some(mask);
        }
    }

    /// The mask of a linear layer's live input channels, and where its channels are.
    fn gather(&self, index: usize, step: &LinearStep) -> Result<Mask> {
        let source = self.public.architecture.nodes[index].inputs[0] as usize;
        let plane = self.public.schedule.shapes[source].plane();
        let mut out = SecretVec::new(Vec::with_capacity(step.inputs.len() * plane));
        for (&channel, origin) in step.inputs.iter().zip(&step.origins) {
            let Origin { tensor, start } = origin.unwrap_or(Origin { tensor: source, start: channel * plane });
            out.extend_from_slice(&self.of(tensor)?[start..start + plane]);
        }
        Ok(out)
    }

    /// Puts the fresh channels of what [`Self::gather`] gave back.
    fn scatter(&mut self, step: &LinearStep, mask: &[u32]) {
        let plane = mask.len() / step.inputs.len().max(1);
        for ((origin, fresh), words) in step.origins.iter().zip(&step.fresh).zip(mask.chunks_exact(plane.max(1))) {
            if let (Some(Origin { tensor, start }), true) = (*origin, *fresh)
                && let Some(chosen) = &mut self.tensors[tensor]
            {
                chosen[start..start + plane].copy_from_slice(words);
            }
        }
    }

    /// Erases the masks of tensors that no node after this one reads.
    fn forget(&mut self, index: usize) {
        for tensor in self.public.schedule.last_read_by(index) {
            self.tensors[tensor] = None;
        }
    }

    /// The masks around an activation layer: of the values that it is applied to, and of its results.
    fn around(&self, index: usize) -> Result<(Mask, Mask)> {
        let node = &self.public.architecture.nodes[index];
        let output = self.of(index + 1)?;
        let of = |i: usize| self.of(node.inputs[i] as usize);
        match node.op {
            // max(a, b) = b + ReLU(a - b): the mask of b is taken off again.
            Op::Max(_) => Ok((subtract(of(0)?, of(1)?), subtract(output, of(1)?))),
            _ => Ok((of(0)?.to_vec().into(), output.to_vec().into())),
        }
    }

    fn of(&self, tensor: usize) -> Result<&[u32]> {
        match self.tensors.get(tensor) {
            Some(Some(mask)) => Ok(mask),
            _ => {
                Err(Error::new(ErrorKind::MalformedModel, format!("tensor {tensor}: expected a mask by now, got none")))
            }
        }
    }
}

/// What the client keeps of the random OTs that it received for a batch.
struct Signs {
    choices: SecretVec<u8>,
    words: SecretVec<u32>,
}

impl Signs {
    fn with_capacity(count: usize) -> Self {
        Self { choices: Vec::with_capacity(count).into(), words: Vec::with_capacity(count).into() }
    }
}

fn subtract(a: &[u32], b: &[u32]) -> SecretVec<u32> {
    collect(a.len(), a.iter().zip(b).map(|(&a, &b)| a.wrapping_sub(b)))
}

impl Party {
    /// Whether the server holds `count` more bundles.
    pub(super) fn check_room(&self, count: u32) -> Result<()> {
        check_room(ErrorKind::InvalidArgument, count, self.bundles.len(), self.max_bundles)
    }

    /// Prepares one inference of the `left` that are asked for: everything that does not depend on its input.
    async fn prepare_bundle(&mut self, link: &Link, left: u32) -> Result<Bundle> {
        let public = self.public.clone();
        let schedule = &public.schedule;
        let nodes = public.architecture.nodes.len();
        let mut masks = Masks { public: &public, tensors: vec![None; nodes + 1] };
        let inputs = schedule.shapes[0].elements();
        masks.tensors[0] = Some(collect(inputs, (0..inputs).map(|_| self.prg.next_u32())));
        let mut input_mask = Mask::default();
        let mut secrets = Map::new();
        for (index, step) in schedule.activations(&(0..nodes)) {
            let mut drawn = ClientSecrets::draw(
                step.groups(self.round_trips),
                schedule.shapes[index + 1].elements(),
                &mut self.prg,
            );
            masks.tensors[index + 1] = Some(core::mem::take(&mut drawn.outputs));
            secrets.insert(index, drawn);
        }

        let mut layers = vec![];
        for batch in &schedule.batches {
            let (needed, planned) = (schedule.rots(batch, self.round_trips), schedule.planned(left, self.round_trips));
            let mut signs = Signs::with_capacity(needed.client.single);
            link.enter(Place { phase: Phase::Prepare, node: None });
            let seed = self.rot_sender.seed_bytes(needed.server, planned.server);
            if seed > 0 {
                let message = link.receive(FrameKind::OtSeed, seed).await?;
                self.rot_sender.seed(needed.server, planned.server, &message)?;
            }
            for refill in self.rot_sender.refill(needed.server, planned.server)? {
                link.send(FrameKind::OtRefill, refill).await?;
            }
            link.flush().await;
            let seed = self.rot_receiver.seed(needed.client, planned.client)?;
            if !seed.is_empty() {
                link.send(FrameKind::OtSeed, seed).await?;
            }
            self.send_requests(link, batch, &mut masks, &secrets).await?;
            // Silent OTs may need the server's refills first; all others are asked for with the requests.
            let silent = self.rot_receiver.run_bytes(needed.client) == 0;
            if !silent {
                self.extend_signs(link, batch, &mut signs).await?;
            }
            if batch.start == 0 {
                input_mask = masks.of(0)?.to_vec().into();
            }
            if silent {
                for set in self.rot_receiver.due(needed.client, planned.client) {
                    let message = link.receive(FrameKind::OtRefill, set.refill_bytes()).await?;
                    self.rot_receiver.refill(set, &message)?;
                }
                self.extend_signs(link, batch, &mut signs).await?;
            }
            let products = self.receive_products(link, batch).await?;
            let (mut signs, mut products) = ((&signs.choices[..], &signs.words[..]), &products[..]);
            for index in batch.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => {
                        let mask = self.receive_linear(link, step, schedule.shapes[index + 1]).await?;
                        masks.tensors[index + 1] = Some(mask);
                    }
                    Step::Local => masks.compute(index),
                    Step::Activation(step) => {
                        let mine = (&signs.0[..step.client_rots()], &signs.1[..step.client_rots()]);
                        signs = (&signs.0[step.client_rots()..], &signs.1[step.client_rots()..]);
                        let (own_products, rest) = products.split_at(step.products());
                        products = rest;
                        let own = secrets.remove(&index).ok_or_else(|| invalid_state("layer: expected its secrets"))?;
                        let (mut input, output) = masks.around(index)?;
                        step.align(&mut input);
                        let mut layer = ClientLayer::new(
                            step.groups(self.round_trips),
                            &own,
                            (&input, &output),
                            mine,
                            own_products,
                            &mut self.prg,
                        );
                        for chunk in step.chunks(self.round_trips) {
                            let run = self.rot_sender.run_bytes(chunk.ots);
                            let message = match run + chunk.told_bytes {
                                0 => vec![],
                                bytes => link.receive(FrameKind::OtExtension, bytes).await?,
                            };
                            let (message, told) = message.split_at(run);
                            let (keys, mut wide) = self.rot_sender.extend(chunk.ots, message)?;
                            let mut rots = SenderRots::new(&keys, wide.as_mut(), told, chunk.elements);
                            layer.absorb(chunk.group, &mut rots);
                            rots.finish()?;
                        }
                        layers.push((index, layer));
                    }
                }
                if !link.is_traced() {
                    masks.forget(index);
                }
            }
        }
        link.show(masks.tensors.iter().flatten().map(|mask| &mask[..]));
        Ok(Bundle { input_mask, layers, output_mask: masks.of(nodes)?.to_vec().into() })
    }

    /// Sends a batch's ciphertexts.
    async fn send_requests(
        &mut self,
        link: &Link,
        batch: &core::ops::Range<usize>,
        masks: &mut Masks<'_>,
        secrets: &Map<usize, ClientSecrets>,
    ) -> Result<()> {
        let public = self.public.clone();
        let schedule = &public.schedule;
        for index in batch.clone() {
            if let Step::Local = &schedule.steps[index] {
                // Of masks that are fresh this is computed again below, before anyone looks at it.
                masks.compute(index);
            }
            if let Step::Linear(step @ LinearStep { packing: Some(packing), .. }) = &schedule.steps[index] {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                let mut mask = masks.gather(index, step)?;
                for run in self.threads.runs(packing.request_ciphertexts()) {
                    let (key, prg) = (&self.linear_key, &mut self.prg);
                    for request in
                        linear::encrypt_requests(&self.threads, key, packing, &step.fresh, &mut mask, run, prg)?
                    {
                        link.send(FrameKind::LinearRequest, request).await?;
                    }
                    link.flush().await;
                }
                masks.scatter(step, &mask);
            }
        }
        link.enter(Place { phase: Phase::Prepare, node: None });
        let factors = schedule
            .activations(batch)
            .filter_map(|(index, step)| Some(secrets.get(&index)?.factors(step.groups(self.round_trips))))
            .flatten();
        let factors = collect(schedule.products(batch), factors);
        if let Some(key) = &self.slot_key {
            for run in factors.chunks(self.threads.pieces() * slots::SLOT_COUNT) {
                let pieces = run.chunks(slots::SLOT_COUNT).map(|values| (values, self.prg.fork()));
                let encrypt = |(values, mut prg): (&[u64], Prg)| slots::encrypt_slots(key, values, &mut prg);
                for request in self.threads.map(pieces, encrypt) {
                    link.send(FrameKind::SlotRequest, request?).await?;
                }
                link.flush().await;
            }
        }
        Ok(())
    }

    /// Makes a batch's OTs in which the client receives.
    async fn extend_signs(&mut self, link: &Link, batch: &core::ops::Range<usize>, signs: &mut Signs) -> Result<()> {
        for count in self.public.clone().schedule.client_rots(batch) {
            let (message, received, _) = self.rot_receiver.extend(Count { single: count, wide: 0 })?;
            if !message.is_empty() {
                link.send(FrameKind::OtExtension, message).await?;
                link.flush().await;
            }
            signs.choices.extend((0..count).map(|j| received.choice_bits(j, 1) as u8));
            signs.words.extend(received.keys.iter().map(|&key| product_word(key)));
        }
        Ok(())
    }

    /// The client's shares of a batch's products.
    async fn receive_products(&self, link: &Link, batch: &core::ops::Range<usize>) -> Result<SecretVec<u64>> {
        let mut shares: SecretVec<u64> = vec![0; self.public.schedule.products(batch)].into();
        if let Some(key) = &self.slot_key {
            for run in shares.chunks_mut(self.threads.pieces() * slots::SLOT_COUNT) {
                let parts = run.chunks_mut(slots::SLOT_COUNT);
                let bytes = core::iter::repeat_n(slots::slot_response_bytes(), parts.len());
                let responses = link.receive_all(FrameKind::SlotResponse, bytes).await?;
                let decrypt = |(response, values): (Vec<u8>, _)| slots::decrypt_slots(key, &response, values);
                self.threads.map(responses.into_iter().zip(parts), decrypt).into_iter().collect::<Result<()>>()?;
            }
        }
        Ok(shares)
    }

    /// The mask m = W · r + s of a linear layer's output.
    async fn receive_linear(&self, link: &Link, step: &LinearStep, shape: Shape) -> Result<Mask> {
        let mut live: SecretVec<u32> = vec![0; step.outputs.len() * shape.plane()].into();
        if let Some(packing) = &step.packing {
            for run in self.threads.runs(packing.response_ciphertexts()) {
                let (first, bytes) = (run.start, run.map(|j| packing.response_bytes(j)));
                let responses = link.receive_all(FrameKind::LinearResponse, bytes).await?;
                linear::decrypt_responses(&self.threads, &self.linear_key, packing, first, &responses, &mut live)?;
            }
        }
        Ok(step.scatter_outputs(shape, &live).into())
    }
}

//! Preparing, the client's side: masks are drawn and encrypted, answers decrypted, tables filled with random OTs.

use super::{Bundle, Done, Party, Public};
use crate::activation::{ClientLayer, SenderRots, draw_outputs, draw_shares, factors, product_word};
use crate::error::{Error, ErrorKind, Result};
use crate::layer;
use crate::map::Map;
use crate::model::Op;
use crate::ot::supply::Count;
use crate::prg::{Prg, SecretVec, Seed, collect};
use crate::rlwe::{linear, slots};
use crate::session::course::{Batch, Course};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::order::{Mode, Origin, Sources};
use crate::session::schedule::{LinearStep, Part, Step};
use crate::session::stock::Stock;
use crate::session::{BundleId, PREPARE_BYTES, check_room};
use crate::share::Mask;
use crate::wire::frame::FrameKind;
use alloc::boxed::Box;
use alloc::{format, vec, vec::Vec};
use core::ops::Range;

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

/// The masks of an inference's tensors as they become known. Those of the input and of activation outputs are free: they are drawn
/// when their batch begins, and where a linear layer's requests bring others ([`crate::session::order`]), replaced by these. Those of
/// linear outputs come from the server's responses.
pub(super) struct Masks<'a> {
    public: &'a Public,
    tensors: Vec<Option<Mask>>,
}

impl Masks<'_> {
    /// Computes the mask of a local operator's output, if those of its inputs are known.
    pub(super) fn compute(&mut self, index: usize) {
        let shapes = &self.public.schedule.shapes;
        let node = &self.public.architecture.nodes[index];
        let known = node.inputs.iter().map(|&t| Some((shapes[t as usize], &self.tensors[t as usize].as_ref()?[..])));
        let inputs: Option<Vec<_>> = known.collect();
        if let Some(mask) = inputs.and_then(|inputs| layer::local(&node.op, &inputs, shapes[index + 1])) {
            self.tensors[index + 1] = Some(mask);
        }
    }

    /// The mask of a linear layer's live input channels, and where its channels are.
    fn gather(&self, index: usize, step: &LinearStep, sources: &Sources) -> Result<Mask> {
        let source = self.public.architecture.nodes[index].inputs[0] as usize;
        let plane = self.public.schedule.shapes[source].plane();
        let mut out = SecretVec::new(Vec::with_capacity(step.inputs.len() * plane));
        for (place, &channel) in step.inputs.iter().enumerate() {
            let own = Origin { tensor: source, start: channel * plane };
            let Origin { tensor, start } = sources.origins.get(place).copied().flatten().unwrap_or(own);
            out.extend_from_slice(&self.of(tensor)?[start..start + plane]);
        }
        Ok(out)
    }

    /// Puts the fresh channels of what [`Self::gather`] gave back.
    fn scatter(&mut self, step: &LinearStep, sources: &Sources, mask: &[u32]) {
        let plane = mask.len() / step.inputs.len().max(1);
        let Sources { origins, fresh } = sources;
        for ((origin, fresh), words) in origins.iter().zip(fresh).zip(mask.chunks_exact(plane.max(1))) {
            if let (Some(Origin { tensor, start }), true) = (*origin, *fresh)
                && let Some(chosen) = &mut self.tensors[tensor]
            {
                chosen[start..start + plane].copy_from_slice(words);
            }
        }
    }

    /// Draws the mask of an activation layer's results.
    pub(super) fn draw(&mut self, index: usize, whole: &Part, prg: &mut Prg) {
        let elements = self.public.schedule.shapes[index + 1].elements();
        self.tensors[index + 1] = Some(draw_outputs(whole.groups(), elements, prg));
    }

    /// Erases the masks of tensors that no node after this one reads.
    pub(super) fn forget(&mut self, index: usize) {
        for tensor in self.public.schedule.last_read_by(index) {
            self.tensors[tensor] = None;
        }
    }

    /// The mask of the values that an activation layer is applied to. Of a tensor that no later node reads it is taken out, unless all are
    /// to be kept.
    pub(super) fn before(&mut self, index: usize, keep: bool) -> Result<Mask> {
        let node = &self.public.architecture.nodes[index];
        let first = node.inputs[0] as usize;
        if let Op::Max(_) = node.op {
            return Ok(subtract(self.of(first)?, self.of(node.inputs[1] as usize)?));
        }
        let mask = self.of(first)?;
        if keep || self.public.schedule.last_readers[first] != Some(index) {
            return Ok(mask.to_vec().into());
        }
        Ok(self.tensors[first].take().unwrap_or_default())
    }

    /// The mask of an activation layer's results before anything is added to them.
    pub(super) fn after(&self, index: usize) -> Result<MaskCow<'_>> {
        let node = &self.public.architecture.nodes[index];
        let output = self.of(index + 1)?;
        match node.op {
            // max(a, b) = b + ReLU(a - b): the mask of b is taken off again.
            Op::Max(_) => Ok(MaskCow::Own(subtract(output, self.of(node.inputs[1] as usize)?))),
            _ => Ok(MaskCow::Of(output)),
        }
    }

    /// Keeps them, if that is wanted.
    pub(super) fn show(&self, link: &Link) {
        link.show(self.tensors.iter().flatten().map(|mask| &mask[..]));
    }

    pub(super) fn of(&self, tensor: usize) -> Result<&[u32]> {
        match self.tensors.get(tensor) {
            Some(Some(mask)) => Ok(mask),
            _ => {
                Err(Error::new(ErrorKind::MalformedModel, format!("tensor {tensor}: expected a mask by now, got none")))
            }
        }
    }
}

/// A mask computed, or one that is there.
pub(super) enum MaskCow<'a> {
    Own(Mask),
    Of(&'a [u32]),
}

impl core::ops::Deref for MaskCow<'_> {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Own(mask) => mask,
            Self::Of(mask) => mask,
        }
    }
}

/// What the client keeps of the random OTs that it received.
#[derive(Default)]
pub(super) struct Signs {
    choices: SecretVec<u8>,
    words: SecretVec<u32>,
    used: usize,
}

impl Signs {
    /// The next choices and words.
    fn take(&mut self, count: usize) -> (&[u8], &[u32]) {
        let run = self.used..self.used + count;
        self.used = run.end;
        (&self.choices[run.clone()], &self.words[run])
    }
}

/// A walk over a network's nodes, in their order, for one inference.
pub(super) struct Walk<'a> {
    public: &'a Public,
    pub(super) course: &'a Course,
    pub(super) masks: Masks<'a>,
    /// For each activation layer with products, what its shares C are drawn from.
    seeds: Map<usize, Seed>,
    /// The client's shares of products.
    products: Stock<u64>,
}

impl<'a> Walk<'a> {
    /// Draws what is free from the start: the mask of the input, and the shares C.
    pub(super) fn new(public: &'a Public, course: &'a Course, prg: &mut Prg) -> Self {
        let (schedule, nodes) = (&public.schedule, public.schedule.steps.len());
        let mut masks = Masks { public, tensors: vec![None; nodes + 1] };
        let inputs = schedule.shapes[0].elements();
        masks.tensors[0] = Some(collect(inputs, (0..inputs).map(|_| prg.next_u32())));
        let all = 0..nodes;
        let layers = schedule.activations(&all).filter(|(_, step)| step.whole(course.trips).products() > 0);
        let mut seeds = Map::new();
        layers.for_each(|(index, _)| seeds.insert(index, prg.seed()));
        Self { public, course, masks, seeds, products: Stock::new() }
    }

    /// A generator of an activation layer's shares C, part after part.
    pub(super) fn shares(&self, index: usize) -> Option<Prg> {
        self.seeds.get(&index).map(Prg::new)
    }

    /// The factors of a run of the network's products.
    fn factors(&self, run: Range<usize>) -> SecretVec<u64> {
        let (schedule, course) = (&self.public.schedule, self.course);
        let (mut out, mut first) = (SecretVec::new(Vec::with_capacity(run.len())), 0);
        for (index, step) in schedule.activations(&(0..schedule.steps.len())) {
            let end = first + step.whole(course.trips).products();
            if let (Some(mut prg), true) = (self.shares(index), first < run.end && run.start < end) {
                for part in course.parts(step) {
                    let own = factors(part.groups(), &draw_shares(part.groups(), &mut prg));
                    let next = first + own.len();
                    let wanted = run.start.clamp(first, next)..run.end.clamp(first, next);
                    out.extend_from_slice(&own[wanted.start - first..wanted.end - first]);
                    first = next;
                }
            }
            first = end;
        }
        out
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
        let (public, course) = (self.public.clone(), self.course(Mode::Ahead));
        let schedule = &public.schedule;
        let mut walk = Walk::new(&public, &course, &mut self.prg);
        let mut input_mask = Mask::default();
        let mut layers = vec![];
        for batch in &course.batches {
            let mut signs = self.ask(link, &mut walk, batch, left).await?;
            if batch.nodes.start == 0 {
                input_mask = walk.masks.of(0)?.to_vec().into();
            }
            self.open(link, &mut walk, batch, left, &mut signs).await?;
            for index in batch.nodes.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => self.receive_linear(link, &mut walk.masks, index, step).await?,
                    Step::Local => walk.masks.compute(index),
                    Step::Activation(step) => {
                        let mut input = walk.masks.before(index, link.is_traced())?;
                        step.align(&mut input);
                        let mut shares = walk.shares(index);
                        let whole = step.whole(course.trips);
                        let layer = self.fill(link, &mut walk, (index, whole), &input, &mut signs, &mut shares).await?;
                        layers.push((index, layer));
                    }
                }
                if !link.is_traced() {
                    walk.masks.forget(index);
                }
            }
        }
        let masks = walk.masks;
        masks.show(link);
        Ok(Bundle { input_mask, layers, output_mask: masks.of(schedule.steps.len())?.to_vec().into() })
    }

    /// Sends all that a batch is asked for with.
    pub(super) async fn ask(&mut self, link: &Link, walk: &mut Walk<'_>, batch: &Batch, left: u32) -> Result<Signs> {
        let (schedule, course) = (&walk.public.schedule, walk.course);
        let (needed, planned) = (batch.rots, course.planned(left));
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
        if course.mode == Mode::Ahead {
            for (index, step) in schedule.activations(&batch.nodes) {
                walk.masks.draw(index, step.whole(course.trips), &mut self.prg);
            }
        }
        self.send_requests(link, walk, batch).await?;
        // Silent OTs may need the server's refills first; all others are asked for with the requests.
        match self.rot_receiver.run_bytes(needed.client) {
            0 => Ok(Signs::default()),
            _ => self.extend_signs(link, course.batch_runs(schedule, &batch.nodes)).await,
        }
    }

    /// Receives what comes before a batch's nodes.
    pub(super) async fn open(
        &mut self,
        link: &Link,
        walk: &mut Walk<'_>,
        batch: &Batch,
        left: u32,
        signs: &mut Signs,
    ) -> Result<()> {
        let (schedule, course) = (&walk.public.schedule, walk.course);
        let (needed, planned) = (batch.rots, course.planned(left));
        link.enter(Place { phase: Phase::Prepare, node: None });
        if self.rot_receiver.run_bytes(needed.client) == 0 {
            for set in self.rot_receiver.due(needed.client, planned.client) {
                let message = link.receive(FrameKind::OtRefill, set.refill_bytes()).await?;
                self.rot_receiver.refill(set, &message)?;
            }
            *signs = self.extend_signs(link, course.batch_runs(schedule, &batch.nodes)).await?;
        }
        self.receive_products(link, walk, batch).await
    }

    /// Prepares a part of an activation layer: its tables get their random OTs. `input` is the mask of the values that the layer is applied
    /// to, aligned.
    pub(super) async fn fill(
        &mut self,
        link: &Link,
        walk: &mut Walk<'_>,
        (index, part): (usize, &Part),
        input: &[u32],
        signs: &mut Signs,
        shares: &mut Option<Prg>,
    ) -> Result<ClientLayer> {
        let groups = part.groups();
        let shares = match shares {
            Some(prg) => draw_shares(groups, prg),
            None => groups.iter().map(|_| SecretVec::default()).collect(),
        };
        let mut layer = ClientLayer::new(
            groups,
            shares,
            (input, &walk.masks.after(index)?),
            signs.take(part.client_rots()),
            walk.products.take(part.products()),
            &mut self.prg,
        );
        for chunk in part.chunks(walk.course.chunk()) {
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
        Ok(layer)
    }

    /// Sends a batch's ciphertexts.
    async fn send_requests(&mut self, link: &Link, walk: &mut Walk<'_>, batch: &Batch) -> Result<()> {
        let schedule = &walk.public.schedule;
        for index in batch.nodes.clone() {
            if let Step::Local = &schedule.steps[index] {
                // Of masks that are fresh this is computed again below, before anyone looks at it.
                walk.masks.compute(index);
            }
            if let Step::Linear(step @ LinearStep { packing: Some(packing), .. }) = &schedule.steps[index] {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                let sources = &walk.course.order.sources[index];
                let mut mask = walk.masks.gather(index, step, sources)?;
                let (key, prg) = (&self.linear_key, &mut self.prg);
                if cfg!(feature = "small") {
                    for i in 0..packing.request_ciphertexts() {
                        let pieces = linear::request(key, packing, &sources.fresh, &mut mask, i, &mut prg.fork())?;
                        let bytes = packing.request_bytes(i, &sources.fresh);
                        link.send_pieces(FrameKind::LinearRequest, bytes, pieces).await?;
                    }
                    walk.masks.scatter(step, sources, &mask);
                    continue;
                }
                for run in self.threads.runs(packing.request_ciphertexts()) {
                    for request in
                        linear::encrypt_requests(&self.threads, key, packing, &sources.fresh, &mut mask, run, prg)?
                    {
                        link.send(FrameKind::LinearRequest, request).await?;
                    }
                    link.flush().await;
                }
                walk.masks.scatter(step, sources, &mask);
            }
        }
        link.enter(Place { phase: Phase::Prepare, node: None });
        let run = batch.products.clone();
        if let (Some(key), false) = (&self.slot_key, run.is_empty()) {
            if cfg!(feature = "small") {
                for start in run.clone().step_by(slots::SLOT_COUNT) {
                    let factors = walk.factors(start..run.end.min(start + slots::SLOT_COUNT));
                    let pieces = slots::request(key, factors, &mut self.prg.fork())?;
                    link.send_pieces(FrameKind::SlotRequest, slots::slot_request_bytes(), pieces).await?;
                }
                return Ok(());
            }
            let factors = walk.factors(run);
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

    /// Makes runs of OTs in which the client receives.
    pub(super) async fn extend_signs(&mut self, link: &Link, runs: Vec<usize>) -> Result<Signs> {
        let count = runs.iter().sum();
        let mut signs =
            Signs { choices: Vec::with_capacity(count).into(), words: Vec::with_capacity(count).into(), used: 0 };
        for count in runs {
            let (message, received, _) = self.rot_receiver.extend(Count { single: count, wide: 0 })?;
            if !message.is_empty() {
                link.send(FrameKind::OtExtension, message).await?;
                link.flush().await;
            }
            signs.choices.extend((0..count).map(|j| received.choice_bits(j, 1) as u8));
            signs.words.extend(received.keys.iter().map(|&key| product_word(key)));
        }
        Ok(signs)
    }

    /// The client's shares of the products that are made with a batch.
    async fn receive_products(&self, link: &Link, walk: &mut Walk<'_>, batch: &Batch) -> Result<()> {
        let count = batch.products.len();
        if let (Some(key), 1..) = (&self.slot_key, count) {
            if cfg!(feature = "small") {
                for start in (0..count).step_by(slots::SLOT_COUNT) {
                    let count = (count - start).min(slots::SLOT_COUNT);
                    let mut answer = slots::Answer::new(key, count)?;
                    let take = |piece: &[u8]| answer.absorb(piece);
                    link.receive_pieces(FrameKind::SlotResponse, slots::pieces(), take).await?;
                    answer.finish(walk.products.add(count));
                }
                return Ok(());
            }
            for run in walk.products.add(count).chunks_mut(self.threads.pieces() * slots::SLOT_COUNT) {
                let parts = run.chunks_mut(slots::SLOT_COUNT);
                let bytes = core::iter::repeat_n(slots::slot_response_bytes(), parts.len());
                let responses = link.receive_all(FrameKind::SlotResponse, bytes).await?;
                let decrypt = |(response, values): (Vec<u8>, _)| slots::decrypt_slots(key, &response, values);
                self.threads.map(responses.into_iter().zip(parts), decrypt).into_iter().collect::<Result<()>>()?;
            }
        }
        Ok(())
    }

    /// The mask m = W · r + s of a linear layer's output.
    pub(super) async fn receive_linear(
        &self,
        link: &Link,
        masks: &mut Masks<'_>,
        index: usize,
        step: &LinearStep,
    ) -> Result<()> {
        let shape = masks.public.schedule.shapes[index + 1];
        let mut live: SecretVec<u32> = vec![0; step.outputs.len() * shape.plane()].into();
        if let (Some(packing), true) = (&step.packing, cfg!(feature = "small")) {
            for index in 0..packing.response_ciphertexts() {
                let mut answer = linear::Answer::new(&self.linear_key, packing, index)?;
                let pieces = answer.pieces();
                link.receive_pieces(FrameKind::LinearResponse, pieces, |piece| answer.absorb(piece)).await?;
                answer.finish(&mut live);
            }
        } else if let Some(packing) = &step.packing {
            for run in self.threads.runs(packing.response_ciphertexts()) {
                let (first, bytes) = (run.start, run.map(|j| packing.response_bytes(j)));
                let responses = link.receive_all(FrameKind::LinearResponse, bytes).await?;
                linear::decrypt_responses(&self.threads, &self.linear_key, packing, first, &responses, &mut live)?;
            }
        }
        masks.tensors[index + 1] = Some(step.scatter_outputs(shape, live));
        Ok(())
    }
}

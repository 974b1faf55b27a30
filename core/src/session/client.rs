//! The client: owns the input, learns the output.

use super::drive::Session;
use super::link::{Driver, Link, Progress, Script};
use super::meter::{Meter, Phase, Place};
use super::schedule::{Forecast, LinearStep, Schedule, Step};
use super::{
    BUNDLE_BYTES, BundleId, Hello, LIMIT_BYTES, NONCE_BYTES, Options, PREPARE_BYTES, SessionId, bind, check_room,
    invalid_state, nonce, spent,
};
use crate::activation::{ClientLayer, ClientSecrets, product_word};
use crate::error::{Error, ErrorKind, Result};
use crate::layer;
use crate::model::{Architecture, ModelFile, ModelId, Op};
use crate::ot::softspoken::{self, Depth, RotReceiver, RotSender};
use crate::ot::{BASE_OTS, Context, Direction, base};
use crate::prg::{Prg, SecretVec, Seed, collect};
use crate::rlwe::{self, SecretKey, linear, slots};
use crate::share::Mask;
use crate::wire::bits::BitReader;
use crate::wire::frame::FrameKind;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{boxed::Box, collections::BTreeMap, format, sync::Arc, vec, vec::Vec};
use zeroize::Zeroizing;

/// A model's public part, checked and scheduled. Immutable; any number of clients may share it.
#[derive(Clone)]
pub struct ClientModel(Arc<Public>);

struct Public {
    architecture: Architecture,
    schedule: Schedule,
    id: ModelId,
}

impl ClientModel {
    /// Reads a public part, or the public part of a server's model.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::new(ModelFile::read(bytes)?.architecture)
    }

    /// Schedules an architecture.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`].
    pub fn new(architecture: Architecture) -> Result<Self> {
        let schedule = Schedule::new(&architecture)?;
        let id = architecture.id()?;
        Ok(Self(Arc::new(Public { architecture, schedule, id })))
    }

    /// The public architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.0.architecture
    }

    /// What one inference will cost.
    pub fn forecast(&self, options: &Options) -> Forecast {
        self.0.schedule.forecast(options.ot_depth)
    }

    /// Number of input values.
    pub fn inputs(&self) -> usize {
        self.0.schedule.shapes[0].elements()
    }

    /// Number of output values.
    pub fn outputs(&self) -> usize {
        self.0.schedule.shapes.last().map_or(0, |shape| shape.elements())
    }

    /// The fixed-point encoding round(x · 2^bits) of real inputs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there are too few or too many values, or one is outside the model's range.
    pub fn encode(&self, values: &[f32]) -> Result<Zeroizing<Vec<i32>>> {
        let scale = libm::ldexpf(1.0, self.0.architecture.input_fraction_bits.into());
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("input value {index}: expected a finite number"),
            ));
        }
        // The cast saturates; the range is checked below.
        let encoded = collect(values.len(), values.iter().map(|&v| libm::roundf(v * scale) as i32));
        self.check_input(&encoded)?;
        Ok(encoded)
    }

    /// The real numbers that integer outputs stand for: value / 2^bits.
    pub fn decode(&self, outputs: &[i32]) -> Vec<f32> {
        let bits: i32 = self.0.architecture.output_fraction_bits().into();
        outputs.iter().map(|&v| libm::ldexp(v.into(), -bits) as f32).collect()
    }

    fn check_input(&self, input: &[i32]) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::InvalidArgument, message));
        if input.len() != self.inputs() {
            return invalid(format!(
                "input: expected {} values ({}), got {}",
                self.inputs(),
                self.0.schedule.shapes[0],
                input.len()
            ));
        }
        let [low, high] = self.0.architecture.input_range;
        // The value itself is the client's secret and stays out of the text.
        match input.iter().position(|v| !(low..=high).contains(v)) {
            None => Ok(()),
            Some(index) => {
                let scale = libm::ldexp(1.0, -i32::from(self.0.architecture.input_fraction_bits));
                let (low, high) = (f64::from(low) * scale, f64::from(high) * scale);
                invalid(format!("input value {index}: expected {low} to {high}, got one outside that range"))
            }
        }
    }
}

/// What the client keeps of one prepared inference. Erased when dropped.
struct Bundle {
    input_mask: Mask,
    /// The prepared activation layers, in node order, with their node indices.
    layers: Vec<(usize, ClientLayer)>,
    output_mask: Mask,
}

/// A client between operations.
struct Party {
    public: Arc<Public>,
    prg: Prg,
    session: SessionId,
    depth: Depth,
    linear_key: SecretKey,
    slot_key: Option<SecretKey>,
    rot_sender: RotSender,
    rot_receiver: RotReceiver,
    /// Most bundles that the server holds for the session.
    max_bundles: u32,
    bundles: BTreeMap<BundleId, Bundle>,
    prepared: u64,
}

/// What an operation leaves: the party, and after an inference its output.
pub(super) struct Done {
    /// None after a goodbye.
    party: Option<Box<Party>>,
    output: Option<Zeroizing<Vec<i32>>>,
}

/// A client's session with one server over one connection. Cannot be cloned: a mask serves once.
pub struct Client {
    public: Arc<Public>,
    options: Options,
    pub(super) driver: Driver<Done>,
    /// The seed of a session that has not begun.
    seed: Option<Seed>,
    party: Option<Box<Party>>,
    output: Option<Zeroizing<Vec<i32>>>,
}

impl Client {
    /// A session for a model. `seed` comes from a cryptographic source and serves this session alone.
    pub fn new(model: &ClientModel, options: Options, seed: Seed) -> Self {
        Self { public: model.0.clone(), options, driver: Driver::new(), seed: Some(seed), party: None, output: None }
    }

    /// Asks to prepare `count` inferences; the first call also opens the session. Then [`Session::advance`] until idle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] while another operation runs; the error that ended the session, if one did.
    pub fn prepare(&mut self, count: u32) -> Result<()> {
        self.check_idle()?;
        let link = self.driver.link();
        let script: Script<Done> = match (self.party.take(), self.seed.take()) {
            (Some(party), _) => {
                if let Err(error) = party.check_room(count) {
                    self.party = Some(party);
                    return Err(error);
                }
                Box::pin(async move { prepare(&link, party, count).await })
            }
            (None, Some(seed)) => {
                let (public, options) = (self.public.clone(), self.options);
                Box::pin(async move {
                    let party = connect(&link, public, options, seed).await?;
                    prepare(&link, party, count).await
                })
            }
            (None, None) => return Err(invalid_state("expected an open session, got one that has ended")),
        };
        self.driver.start(script);
        Ok(())
    }

    /// The prepared inferences that are left, oldest first.
    pub fn bundles(&self) -> Vec<BundleId> {
        self.party.as_ref().map_or_else(Vec::new, |party| party.bundles.keys().copied().collect())
    }

    /// Starts an inference on a prepared bundle, which is spent from this moment. Then [`Session::advance`] until idle.
    ///
    /// `input` is in fixed point ([`ClientModel::encode`]).
    ///
    /// # Errors
    /// [`ErrorKind::BundleSpent`] if the bundle is not there (used, erased by an abort, or of another session) and
    /// [`ErrorKind::InvalidArgument`] if the input does not fit the model: then nothing was sent or spent.
    pub fn infer(&mut self, bundle: BundleId, input: &[i32]) -> Result<()> {
        self.check_idle()?;
        ClientModel(self.public.clone()).check_input(input)?;
        let Some(mut party) = self.party.take() else {
            return Err(spent(bundle));
        };
        let Some(material) = party.bundles.remove(&bundle) else {
            self.party = Some(party);
            return Err(spent(bundle));
        };
        let input = Zeroizing::new(input.to_vec());
        let link = self.driver.link();
        self.output = None;
        self.driver.start(Box::pin(async move {
            let output = infer(&link, &party.public, bundle, material, &input).await?;
            Ok(Done { party: Some(party), output: Some(output) })
        }));
        Ok(())
    }

    /// The last inference's output in fixed point ([`ClientModel::decode`]); none while it runs.
    pub fn output(&self) -> Option<&[i32]> {
        self.output.as_ref().map(|output| &output[..])
    }

    /// Tells the server that the session is over. Then [`Session::advance`] until idle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] while an operation runs; the error that ended the session, if one did.
    pub fn close(&mut self) -> Result<()> {
        self.check_idle()?;
        self.seed = None;
        if let Some(party) = self.party.take() {
            let link = self.driver.link();
            self.driver.start(Box::pin(async move {
                drop(party);
                link.send(FrameKind::Goodbye, vec![]).await?;
                Ok(Done { party: None, output: None })
            }));
        }
        Ok(())
    }

    /// Keeps the masks of every tensor from here on, for [`Self::masks`]. For finding faults, where one machine runs both
    /// parties: whoever has both parties' words has the input and every value.
    #[cfg(any(test, feature = "trace"))]
    pub fn trace(&mut self) {
        self.driver.trace();
    }

    /// r of every tensor of the inference that was prepared last.
    #[cfg(any(test, feature = "trace"))]
    pub fn masks(&self) -> Vec<Vec<u32>> {
        self.driver.words()
    }

    /// What the session has cost so far.
    pub fn meter(&self) -> Meter {
        self.driver.meter()
    }

    fn check_idle(&self) -> Result<()> {
        match self.driver.failure() {
            Some(error) => Err(error.clone()),
            None if self.driver.is_running() => Err(invalid_state("expected an idle session, got one at work")),
            None => Ok(()),
        }
    }
}

impl Session for Client {
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let (progress, done) = self.driver.advance(input, output)?;
        if let Some(Done { party, output }) = done {
            self.party = party;
            if output.is_some() {
                self.output = output;
            }
        }
        Ok(progress)
    }

    fn input_ended(&mut self) {
        let open = self.seed.take().is_some() || self.party.take().is_some() || self.driver.is_running();
        if !open {
            return;
        }
        self.driver.abort(Error::new(
            ErrorKind::Aborted,
            "connection: expected the server's next message, got its end; everything prepared is erased",
        ));
    }
}

/// Handshake, keys and base OTs.
async fn connect(link: &Link, public: Arc<Public>, options: Options, seed: Seed) -> Result<Box<Party>> {
    link.enter(Place { phase: Phase::Setup, node: None });
    let mut prg = Prg::new(&seed);
    let client_nonce = nonce(&mut prg);
    let depth = options.ot_depth;
    let hello = Hello { depth, model: public.id, nonce: client_nonce };
    link.send(FrameKind::ClientHello, hello.to_bytes()).await?;

    let reply = link.receive(FrameKind::ServerHello, NONCE_BYTES + LIMIT_BYTES + base::SENDER_BYTES).await?;
    let (mut server_nonce, mut base_message) = ([0; NONCE_BYTES], [0; base::SENDER_BYTES]);
    server_nonce.copy_from_slice(&reply[..NONCE_BYTES]);
    let (limit, message) = reply[NONCE_BYTES..].split_at(LIMIT_BYTES);
    base_message.copy_from_slice(message);
    let max_bundles = <[u8; LIMIT_BYTES]>::try_from(limit).map_or(0, u32::from_le_bytes);
    let context = |direction| Context { direction, client_nonce, server_nonce };
    let (outgoing, incoming) = (context(Direction::ServerReceives), context(Direction::ClientReceives));

    let mut prg = bind(&mut prg, &client_nonce, &server_nonce);
    let mut delta = Box::new(Zeroizing::new([0; BASE_OTS / 8]));
    prg.fill(&mut delta[..]);
    let (mut keys, base_keys) = base::base_receive(&outgoing, &delta, &base_message, &mut prg)?;
    let (base_sender, message) = base::BaseSender::new(&incoming, &mut prg);
    keys.extend_from_slice(&message);
    let linear_key = SecretKey::generate(&rlwe::params::LINEAR, &mut prg);
    keys.extend(linear_key.public_key(&mut prg));
    let slot_key = (public.schedule.products(&(0..public.schedule.steps.len())) > 0)
        .then(|| SecretKey::generate(&rlwe::params::SLOTS, &mut prg));
    if let Some(key) = &slot_key {
        keys.extend(key.public_key(&mut prg));
    }
    link.send(FrameKind::ClientKeys, keys).await?;

    let reply = link.receive(FrameKind::ServerKeys, base::RECEIVER_BYTES + softspoken::setup_bytes(depth)).await?;
    let (base_reply, corrections) = reply.split_at(base::RECEIVER_BYTES);
    let rot_sender = RotSender::setup(&outgoing, depth, delta, base_keys, corrections)?;
    let (rot_receiver, corrections) = RotReceiver::setup(&incoming, depth, base_sender.finish(base_reply)?);
    link.send(FrameKind::ClientCorrections, corrections).await?;
    let session = SessionId::new(&client_nonce, &server_nonce);
    Ok(Box::new(Party {
        public,
        prg,
        session,
        depth,
        linear_key,
        slot_key,
        rot_sender,
        rot_receiver,
        max_bundles,
        bundles: BTreeMap::new(),
        prepared: 0,
    }))
}

/// Prepares inferences one after another.
async fn prepare(link: &Link, mut party: Box<Party>, count: u32) -> Result<Done> {
    party.check_room(count)?;
    if count > 0 {
        link.enter(Place { phase: Phase::Prepare, node: None });
        let request: [u8; PREPARE_BYTES] = count.to_le_bytes();
        link.send(FrameKind::Prepare, request.to_vec()).await?;
    }
    for _ in 0..count {
        let bundle = party.prepare_bundle(link).await?;
        party.bundles.insert(BundleId::new(&party.session, party.prepared), bundle);
        party.prepared += 1;
    }
    Ok(Done { party: Some(party), output: None })
}

/// The masks of a bundle's tensors as they become known. Those of activation outputs are free and known from the start;
/// those of linear outputs come from the server's responses.
struct Masks<'a> {
    public: &'a Public,
    tensors: Vec<Option<Mask>>,
}

impl Masks<'_> {
    /// Fills in what follows locally from masks that are known.
    fn extend(&mut self, nodes: core::ops::Range<usize>) {
        let shapes = &self.public.schedule.shapes;
        for index in nodes {
            if self.tensors[index + 1].is_some() {
                continue;
            }
            let node = &self.public.architecture.nodes[index];
            let known =
                node.inputs.iter().map(|&t| Some((shapes[t as usize], &self.tensors[t as usize].as_ref()?[..])));
            let inputs: Option<Vec<_>> = known.collect();
            self.tensors[index + 1] = inputs.and_then(|inputs| layer::local(&node.op, &inputs, shapes[index + 1]));
        }
    }

    /// Erases the masks of tensors that no node after this one reads.
    fn forget(&mut self, index: usize) {
        for tensor in self.public.schedule.last_read_by(index) {
            self.tensors[tensor] = None;
        }
    }

    /// The masks around an activation layer: of the values that it is applied to, and of its results.
    fn around(&self, index: usize, secrets: &ClientSecrets) -> Result<(Mask, Mask)> {
        let node = &self.public.architecture.nodes[index];
        let of = |i: usize| self.of(node.inputs[i] as usize);
        match node.op {
            // max(a, b) = b + ReLU(a - b): the mask of b is taken off again.
            Op::Max(_) => Ok((subtract(of(0)?, of(1)?), subtract(&secrets.outputs, of(1)?))),
            _ => Ok((of(0)?.to_vec().into(), secrets.outputs.clone())),
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

fn subtract(a: &[u32], b: &[u32]) -> SecretVec<u32> {
    collect(a.len(), a.iter().zip(b).map(|(&a, &b)| a.wrapping_sub(b)))
}

impl Party {
    /// Whether the server holds `count` more bundles.
    fn check_room(&self, count: u32) -> Result<()> {
        check_room(ErrorKind::InvalidArgument, count, self.bundles.len(), self.max_bundles)
    }

    /// Prepares one inference: everything that does not depend on its input.
    async fn prepare_bundle(&mut self, link: &Link) -> Result<Bundle> {
        let public = self.public.clone();
        let schedule = &public.schedule;
        let nodes = public.architecture.nodes.len();
        let mut masks = Masks { public: &public, tensors: vec![None; nodes + 1] };
        let inputs = schedule.shapes[0].elements();
        let input_mask = collect(inputs, (0..inputs).map(|_| self.prg.next_u32()));
        masks.tensors[0] = Some(input_mask.clone());
        let mut secrets = BTreeMap::new();
        for (index, step) in schedule.activations(&(0..nodes)) {
            let drawn = ClientSecrets::draw(&step.groups, schedule.shapes[index + 1].elements(), &mut self.prg);
            masks.tensors[index + 1] = Some(drawn.outputs.clone());
            secrets.insert(index, drawn);
        }
        masks.extend(0..nodes);

        let mut layers = vec![];
        for batch in &schedule.batches {
            let signs = self.send_requests(link, batch, &masks, &secrets).await?;
            let products = self.receive_products(link, batch).await?;
            let (mut signs, mut products) = ((&signs.0[..], &signs.1[..]), &products[..]);
            for index in batch.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => {
                        let mask = self.receive_linear(link, step, schedule.shapes[index + 1]).await?;
                        masks.tensors[index + 1] = Some(mask);
                    }
                    Step::Local => masks.extend(index..index + 1),
                    Step::Activation(step) => {
                        let mine = (&signs.0[..step.client_rots()], &signs.1[..step.client_rots()]);
                        signs = (&signs.0[step.client_rots()..], &signs.1[step.client_rots()..]);
                        let (own_products, rest) = products.split_at(step.products());
                        products = rest;
                        let own = secrets.remove(&index).ok_or_else(|| invalid_state("layer: expected its secrets"))?;
                        let (input, output) = masks.around(index, &own)?;
                        let mut layer =
                            ClientLayer::new(&step.groups, &own, (&input, &output), mine, own_products, &mut self.prg);
                        for chunk in step.chunks() {
                            let bytes = softspoken::extension_bytes(self.depth, chunk.ots);
                            let message = link.receive(FrameKind::OtExtension, bytes).await?;
                            let keys = self.rot_sender.extend(chunk.ots, &message)?;
                            layer.absorb(chunk.group, chunk.elements, &keys);
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

    /// Sends a batch's ciphertexts and the extension of the OTs in which the client receives, whose choices and words it
    /// returns.
    async fn send_requests(
        &mut self,
        link: &Link,
        batch: &core::ops::Range<usize>,
        masks: &Masks<'_>,
        secrets: &BTreeMap<usize, ClientSecrets>,
    ) -> Result<(SecretVec<u8>, SecretVec<u32>)> {
        let schedule = &masks.public.schedule;
        for index in batch.clone() {
            if let Step::Linear(step @ LinearStep { packing: Some(packing), .. }) = &schedule.steps[index] {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                let source = masks.public.architecture.nodes[index].inputs[0] as usize;
                let mask = step.gather_inputs(schedule.shapes[source], masks.of(source)?);
                for i in 0..packing.request_ciphertexts() {
                    let request = linear::encrypt_request(&self.linear_key, packing, &mask, i, &mut self.prg)?;
                    link.send(FrameKind::LinearRequest, request).await?;
                }
            }
        }
        link.enter(Place { phase: Phase::Prepare, node: None });
        let factors = schedule.activations(batch).flat_map(|(index, step)| secrets[&index].factors(&step.groups));
        let factors = collect(schedule.products(batch), factors);
        if let Some(key) = &self.slot_key {
            for values in factors.chunks(slots::SLOT_COUNT) {
                link.send(FrameKind::SlotRequest, slots::encrypt_slots(key, values, &mut self.prg)?).await?;
            }
        }
        let runs = schedule.client_rots(batch);
        let total = runs.iter().sum();
        let mut choices = SecretVec::new(Vec::with_capacity(total));
        let mut words = SecretVec::new(Vec::with_capacity(total));
        for count in runs {
            let (message, received) = self.rot_receiver.extend(count)?;
            link.send(FrameKind::OtExtension, message).await?;
            choices.extend((0..count).map(|j| received.choice_bits(j, 1) as u8));
            words.extend(received.keys.iter().map(|&key| product_word(key)));
        }
        Ok((choices, words))
    }

    /// The client's shares of a batch's products.
    async fn receive_products(&self, link: &Link, batch: &core::ops::Range<usize>) -> Result<SecretVec<u64>> {
        let mut shares: SecretVec<u64> = vec![0; self.public.schedule.products(batch)].into();
        if let Some(key) = &self.slot_key {
            for values in shares.chunks_mut(slots::SLOT_COUNT) {
                let response = link.receive(FrameKind::SlotResponse, slots::slot_response_bytes()).await?;
                slots::decrypt_slots(key, &response, values)?;
            }
        }
        Ok(shares)
    }

    /// The mask m = W · r + s of a linear layer's output.
    async fn receive_linear(&self, link: &Link, step: &LinearStep, shape: crate::model::Shape) -> Result<Mask> {
        let mut live: SecretVec<u32> = vec![0; step.outputs.len() * shape.plane()].into();
        if let Some(packing) = &step.packing {
            for j in 0..packing.response_ciphertexts() {
                let response = link.receive(FrameKind::LinearResponse, packing.response_bytes(j)).await?;
                linear::decrypt_response(&self.linear_key, packing, j, &response, &mut live)?;
            }
        }
        Ok(step.scatter_outputs(shape, &live).into())
    }
}

/// One inference: the masked input goes out, the layers' rounds are answered, the masked output comes back.
async fn infer(
    link: &Link,
    public: &Public,
    id: BundleId,
    bundle: Bundle,
    input: &[i32],
) -> Result<Zeroizing<Vec<i32>>> {
    link.enter(Place { phase: Phase::Infer, node: None });
    let mut message = Vec::with_capacity(BUNDLE_BYTES + 4 * input.len());
    message.extend_from_slice(&id.to_bytes());
    for (&x, &r) in input.iter().zip(bundle.input_mask.iter()) {
        message.extend_from_slice(&(x as u32).wrapping_add(r).to_le_bytes());
    }
    link.send(FrameKind::Infer, message).await?;
    for (index, mut layer) in bundle.layers {
        let Step::Activation(step) = &public.schedule.steps[index] else { continue };
        link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
        for round in 0..step.rounds() {
            let (down, up) = step.round_bytes(round);
            let request = link.receive(FrameKind::Request, down).await?;
            let (mut reader, mut writer) = (FieldReader::new(&request), FieldWriter::with_capacity(up));
            layer.round(&step.groups, round, &mut reader, &mut writer);
            reader.finish()?;
            link.send(FrameKind::Reply, writer.finish()).await?;
        }
    }
    link.enter(Place { phase: Phase::Infer, node: None });
    let answer = link.receive(FrameKind::Output, public.schedule.answer_bytes()).await?;
    let output = public.schedule.output;
    let mut reader = BitReader::new(&answer);
    let unmasked = bundle.output_mask.iter().map(|&r| {
        let word = (reader.take(output.bits().into()) as u32).wrapping_sub(r);
        // Of a class index, the bits above were never sent.
        (word & (u32::MAX >> (32 - output.bits()))) as i32
    });
    let output = collect(bundle.output_mask.len(), unmasked);
    reader.finish()?;
    Ok(output)
}

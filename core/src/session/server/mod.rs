//! The server: owns the weights, learns nothing.

mod evaluate;
mod infer;
mod prepare;
mod stream;

use super::course::{Course, Portions};
use super::drive::Session;
use super::link::{Driver, Link, Progress, Status};
use super::meter::{Meter, Observer, Phase, Place};
use super::order::{Mode, Order};
use super::schedule::{LinearStep, Schedule, Step};
use super::{BUNDLE_BYTES, BundleId, HELLO_BYTES, Hello, Options, PREPARE_BYTES, RoundTrips, SessionId, bind, nonce};
use crate::activation::ServerLayer;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Architecture, ChannelSecret, Convolution, ModelFile, ModelId, NodeSecret, Op, Parameters};
use crate::ot::supply::{ReceiverSupply, SenderSupply};
use crate::ot::{Context, Direction, base};
use crate::prg::{Prg, SecretVec, Seed};
use crate::rlwe::linear::{self, Keep, LinearWeights};
use crate::rlwe::{self, PublicKey};
use crate::threads::Threads;
use crate::wire::frame::FrameKind;
use alloc::{boxed::Box, collections::BTreeMap, format, sync::Arc, vec::Vec};
use zeroize::Zeroizing;

/// Bytes of transformed weights that a server keeps unless told otherwise.
pub const WEIGHT_MEMORY: u64 = 2 << 30;

/// A model with its secrets, its weights transformed for encrypted masks. Immutable; any number of sessions share it.
#[derive(Clone)]
pub struct ServerModel(Arc<Private>);

struct Private {
    architecture: Architecture,
    parameters: Parameters,
    schedule: Schedule,
    /// Of inferences that are prepared as a whole, and of those in a stream.
    orders: [Arc<Order>; 2],
    id: ModelId,
    /// Per node, the weights of a convolution with live channels, ready for products.
    weights: Vec<Option<LinearWeights>>,
    threads: Threads,
}

impl ServerModel {
    /// Reads a server's model file and makes its weights ready, as [`Self::load`] with [`WEIGHT_MEMORY`] and one thread does.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`]; the latter also where a layer's noise exceeds
    /// what the flooding hides.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::new(ModelFile::read(bytes)?)
    }

    /// Takes a model with its secrets, as [`Self::load`] with [`WEIGHT_MEMORY`] and one thread does.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn new(model: ModelFile) -> Result<Self> {
        Self::load(model, WEIGHT_MEMORY, Threads::default(), &mut |_, _| {})
    }

    /// Takes a model with its secrets and transforms its weights for products with encrypted masks, layer by layer, the
    /// smallest layers first, as long as transformed weights take at most `weight_memory` bytes. Those of the other layers
    /// are transformed anew in each inference.
    ///
    /// `threads` transform the weights, and then compute for all sessions of the model.
    ///
    /// `progress` is told after each layer how many weights are done, and of how many.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn load(
        model: ModelFile,
        weight_memory: u64,
        threads: Threads,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let ModelFile { architecture, parameters } = model;
        let parameters = parameters.ok_or_else(|| {
            Error::new(
                ErrorKind::MalformedModel,
                "model: expected the server's file with its secrets, got the public part",
            )
        })?;
        parameters.check(&architecture)?;
        let schedule = Schedule::new(&architecture)?;
        let id = architecture.id()?;
        let keep = schedule.kept_weights(weight_memory);
        let sizes = || {
            parameters.nodes.iter().map(|secret| match secret {
                NodeSecret::Convolution { weights, .. } => weights.len() as u64,
                _ => 0,
            })
        };
        let (mut done, total) = (0, sizes().sum());
        let mut weights = Vec::with_capacity(architecture.nodes.len());
        for ((index, node), size) in architecture.nodes.iter().enumerate().zip(sizes()) {
            weights.push(match (&node.op, &schedule.steps[index], &parameters.nodes[index]) {
                (Op::Convolution(conv), Step::Linear(step), NodeSecret::Convolution { weights, .. }) => step
                    .transform(&threads, weights, conv, keep[index])
                    .map_err(|e| e.context(format!("node {index} ({})", node.name)))?,
                _ => None,
            });
            done += size;
            if size > 0 {
                progress(done, total);
            }
        }
        let orders = [Mode::Ahead, Mode::Streamed].map(|mode| Arc::new(Order::new(&architecture, &schedule, mode)));
        Ok(Self(Arc::new(Private { architecture, parameters, schedule, orders, id, weights, threads })))
    }

    /// The public architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.0.architecture
    }

    /// The model's id.
    pub fn id(&self) -> &ModelId {
        &self.0.id
    }

    /// For each node, the bits by which a convolution's noise may exceed 1, as its weights determine them, and the bits that
    /// the flooding hides; none for other nodes.
    pub fn noise_bits(&self) -> Vec<Option<(u32, u32)>> {
        let bits = |w: &LinearWeights| (w.noise_bits(), rlwe::noise::LINEAR_NOISE_BITS);
        self.0.weights.iter().map(|w| w.as_ref().map(bits)).collect()
    }
}

impl LinearStep {
    /// The weights between live channels, in the form in which they are kept.
    fn transform(
        &self,
        threads: &Threads,
        weights: &[i16],
        conv: &Convolution,
        keep: Keep,
    ) -> Result<Option<LinearWeights>> {
        let Some(packing) = &self.packing else { return Ok(None) };
        LinearWeights::made_by(threads, packing, &self.live_weights(weights, conv), keep).map(Some)
    }

    /// The weights between live channels, of all weights of a layer.
    fn live_weights(&self, weights: &[i16], conv: &Convolution) -> Zeroizing<Vec<i16>> {
        let (filter, taps) = (weights.len() / self.unread.len(), conv.taps());
        let mut live = Zeroizing::new(Vec::with_capacity(self.outputs.len() * filter));
        for filter in self.outputs.iter().map(|&o| &weights[o * filter..(o + 1) * filter]) {
            match conv.groups {
                1 => live.extend(self.inputs.iter().flat_map(|&i| &filter[i * taps..(i + 1) * taps])),
                // Groups are live as a whole.
                _ => live.extend(filter),
            }
        }
        live
    }
}

/// Sets each convolution's `packed_outputs` to the most whose noise fits the budget that flooding hides.
///
/// For compilers: a model that exceeds the budget is refused by [`ServerModel::new`].
///
/// # Errors
/// [`ErrorKind::UnsupportedModel`] if a layer exceeds it even with one output channel per ciphertext;
/// [`ErrorKind::MalformedModel`] if the model is none.
pub fn fit_noise(model: &mut ModelFile) -> Result<()> {
    let ModelFile { architecture, parameters } = model;
    let Some(parameters) = parameters else {
        return Err(Error::new(ErrorKind::MalformedModel, "model: expected its secrets too, got the public part"));
    };
    parameters.check(architecture)?;
    let schedule = Schedule::new(architecture)?;
    for (index, node) in architecture.nodes.iter_mut().enumerate() {
        if let (
            Op::Convolution(conv),
            NodeSecret::Convolution { weights, .. },
            Step::Linear(step @ LinearStep { packing: Some(packing), .. }),
        ) = (&mut node.op, &parameters.nodes[index], &schedule.steps[index])
        {
            let fitting = linear::choose_within_budget(packing.shape(), &step.live_weights(weights, conv))
                .map_err(|e| e.context(format!("node {index} ({})", node.name)))?;
            conv.packed_outputs = fitting.outputs_per_response() as u32;
        }
    }
    Ok(())
}

/// What the server keeps of one prepared inference. Erased when dropped.
struct Bundle {
    /// Per node, s of a convolution's outputs.
    masks: Vec<SecretVec<u32>>,
    /// Per node, the prepared side of an activation layer.
    layers: Vec<Option<ServerLayer>>,
}

/// A server's session with one client over one connection. Cannot be cloned: a mask serves once.
pub struct Server {
    pub(super) driver: Driver<()>,
}

impl Server {
    /// A session for a model. `seed` comes from a cryptographic source and serves this session alone.
    pub fn new(model: &ServerModel, options: Options, seed: Seed) -> Self {
        let mut driver = Driver::new();
        let (link, private) = (driver.link(), model.0.clone());
        driver.start(Box::pin(async move { serve(&link, private, options, seed).await }));
        Self { driver }
    }

    /// Keeps the masked words of every tensor from here on, for [`Self::masked`]. For finding faults, where one machine
    /// runs both parties: whoever has both parties' words has the input and every value.
    #[cfg(any(test, feature = "trace"))]
    pub fn trace(&mut self) {
        self.driver.trace();
    }

    /// x + r of every tensor of the last inference.
    #[cfg(any(test, feature = "trace"))]
    pub fn masked(&self) -> Vec<Vec<u32>> {
        self.driver.words()
    }

    /// Tells an observer of every place in the protocol that the session enters from here on, for those who measure time.
    pub fn observe(&mut self, observer: Observer) {
        self.driver.observe(observer);
    }

    /// What the session has cost so far.
    pub fn meter(&self) -> Meter {
        self.driver.meter()
    }
}

impl Session for Server {
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let (mut progress, _) = self.driver.advance(input, output)?;
        if progress.status == Status::Idle {
            progress.status = Status::Closed;
        }
        Ok(progress)
    }

    fn input_ended(&mut self) {
        if !self.driver.is_running() {
            return;
        }
        self.driver.abort(Error::new(
            ErrorKind::Aborted,
            "connection: expected the client's next message, got its end; everything prepared is erased",
        ));
    }
}

/// A server after the handshake.
struct Party {
    private: Arc<Private>,
    prg: Prg,
    session: SessionId,
    round_trips: RoundTrips,
    portions: Portions,
    /// The course of the inferences of the last mode that was asked for.
    course: Option<Arc<Course>>,
    linear_key: PublicKey,
    slot_key: Option<PublicKey>,
    rot_sender: SenderSupply,
    rot_receiver: ReceiverSupply,
    bundles: BTreeMap<BundleId, Bundle>,
    prepared: u64,
}

impl Party {
    fn course(&mut self, mode: Mode) -> Arc<Course> {
        match &self.course {
            Some(course) if course.mode == mode => course.clone(),
            _ => {
                let order = self.private.orders[usize::from(mode == Mode::Streamed)].clone();
                let course =
                    Arc::new(Course::new(&self.private.schedule, order, mode, self.round_trips, self.portions));
                self.course.insert(course).clone()
            }
        }
    }
}

/// A session from its first byte to its last.
async fn serve(link: &Link, private: Arc<Private>, options: Options, seed: Seed) -> Result<()> {
    let mut party = accept(link, private, options, seed).await?;
    let infer_bytes = BUNDLE_BYTES + party.private.schedule.input_bytes();
    loop {
        let (kind, message) = link
            .receive_any(&[
                (FrameKind::Prepare, PREPARE_BYTES..=PREPARE_BYTES),
                (FrameKind::Infer, infer_bytes..=infer_bytes),
                (FrameKind::Stream, 0..=0),
                (FrameKind::Goodbye, 0..=0),
            ])
            .await?;
        let phase = match kind {
            FrameKind::Prepare | FrameKind::Stream => Phase::Prepare,
            _ => Phase::Infer,
        };
        link.enter(Place { phase, node: None });
        link.count_received(message.len());
        match kind {
            FrameKind::Prepare => party.prepare(link, &message, options.max_bundles).await?,
            FrameKind::Infer => party.infer(link, &message).await?,
            FrameKind::Stream => party.stream(link).await?,
            _ => return Ok(()),
        }
    }
}

/// Handshake, keys and base OTs.
async fn accept(link: &Link, private: Arc<Private>, options: Options, seed: Seed) -> Result<Party> {
    link.enter(Place { phase: Phase::Setup, node: None });
    let mut prg = Prg::new(&seed);
    // Any length up to twice ours, so that another version gets an answer that says so.
    let (_, opening) = link.receive_any(&[(FrameKind::ClientHello, 0..=2 * HELLO_BYTES)]).await?;
    link.count_received(opening.len());
    let Hello { options: asked, nonce: client_nonce, .. } = Hello::parse(&opening, &private.id)?;
    options.check_suite(asked.suite)?;
    let suite = asked.suite;
    let extension = options.grant(asked.extension);
    let server_nonce = nonce(&mut prg);
    let mut prg = bind(&mut prg, &client_nonce, &server_nonce);
    let context = |direction| Context { suite, direction, client_nonce, server_nonce };
    let (incoming, outgoing) = (context(Direction::ServerReceives), context(Direction::ClientReceives));
    let (base_sender, message) = base::BaseSender::new(&incoming, &mut prg);
    let limits = [&options.max_bundles.to_le_bytes()[..], &[extension.code()]].concat();
    link.send(FrameKind::ServerHello, [&server_nonce[..], &limits, &message].concat()).await?;

    let linear_bytes = PublicKey::bytes(&rlwe::params::LINEAR);
    let has_products = private.schedule.products() > 0;
    let slot_bytes = if has_products { PublicKey::bytes(&rlwe::params::SLOTS) } else { 0 };
    let reply_bytes = base::receiver_bytes(incoming.direction);
    let keys =
        link.receive(FrameKind::ClientKeys, reply_bytes + base::SENDER_BYTES + linear_bytes + slot_bytes).await?;
    let (base_reply, rest) = keys.split_at(reply_bytes);
    let (message, rest) = rest.split_at(base::SENDER_BYTES);
    let (linear_part, slot_part) = rest.split_at(linear_bytes);
    let linear_key = PublicKey::from_bytes(&rlwe::params::LINEAR, linear_part)?;
    let slot_key = if has_products { Some(PublicKey::from_bytes(&rlwe::params::SLOTS, slot_part)?) } else { None };
    let mut base_message = [0; base::SENDER_BYTES];
    base_message.copy_from_slice(message);

    let delta = SenderSupply::delta(outgoing.direction, extension, &mut prg);
    let (mut reply, base_keys) = base::base_receive(&outgoing, &delta, &base_message, &mut prg)?;
    let (rot_receiver, corrections) = ReceiverSupply::setup(&incoming, extension, base_sender.finish(base_reply)?);
    reply.extend_from_slice(&corrections);
    link.send(FrameKind::ServerKeys, reply).await?;
    let corrections = link.receive(FrameKind::ClientCorrections, extension.setup_bytes(outgoing.direction)).await?;
    let rot_sender = SenderSupply::setup(&outgoing, extension, delta, base_keys, &corrections)?;
    let session = SessionId::new(&client_nonce, &server_nonce);
    Ok(Party {
        private,
        prg,
        session,
        round_trips: asked.round_trips,
        portions: asked.portions,
        course: None,
        linear_key,
        slot_key,
        rot_sender,
        rot_receiver,
        bundles: BTreeMap::new(),
        prepared: 0,
    })
}

impl Private {
    /// The secrets of an activation layer's channels; a maximum has none.
    fn activation_secrets(&self, index: usize) -> Result<&[ChannelSecret]> {
        match &self.parameters.nodes[index] {
            NodeSecret::Activation(channels) => Ok(channels),
            NodeSecret::None => Ok(&[]),
            _ => Err(super::invalid_state("node: expected an activation layer's parameters")),
        }
    }
}

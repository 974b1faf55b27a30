//! The client: owns the input, learns the output.

mod infer;
mod prepare;
mod stream;

use super::course::{Course, Portions};
use super::drive::Session;
use super::forecast::Forecast;
use super::link::{Driver, Link, Progress, Script};
use super::memory::{self, Build, ClientMemory};
use super::meter::{Meter, Observer, Phase, Place};
use super::order::{Mode, Order};
use super::schedule::Schedule;
use super::{
    BundleId, Hello, LIMIT_BYTES, NONCE_BYTES, Options, RoundTrips, SessionId, bind, invalid_state, nonce, spent,
};
use crate::activation::ClientLayer;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Map;
use crate::model::{Architecture, ModelFile, ModelId};
use crate::ot::supply::{ReceiverSupply, SenderSupply};
use crate::ot::{Context, Direction, Extension, base};
use crate::prg::{Prg, Seed, collect};
use crate::rlwe::{self, PublicKey, SecretKey};
use crate::share::Mask;
use crate::threads::Threads;
use crate::wire::frame::FrameKind;
use alloc::{boxed::Box, format, sync::Arc, vec, vec::Vec};
use core::fmt;
use infer::infer;
use prepare::prepare;
use stream::stream;
use zeroize::Zeroizing;

/// A model's public part, checked and scheduled. Immutable; any number of clients may share it.
#[derive(Clone)]
pub struct ClientModel {
    public: Arc<Public>,
    threads: Threads,
}

struct Public {
    architecture: Architecture,
    schedule: Schedule,
    id: ModelId,
}

impl Public {
    fn course(&self, mode: Mode, trips: RoundTrips, portions: Portions) -> Course {
        let order = Order::new(&self.architecture, &self.schedule, mode);
        Course::new(&self.schedule, Arc::new(order), mode, trips, portions)
    }
}

impl ClientModel {
    /// Reads a public part, or the public part of a server's model.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let (architecture, id) = ModelFile::read_public(bytes)?;
        Self::with_id(architecture, id)
    }

    /// Schedules an architecture.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`].
    pub fn new(architecture: Architecture) -> Result<Self> {
        let id = architecture.id()?;
        Self::with_id(architecture, id)
    }

    fn with_id(architecture: Architecture, id: ModelId) -> Result<Self> {
        let schedule = Schedule::new(&architecture)?;
        Ok(Self { public: Arc::new(Public { architecture, schedule, id }), threads: Threads::default() })
    }

    /// The same model, with threads that compute for all its clients.
    #[must_use]
    pub fn with_threads(self, threads: Threads) -> Self {
        Self { threads, ..self }
    }

    /// The public architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.public.architecture
    }

    /// The model's id.
    pub fn id(&self) -> &ModelId {
        &self.public.id
    }

    /// What one inference will cost that is prepared as a whole and then done.
    pub fn forecast(&self, options: &Options) -> Forecast {
        self.forecast_of(Mode::Ahead, options)
    }

    /// What an inference in a stream ([`Client::stream`]) will cost. Its places are those of preparing and of inference, as they alternate.
    pub fn forecast_stream(&self, options: &Options) -> Forecast {
        self.forecast_of(Mode::Streamed, options)
    }

    /// Most bytes of the heap that a client takes for an inference in a stream, by how its library is built.
    pub fn memory_of_stream(&self, options: &Options, build: Build) -> ClientMemory {
        self.memory_of(Mode::Streamed, options, build)
    }

    /// The same for an inference that is prepared as a whole and then done.
    pub fn memory_ahead(&self, options: &Options, build: Build) -> ClientMemory {
        self.memory_of(Mode::Ahead, options, build)
    }

    fn memory_of(&self, mode: Mode, options: &Options, build: Build) -> ClientMemory {
        let Public { architecture, schedule, .. } = &*self.public;
        let course = self.public.course(mode, options.round_trips, options.portions);
        memory::client(architecture, schedule, &course, options.extension, self.threads.pieces(), build)
    }

    /// The options with portions and an OT extension that fit in their `memory`, by how the library is built: those with the
    /// fewest round trips with which an inference can be prepared, or if none can, with which one can be carried out in a stream.
    /// Without `memory` they stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] if none fit.
    pub fn fit(&self, options: &Options, build: Build) -> Result<Options> {
        let Some(limit) = options.memory else { return Ok(*options) };
        memory::fit(options, limit, |mode, options| self.memory_of(mode, options, build).peak)
    }

    fn forecast_of(&self, mode: Mode, options: &Options) -> Forecast {
        let course = self.public.course(mode, options.round_trips, options.portions);
        Forecast::new(&self.public.schedule, &course, options.extension)
    }

    /// Number of input values.
    pub fn inputs(&self) -> usize {
        self.public.schedule.shapes[0].elements()
    }

    /// Number of output values.
    pub fn outputs(&self) -> usize {
        self.public.schedule.shapes.last().map_or(0, |shape| shape.elements())
    }

    /// The fixed-point encoding round(x · 2^bits) of real inputs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there are too few or too many values, or one is outside the model's range.
    pub fn encode(&self, values: &[f32]) -> Result<Zeroizing<Vec<i32>>> {
        let scale = libm::ldexpf(1.0, self.public.architecture.input_fraction_bits.into());
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
        let bits: i32 = self.public.architecture.output_fraction_bits().into();
        outputs.iter().map(|&v| libm::ldexp(v.into(), -bits) as f32).collect()
    }

    /// For every tensor, how many low bits of its words are the same at every run: the others are not needed.
    #[cfg(any(test, feature = "trace"))]
    pub fn word_bits(&self) -> &[u32] {
        &self.public.schedule.word_bits
    }

    /// Every tensor of an inference, from what [`Client::masks`] and [`super::Server::masked`] show.
    #[cfg(any(test, feature = "trace"))]
    pub fn unmask(&self, masks: &[Vec<u32>], masked: &[Vec<u32>]) -> Vec<Vec<i64>> {
        let tensors = masked.iter().zip(masks).zip(self.word_bits());
        let value = |x: u32, r: u32, bits: u32| i64::from((x.wrapping_sub(r) << (32 - bits)) as i32 >> (32 - bits));
        tensors.map(|((x, r), &bits)| x.iter().zip(r).map(|(&x, &r)| value(x, r, bits)).collect()).collect()
    }

    fn check_input(&self, input: &[i32]) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::InvalidArgument, message));
        if input.len() != self.inputs() {
            return invalid(format!(
                "input: expected {} values ({}), got {}",
                self.inputs(),
                self.public.schedule.shapes[0],
                input.len()
            ));
        }
        let [low, high] = self.public.architecture.input_range;
        // The value itself is the client's secret and stays out of the text.
        match input.iter().position(|v| !(low..=high).contains(v)) {
            None => Ok(()),
            Some(index) => {
                let real = |value| Real { value, fraction_bits: self.public.architecture.input_fraction_bits };
                let (low, high) = (real(low), real(high));
                invalid(format!("input value {index}: expected {low} to {high}, got one outside that range"))
            }
        }
    }
}

/// value / 2^fraction_bits, written with all its digits and without floating point, whose output is larger than all texts here.
struct Real {
    value: i32,
    fraction_bits: u8,
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bits, magnitude) = (u32::from(self.fraction_bits), u64::from(self.value.unsigned_abs()));
        let below = (1 << bits) - 1;
        write!(f, "{}{}", if self.value < 0 { "-" } else { "" }, (magnitude >> bits) as u32)?;
        let mut rest = magnitude & below;
        if rest != 0 {
            f.write_str(".")?;
        }
        while rest != 0 {
            rest *= 10;
            write!(f, "{}", (rest >> bits) as u32)?;
            rest &= below;
        }
        Ok(())
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
    threads: Threads,
    prg: Prg,
    session: SessionId,
    round_trips: RoundTrips,
    portions: Portions,
    /// The course of the inferences of the last mode that was asked for.
    course: Option<Arc<Course>>,
    linear_key: SecretKey,
    slot_key: Option<SecretKey>,
    rot_sender: SenderSupply,
    rot_receiver: ReceiverSupply,
    /// Most bundles that the server holds for the session.
    max_bundles: u32,
    bundles: Map<BundleId, Bundle>,
    prepared: u64,
}

impl Party {
    fn course(&mut self, mode: Mode) -> Arc<Course> {
        match &self.course {
            Some(course) if course.mode == mode => course.clone(),
            _ => {
                let course = Arc::new(self.public.course(mode, self.round_trips, self.portions));
                self.course.insert(course).clone()
            }
        }
    }
}

/// What an operation leaves: the party, and after an inference its output.
pub(super) struct Done {
    /// None after a goodbye.
    party: Option<Box<Party>>,
    output: Option<Zeroizing<Vec<i32>>>,
}

/// A client's session with one server over one connection. Cannot be cloned: a mask serves once.
pub struct Client {
    model: ClientModel,
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
        Self { model: model.clone(), options, driver: Driver::new(), seed: Some(seed), party: None, output: None }
    }

    /// Asks to prepare `count` inferences; the first call also opens the session. Then [`Session::advance`] until idle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] while another operation runs; the error that ended the session, if one did; [`ErrorKind::Memory`] if
    /// they do not fit in the [`Options::memory`].
    pub fn prepare(&mut self, count: u32) -> Result<()> {
        self.check_idle()?;
        self.choose()?;
        if let (Some(limit), 1..) = (self.options.memory, count) {
            let held = self.bundles().len() as u64 + u64::from(count);
            let needed = self.model.memory_ahead(&self.options, Build::THIS).with_bundles(held);
            if needed > limit {
                return Err(memory::too_little(&format!("inferences prepared: {held}"), limit, needed));
            }
        }
        let check = move |party: &Party| party.check_room(count);
        self.start(check, move |link, party| Box::pin(async move { prepare(&link, party, count).await }))
    }

    /// Starts an inference that was not prepared; if it is the first operation, it also opens the session. Then [`Session::advance`] until
    /// idle. Each layer is prepared when it is reached, in parts of [`Portions::part`] elements, used and forgotten: it takes far less
    /// memory than an inference that is prepared as a whole, and more round trips, and all its time passes after the input is known.
    ///
    /// `input` is in fixed point ([`ClientModel::encode`]).
    ///
    /// # Errors
    /// As [`Self::prepare`]; [`ErrorKind::InvalidArgument`] if the input does not fit the model: then nothing was sent.
    pub fn stream(&mut self, input: &[i32]) -> Result<()> {
        self.check_idle()?;
        self.model.check_input(input)?;
        self.choose()?;
        if let (Some(limit), held @ 1..) = (self.options.memory, self.bundles().len() as u64) {
            let waiting = self.model.memory_ahead(&self.options, Build::THIS).each;
            let needed = self
                .model
                .memory_of_stream(&self.options, Build::THIS)
                .peak
                .saturating_add(waiting.saturating_mul(held));
            if needed > limit {
                return Err(memory::too_little(&format!("a stream beside {held} prepared inferences"), limit, needed));
            }
        }
        let input = Zeroizing::new(input.to_vec());
        self.output = None;
        self.start(|_| Ok(()), move |link, party| Box::pin(async move { stream(&link, party, &input).await }))
    }

    /// Before a session opens: chooses what fits in the memory that it may take.
    fn choose(&mut self) -> Result<()> {
        if self.seed.is_some() {
            self.options = self.model.fit(&self.options, Build::THIS)?;
        }
        Ok(())
    }

    /// Starts an operation that may be the first. An open session is `check`ed before.
    fn start(
        &mut self,
        check: impl FnOnce(&Party) -> Result<()>,
        operation: impl FnOnce(Link, Box<Party>) -> Script<Done> + Send + 'static,
    ) -> Result<()> {
        let link = self.driver.link();
        let script: Script<Done> = match (self.party.take(), self.seed.take()) {
            (Some(party), _) => {
                if let Err(error) = check(&party) {
                    self.party = Some(party);
                    return Err(error);
                }
                link.enter(Place { phase: Phase::Prepare, node: None });
                operation(link, party)
            }
            (None, Some(seed)) => {
                let (model, options) = (self.model.clone(), self.options);
                Box::pin(async move {
                    let party = connect(&link, model, options, seed).await?;
                    operation(link, party).await
                })
            }
            (None, None) => return Err(invalid_state("expected an open session, got one that has ended")),
        };
        self.driver.start(script);
        Ok(())
    }

    /// The prepared inferences that are left, oldest first.
    pub fn bundles(&self) -> Vec<BundleId> {
        self.party.as_ref().map_or_else(Vec::new, |party| party.bundles.iter().map(|(&id, _)| id).collect())
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
        self.model.check_input(input)?;
        let Some(mut party) = self.party.take() else {
            return Err(spent(bundle));
        };
        let Some(material) = party.bundles.remove(&bundle) else {
            self.party = Some(party);
            return Err(spent(bundle));
        };
        let input = Zeroizing::new(input.to_vec());
        let link = self.driver.link();
        link.enter(Place { phase: Phase::Infer, node: None });
        self.output = None;
        self.driver.start(Box::pin(async move {
            let output = infer(&link, &party.public, party.round_trips, bundle, material, &input).await?;
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

    /// Tells an observer of every place in the protocol that the session enters from here on, for those who measure time.
    pub fn observe(&mut self, observer: Observer) {
        self.driver.observe(observer);
    }

    /// What the session has cost so far.
    pub fn meter(&self) -> Meter {
        self.driver.meter()
    }

    /// Where the session is: the place at which it waits, or where the last operation ended.
    pub fn place(&self) -> Place {
        self.driver.place()
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
async fn connect(link: &Link, model: ClientModel, options: Options, seed: Seed) -> Result<Box<Party>> {
    options.extension.check_built()?;
    let ClientModel { public, threads } = model;
    link.enter(Place { phase: Phase::Setup, node: None });
    let mut prg = Prg::new(&seed);
    let client_nonce = nonce(&mut prg);
    let Options { suite, .. } = options;
    let hello = Hello { options, model: public.id, nonce: client_nonce };
    link.send(FrameKind::ClientHello, hello.to_bytes()).await?;

    let reply = link.receive(FrameKind::ServerHello, NONCE_BYTES + LIMIT_BYTES + base::SENDER_BYTES).await?;
    let (mut server_nonce, mut base_message) = ([0; NONCE_BYTES], [0; base::SENDER_BYTES]);
    server_nonce.copy_from_slice(&reply[..NONCE_BYTES]);
    let (limit, message) = reply[NONCE_BYTES..].split_at(LIMIT_BYTES);
    base_message.copy_from_slice(message);
    let max_bundles = limit.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let extension = Extension::from_code(limit[4].into()).unwrap_or(options.extension);
    if extension != options.extension && (options.extension, extension) != (Extension::Silent, Options::FALLBACK) {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("OT extension: expected {}, the server has {extension}", options.extension),
        ));
    }
    let context = |direction| Context { suite, direction, client_nonce, server_nonce };
    let (outgoing, incoming) = (context(Direction::ServerReceives), context(Direction::ClientReceives));

    let mut prg = bind(&mut prg, &client_nonce, &server_nonce);
    let delta = SenderSupply::delta(outgoing.direction, extension, &mut prg);
    let (mut keys, base_keys) = base::base_receive(&outgoing, &delta, &base_message, &mut prg)?;
    let (base_sender, message) = base::BaseSender::new(&incoming, &mut prg);
    keys.extend_from_slice(&message);
    let linear_key = SecretKey::generate(&rlwe::params::LINEAR, &mut prg);
    let linear_public = linear_key.public_key_pieces(&mut prg);
    let slot_key = (public.schedule.products() > 0).then(|| SecretKey::generate(&rlwe::params::SLOTS, &mut prg));
    let slot_public = slot_key.as_ref().map(|key| key.public_key_pieces(&mut prg));
    let bytes = keys.len()
        + PublicKey::bytes(&rlwe::params::LINEAR)
        + slot_key.as_ref().map_or(0, |_| PublicKey::bytes(&rlwe::params::SLOTS));
    let pieces = core::iter::once(keys).chain(linear_public).chain(slot_public.into_iter().flatten());
    link.send_pieces(FrameKind::ClientKeys, bytes, pieces).await?;

    let reply_bytes = base::receiver_bytes(incoming.direction);
    let corrections_bytes = extension.setup_bytes(outgoing.direction);
    let reply = link.receive(FrameKind::ServerKeys, reply_bytes + corrections_bytes).await?;
    let (base_reply, corrections) = reply.split_at(reply_bytes);
    let rot_sender = SenderSupply::setup(&outgoing, extension, delta, base_keys, corrections)?;
    let (rot_receiver, corrections) = ReceiverSupply::setup(&incoming, extension, base_sender.finish(base_reply)?);
    link.send(FrameKind::ClientCorrections, corrections).await?;
    let session = SessionId::new(&client_nonce, &server_nonce);
    Ok(Box::new(Party {
        public,
        threads,
        prg,
        session,
        round_trips: options.round_trips,
        portions: options.portions,
        course: None,
        linear_key,
        slot_key,
        rot_sender,
        rot_receiver,
        max_bundles,
        bundles: Map::new(),
        prepared: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::Real;
    use alloc::format;

    #[test]
    fn reals_are_written_as_they_are() {
        for bits in 0..=24 {
            for value in [0, 1, -1, 2, 3, 255, -256, 1000, i32::MAX, i32::MIN] {
                let text = format!("{}", Real { value, fraction_bits: bits });
                assert_eq!(text.parse::<f64>(), Ok(f64::from(value) / f64::from(1 << bits)), "{text}");
                assert!(bits > 0 || text == format!("{value}"), "{text}");
            }
        }
        assert_eq!(
            format!("{} {}", Real { value: -3, fraction_bits: 1 }, Real { value: 64, fraction_bits: 6 }),
            "-1.5 1"
        );
    }
}

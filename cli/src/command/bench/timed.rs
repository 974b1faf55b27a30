//! A session that measures what each of its calls costs, by place in the protocol.

use safenet_core::model::{Architecture, Op};
use safenet_core::session::{Client, Meter, Phase, Place, Progress, Server, Session};
use std::collections::BTreeMap;
use std::time::Instant;

/// Input is handed on in pieces of at most so many bytes, so that a call rarely spans several layers.
const PIECE_BYTES: usize = 1 << 14;

/// A session that counts its traffic.
pub(crate) trait Metered: Session {
    /// What the session has cost so far.
    fn meter(&self) -> Meter;
}

impl Metered for Client {
    fn meter(&self) -> Meter {
        self.meter()
    }
}

impl Metered for Server {
    fn meter(&self) -> Meter {
        self.meter()
    }
}

/// What a party did at a place.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds of computing, waiting not included.
    pub(crate) seconds: f64,
    /// How often it waited for the other party after having sent.
    pub(crate) rounds: u64,
}

/// A session whose calls are timed.
///
/// A session tells where it is between calls only. A call that begins and ends in the same layer is attributed exactly; the
/// time of one that touches several layers is split by the bytes that it moved in each. Linear layers move none online: the
/// time of a call that goes past them, in which the server does all their arithmetic, is theirs (`products`).
pub(crate) struct Timed<S> {
    session: S,
    costs: BTreeMap<Place, Cost>,
    /// The session's meter after the last call.
    meter: Meter,
    /// Whether something was sent since something was received.
    waiting: bool,
    /// Per node, the multiplications that this party does for it online.
    products: Vec<u64>,
}

impl Timed<Client> {
    /// Times a client.
    pub(crate) fn client(session: Client) -> Self {
        Self::new(session, vec![])
    }
}

impl Timed<Server> {
    /// Times a server.
    pub(crate) fn server(session: Server, architecture: &Architecture) -> safenet_core::Result<Self> {
        let shapes = architecture.shapes()?;
        let products = architecture.nodes.iter().zip(&shapes[1..]).map(|(node, output)| match &node.op {
            Op::Convolution(conv) => {
                let fan_in = u64::from(shapes[node.inputs[0] as usize].channels / conv.groups)
                    * conv.kernel.map(u64::from).iter().product::<u64>();
                fan_in * output.elements() as u64
            }
            _ => 0,
        });
        Ok(Self::new(session, products.collect()))
    }
}

impl<S> Timed<S> {
    fn new(session: S, products: Vec<u64>) -> Self {
        Self { session, costs: BTreeMap::new(), meter: Meter::default(), waiting: false, products }
    }

    /// The session itself.
    pub(crate) fn session(&mut self) -> &mut S {
        &mut self.session
    }

    /// What was measured so far.
    pub(crate) fn costs(&self) -> &BTreeMap<Place, Cost> {
        &self.costs
    }

    fn attribute(&mut self, after: &Meter, seconds: f64) {
        let (from, to) = (self.meter.place(), after.place());
        let shares = match self.passed(from, to) {
            shares if !shares.is_empty() => shares,
            _ if from == to => vec![(to, 1)],
            _ => moved(&self.meter, after),
        };
        let whole: u64 = shares.iter().map(|(_, share)| share).sum();
        for (place, share) in shares {
            self.costs.entry(place).or_default().seconds += seconds * share as f64 / whole as f64;
        }
    }

    /// The linear layers whose arithmetic this party did on its way online from one place to another.
    fn passed(&self, from: Place, to: Place) -> Vec<(Place, u64)> {
        let (Phase::Infer, Some(end)) = (to.phase, to.node) else { return vec![] };
        let start = match (from.phase, from.node) {
            (Phase::Infer, Some(node)) => node + 1,
            _ => 0,
        };
        let nodes = (start..end).filter_map(|node| Some((node, *self.products.get(node as usize)?)));
        let place = |node| Place { phase: Phase::Infer, node: Some(node) };
        nodes.filter(|&(_, products)| products > 0).map(|(node, products)| (place(node), products)).collect()
    }
}

/// The places at which a call moved bytes, and how many; without any, the place at which it ended.
fn moved(before: &Meter, after: &Meter) -> Vec<(Place, u64)> {
    let earlier: BTreeMap<_, _> = before.traffic().into_iter().collect();
    let mut moved = vec![];
    for (place, traffic) in after.traffic() {
        let old = earlier.get(&place).copied().unwrap_or_default();
        let bytes = traffic.sent - old.sent + traffic.received - old.received;
        if bytes > 0 {
            moved.push((place, bytes));
        }
    }
    if moved.is_empty() {
        moved.push((after.place(), 1));
    }
    moved
}

impl<S: Metered> Session for Timed<S> {
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> safenet_core::Result<Progress> {
        let piece = &input[..input.len().min(PIECE_BYTES)];
        let start = Instant::now();
        let result = self.session.advance(piece, output);
        let seconds = start.elapsed().as_secs_f64();
        let after = self.session.meter();
        self.attribute(&after, seconds);
        // What was waited for belongs to the place at which the session waited.
        let waited_at = std::mem::replace(&mut self.meter, after).place();
        let progress = result?;
        if progress.consumed > 0 && std::mem::take(&mut self.waiting) {
            self.costs.entry(waited_at).or_default().rounds += 1;
        }
        self.waiting |= progress.produced > 0;
        Ok(progress)
    }

    fn input_ended(&mut self) {
        self.session.input_ended();
    }
}

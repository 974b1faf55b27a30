//! What a measurement gives, and its medians.

use super::server::PlaceSeconds;
use crate::command;
use crate::record::median;
use safenet_core::model::{Architecture, Shape};
use safenet_core::session::{Meter, Phase, Place, Traffic};
use serde::Serialize;
use std::collections::BTreeMap;

/// Time, traffic and rounds of one inference. `up` is from the client to the server.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Figures {
    pub(super) prepare_s: f64,
    pub(super) online_s: f64,
    pub(super) prepare_bytes_up: u64,
    pub(super) prepare_bytes_down: u64,
    pub(super) online_bytes_up: u64,
    pub(super) online_bytes_down: u64,
    pub(super) rounds_prepare: u64,
    pub(super) rounds_online: u64,
}

impl Figures {
    fn median(runs: &[Self]) -> Self {
        let seconds = |value: fn(&Self) -> f64| median(runs.iter().map(value));
        let count = |value: fn(&Self) -> u64| median(runs.iter().map(|run| value(run) as f64)).round() as u64;
        Self {
            prepare_s: seconds(|r| r.prepare_s),
            online_s: seconds(|r| r.online_s),
            prepare_bytes_up: count(|r| r.prepare_bytes_up),
            prepare_bytes_down: count(|r| r.prepare_bytes_down),
            online_bytes_up: count(|r| r.online_bytes_up),
            online_bytes_down: count(|r| r.online_bytes_down),
            rounds_prepare: count(|r| r.rounds_prepare),
            rounds_online: count(|r| r.rounds_online),
        }
    }
}

/// One layer's part. Its seconds are those that both parties computed, which may overlap in time.
#[derive(Clone, Serialize)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) kind: &'static str,
    #[serde(flatten)]
    pub(super) figures: Figures,
    pub(super) client_prepare_s: f64,
    pub(super) server_prepare_s: f64,
    pub(super) client_online_s: f64,
    pub(super) server_online_s: f64,
}

impl Layer {
    fn median(runs: &[&Self]) -> Option<Self> {
        let seconds = |value: fn(&Self) -> f64| median(runs.iter().map(|run| value(run)));
        let figures: Vec<Figures> = runs.iter().map(|run| run.figures).collect();
        let first = runs.first()?;
        Some(Self {
            name: first.name.clone(),
            kind: first.kind,
            figures: Figures::median(&figures),
            client_prepare_s: seconds(|r| r.client_prepare_s),
            server_prepare_s: seconds(|r| r.server_prepare_s),
            client_online_s: seconds(|r| r.client_online_s),
            server_online_s: seconds(|r| r.server_online_s),
        })
    }
}

/// One session: set-up, and a number of inferences prepared together and then run.
pub(super) struct Run {
    pub(super) setup_s: f64,
    pub(super) prepare_s: f64,
    pub(super) online_s: Vec<f64>,
    pub(super) meter: Meter,
    /// The client's seconds of computing at each place.
    pub(super) client: BTreeMap<Place, f64>,
}

/// Medians over all runs.
pub(super) struct Summary {
    pub(super) setup_s: f64,
    pub(super) setup: Traffic,
    pub(super) whole: Figures,
    pub(super) layers: Vec<Layer>,
}

impl Summary {
    /// `server` holds the server's seconds of each run.
    pub(super) fn new(
        architecture: &Architecture,
        shapes: &[Shape],
        runs: &[Run],
        server: &[Vec<PlaceSeconds>],
    ) -> Self {
        let wholes: Vec<Figures> = runs.iter().map(Run::whole).collect();
        let mut whole = Figures::median(&wholes);
        whole.online_s = median(runs.iter().flat_map(|run| run.online_s.iter().copied()));
        let layers: Vec<Vec<Layer>> =
            runs.iter().zip(server).map(|(run, server)| run.layers(architecture, shapes, server)).collect();
        let rows = layers.first().map_or(0, Vec::len);
        let layer = |row: usize| Layer::median(&layers.iter().map(|run| &run[row]).collect::<Vec<_>>());
        Self {
            setup_s: median(runs.iter().map(|run| run.setup_s)),
            setup: runs.first().map_or_else(Traffic::default, |run| run.meter.phase(Phase::Setup)),
            whole,
            layers: (0..rows).filter_map(layer).collect(),
        }
    }
}

impl Run {
    /// All figures are for one inference of the run's.
    fn each(&self, count: u64) -> u64 {
        count / (self.online_s.len() as u64).max(1)
    }

    fn whole(&self) -> Figures {
        let (prepare, online) = (self.meter.phase(Phase::Prepare), self.meter.phase(Phase::Infer));
        Figures {
            prepare_s: self.prepare_s / self.online_s.len() as f64,
            online_s: median(self.online_s.iter().copied()),
            prepare_bytes_up: self.each(prepare.sent),
            prepare_bytes_down: self.each(prepare.received),
            online_bytes_up: self.each(online.sent),
            online_bytes_down: self.each(online.received),
            rounds_prepare: self.each(self.meter.rounds(Phase::Prepare)),
            rounds_online: self.each(self.meter.rounds(Phase::Infer)),
        }
    }

    /// One entry per node, and first one for what belongs to none or to several.
    fn layers(&self, architecture: &Architecture, shapes: &[Shape], server: &[PlaceSeconds]) -> Vec<Layer> {
        let traffic: BTreeMap<Place, Traffic> = self.meter.traffic().into_iter().collect();
        let inferences = self.online_s.len() as f64;
        let layer = |name: &str, kind, node: Option<u32>| {
            let [prepare, online] = [Phase::Prepare, Phase::Infer].map(|phase| Place { phase, node });
            let traffic = |place| traffic.get(&place).copied().unwrap_or_default();
            let client = |place| self.client.get(&place).copied().unwrap_or_default();
            let server = |online| {
                let own = server.iter().filter(|s| s.online == online && s.node == node);
                own.map(|s| s.seconds).sum::<f64>() / inferences
            };
            let (client_prepare_s, server_prepare_s) = (client(prepare) / inferences, server(false));
            let (client_online_s, server_online_s) = (client(online) / inferences, server(true));
            Layer {
                name: name.to_owned(),
                kind,
                figures: Figures {
                    prepare_s: client_prepare_s + server_prepare_s,
                    online_s: client_online_s + server_online_s,
                    prepare_bytes_up: self.each(traffic(prepare).sent),
                    prepare_bytes_down: self.each(traffic(prepare).received),
                    online_bytes_up: self.each(traffic(online).sent),
                    online_bytes_down: self.each(traffic(online).received),
                    rounds_prepare: self.each(self.meter.rounds_at(prepare)),
                    rounds_online: self.each(self.meter.rounds_at(online)),
                },
                client_prepare_s,
                server_prepare_s,
                client_online_s,
                server_online_s,
            }
        };
        let mut layers = vec![layer("(whole network)", "shared", None)];
        for (index, node) in architecture.nodes.iter().enumerate() {
            let kind = command::kind(&node.op, shapes[node.inputs[0] as usize]);
            layers.push(layer(&node.name, kind, Some(index as u32)));
        }
        layers
    }
}

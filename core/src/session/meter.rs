//! What a session has cost so far, by phase and by layer. Bytes and rounds are counted here; time is for the caller, who has
//! a clock: an [`Observer`] is told of every change of place.

use crate::map::Map;
use alloc::{boxed::Box, vec::Vec};

/// A phase of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Keys and base OTs, once per session.
    #[default]
    Setup,
    /// Preparing inferences, before their inputs are known.
    Prepare,
    /// Inference.
    Infer,
}

/// A place in the protocol: a phase, and the node of the network it is about (none for what concerns no node or several).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The phase.
    pub phase: Phase,
    /// Index of the node in the architecture.
    pub node: Option<u32>,
}

/// Is told where a session goes, at the moment at which it goes there. Called from within `advance`: it should be quick.
pub type Observer = Box<dyn FnMut(Place) + Send>;

/// Bytes that this party sent and received at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent, frame headers included.
    pub sent: u64,
    /// Bytes received, frame headers included.
    pub received: u64,
}

/// A session's traffic and rounds so far.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    place: Place,
    traffic: Map<Place, Traffic>,
    /// Round trips: how often this party waited for the other after having sent, by the place of what it waited for.
    rounds: Map<Place, u64>,
    sent_last: bool,
    inferences: u64,
}

impl Meter {
    pub(super) fn enter(&mut self, place: Place) {
        self.place = place;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.traffic.get_or_insert_with(self.place, Traffic::default).sent += bytes as u64;
        self.sent_last = true;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.traffic.get_or_insert_with(self.place, Traffic::default).received += bytes as u64;
        if core::mem::take(&mut self.sent_last) {
            *self.rounds.get_or_insert_with(self.place, || 0) += 1;
        }
    }

    /// An inference's answer is sent, or received.
    pub(super) fn answered(&mut self) {
        self.inferences += 1;
    }

    /// Where the session is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The traffic of every place that had any.
    pub fn traffic(&self) -> Vec<(Place, Traffic)> {
        self.traffic.iter().map(|(&place, &traffic)| (place, traffic)).collect()
    }

    /// The traffic of a phase.
    pub fn phase(&self, phase: Phase) -> Traffic {
        self.traffic.iter().filter(|(place, _)| place.phase == phase).fold(Traffic::default(), |sum, (_, t)| Traffic {
            sent: sum.sent + t.sent,
            received: sum.received + t.received,
        })
    }

    /// Inferences that are done: answered by the server, or with their answer at the client.
    pub fn inferences(&self) -> u64 {
        self.inferences
    }

    /// Round trips of a phase, as the client counts them: a wait for the other party after having sent something.
    pub fn rounds(&self, phase: Phase) -> u64 {
        self.rounds.iter().filter(|(place, _)| place.phase == phase).map(|(_, rounds)| rounds).sum()
    }

    /// Of these, the round trips at a place.
    pub fn rounds_at(&self, place: Place) -> u64 {
        self.rounds.get(&place).copied().unwrap_or(0)
    }
}

//! What a session has cost so far.

use crate::pointer::Growing;
use safenet_core::session::{Meter, Phase};

/// What one phase of a session has cost this party.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct safenet_traffic {
    /// Bytes sent, or queued for sending.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Round trips: how often this party waited for the other after having sent something.
    pub rounds: u64,
}

/// A phase of a session.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "constants of C have no other name space than their prefix")]
pub enum safenet_phase {
    /// Keys, once per session.
    SAFENET_SETUP = 1,
    /// Preparing inferences, or in a stream their next layer.
    SAFENET_PREPARE = 2,
    /// Inference.
    SAFENET_INFER = 3,
}

impl From<Phase> for safenet_phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Setup => Self::SAFENET_SETUP,
            Phase::Prepare => Self::SAFENET_PREPARE,
            Phase::Infer => Self::SAFENET_INFER,
        }
    }
}

/// What a session has cost this party so far, by phase.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct safenet_stats {
    /// sizeof(safenet_stats), set before the call.
    pub size: usize,
    /// Keys, once per session.
    pub setup: safenet_traffic,
    /// Preparing inferences, before their inputs are known.
    pub prepare: safenet_traffic,
    /// Inference.
    pub infer: safenet_traffic,
    /// Inferences that are done.
    pub inferences: u64,
}

// SAFETY: integers, the first a usize.
unsafe impl Growing for safenet_stats {
    const NAME: &'static str = "stats";
    const FIRST: usize = size_of::<Self>();
}

impl safenet_stats {
    pub(crate) fn new(meter: &Meter) -> Self {
        let phase = |phase| {
            let traffic = meter.phase(phase);
            safenet_traffic { sent: traffic.sent, received: traffic.received, rounds: meter.rounds(phase) }
        };
        Self {
            size: 0,
            setup: phase(Phase::Setup),
            prepare: phase(Phase::Prepare),
            infer: phase(Phase::Infer),
            inferences: meter.inferences(),
        }
    }
}

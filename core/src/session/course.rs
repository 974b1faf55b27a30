//! The course of an inference: what both parties derive from the architecture and from what they agreed on, so that each knows
//! which message comes next and how long it is.

use super::order::{Mode, Order};
use super::schedule::{ActivationStep, Part, Schedule, round_up};
use crate::activation::RoundTrips;
use crate::error::{Error, ErrorKind, Result};
use crate::ot::softspoken;
use crate::ot::supply::Count;
use crate::rlwe::slots::SLOT_COUNT;
use alloc::{format, sync::Arc, vec, vec::Vec};
use core::ops::Range;

/// How many elements of an activation layer are worked on at a time: the client's choice for a session, between memory and time.
/// Public. Both are multiples of 128, at most 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portions {
    /// Elements of channels alike whose random OTs are extended together. Their keys and rows take up to some 200 bytes for each at
    /// either party.
    pub chunk: u32,
    /// Elements that go through a layer's rounds together in a streamed inference ([`super::Client::stream`]); what is prepared for
    /// them takes up to some 70 bytes for each at the client. A layer takes its rounds anew for each such part.
    pub part: u32,
}

impl Portions {
    /// What both numbers are multiples of: OTs are extended in as many.
    pub const UNIT: u32 = softspoken::GROUP as u32;
    /// The largest of either.
    pub const MOST: u32 = 1 << 16;

    /// Checks both numbers.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if one is not a multiple of [`Self::UNIT`] from there to [`Self::MOST`].
    pub fn check(self) -> Result<Self> {
        for (what, value) in [("extended together", self.chunk), ("of a part", self.part)] {
            if !(Self::UNIT..=Self::MOST).contains(&value) || value % Self::UNIT != 0 {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("elements {what}: expected a multiple of {} up to {}, got {value}", Self::UNIT, Self::MOST),
                ));
            }
        }
        Ok(self)
    }

    /// Both, in units, as they stand on the wire.
    pub(super) fn to_bytes(self) -> [u8; 4] {
        let [chunk, part] = [self.chunk, self.part].map(|elements| ((elements / Self::UNIT) as u16).to_le_bytes());
        [chunk[0], chunk[1], part[0], part[1]]
    }

    pub(super) fn from_bytes([a, b, c, d]: [u8; 4]) -> Result<Self> {
        let [chunk, part] = [[a, b], [c, d]].map(|bytes| u32::from(u16::from_le_bytes(bytes)) * Self::UNIT);
        Self { chunk, part }.check()
    }
}

impl Default for Portions {
    fn default() -> Self {
        Self { chunk: 2048, part: Self::MOST }
    }
}

/// What an inference's messages depend on beside the schedule and the extension.
pub(crate) struct Course {
    pub(crate) mode: Mode,
    pub(crate) order: Arc<Order>,
    pub(crate) trips: RoundTrips,
    pub(crate) portions: Portions,
    pub(crate) batches: Vec<Batch>,
}

/// Nodes that are prepared in one round trip.
pub(crate) struct Batch {
    pub(crate) nodes: Range<usize>,
    /// The random OTs that it takes.
    pub(crate) rots: BothWays,
    /// Which of the network's products in F_p, counted from the first, are made with it: as many more ciphertexts as it takes,
    /// each filled as far as there are products.
    pub(crate) products: Range<usize>,
}

/// Random OTs, by receiver.
#[derive(Clone, Copy, Default)]
pub(crate) struct BothWays {
    pub(crate) server: Count,
    pub(crate) client: Count,
}

impl Course {
    pub(crate) fn new(
        schedule: &Schedule,
        order: Arc<Order>,
        mode: Mode,
        trips: RoundTrips,
        portions: Portions,
    ) -> Self {
        let mut course = Self { mode, order: order.clone(), trips, portions, batches: vec![] };
        let (all, mut products, mut made) = (schedule.products(), 0, 0);
        for nodes in &order.batches {
            let mut client: usize = course.batch_runs(schedule, nodes).iter().sum();
            let mut server = Count::default();
            for part in schedule.activations(nodes).flat_map(|(_, step)| course.parts(step)) {
                client += course.part_runs(&part).iter().sum::<usize>();
                server = server + part.chunks(course.chunk()).iter().map(|chunk| chunk.ots).sum();
                products += part.products();
            }
            let first = made;
            made = products.next_multiple_of(SLOT_COUNT).min(all);
            let rots = BothWays { server, client: Count { single: client, wide: 0 } };
            course.batches.push(Batch { nodes: nodes.clone(), rots, products: first..made });
        }
        course
    }

    /// The parts of an activation layer, one after another.
    pub(crate) fn parts(&self, step: &ActivationStep) -> impl Iterator<Item = Part> {
        let most = match self.mode {
            Mode::Ahead => usize::MAX,
            Mode::Streamed => self.portions.part as usize,
        };
        step.parts(self.trips, most)
    }

    /// Elements whose random OTs with the server as receiver are extended together.
    pub(crate) fn chunk(&self) -> usize {
        self.portions.chunk as usize
    }

    /// The runs in which a batch's random OTs with the client as receiver are extended, each a whole number of groups; in a stream
    /// those of a part ([`Self::part_runs`]) are extended when it is reached.
    pub(crate) fn batch_runs(&self, schedule: &Schedule, nodes: &Range<usize>) -> Vec<usize> {
        match self.mode {
            Mode::Ahead => {
                self.runs(schedule.activations(nodes).map(|(_, step)| step.whole(self.trips).client_rots()).sum())
            }
            Mode::Streamed => Vec::new(),
        }
    }

    /// As [`Self::batch_runs`], of a part.
    pub(crate) fn part_runs(&self, part: &Part) -> Vec<usize> {
        match self.mode {
            Mode::Ahead => Vec::new(),
            Mode::Streamed => self.runs(part.client_rots()),
        }
    }

    fn runs(&self, count: usize) -> Vec<usize> {
        // An element takes one of these, and of the others a dozen.
        let most = 16 * self.chunk();
        (0..count).step_by(most).map(|start| round_up((count - start).min(most))).collect()
    }

    /// Random OTs that so many inferences take.
    pub(crate) fn planned(&self, inferences: u32) -> BothWays {
        let all = |one: Count| Count {
            single: one.single.saturating_mul(inferences as usize),
            wide: one.wide.saturating_mul(inferences as usize),
        };
        let one = self.batches.iter().map(|batch| batch.rots);
        let (server, client) = one.fold(Default::default(), |(s, c), one| (s + one.server, c + one.client));
        BothWays { server: all(server), client: all(client) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_multiples_within_bounds_and_pass_the_wire() {
        for (chunk, part) in [(128, 128), (2048, 65_536), (65_536, 256)] {
            let portions = Portions { chunk, part };
            assert_eq!(Portions::from_bytes(portions.check().unwrap().to_bytes()).unwrap(), portions);
        }
        for (chunk, part) in [(0, 128), (128, 0), (100, 128), (128, 1 << 17), (u32::MAX, 128)] {
            assert_eq!(Portions { chunk, part }.check().unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(Portions::from_bytes([0; 4]).is_err() && Portions::from_bytes([0xff; 4]).is_err());
    }
}

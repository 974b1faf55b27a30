//! The random OTs of one direction of a session, by the extension that both parties agreed on.
//!
//! | extension | what is sent |
//! |---|---|
//! | [`Extension::SoftSpoken`] | R → S, for each run of OTs: [`softspoken::extension_bytes`] |
//! | [`Extension::Silent`] | R → S, at set-up: the correlated OTs that seed the small set; S → R, before OTs are needed: refills |
//!
//! Which refills are due follows from how many OTs were asked for, which both parties know.

use super::silent::{self, Set};
use super::softspoken::{self, Depth, RotBatchReceived, RotReceiver, RotSender};
use super::{BASE_OTS, Block, Context, base};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::SecretVec;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// How base OTs become random OTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// SoftSpokenOT ([`softspoken`]): 128/k - 1 bits of traffic for each OT, next to no memory.
    SoftSpoken(Depth),
    /// LPN ([`silent`]): a bit or less for each of many OTs; both parties hold about 9 MB for each session.
    Silent,
}

impl Extension {
    /// The number that stands for an extension on the wire and in other languages: 2, 4 or 8 for SoftSpokenOT, 1 for the silent one.
    pub const fn code(self) -> u8 {
        match self {
            Self::SoftSpoken(depth) => depth.bits() as u8,
            Self::Silent => 1,
        }
    }

    /// The extension of a code.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for other codes.
    pub fn from_code(code: u32) -> Result<Self> {
        match code {
            1 => Ok(Self::Silent),
            2 => Ok(Self::SoftSpoken(Depth::Two)),
            4 => Ok(Self::SoftSpoken(Depth::Four)),
            8 => Ok(Self::SoftSpoken(Depth::Eight)),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("OT extension: expected depth 2, 4 or 8, or 1 for the silent one, got {code}"),
            )),
        }
    }

    /// Depth of the trees over the base OTs.
    pub const fn depth(self) -> Depth {
        match self {
            Self::SoftSpoken(depth) => depth,
            Self::Silent => Depth::Eight,
        }
    }

    /// Bytes of the message from R to S that follows the base OTs: corrections of trees, and what seeds the small set.
    pub const fn setup_bytes(self) -> usize {
        softspoken::setup_bytes(self.depth()) + self.seed_bytes()
    }

    const fn seed_bytes(self) -> usize {
        match self {
            Self::SoftSpoken(_) => 0,
            Self::Silent => softspoken::extension_bytes(Depth::Eight, Set::Small.seed_rows()),
        }
    }

    /// Bytes of R's message for a run of `count` OTs; 0 if none is sent.
    pub const fn run_bytes(self, count: usize) -> usize {
        match self {
            Self::SoftSpoken(depth) => softspoken::extension_bytes(depth, count),
            Self::Silent => 0,
        }
    }
}

/// The refills that are due before the next `needed` OTs, given those that are there of the small set and, once it is used, of the large.
/// `planned`, at least as much, is what is foreseeable: above what the small set gives, the large set is worth its start.
fn due(small: usize, large: Option<usize>, needed: usize, planned: usize) -> Vec<Set> {
    let refills = |set: Set, have: usize| needed.saturating_sub(have).div_ceil(set.outputs());
    match large {
        None if planned <= Set::Small.outputs() => vec![Set::Small; refills(Set::Small, small)],
        None => {
            let seeding = usize::from(small < Set::Large.seed_rows());
            [vec![Set::Small; seeding], vec![Set::Large; refills(Set::Large, 0).max(1)]].concat()
        }
        Some(large) => vec![Set::Large; refills(Set::Large, large)],
    }
}

/// Lengths of the refills of a session's first `needed` OTs. For forecasts.
pub fn first_refills(needed: usize) -> impl Iterator<Item = usize> {
    due(0, None, needed, needed).into_iter().map(Set::refill_bytes)
}

/// The receiver's side.
pub struct ReceiverSupply {
    context: Context,
    extension: Extension,
    soft: RotReceiver,
    small: Option<silent::Receiver>,
    large: Option<silent::Receiver>,
}

impl ReceiverSupply {
    /// Starts over the base OTs' keys; gives the message to the sender, [`Extension::setup_bytes`] long.
    ///
    /// # Errors
    /// None that a right set-up can have.
    pub fn setup(context: &Context, extension: Extension, keys: base::SenderKeys) -> Result<(Self, Vec<u8>)> {
        let (mut soft, mut message) = RotReceiver::setup(context, extension.depth(), keys);
        let mut small = None;
        if extension == Extension::Silent {
            let (correlated, rows) = soft.extend_correlated(Set::Small.seed_rows())?;
            message.extend_from_slice(&correlated);
            small = Some(silent::Receiver::new(context, Set::Small, rows)?);
        }
        Ok((Self { context: *context, extension, soft, small, large: None }, message))
    }

    /// Lengths of the refills that come before the next `needed` OTs; `planned` as for [`SenderSupply::refill`].
    pub fn due(&self, needed: usize, planned: usize) -> Vec<usize> {
        let Some(small) = &self.small else { return vec![] };
        let large = self.large.as_ref().map(silent::Receiver::available);
        due(small.available(), large, needed, planned).iter().map(|set| set.refill_bytes()).collect()
    }

    /// Takes a refill.
    ///
    /// # Errors
    /// As [`silent::Receiver::refill`].
    pub fn refill(&mut self, message: &[u8]) -> Result<()> {
        let Some(small) = &mut self.small else { return Ok(()) };
        if message.len() == Set::Small.refill_bytes() {
            return small.refill(message);
        }
        if self.large.is_none() {
            let rows = small.extend_correlated(Set::Large.seed_rows())?;
            self.large = Some(silent::Receiver::new(&self.context, Set::Large, rows)?);
        }
        self.large.as_mut().map_or(Ok(()), |large| large.refill(message))
    }

    /// The next `count` random OTs, and the message to the sender, empty if none is sent.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidArgument`] if `count` is no multiple of [`softspoken::GROUP`], or refills are due.
    pub fn extend(&mut self, count: usize) -> Result<(Vec<u8>, RotBatchReceived)> {
        match (self.extension, &mut self.large, &mut self.small) {
            (Extension::Silent, Some(set), _) | (Extension::Silent, None, Some(set)) => {
                set.extend(count).map(|batch| (vec![], batch))
            }
            _ => self.soft.extend(count),
        }
    }
}

/// The sender's side.
pub struct SenderSupply {
    context: Context,
    extension: Extension,
    delta: Box<Zeroizing<[u8; BASE_OTS / 8]>>,
    soft: RotSender,
    small: Option<silent::Sender>,
    large: Option<silent::Sender>,
}

impl SenderSupply {
    /// A fresh Δ made fit for the extension: odd for the silent one, which takes one of its 128 bits of uncertainty.
    pub fn delta(extension: Extension, random: [u8; BASE_OTS / 8]) -> Box<Zeroizing<[u8; BASE_OTS / 8]>> {
        let mut delta = Box::new(Zeroizing::new(random));
        delta[0] |= u8::from(extension == Extension::Silent);
        delta
    }

    /// Starts over the base OTs' keys for the choices Δ and the receiver's message.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MalformedMessage`] if the message has another length than [`Extension::setup_bytes`].
    pub fn setup(
        context: &Context,
        extension: Extension,
        delta: Box<Zeroizing<[u8; BASE_OTS / 8]>>,
        keys: base::ReceiverKeys,
        message: &[u8],
    ) -> Result<Self> {
        let (corrections, correlated) = message.split_at(message.len().min(softspoken::setup_bytes(extension.depth())));
        let mut soft = RotSender::setup(context, extension.depth(), delta.clone(), keys, corrections)?;
        let mut small = None;
        if extension == Extension::Silent {
            let rows = soft.extend_correlated(Set::Small.seed_rows(), correlated)?;
            small = Some(silent::Sender::new(context, Set::Small, delta.clone(), rows)?);
        }
        Ok(Self { context: *context, extension, delta, soft, small, large: None })
    }

    /// Makes the refills, messages to the receiver, that are due before the next `needed` OTs; `planned`, at least as many, are
    /// those that are foreseeable.
    ///
    /// # Errors
    /// None that a right supply can have.
    pub fn refill(&mut self, needed: usize, planned: usize) -> Result<Vec<Vec<u8>>> {
        let Some(small) = &mut self.small else { return Ok(vec![]) };
        let large = self.large.as_ref().map(silent::Sender::available);
        let mut messages = vec![];
        for set in due(small.available(), large, needed, planned) {
            if set == Set::Small {
                messages.push(small.refill());
                continue;
            }
            if self.large.is_none() {
                let rows = small.extend_correlated(Set::Large.seed_rows())?;
                self.large = Some(silent::Sender::new(&self.context, Set::Large, self.delta.clone(), rows)?);
            }
            messages.extend(self.large.as_mut().map(silent::Sender::refill));
        }
        Ok(messages)
    }

    /// The next `count` random OTs, from the receiver's message where one is sent.
    ///
    /// # Errors
    /// As [`ReceiverSupply::extend`]; [`crate::ErrorKind::MalformedMessage`] if the message has another length than
    /// [`Extension::run_bytes`].
    pub fn extend(&mut self, count: usize, message: &[u8]) -> Result<SecretVec<[Block; 2]>> {
        match (self.extension, &mut self.large, &mut self.small) {
            (Extension::Silent, Some(set), _) | (Extension::Silent, None, Some(set)) => set.extend(count),
            _ => self.soft.extend(count, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::base::{BaseSender, base_receive};
    use super::super::{Direction, test_context};
    use super::*;
    use crate::prg::{Prg, Seed};

    fn pair(extension: Extension) -> (SenderSupply, ReceiverSupply) {
        let context = test_context(Direction::ServerReceives);
        let mut prg = Prg::new(&Seed::from_bytes([21; 32]));
        let delta = SenderSupply::delta(extension, [6; 16]);
        let (base, message) = BaseSender::new(&context, &mut prg);
        let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg).unwrap();
        let (receiver, message) = ReceiverSupply::setup(&context, extension, base.finish(&reply).unwrap()).unwrap();
        assert_eq!(message.len(), extension.setup_bytes());
        (SenderSupply::setup(&context, extension, delta, chosen, &message).unwrap(), receiver)
    }

    fn check(sender: &mut SenderSupply, receiver: &mut ReceiverSupply, count: usize) {
        let (message, got) = receiver.extend(count).unwrap();
        assert_eq!(message.len(), receiver.extension.run_bytes(count));
        let keys = sender.extend(count, &message).unwrap();
        assert!(keys.iter().enumerate().all(|(j, keys)| keys[got.choice_bits(j, 1) as usize] == got.keys[j]));
    }

    /// Needs `needed` of `planned` OTs; the sets of the refills that came before.
    fn need(pair: &mut (SenderSupply, ReceiverSupply), needed: usize, planned: usize) -> Vec<Set> {
        let lengths = pair.1.due(needed, planned);
        let messages = pair.0.refill(needed, planned).unwrap();
        assert!(messages.iter().map(Vec::len).eq(lengths));
        messages.iter().for_each(|message| pair.1.refill(message).unwrap());
        check(&mut pair.0, &mut pair.1, needed);
        let set = |message: &Vec<u8>| if message.len() == Set::Small.refill_bytes() { Set::Small } else { Set::Large };
        messages.iter().map(set).collect()
    }

    #[test]
    fn few_ots_come_from_the_small_set_and_many_from_the_large() {
        let mut pair = pair(Extension::Silent);
        assert_eq!(need(&mut pair, 12_800, 12_800), [Set::Small]);
        assert_eq!(need(&mut pair, 128_000, 200_000), []);
        assert_eq!(need(&mut pair, 256_000, 256_000), [Set::Small]);
        // The small set has enough left to seed the large one, or else gets it.
        assert_eq!(need(&mut pair, 1280, 1_000_000), [Set::Small, Set::Large]);
        assert_eq!(need(&mut pair, 1_000_064, 1_000_064), []);
        assert_eq!(need(&mut pair, 10_000_000, 10_000_000), [Set::Large, Set::Large]);
        assert_eq!(need(&mut pair, 12_800, 12_800), []);
    }

    #[test]
    fn softspoken_sends_with_each_run() {
        let mut pair = pair(Extension::SoftSpoken(Depth::Four));
        assert_eq!(need(&mut pair, 12_800, 12_800), []);
        assert_eq!(need(&mut pair, 128, 1_000_000), []);
    }

    #[test]
    fn set_up_messages_of_other_length_are_refused() {
        let context = test_context(Direction::ServerReceives);
        for extension in [Extension::Silent, Extension::SoftSpoken(Depth::Two)] {
            let mut prg = Prg::new(&Seed::from_bytes([22; 32]));
            let (_, message) = BaseSender::new(&context, &mut prg);
            for length in [0, 31, extension.setup_bytes() - 1] {
                let delta = SenderSupply::delta(extension, [6; 16]);
                let (_, chosen) = base_receive(&context, &delta, &message, &mut prg).unwrap();
                let supply = SenderSupply::setup(&context, extension, delta, chosen, &vec![0; length]);
                assert_eq!(supply.err().unwrap().kind(), crate::ErrorKind::MalformedMessage);
            }
        }
    }
}

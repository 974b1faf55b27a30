//! The random OTs of one direction of a session, by the extension that both parties agreed on.
//!
//! Messages, by what makes the OTs:
//!
//! | extension | what is sent |
//! |---|---|
//! | [`Extension::SoftSpoken`] | R → S, for each run of OTs: [`softspoken::extension_bytes`], [`softspoken::wide_bytes`] |
//! | [`Extension::Silent`], once it pays | R → S, once for either kind of OTs: what seeds its first set; S → R, before OTs are needed: refills |
//!
//! Single and wide OTs have sets of their own, each first a small one and then a large one that the small one seeds. The
//! silent extension of a kind begins when so many OTs are foreseeable that it takes less traffic than SoftSpokenOT of depth 8,
//! which serves until then. What is due follows from how many OTs were asked for, which both parties know.

use super::silent::{self, Set};
use super::softspoken::{self, Depth, RotBatchReceived, RotReceiver, RotSender, check_length};
use super::wide::{Received, Sent};
use super::{Block, Context, Delta, Direction, base, row_delta};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SecretVec};
use crate::session::Build;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// How base OTs become random OTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// SoftSpokenOT ([`softspoken`]): 128/k - 1 bits of traffic for each OT, 248/k - 5 for a wide one, next to no memory.
    SoftSpoken(Depth),
    /// LPN ([`silent`]): a bit or less for each of many OTs; both parties hold some 10 MB for each session. Few OTs come from
    /// SoftSpokenOT of depth 8.
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

    /// Bytes of the message from R to S that follows the base OTs: corrections of trees.
    pub const fn setup_bytes(self, direction: Direction) -> usize {
        softspoken::setup_bytes(direction, self.depth())
    }
}

/// A number of OTs of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Random 1-out-of-2 OTs.
    pub single: usize,
    /// Random 1-out-of-32 OTs.
    pub wide: usize,
}

impl core::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { single: self.single + other.single, wide: self.wide + other.wide }
    }
}

impl core::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), core::ops::Add::add)
    }
}

/// How far one kind of OTs is: those to be had from each set that has begun.
#[derive(Clone, Copy, Default)]
struct Stock {
    small: Option<usize>,
    large: Option<usize>,
}

impl Stock {
    /// Whether the silent extension makes these OTs.
    fn is_silent(&self) -> bool {
        self.small.is_some()
    }

    /// The refills that are due before the next `needed` OTs of `planned`, at least as many, that are foreseeable.
    fn due(&self, [small, large]: [Set; 2], needed: usize, planned: usize) -> Vec<Set> {
        let refills = |set: Set, have: usize| needed.saturating_sub(have).div_ceil(set.outputs());
        match (self.small, self.large) {
            (None, _) => vec![],
            (_, Some(have)) => vec![large; refills(large, have)],
            // Three refills of a small set take more traffic than one of it and one of the large.
            (Some(have), None) if planned <= 3 * small.outputs() => vec![small; refills(small, have)],
            (Some(have), None) => {
                let seeding = usize::from(have < large.seed_rows());
                [vec![small; seeding], vec![large; refills(large, 0).max(1)]].concat()
            }
        }
    }
}

const SINGLE: [Set; 2] = [Set::Small, Set::Large];
const WIDE: [Set; 2] = [Set::WideSmall, Set::WideLarge];

/// Bytes of the message that seeds a small set.
const fn seed_bytes(set: Set) -> usize {
    if set.is_wide() {
        softspoken::wide_bytes(Depth::Eight, set.seed_rows())
    } else {
        softspoken::extension_bytes(Depth::Eight, set.seed_rows())
    }
}

/// The most OTs of a kind for which SoftSpokenOT of depth 8 takes no more traffic than to begin the small set.
fn worth(set: Set) -> usize {
    let bytes = if set.is_wide() { softspoken::wide_bytes } else { softspoken::extension_bytes };
    (seed_bytes(set) + set.refill_bytes()) * softspoken::GROUP / bytes(Depth::Eight, softspoken::GROUP)
}

/// What a party of one direction keeps of the heap for a session, by build; a silent extension's sets at their largest.
pub(crate) fn memory(direction: Direction, extension: Extension, build: Build) -> u64 {
    let depth = extension.depth().bits();
    let leaves = (direction.base_ots() / depth) << depth;
    let sets = if extension == Extension::Silent { SILENT_MEMORY } else { 0 };
    sets + (leaves * softspoken::leaf_bytes(build)) as u64 + 2048
}

/// Of the silent extension's sets in one direction.
const SILENT_MEMORY: u64 = 10 << 20;

/// What the sender takes beside while it extends a run of OTs, with what it gives.
pub(crate) fn sender_memory(extension: Extension, count: Count, told: usize, build: Build) -> u64 {
    let message = told
        + softspoken::extension_bytes(extension.depth(), count.single)
        + softspoken::wide_bytes(extension.depth(), count.wide);
    // Rows and two keys of each single OT, rows of the wide ones.
    let made = 48 * count.single + 16 * count.wide;
    (message + made + softspoken::work_bytes(extension.depth(), count, build)) as u64
}

/// What the receiver takes beside while it extends a run of OTs, with what it gives.
pub(crate) fn receiver_memory(extension: Extension, count: Count, build: Build) -> u64 {
    let message = softspoken::extension_bytes(extension.depth(), count.single)
        + softspoken::wide_bytes(extension.depth(), count.wide);
    let made = 17 * count.single + 17 * count.wide;
    (message + made + softspoken::work_bytes(extension.depth(), count, build)) as u64
}

/// What comes before a batch's OTs.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// The small sets that begin, in the order of their parts of R's message.
    seeds: Vec<Set>,
    /// S's messages.
    refills: Vec<Set>,
}

/// What is due before the next `needed` OTs of `planned`. Nothing where the extension is not silent.
fn due(extension: Extension, [mut single, mut wide]: [Stock; 2], needed: Count, planned: Count) -> Due {
    let mut due = Due { seeds: vec![], refills: vec![] };
    if extension != Extension::Silent || !cfg!(feature = "silent") {
        return due;
    }
    let begin_wide = !wide.is_silent() && planned.wide > worth(Set::WideSmall);
    if begin_wide {
        wide.small = Some(0);
    }
    let wide_refills = wide.due(WIDE, needed.wide, planned.wide);
    // Refills of wide OTs take single ones.
    let taken: usize = wide_refills.iter().map(|set| set.tree_rows()).sum();
    if !single.is_silent() && (begin_wide || planned.single > worth(Set::Small)) {
        single.small = Some(0);
        due.seeds.push(Set::Small);
    }
    if begin_wide {
        due.seeds.push(Set::WideSmall);
    }
    due.refills = single.due(SINGLE, needed.single + taken, planned.single.saturating_add(taken));
    due.refills.extend(wide_refills);
    due
}

/// What a session's first `needed` OTs cost beside the set-up. For forecasts.
pub struct Cost {
    /// R's message that seeds small sets, 0 if none is sent.
    pub seed: usize,
    /// S's messages.
    pub refills: Vec<usize>,
    extension: Extension,
    is_silent: [bool; 2],
}

impl Cost {
    /// The cost by an extension.
    pub fn new(extension: Extension, needed: Count) -> Self {
        let Due { seeds, refills } = due(extension, [Stock::default(); 2], needed, needed);
        Self {
            seed: seeds.iter().map(|&set| seed_bytes(set)).sum(),
            refills: refills.iter().map(|set| set.refill_bytes()).collect(),
            extension,
            is_silent: [Set::Small, Set::WideSmall].map(|set| seeds.contains(&set)),
        }
    }

    /// Bytes of R's message for a run of OTs.
    pub fn run_bytes(&self, count: Count) -> usize {
        run_bytes(self.extension, self.is_silent, count)
    }
}

fn run_bytes(extension: Extension, [single, wide]: [bool; 2], count: Count) -> usize {
    let depth = extension.depth();
    (if single { 0 } else { softspoken::extension_bytes(depth, count.single) })
        + if wide { 0 } else { softspoken::wide_bytes(depth, count.wide) }
}

/// A kind's sets of one party.
struct Sets<S> {
    small: Option<S>,
    large: Option<S>,
}

impl<S> Sets<S> {
    const NONE: Self = Self { small: None, large: None };

    fn stock(&self, available: impl Fn(&S) -> usize) -> Stock {
        Stock { small: self.small.as_ref().map(&available), large: self.large.as_ref().map(&available) }
    }

    /// The set that OTs come from.
    fn last(&mut self) -> Option<&mut S> {
        self.large.as_mut().or(self.small.as_mut())
    }
}

/// A state that calls in the order of this module cannot lead to.
fn out_of_order() -> Error {
    Error::new(ErrorKind::InvalidState, "random OTs: expected their seeds and refills first")
}

/// The receiver's side.
pub struct ReceiverSupply {
    context: Context,
    extension: Extension,
    /// Until all kinds are silent.
    soft: Option<RotReceiver>,
    single: Sets<silent::Receiver>,
    wide: Sets<silent::WideReceiver>,
}

impl ReceiverSupply {
    /// Starts over the base OTs' keys; gives the message to the sender, [`Extension::setup_bytes`] long.
    pub fn setup(context: &Context, extension: Extension, keys: base::SenderKeys) -> (Self, Vec<u8>) {
        let (soft, message) = RotReceiver::setup(context, extension.depth(), keys);
        let supply = Self { context: *context, extension, soft: Some(soft), single: Sets::NONE, wide: Sets::NONE };
        (supply, message)
    }

    fn stocks(&self) -> [Stock; 2] {
        [self.single.stock(silent::Receiver::available), self.wide.stock(silent::WideReceiver::available)]
    }

    /// The message that seeds what begins before the next `needed` OTs, empty if nothing does; `planned` as for
    /// [`SenderSupply::refill`].
    ///
    /// # Errors
    /// None that a right supply can have.
    pub fn seed(&mut self, needed: Count, planned: Count) -> Result<Vec<u8>> {
        let mut message = vec![];
        for set in due(self.extension, self.stocks(), needed, planned).seeds {
            let soft = self.soft.as_mut().ok_or_else(out_of_order)?;
            if set.is_wide() {
                let (part, rows) = soft.extend_wide(set.seed_rows())?;
                message.extend_from_slice(&part);
                self.wide.small = Some(silent::WideReceiver::new(&self.context, set, rows.into_rows())?);
            } else {
                let (part, rows) = soft.extend_correlated(set.seed_rows())?;
                message.extend_from_slice(&part);
                self.single.small = Some(silent::Receiver::new(&self.context, set, rows)?);
            }
        }
        if all_silent(&self.context, self.stocks()) {
            self.soft = None;
        }
        Ok(message)
    }

    /// The sets that are refilled before the next `needed` OTs, in order, after what [`seed`](Self::seed) began; `planned` as
    /// for [`SenderSupply::refill`].
    pub fn due(&self, needed: Count, planned: Count) -> Vec<Set> {
        due(self.extension, self.stocks(), needed, planned).refills
    }

    /// Takes a refill of a set.
    ///
    /// # Errors
    /// As [`silent::Receiver::refill`].
    pub fn refill(&mut self, set: Set, message: &[u8]) -> Result<()> {
        if set.is_wide() {
            let rows = self.single.last().ok_or_else(out_of_order)?.extend_correlated(set.tree_rows())?;
            let small = self.wide.small.as_mut().ok_or_else(out_of_order)?;
            if set == Set::WideSmall {
                return small.refill(&rows, message);
            }
            if self.wide.large.is_none() {
                let seed = small.extend(set.seed_rows())?.into_rows();
                self.wide.large = Some(silent::WideReceiver::new(&self.context, set, seed)?);
            }
            return self.wide.large.as_mut().map_or(Ok(()), |large| large.refill(&rows, message));
        }
        let small = self.single.small.as_mut().ok_or_else(out_of_order)?;
        if set == Set::Small {
            return small.refill(message);
        }
        if self.single.large.is_none() {
            let seed = small.extend_correlated(set.seed_rows())?;
            self.single.large = Some(silent::Receiver::new(&self.context, set, seed)?);
        }
        self.single.large.as_mut().map_or(Ok(()), |large| large.refill(message))
    }

    /// Bytes of the message for a run of OTs; 0 if none is sent.
    pub fn run_bytes(&self, count: Count) -> usize {
        run_bytes(self.extension, self.stocks().map(|stock| stock.is_silent()), count)
    }

    /// The next `count` random OTs, and the message to the sender, empty if none is sent. There are no wide ones where
    /// none are asked for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidArgument`] if a count is no multiple of [`softspoken::GROUP`], or refills are due.
    pub fn extend(&mut self, count: Count) -> Result<(Vec<u8>, RotBatchReceived, Option<Received>)> {
        let mut message = vec![];
        let single = match self.single.last() {
            Some(set) => set.extend(count.single)?,
            None => {
                let (part, batch) = self.soft.as_mut().ok_or_else(out_of_order)?.extend(count.single)?;
                message = part;
                batch
            }
        };
        if count.wide == 0 {
            return Ok((message, single, None));
        }
        let wide = match self.wide.last() {
            Some(set) => set.extend(count.wide)?,
            None => {
                let (part, rows) = self.soft.as_mut().ok_or_else(out_of_order)?.extend_wide(count.wide)?;
                message.extend_from_slice(&part);
                rows
            }
        };
        Ok((message, single, Some(wide)))
    }
}

/// Whether SoftSpokenOT has no more to do: where the client receives, there are no wide OTs.
fn all_silent(context: &Context, [single, wide]: [Stock; 2]) -> bool {
    single.is_silent() && (wide.is_silent() || context.direction == Direction::ClientReceives)
}

/// The sender's side.
pub struct SenderSupply {
    context: Context,
    extension: Extension,
    delta: Delta,
    /// D of the wide OTs.
    offsets: SecretVec<Block>,
    /// Until all kinds are silent.
    soft: Option<RotSender>,
    single: Sets<silent::Sender>,
    wide: Sets<silent::WideSender>,
}

impl SenderSupply {
    /// A fresh Δ, fit for the extension: odd for the silent one, which takes one of its bits of uncertainty.
    pub fn delta(direction: Direction, extension: Extension, prg: &mut Prg) -> Delta {
        let mut delta: Delta = vec![0; direction.base_ots() / 8].into();
        prg.fill(&mut delta);
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
        delta: Delta,
        keys: base::ReceiverKeys,
        message: &[u8],
    ) -> Result<Self> {
        let soft = RotSender::setup(context, extension.depth(), delta.clone(), keys, message)?;
        let offsets = soft.offsets().clone();
        Ok(Self {
            context: *context,
            extension,
            delta,
            offsets,
            soft: Some(soft),
            single: Sets::NONE,
            wide: Sets::NONE,
        })
    }

    fn stocks(&self) -> [Stock; 2] {
        [self.single.stock(silent::Sender::available), self.wide.stock(silent::WideSender::available)]
    }

    /// Bytes of the message that seeds what begins before the next `needed` OTs, 0 if nothing does; `planned` as for
    /// [`refill`](Self::refill).
    pub fn seed_bytes(&self, needed: Count, planned: Count) -> usize {
        let seeds = due(self.extension, self.stocks(), needed, planned).seeds;
        seeds.into_iter().map(seed_bytes).sum()
    }

    /// Begins what is due, with the receiver's message.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MalformedMessage`] if the message has another length than [`seed_bytes`](Self::seed_bytes).
    pub fn seed(&mut self, needed: Count, planned: Count, message: &[u8]) -> Result<()> {
        check_length("OT seed", self.seed_bytes(needed, planned), message.len())?;
        let mut rest = message;
        for set in due(self.extension, self.stocks(), needed, planned).seeds {
            let (part, later) = rest.split_at(seed_bytes(set));
            rest = later;
            let soft = self.soft.as_mut().ok_or_else(out_of_order)?;
            if set.is_wide() {
                let rows = soft.extend_wide(set.seed_rows(), part)?.into_rows();
                let delta = row_delta(&self.delta);
                let sender = silent::WideSender::new(&self.context, set, *delta, self.offsets.clone(), rows)?;
                self.wide.small = Some(sender);
            } else {
                let rows = soft.extend_correlated(set.seed_rows(), part)?;
                self.single.small = Some(silent::Sender::new(&self.context, set, self.delta.clone(), rows)?);
            }
        }
        if all_silent(&self.context, self.stocks()) {
            self.soft = None;
        }
        Ok(())
    }

    /// Makes the refills, messages to the receiver, that are due before the next `needed` OTs; `planned`, at least as many, are
    /// those that are foreseeable.
    ///
    /// # Errors
    /// None that a right supply can have.
    pub fn refill(&mut self, needed: Count, planned: Count) -> Result<Vec<Vec<u8>>> {
        let refills = due(self.extension, self.stocks(), needed, planned).refills;
        refills.into_iter().map(|set| self.refill_set(set)).collect()
    }

    fn refill_set(&mut self, set: Set) -> Result<Vec<u8>> {
        if set.is_wide() {
            let rows = self.single.last().ok_or_else(out_of_order)?.extend_correlated(set.tree_rows())?;
            let small = self.wide.small.as_mut().ok_or_else(out_of_order)?;
            if set == Set::WideSmall {
                return Ok(small.refill(&rows));
            }
            if self.wide.large.is_none() {
                let seed = small.extend(set.seed_rows())?.into_rows();
                let delta = row_delta(&self.delta);
                let large = silent::WideSender::new(&self.context, set, *delta, self.offsets.clone(), seed)?;
                self.wide.large = Some(large);
            }
            return self.wide.large.as_mut().map(|large| large.refill(&rows)).ok_or_else(out_of_order);
        }
        let small = self.single.small.as_mut().ok_or_else(out_of_order)?;
        if set == Set::Small {
            return Ok(small.refill());
        }
        if self.single.large.is_none() {
            let seed = small.extend_correlated(set.seed_rows())?;
            self.single.large = Some(silent::Sender::new(&self.context, set, self.delta.clone(), seed)?);
        }
        self.single.large.as_mut().map(silent::Sender::refill).ok_or_else(out_of_order)
    }

    /// Bytes of the receiver's message for a run of OTs; 0 if none is sent.
    pub fn run_bytes(&self, count: Count) -> usize {
        run_bytes(self.extension, self.stocks().map(|stock| stock.is_silent()), count)
    }

    /// The next `count` random OTs, from the receiver's message where one is sent. There are no wide ones where none are asked
    /// for.
    ///
    /// # Errors
    /// As [`ReceiverSupply::extend`]; [`crate::ErrorKind::MalformedMessage`] if the message has another length than
    /// [`run_bytes`](Self::run_bytes).
    pub fn extend(&mut self, count: Count, message: &[u8]) -> Result<(SecretVec<[Block; 2]>, Option<Sent>)> {
        check_length("OT extension", self.run_bytes(count), message.len())?;
        let (part, rest) = message.split_at(self.run_bytes(Count { wide: 0, ..count }));
        let single = match self.single.last() {
            Some(set) => set.extend(count.single)?,
            None => self.soft.as_mut().ok_or_else(out_of_order)?.extend(count.single, part)?,
        };
        if count.wide == 0 {
            return Ok((single, None));
        }
        let wide = match self.wide.last() {
            Some(set) => set.extend(count.wide)?,
            None => self.soft.as_mut().ok_or_else(out_of_order)?.extend_wide(count.wide, rest)?,
        };
        Ok((single, Some(wide)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::base::{BaseSender, base_receive};
    use super::super::test_context;
    use super::super::wide;
    use super::*;
    use crate::prg::Seed;

    fn pair(direction: Direction, extension: Extension) -> (SenderSupply, ReceiverSupply) {
        let context = test_context(direction);
        let mut prg = Prg::new(&Seed::from_bytes([21; 32]));
        let delta = SenderSupply::delta(direction, extension, &mut prg);
        let (base, message) = BaseSender::new(&context, &mut prg);
        let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg).unwrap();
        let (receiver, message) = ReceiverSupply::setup(&context, extension, base.finish(&reply).unwrap());
        assert_eq!(message.len(), extension.setup_bytes(direction));
        (SenderSupply::setup(&context, extension, delta, chosen, &message).unwrap(), receiver)
    }

    fn check((sender, receiver): &mut (SenderSupply, ReceiverSupply), count: Count) {
        let expected = sender.run_bytes(count);
        assert_eq!(receiver.run_bytes(count), expected);
        let (message, got, got_wide) = receiver.extend(count).unwrap();
        assert_eq!(message.len(), expected);
        let (keys, sent) = sender.extend(count, &message).unwrap();
        assert_eq!(keys.len(), count.single);
        assert!(keys.iter().enumerate().all(|(j, keys)| keys[got.choice_bits(j, 1) as usize] == got.keys[j]));
        assert_eq!((sent.is_some(), got_wide.is_some()), (count.wide > 0, count.wide > 0));
        if let (Some(mut sent), Some(got)) = (sent, got_wide) {
            wide::tests::check(&mut sent, &got, count.wide.min(1280));
        }
    }

    const fn of(single: usize, wide: usize) -> Count {
        Count { single, wide }
    }

    /// Needs `needed` of `planned` OTs; the sets that began and the refills that came before.
    fn need(pair: &mut (SenderSupply, ReceiverSupply), needed: Count, planned: Count) -> (usize, Vec<Set>) {
        let expected = pair.0.seed_bytes(needed, planned);
        let message = pair.1.seed(needed, planned).unwrap();
        assert_eq!(message.len(), expected);
        pair.0.seed(needed, planned, &message).unwrap();
        let sets = pair.1.due(needed, planned);
        let messages = pair.0.refill(needed, planned).unwrap();
        assert!(messages.iter().map(Vec::len).eq(sets.iter().map(|set| set.refill_bytes())));
        sets.iter().zip(&messages).for_each(|(&set, message)| pair.1.refill(set, message).unwrap());
        check(pair, needed);
        (message.len(), sets)
    }

    #[cfg(feature = "silent")]
    #[test]
    fn few_ots_come_from_softspoken_more_from_the_small_sets_and_many_from_the_large() {
        use Set::{Large, Small, WideLarge, WideSmall};
        let mut pair = pair(Direction::ServerReceives, Extension::Silent);
        let (single_seed, wide_seed) = (seed_bytes(Small), seed_bytes(WideSmall));
        assert_eq!(need(&mut pair, of(12_800, 25_600), of(12_800, 25_600)), (0, vec![]));
        assert!(pair.0.run_bytes(of(128, 128)) > 0);
        assert_eq!(need(&mut pair, of(128, 1280), of(128_000, 1280)), (single_seed, vec![Small]));
        assert_eq!(need(&mut pair, of(128, 128_000), of(128, 128_000)), (wide_seed, vec![WideSmall]));
        assert_eq!(pair.0.run_bytes(of(128, 128)), 0);
        assert!(pair.0.soft.is_none() && pair.1.soft.is_none());
        assert_eq!(need(&mut pair, of(128, 256_000), of(128, 256_000)), (0, vec![WideSmall]));
        // The small sets have enough left to seed the large ones, or else get it. Trees of wide OTs take single ones.
        assert_eq!(need(&mut pair, of(128, 1280), of(128, 2_000_000)), (0, vec![WideSmall, WideLarge]));
        assert_eq!(need(&mut pair, of(1280, 128), of(1_000_000, 128)), (0, vec![Small, Large]));
        assert_eq!(need(&mut pair, of(128, 6_000_000 / 128 * 128), of(128, 7_000_000)), (0, vec![WideLarge]));
        assert_eq!(need(&mut pair, of(1_000_064, 128_000), of(1_000_064, 128_000)), (0, vec![]));
    }

    #[cfg(feature = "silent")]
    #[test]
    fn wide_ots_bring_single_ones_for_their_trees() {
        let mut pair = pair(Direction::ServerReceives, Extension::Silent);
        let seeds = seed_bytes(Set::Small) + seed_bytes(Set::WideSmall);
        assert_eq!(
            need(&mut pair, of(256, 640_000), of(256, 640_000)),
            (seeds, vec![Set::Small, Set::WideSmall, Set::WideSmall, Set::WideSmall])
        );
    }

    #[cfg(feature = "silent")]
    #[test]
    fn where_the_client_receives_there_are_single_ots_alone() {
        let mut pair = pair(Direction::ClientReceives, Extension::Silent);
        assert_eq!(need(&mut pair, of(86_016, 0), of(86_016, 0)), (0, vec![]));
        assert_eq!(need(&mut pair, of(128_000, 0), of(128_000, 0)), (seed_bytes(Set::Small), vec![Set::Small]));
        assert!(pair.0.soft.is_none() && pair.1.soft.is_none());
        assert_eq!(need(&mut pair, of(128, 0), of(128, 0)), (0, vec![]));
    }

    #[test]
    fn softspoken_sends_with_each_run() {
        let mut pair = pair(Direction::ServerReceives, Extension::SoftSpoken(Depth::Four));
        assert_eq!(need(&mut pair, of(12_800, 1280), of(12_800, 1280)), (0, vec![]));
        assert_eq!(need(&mut pair, of(128, 0), of(10_000_000, 10_000_000)), (0, vec![]));
    }

    #[test]
    fn silent_ots_begin_where_they_take_less_traffic() {
        for (set, softspoken) in
            [(Set::Small, softspoken::extension_bytes as fn(_, _) -> _), (Set::WideSmall, softspoken::wide_bytes)]
        {
            let (least, count) = (seed_bytes(set) + set.refill_bytes(), worth(set) / 128 * 128);
            assert!(softspoken(Depth::Eight, count) <= least && softspoken(Depth::Eight, count + 256) > least);
        }
    }

    #[cfg(feature = "silent")]
    #[test]
    fn messages_of_other_length_are_refused() {
        let direction = Direction::ServerReceives;
        let context = test_context(direction);
        for extension in [Extension::Silent, Extension::SoftSpoken(Depth::Two)] {
            let mut prg = Prg::new(&Seed::from_bytes([22; 32]));
            let (_, message) = BaseSender::new(&context, &mut prg);
            for length in [0, 31, extension.setup_bytes(direction) - 1] {
                let delta = SenderSupply::delta(direction, extension, &mut prg);
                let (_, chosen) = base_receive(&context, &delta, &message, &mut prg).unwrap();
                let supply = SenderSupply::setup(&context, extension, delta, chosen, &vec![0; length]);
                assert_eq!(supply.err().unwrap().kind(), crate::ErrorKind::MalformedMessage);
            }
        }
        let (mut sender, mut receiver) = pair(direction, Extension::SoftSpoken(Depth::Four));
        let (message, _, _) = receiver.extend(of(128, 128)).unwrap();
        for length in [0, message.len() - 1, message.len() + 1] {
            let mut message = message.clone();
            message.resize(length, 0);
            assert_eq!(sender.extend(of(128, 128), &message).err().unwrap().kind(), crate::ErrorKind::MalformedMessage);
        }
        sender.extend(of(128, 128), &message).unwrap();
        let (mut sender, mut receiver) = pair(direction, Extension::Silent);
        let many = of(1_000_000, 1_000_000);
        let message = receiver.seed(many, many).unwrap();
        for length in [0, message.len() - 1, message.len() + 1] {
            let mut message = message.clone();
            message.resize(length, 0);
            assert_eq!(sender.seed(many, many, &message).err().unwrap().kind(), crate::ErrorKind::MalformedMessage);
        }
        sender.seed(many, many, &message).unwrap();
    }
}

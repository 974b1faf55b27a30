//! An activation layer as groups of channels with the same public numbers, for either party.

use super::material::{ReceiverRots, Rots, SenderRots, field_bits};
use super::{linear, poly, relu};
use crate::error::{Error, ErrorKind, Result};
use crate::field::P;
use crate::model::{Channel, ChannelSecret, Kind, Shape};
use crate::prg::{Prg, SecretVec, collect};
use crate::share::Mask;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};
use core::ops::Range;

/// How many round trips ReLU channels take: the client's choice for a session, between bytes and latency. Public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundTrips {
    /// Three, or four above 16 bits: the fewest bytes.
    #[default]
    Three,
    /// Two where values have at most 13 bits: more than twice the bytes of these.
    Two,
}

impl RoundTrips {
    /// The number: what stands for it on the wire and in other languages.
    pub const fn count(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Two => 2,
        }
    }

    /// The choice of a number.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] unless it is 2 or 3.
    pub fn of_count(count: u32) -> Result<Self> {
        match count {
            2 => Ok(Self::Two),
            3 => Ok(Self::Three),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!("round trips of a ReLU: expected 2 or 3, got {count}"),
            )),
        }
    }
}

/// Channels of a layer that share their public numbers, or a run of their elements. Elements are ordered channel by channel.
#[derive(Clone)]
pub(crate) struct Group {
    /// The shared public numbers.
    pub(crate) channel: Channel,
    members: Vec<u32>,
    plane: usize,
    /// Elements of the first member that come before the run.
    skipped: usize,
    elements: usize,
    /// How many low bits of the outputs matter.
    word_bits: u32,
    /// Whether it is a ReLU in two round trips.
    quick: bool,
}

/// The groups of a layer, in the order of their first channels; `word_bits` low bits of the layer's outputs matter.
pub(crate) fn groups(channels: &[Channel], shape: Shape, word_bits: u32, trips: RoundTrips) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut places = crate::map::Map::new();
    for (index, channel) in channels.iter().enumerate() {
        let place = *places.get_or_insert_with(*channel, || {
            let quick = trips == RoundTrips::Two && channel.kind == Kind::Relu && relu::two::serves(channel);
            let (plane, members) = (shape.plane(), Vec::new());
            out.push(Group { channel: *channel, members, plane, skipped: 0, elements: 0, word_bits, quick });
            out.len() - 1
        });
        out[place].members.push(index as u32);
        out[place].elements += shape.plane();
    }
    out
}

/// Cuts a layer's groups into runs of at most `most` elements, each as groups of its own. Channels of degree 0, which take
/// nothing, are in the first, whatever their number.
pub(crate) fn parts(groups: &[Group], most: usize) -> impl Iterator<Item = Vec<Group>> {
    let (mut group, mut done) = (0, 0);
    core::iter::from_fn(move || {
        let first = (group, done) == (0, 0);
        let mut part: Vec<Group> = groups.iter().filter(|g| first && g.channel.kind == Kind::Zero).cloned().collect();
        let mut room = most.max(1);
        while let Some(whole) = groups.get(group).filter(|_| room > 0) {
            let run = done..whole.elements.min(done + room);
            if whole.channel.kind != Kind::Zero && !run.is_empty() {
                room -= run.len();
                done = run.end;
                part.push(whole.run(run));
            }
            if whole.channel.kind == Kind::Zero || done == whole.elements {
                (group, done) = (group + 1, 0);
            }
        }
        (!part.is_empty()).then_some(part)
    })
}

impl Group {
    fn widths(&self) -> (&Channel, u32) {
        (&self.channel, self.word_bits)
    }

    /// Elements of the group.
    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    /// What its list takes of the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&self.members[..])
    }

    /// A run of the elements of a whole group.
    fn run(&self, run: Range<usize>) -> Self {
        let members = run.start / self.plane..run.end.div_ceil(self.plane);
        Self { members: self.members[members].to_vec(), skipped: run.start % self.plane, elements: run.len(), ..*self }
    }

    /// Channel by channel, where the group's elements are in a tensor.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> + Clone + '_ {
        let end = self.skipped + self.elements;
        self.members.iter().enumerate().map(move |(place, &channel)| {
            let (first, start) = (place * self.plane, channel as usize * self.plane);
            let skipped = if place == 0 { self.skipped } else { 0 };
            (channel as usize, start + skipped..start + self.plane.min(end - first))
        })
    }

    /// The secrets of the group's channels, each with its number of elements.
    fn secrets<'a>(&'a self, all: &'a [ChannelSecret]) -> impl Iterator<Item = (ChannelSecret, usize)> + Clone + 'a {
        self.runs().map(|(channel, run)| (all[channel], run.len()))
    }

    /// Random OTs per element with the server as receiver.
    pub(crate) fn server_rots(&self) -> Rots {
        match self.channel.kind {
            Kind::Relu if self.quick => relu::two::rots(&self.channel),
            Kind::Relu => relu::rots(&self.channel),
            Kind::Cubic | Kind::Square { .. } => Rots::single(poly::rots(&self.channel)),
            Kind::Linear => Rots::single(linear::rots(&self.channel)),
            Kind::Zero => Rots::default(),
        }
    }

    /// Random OTs per element with the client as receiver.
    pub(crate) fn client_rots(&self) -> usize {
        usize::from(self.channel.kind == Kind::Relu)
    }

    /// Products in F_p per element.
    pub(crate) fn products(&self) -> usize {
        match self.channel.kind {
            Kind::Cubic | Kind::Square { .. } => poly::products(&self.channel),
            _ => 0,
        }
    }

    /// Bytes that both parties keep of the group once it is prepared: (client, server).
    pub(crate) fn memory(&self) -> (u64, u64) {
        let (client, server) = match self.channel.kind {
            Kind::Relu if self.quick => relu::two::memory(&self.channel),
            Kind::Relu => relu::memory(&self.channel),
            Kind::Cubic | Kind::Square { .. } => poly::memory(&self.channel),
            Kind::Linear => linear::memory(&self.channel),
            Kind::Zero => (0, 0),
        };
        let all = |bytes: usize| bytes as u64 * self.elements() as u64;
        (all(client), all(server))
    }

    /// Bits of the group's messages in each round, whole bytes: (server -> client, client -> server).
    pub(crate) fn round_bits(&self) -> Vec<(u64, u64)> {
        let rounds = match self.channel.kind {
            Kind::Relu if self.quick => relu::two::round_fields(&self.channel, self.word_bits),
            Kind::Relu => relu::round_fields(&self.channel, self.word_bits),
            Kind::Cubic | Kind::Square { .. } => poly::round_fields(&self.channel, self.word_bits),
            Kind::Linear => vec![linear::round_fields(&self.channel, self.word_bits)],
            Kind::Zero => vec![],
        };
        let all = |widths: &[u32]| field_bits(self.elements(), widths);
        rounds.iter().map(|(down, up)| (all(down), all(up))).collect()
    }

    /// The group's elements of a tensor.
    pub(super) fn gather(&self, tensor: &[u32]) -> SecretVec<u32> {
        let mut values = SecretVec::new(Vec::with_capacity(self.elements()));
        for (_, run) in self.runs() {
            values.extend_from_slice(&tensor[run]);
        }
        values
    }

    /// Puts the group's elements where they belong in a tensor.
    pub(super) fn scatter(&self, values: &[u32], tensor: &mut [u32]) {
        let mut values = values;
        for (_, run) in self.runs() {
            let (own, rest) = values.split_at(run.len());
            tensor[run].copy_from_slice(own);
            values = rest;
        }
    }

    /// Sets the group's elements of a tensor to one value per channel.
    fn fill(&self, value: impl Fn(usize) -> u32, tensor: &mut [u32]) {
        for (channel, run) in self.runs() {
            tensor[run].fill(value(channel));
        }
    }
}

/// r: the fresh mask of an activation layer's output, 0 in channels of degree 0.
pub(crate) fn draw_outputs(groups: &[Group], elements: usize, prg: &mut Prg) -> Mask {
    let mut outputs = collect(elements, (0..elements).map(|_| prg.next_u32()));
    for group in groups.iter().filter(|g| g.channel.kind == Kind::Zero) {
        group.fill(|_| 0, &mut outputs);
    }
    outputs
}

/// C: the client's shares in F_p of the elements of each polynomial group; empty for the others. They are drawn twice, for what
/// their products multiply and for the groups, from two generators of one seed, so that they need not be kept meanwhile.
pub(crate) fn draw_shares(groups: &[Group], prg: &mut Prg) -> Vec<SecretVec<u64>> {
    let shares = groups.iter().map(|group| {
        let count = if group.products() > 0 { group.elements() } else { 0 };
        collect(count, (0..count).map(|_| prg.below(P)))
    });
    shares.collect()
}

/// The values that the prepared products of groups multiply, group after group.
pub(crate) fn factors(groups: &[Group], shares: &[SecretVec<u64>]) -> SecretVec<u64> {
    let count = groups.iter().map(|g| g.products() * g.elements()).sum();
    let all = groups.iter().zip(shares).filter(|(group, _)| group.products() > 0);
    collect(count, all.flat_map(|(group, shares)| poly::factors(&group.channel, shares)))
}

enum ClientGroup {
    Relu(relu::Client),
    QuickRelu(relu::two::Client),
    Poly(poly::Client),
    Linear(linear::Client),
    Zero,
}

/// The client's prepared side of one activation layer.
pub(crate) struct ClientLayer {
    groups: Vec<ClientGroup>,
}

impl ClientLayer {
    /// `shares` are C of each group ([`draw_shares`]); `masks` m, of the layer's input, and r, of what comes out; `signs` the choices and words
    /// of the layer's random OTs with the client as receiver; `products` the client's shares wC of the layer's products. Each group
    /// then takes its random OTs through [`Self::absorb`].
    pub(crate) fn new(
        groups: &[Group],
        shares: Vec<SecretVec<u64>>,
        masks: (&[u32], &[u32]),
        mut signs: (&[u8], &[u32]),
        mut products: &[u64],
        prg: &mut Prg,
    ) -> Self {
        let prepared = groups.iter().zip(shares).map(|(group, shares)| {
            let (m, r) = (group.gather(masks.0), group.gather(masks.1));
            match group.channel.kind {
                Kind::Relu => {
                    let count = group.elements();
                    let mine = (&signs.0[..count], &signs.1[..count]);
                    signs = (&signs.0[count..], &signs.1[count..]);
                    if group.quick {
                        return ClientGroup::QuickRelu(relu::two::Client::new(group.widths(), m, r, mine, prg));
                    }
                    ClientGroup::Relu(relu::Client::new(group.widths(), m, r, mine, prg))
                }
                Kind::Cubic | Kind::Square { .. } => {
                    let (mine, rest) = products.split_at(group.products() * group.elements());
                    products = rest;
                    ClientGroup::Poly(poly::Client::new(group.widths(), m, r, shares, mine))
                }
                Kind::Linear => ClientGroup::Linear(linear::Client::new(group.widths(), m, r)),
                Kind::Zero => ClientGroup::Zero,
            }
        });
        Self { groups: prepared.collect() }
    }

    /// Takes the random OTs of the next elements of a group.
    pub(crate) fn absorb(&mut self, group: usize, rots: &mut SenderRots<'_>) {
        match &mut self.groups[group] {
            ClientGroup::Relu(g) => g.absorb(rots),
            ClientGroup::QuickRelu(g) => g.absorb(rots),
            ClientGroup::Poly(g) => g.absorb(rots),
            ClientGroup::Linear(g) => g.absorb(rots),
            ClientGroup::Zero => {}
        }
    }

    /// The client's part of one round, over the groups that take part in it.
    pub(crate) fn round(
        &mut self,
        groups: &[Group],
        round: usize,
        request: &mut FieldReader<'_>,
        reply: &mut FieldWriter,
    ) {
        for (group, side) in groups.iter().zip(&mut self.groups) {
            if round < group.round_bits().len() {
                match side {
                    ClientGroup::Relu(g) => g.round(request, reply),
                    ClientGroup::QuickRelu(g) => g.round(request, reply),
                    ClientGroup::Poly(g) => g.round(request, reply),
                    ClientGroup::Linear(g) => g.round(request, reply),
                    ClientGroup::Zero => {}
                }
            }
        }
    }
}

enum ServerGroup {
    Relu(relu::Server),
    QuickRelu(relu::two::Server),
    Poly(poly::Server),
    Linear(linear::Server),
    Zero,
}

/// The server's prepared side of one activation layer.
pub(crate) struct ServerLayer {
    groups: Vec<ServerGroup>,
}

impl ServerLayer {
    /// `secrets` has an entry per channel, or none where all channels are ReLUs; `signs` are the words of the layer's random OTs with the client as receiver;
    /// `products` the server's (u, wS) of the layer's products. Each group then takes its random OTs through
    /// [`Self::absorb`].
    pub(crate) fn new(
        groups: &[Group],
        secrets: &[ChannelSecret],
        mut signs: &[[u32; 2]],
        mut products: &[[u64; 2]],
    ) -> Self {
        let prepared = groups.iter().map(|group| match group.channel.kind {
            Kind::Relu => {
                let (mine, rest) = signs.split_at(group.elements());
                signs = rest;
                if group.quick {
                    return ServerGroup::QuickRelu(relu::two::Server::new(group.widths(), mine));
                }
                ServerGroup::Relu(relu::Server::new(group.widths(), mine))
            }
            Kind::Cubic | Kind::Square { .. } => {
                let (mine, rest) = products.split_at(group.products() * group.elements());
                products = rest;
                ServerGroup::Poly(poly::Server::new(group.widths(), group.secrets(secrets), mine))
            }
            Kind::Linear => {
                let offsets = group.secrets(secrets).flat_map(|(secret, n)| core::iter::repeat_n(secret.offset, n));
                ServerGroup::Linear(linear::Server::new(group.widths(), group.elements(), offsets))
            }
            Kind::Zero => ServerGroup::Zero,
        });
        Self { groups: prepared.collect() }
    }

    /// Takes the random OTs of the next elements of a group.
    pub(crate) fn absorb(&mut self, group: usize, rots: &mut ReceiverRots<'_>) {
        match &mut self.groups[group] {
            ServerGroup::Relu(g) => g.absorb(rots),
            ServerGroup::QuickRelu(g) => g.absorb(rots),
            ServerGroup::Poly(g) => g.absorb(rots),
            ServerGroup::Linear(g) => g.absorb(rots),
            ServerGroup::Zero => {}
        }
    }

    /// Starts inference of the layer with the words y + m of the whole tensor; the outputs of channels of degree 0, their constants, are
    /// written at once.
    pub(crate) fn start(&mut self, groups: &[Group], secrets: &[ChannelSecret], masked: &[u32], outputs: &mut [u32]) {
        for (group, side) in groups.iter().zip(&mut self.groups) {
            match side {
                ServerGroup::Relu(g) => g.start(group.gather(masked)),
                ServerGroup::QuickRelu(g) => g.start(group.gather(masked)),
                ServerGroup::Poly(g) => g.start(group.gather(masked)),
                ServerGroup::Linear(g) => g.start(group.gather(masked)),
                ServerGroup::Zero => group.fill(|c| secrets[c].offset as u32, outputs),
            }
        }
    }

    /// The server's message of one round.
    pub(crate) fn request(&mut self, groups: &[Group], round: usize, request: &mut FieldWriter) {
        for (group, side) in groups.iter().zip(&mut self.groups) {
            if round < group.round_bits().len() {
                match side {
                    ServerGroup::Relu(g) => g.request(request),
                    ServerGroup::QuickRelu(g) => g.request(request),
                    ServerGroup::Poly(g) => g.request(request),
                    ServerGroup::Linear(g) => g.request(request),
                    ServerGroup::Zero => {}
                }
            }
        }
    }

    /// Takes the client's message of one round. The outputs v + r of groups that are done with it are written.
    pub(crate) fn reply(&mut self, groups: &[Group], round: usize, reply: &mut FieldReader<'_>, outputs: &mut [u32]) {
        for (group, side) in groups.iter().zip(&mut self.groups) {
            if round < group.round_bits().len() {
                let done = match side {
                    ServerGroup::Relu(g) => g.reply(reply),
                    ServerGroup::QuickRelu(g) => g.reply(reply),
                    ServerGroup::Poly(g) => g.reply(reply),
                    ServerGroup::Linear(g) => Some(g.reply(reply)),
                    ServerGroup::Zero => None,
                };
                if let Some(words) = done {
                    group.scatter(&words, outputs);
                }
            }
        }
    }
}

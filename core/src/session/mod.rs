//! Sessions: a client or a server that takes bytes in and gives bytes out.
//!
//! Each party's side of the protocol is a script, written from top to bottom as an `async fn` in [`mod@client`] and
//! [`mod@server`]. A session runs its script without doing any IO: the caller moves bytes with one call, in zlib's manner,
//!
//! ```text
//! advance(input bytes, output buffer) -> bytes consumed, bytes produced, what next
//! ```
//!
//! and may use any transport, event loop or thread. [`drive`] is that loop for blocking transports.

pub mod client;
mod course;
mod drive;
mod forecast;
mod line;
mod link;
mod memory;
mod meter;
mod order;
mod schedule;
pub mod server;
mod stock;
#[cfg(test)]
mod tests;

pub use crate::activation::RoundTrips;
pub use client::{Client, ClientModel};
pub use course::Portions;
pub use drive::{Session, Transport, drive};
pub use forecast::{Forecast, Memory};
pub use line::{Line, Trade};
pub use link::{Progress, Status};
pub use memory::{Build, ClientMemory};
pub use meter::{Meter, Observer, Phase, Place, Traffic};
pub use server::{Server, ServerModel, WEIGHT_MEMORY, fit_noise};

use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelId;
use crate::ot::softspoken::Depth;
use crate::ot::{Extension, Suite};
use crate::prg::{Prg, Seed};
use alloc::{format, vec::Vec};
use core::fmt;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// First bytes of every session.
const MAGIC: [u8; 8] = *b"SAFENET\0";
/// Version of the protocol that this library speaks. Any change of what is sent changes it.
pub const PROTOCOL_VERSION: u16 = 3;
/// The parameter set of `docs/parameters.md` that this library uses.
pub const PARAMETER_SET: u8 = 1;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 32;
/// Bytes of a bundle id on the wire.
const BUNDLE_BYTES: usize = 24;
/// Bytes of a prepare message: how many inferences.
const PREPARE_BYTES: usize = 4;
/// Bytes of the most bundles that a server holds and of the OT extension's code, in its hello.
const LIMIT_BYTES: usize = 4 + 1;
/// Bytes of the client's opening.
const HELLO_BYTES: usize = MAGIC.len() + 2 + 1 + 1 + 1 + 1 + 4 + 32 + NONCE_BYTES;

/// Names the prepared material of one inference. Never reused: it holds a hash of both parties' nonces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId([u8; BUNDLE_BYTES]);

impl BundleId {
    fn new(session: &SessionId, index: u64) -> Self {
        let mut bytes = [0; BUNDLE_BYTES];
        bytes[..16].copy_from_slice(&session.0);
        // Big-endian, so that ids sort by age.
        bytes[16..].copy_from_slice(&index.to_be_bytes());
        Self(bytes)
    }

    /// The id as bytes.
    pub fn to_bytes(self) -> [u8; BUNDLE_BYTES] {
        self.0
    }

    /// The id of these bytes.
    pub fn from_bytes(bytes: [u8; BUNDLE_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first half of the hash of both nonces: names a session.
struct SessionId([u8; 16]);

impl SessionId {
    fn new(client_nonce: &[u8; NONCE_BYTES], server_nonce: &[u8; NONCE_BYTES]) -> Self {
        let hash = Sha256::new().chain_update(b"safenet session").chain_update(client_nonce).chain_update(server_nonce);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

/// The client's opening message.
struct Hello {
    /// What the client chose of them.
    options: Options,
    model: ModelId,
    nonce: [u8; NONCE_BYTES],
}

impl Hello {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        out.push(PARAMETER_SET);
        out.push(self.options.extension.code());
        out.push(self.options.suite.code());
        out.push(self.options.round_trips.count());
        out.extend_from_slice(&self.options.portions.to_bytes());
        out.extend_from_slice(&self.model);
        out.extend_from_slice(&self.nonce);
        out
    }

    /// Reads an opening of any version, and says how it differs from what this party speaks.
    fn parse(bytes: &[u8], model: &ModelId) -> Result<Self> {
        let mismatch = |what: &str, expected: &dyn fmt::Display, got: &dyn fmt::Display| {
            Err(Error::new(ErrorKind::Mismatch, format!("{what}: expected {expected}, got {got}")))
        };
        let Some((_, rest)) = bytes.split_first_chunk::<8>().filter(|(magic, _)| **magic == MAGIC) else {
            return mismatch("opening", &"a SAFENet client", &"something else");
        };
        let (version, fields) = rest.split_first_chunk::<2>().map_or((0, rest), |(v, f)| (u16::from_le_bytes(*v), f));
        if version != PROTOCOL_VERSION {
            return mismatch("protocol version", &PROTOCOL_VERSION, &version);
        }
        let Ok(fields) = <&[u8; HELLO_BYTES - 10]>::try_from(fields) else {
            return mismatch("opening's length", &HELLO_BYTES, &bytes.len());
        };
        if fields[0] != PARAMETER_SET {
            return mismatch("parameter set", &PARAMETER_SET, &fields[0]);
        }
        let mismatched = |e: Error| Error::new(ErrorKind::Mismatch, e.message());
        let extension = Extension::from_code(fields[1].into()).map_err(mismatched)?;
        let suite = Suite::from_code(fields[2].into()).map_err(mismatched)?;
        let round_trips = RoundTrips::of_count(fields[3].into()).map_err(mismatched)?;
        let portions = Portions::from_bytes([fields[4], fields[5], fields[6], fields[7]]).map_err(mismatched)?;
        let options = Options { extension, suite, round_trips, portions, ..Options::default() };
        let (theirs, nonce) = fields[8..].split_at(32);
        if theirs != model {
            let hex = |id: &[u8]| id[..8].iter().map(|b| format!("{b:02x}")).collect::<alloc::string::String>();
            return mismatch("model id", &hex(model), &hex(theirs));
        }
        let mut hello = Self { options, model: *model, nonce: [0; NONCE_BYTES] };
        hello.nonce.copy_from_slice(nonce);
        Ok(hello)
    }
}

/// What a client or server is free to choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A client's choice of the OT extension.
    pub extension: Extension,
    /// A client's choice of what hashes and expands in OTs.
    pub suite: Suite,
    /// A client's choice of how many round trips ReLUs take.
    pub round_trips: RoundTrips,
    /// A client's choice of how many elements are worked on at a time.
    pub portions: Portions,
    /// Most bytes that a client may take of the heap, session and model together: portions, and the depth of the OT extension, are
    /// then chosen by it ([`ClientModel::fit`]). None where any amount will do.
    pub memory: Option<u64>,
    /// Whether a server lets clients choose the silent extension, for which it holds about 9 MB for each of them. A client that
    /// chose it and may not have it gets [`Options::FALLBACK`].
    pub accept_silent: bool,
    /// Whether a server lets clients choose [`Suite::ChaCha`]. If not, it refuses those that do.
    pub accept_chacha: bool,
    /// Most inferences that a server holds prepared for a session at once; a client that asks for more is refused.
    pub max_bundles: u32,
}

impl Options {
    /// The extension in place of a silent one that the server does not accept.
    pub const FALLBACK: Extension = Extension::SoftSpoken(Depth::Four);

    /// The extension that a server grants.
    fn grant(&self, asked: Extension) -> Extension {
        match asked {
            Extension::Silent if !self.accept_silent || asked.check_built().is_err() => Self::FALLBACK,
            asked => asked,
        }
    }
}

impl Options {
    /// Refuses a suite that the server does not accept.
    fn check_suite(&self, asked: Suite) -> Result<()> {
        if asked == Suite::ChaCha && !self.accept_chacha {
            return Err(Error::new(
                ErrorKind::Mismatch,
                "hash suite: expected AES, got ChaCha, which is switched off here",
            ));
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            extension: Extension::SoftSpoken(Depth::Four),
            suite: Suite::preferred(),
            round_trips: RoundTrips::Three,
            portions: Portions::default(),
            memory: None,
            accept_silent: true,
            accept_chacha: true,
            max_bundles: 64,
        }
    }
}

/// The answer to a call at the wrong moment.
fn invalid_state(message: &str) -> Error {
    Error::new(ErrorKind::InvalidState, message)
}

/// Refuses to prepare `count` more inferences than a session of `held` holds.
fn check_room(kind: ErrorKind, count: u32, held: usize, limit: u32) -> Result<()> {
    if u64::from(count) + held as u64 > u64::from(limit) {
        return Err(Error::new(
            kind,
            format!(
                "prepare: expected at most {limit} prepared inferences in a session, got {count} more than {held} there"
            ),
        ));
    }
    Ok(())
}

/// The answer to an inference on a bundle that is not there.
fn spent(bundle: BundleId) -> Error {
    Error::new(
        ErrorKind::BundleSpent,
        format!(
            "bundle {bundle}: expected one that this session has prepared and not used, got one used, erased or unknown"
        ),
    )
}

/// Goes on with a generator keyed by this one's output and both nonces. The peer's nonce is fresh even where a broken source
/// of randomness repeats this party's seed, so that no mask is drawn twice then either.
fn bind(prg: &mut Prg, client_nonce: &[u8; NONCE_BYTES], server_nonce: &[u8; NONCE_BYTES]) -> Prg {
    let drawn = Zeroizing::new(prg.array::<32>());
    let hash = Sha256::new_with_prefix(b"safenet seed").chain_update(*drawn);
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&hash.chain_update(client_nonce).chain_update(server_nonce).finalize());
    Prg::new(&Seed::from_bytes(*seed))
}

/// A fresh nonce, from a generator of its own: what it shows says nothing about the party's other random values.
fn nonce(prg: &mut Prg) -> [u8; NONCE_BYTES] {
    prg.fork().array()
}

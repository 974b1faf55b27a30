//! The model file, and its public part as a file of its own.
//!
//! ```text
//! magic (8 bytes) | version u32 | length u32 | architecture | [ length u32 | parameters ] | SHA-256 of all before it
//! ```
//!
//! The server's file holds both parts, the client's (`.public`) the architecture alone. Both parts are in postcard's
//! encoding; lengths are little-endian. The hash guards against damage, not against forgery.

use super::Architecture;
use super::Parameters;
use super::limits;
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec::Vec};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// First bytes of the server's file.
pub const SERVER_MAGIC: [u8; 8] = *b"SAFENETm";
/// First bytes of the public part's file.
pub const PUBLIC_MAGIC: [u8; 8] = *b"SAFENETp";
/// Version of both formats.
const VERSION: u32 = 1;
const HASH_BYTES: usize = 32;

/// SHA-256 of the public architecture's encoding: what both parties compare before they speak of anything else.
pub type ModelId = [u8; 32];

/// A model file's contents.
pub struct ModelFile {
    /// The public part.
    pub architecture: Architecture,
    /// The secret part; absent from a client's file.
    pub parameters: Option<Parameters>,
}

impl ModelFile {
    /// Reads either file, and checks all that the protocol relies on.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] or [`ErrorKind::UnsupportedModel`]: what was expected, what came, where.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let Contents { architecture, parameters, .. } = Contents::read(bytes)?;
        let parameters: Option<Parameters> = parameters.map(|bytes| decode("parameters", bytes)).transpose()?;
        if let Some(parameters) = &parameters {
            parameters.check(&architecture)?;
        }
        Ok(Self { architecture, parameters })
    }

    /// Reads the public part of either file, with its id. The parameters are not looked at.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_public(bytes: &[u8]) -> Result<(Architecture, ModelId)> {
        let Contents { architecture, id, .. } = Contents::read(bytes)?;
        Ok((architecture, id))
    }

    /// The server's file.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] if the parameters are absent or not those of the architecture.
    pub fn server_bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        let parameters =
            self.parameters.as_ref().ok_or_else(|| malformed("parameters: expected the server's secrets, got none"))?;
        parameters.check(&self.architecture)?;
        let architecture = encode_public(&self.architecture)?;
        let parameters = Zeroizing::new(encode(parameters)?);
        Ok(Zeroizing::new(file(SERVER_MAGIC, &[&architecture, &parameters])?))
    }

    /// The client's file: the public part alone.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] if the architecture is not one.
    pub fn public_bytes(&self) -> Result<Vec<u8>> {
        self.architecture.shapes()?;
        file(PUBLIC_MAGIC, &[&encode_public(&self.architecture)?])
    }
}

impl Architecture {
    /// The id of every model of this architecture.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] if it cannot be encoded.
    pub fn id(&self) -> Result<ModelId> {
        Ok(Sha256::digest(encode(self)?).into())
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(|e| malformed(format!("encoding: {e}")))
}

/// The architecture's encoding, no longer than what [`ModelFile::read`] takes.
fn encode_public(architecture: &Architecture) -> Result<Vec<u8>> {
    let bytes = encode(architecture)?;
    if bytes.len() > limits::ARCHITECTURE_BYTES {
        return Err(malformed(format!(
            "architecture: expected at most {} bytes, got {}",
            limits::ARCHITECTURE_BYTES,
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn file(magic: [u8; 8], parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() + 4).sum::<usize>() + 12 + HASH_BYTES);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    for part in parts {
        let length = u32::try_from(part.len()).map_err(|_| malformed("part: expected less than 4 GiB, got more"))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    Ok(bytes)
}

/// A file's parts, checked but for the parameters.
struct Contents<'a> {
    architecture: Architecture,
    id: ModelId,
    /// The parameters' encoding, in the server's file.
    parameters: Option<&'a [u8]>,
}

impl<'a> Contents<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = Reader { bytes, position: 0 };
        let magic = rest.take(8, "magic")?;
        let secret = match magic {
            m if m == SERVER_MAGIC => true,
            m if m == PUBLIC_MAGIC => false,
            _ => return Err(malformed("magic: expected a SAFENet model or its public part, got another kind of file")),
        };
        let version = rest.length("version")?;
        if version != VERSION {
            return Err(malformed(format!("version: expected {VERSION}, got {version}")));
        }
        let encoded = rest.part("architecture", limits::ARCHITECTURE_BYTES)?;
        let architecture: Architecture = decode("architecture", encoded)?;
        let parameters = if secret { Some(rest.part("parameters", usize::MAX)?) } else { None };
        let hashed = rest.position;
        let hash = rest.take(HASH_BYTES, "hash")?;
        if rest.position != bytes.len() {
            return Err(malformed(format!("length: expected {} bytes, got {}", rest.position, bytes.len())));
        }
        if Sha256::digest(&bytes[..hashed])[..] != *hash {
            return Err(malformed("hash: expected that of the contents, got another: the file is damaged"));
        }
        architecture.shapes()?;
        Ok(Self { architecture, id: Sha256::digest(encoded).into(), parameters })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.position;
        if count > left {
            return Err(malformed(format!("{what}: expected {count} more bytes, got {left}")));
        }
        let taken = &self.bytes[self.position..self.position + count];
        self.position += count;
        Ok(taken)
    }

    fn length(&mut self, what: &str) -> Result<u32> {
        let mut value = [0; 4];
        value.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(value))
    }

    /// A length and that many bytes.
    fn part(&mut self, what: &str, most: usize) -> Result<&'a [u8]> {
        let length = self.length(what)? as usize;
        if length > most {
            return Err(malformed(format!("{what}: expected at most {most} bytes, got {length}")));
        }
        self.take(length, what)
    }
}

/// The value that bytes encode, all of them. What it allocates is bounded by the bytes that are there.
fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| malformed(format!("{what}: {e}")))?;
    match rest.len() {
        0 => Ok(value),
        n => Err(malformed(format!("{what}: expected {} bytes, got {n} more", bytes.len() - n))),
    }
}

fn malformed(message: impl Into<alloc::string::String>) -> Error {
    Error::new(ErrorKind::MalformedModel, message).context("model file")
}

//! Files: bounded reading, writing, models.

use anyhow::{Context, Result, bail};
use safenet_core::model::{Architecture, ModelFile};
use std::fs::File;
#[cfg(feature = "compile")]
use std::fs::{self, OpenOptions};
use std::io::Read;
#[cfg(feature = "compile")]
use std::io::Write;
use std::path::Path;

/// Largest model or network file that is read.
const MODEL_BYTES: u64 = 4 << 30;

/// The whole of a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let file = File::open(path).with_context(|| format!("{}: cannot open", path.display()))?;
    // One more byte than the limit tells a file that is too long, also where its length is not known in advance.
    file.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("{}: cannot read", path.display()))?;
    if bytes.len() as u64 > limit {
        bail!("{}: expected at most {limit} bytes, got more", path.display());
    }
    Ok(bytes)
}

/// The bytes of a network or model file.
pub(crate) fn model_bytes(path: &Path) -> Result<Vec<u8>> {
    read(path, MODEL_BYTES)
}

/// A model, the server's file or the public part.
pub(crate) fn model(path: &Path) -> Result<ModelFile> {
    ModelFile::read(&model_bytes(path)?).with_context(|| path.display().to_string())
}

/// A model with its secrets.
pub(crate) fn server_model(path: &Path) -> Result<ModelFile> {
    let file = model(path)?;
    if file.parameters.is_none() {
        bail!("{}: expected the server's model file (.safenet), got the public part (.public)", path.display());
    }
    Ok(file)
}

/// A model's id in hexadecimal.
pub(crate) fn id(architecture: &Architecture) -> Result<String> {
    Ok(architecture.id()?.iter().map(|b| format!("{b:02x}")).collect())
}

/// Writes a file that anyone may read.
#[cfg(feature = "compile")]
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{}: cannot write", path.display()))
}

/// Writes a file that holds secrets: where the system knows owners, no one but its owner may read a new one.
#[cfg(feature = "compile")]
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("{}: cannot write", path.display()))
}

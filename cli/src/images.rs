//! Inputs of a network: pictures in PGM and PPM, raw numbers, NumPy archives. Files may be hostile.

use crate::files;
use anyhow::{Context, Result, bail, ensure};
use safenet_compiler::Samples;
use safenet_core::model::Shape;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest header of a picture, comments included.
const PICTURE_HEADER_BYTES: usize = 1 << 12;
/// Largest archive that is read.
const ARCHIVE_BYTES: u64 = 1 << 30;

/// One input.
pub(crate) struct Sample {
    /// The path it was read from; for one of an archive's, `PATH[INDEX]`.
    pub(crate) name: String,
    /// Its numbers in the model's order.
    pub(crate) values: Vec<f32>,
    /// What it shows, where the file says so.
    pub(crate) label: Option<u64>,
}

/// All inputs of some files; of a directory, those of its `.pgm`, `.ppm`, `.f32` and `.npz` files in the order of their names.
pub(crate) fn load_all(paths: &[PathBuf], shape: Shape) -> Result<Vec<Sample>> {
    let mut samples = vec![];
    for path in paths {
        if path.is_dir() {
            let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
            let entries = entries.with_context(|| format!("{}: cannot list", path.display()))?;
            let mut files: Vec<PathBuf> =
                entries.into_iter().map(|e| e.path()).filter(|p| Format::of(p).is_some()).collect();
            files.sort();
            ensure!(!files.is_empty(), "{}: expected .pgm, .ppm, .f32 or .npz files in it, got none", path.display());
            for file in files {
                samples.extend(load(&file, shape)?);
            }
        } else {
            samples.extend(load(path, shape)?);
        }
    }
    Ok(samples)
}

/// Inputs by the names that reports give them: a path, or `PATH[INDEX]` for one of an archive's. Reads each file once.
pub(crate) struct Library {
    directory: Option<PathBuf>,
    shape: Shape,
    files: HashMap<PathBuf, Vec<Sample>>,
}

impl Library {
    /// `directory` is where the files are, if not where their names say.
    pub(crate) fn new(directory: Option<PathBuf>, shape: Shape) -> Self {
        Self { directory, shape, files: HashMap::new() }
    }

    /// The input of a name.
    pub(crate) fn get(&mut self, name: &str) -> Result<&Sample> {
        let (path, index) = match name.strip_suffix(']').and_then(|n| n.rsplit_once('[')) {
            Some((path, index)) if path.ends_with(".npz") => {
                (path, index.parse::<usize>().with_context(|| format!("{name}: expected PATH[INDEX]"))?)
            }
            _ => (name, 0),
        };
        let path = match &self.directory {
            None => PathBuf::from(path),
            // The report was made from another place: only the file's own name still counts.
            Some(directory) => {
                directory.join(Path::new(path).file_name().with_context(|| format!("{name}: expected a file's path"))?)
            }
        };
        let samples = match self.files.entry(path) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let samples = load(unknown.key(), self.shape)?;
                unknown.insert(samples)
            }
        };
        let count = samples.len();
        samples.get(index).with_context(|| format!("{name}: expected an index below {count}, got {index}"))
    }
}

/// How a file holds its numbers.
#[derive(Clone, Copy)]
enum Format {
    Picture,
    Raw,
    Npz,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "pgm" | "ppm" => Some(Self::Picture),
            "f32" => Some(Self::Raw),
            "npz" => Some(Self::Npz),
            _ => None,
        }
    }
}

/// The inputs of a file.
pub(crate) fn load(path: &Path, shape: Shape) -> Result<Vec<Sample>> {
    let name = path.display().to_string();
    let values = match Format::of(path) {
        Some(Format::Picture) => {
            let bytes = files::read(path, (shape.elements() + PICTURE_HEADER_BYTES) as u64)?;
            picture(&bytes, shape).with_context(|| name.clone())?
        }
        Some(Format::Raw) => {
            raw(&files::read(path, 4 * shape.elements() as u64)?, shape).with_context(|| name.clone())?
        }
        Some(Format::Npz) => return archive(path, shape).with_context(|| name.clone()),
        None => bail!(
            "{name}: expected a file named .pgm or .ppm (8-bit picture), .f32 (raw numbers) or .npz (NumPy arrays)"
        ),
    };
    let label = label_in_name(path);
    Ok(vec![Sample { name, values, label }])
}

/// The label in a name like `07-9.pgm`: what stands after the last dash.
pub(crate) fn label_in_name(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.rsplit_once('-')?.1.parse().ok()
}

fn archive(path: &Path, shape: Shape) -> Result<Vec<Sample>> {
    let archive = Samples::from_npz(&files::read(path, ARCHIVE_BYTES)?)?;
    let flat = Shape { channels: shape.elements() as u32, height: 1, width: 1 };
    ensure!(
        archive.shape() == shape || archive.shape() == flat,
        "expected inputs of shape {shape} (channels x height x width) or {flat}, got {}",
        archive.shape()
    );
    let sample = |(index, values): (usize, &[f32])| Sample {
        name: format!("{}[{index}]", path.display()),
        values: values.to_vec(),
        label: archive.labels().and_then(|labels| u64::try_from(*labels.get(index)?).ok()),
    };
    Ok(archive.iter().enumerate().map(sample).collect())
}

/// Little-endian floats, nothing else.
fn raw(bytes: &[u8], shape: Shape) -> Result<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    ensure!(
        rest.is_empty() && values.len() == shape.elements(),
        "expected {} bytes ({shape} floats), got {}",
        4 * shape.elements(),
        bytes.len()
    );
    Ok(values.iter().map(|&v| f32::from_le_bytes(v)).collect())
}

/// A binary picture with one byte per pixel and colour, as 0 (dark) to 1; colours as planes.
///
/// Formats: <https://netpbm.sourceforge.net/doc/pgm.html>, <https://netpbm.sourceforge.net/doc/ppm.html>.
fn picture(bytes: &[u8], shape: Shape) -> Result<Vec<f32>> {
    let channels = match bytes {
        [b'P', b'5', ..] => 1,
        [b'P', b'6', ..] => 3,
        _ => bail!("expected a binary PGM or PPM picture (P5 or P6), got something else"),
    };
    let mut rest = &bytes[2..];
    let mut field = |what: &'static str| number(&mut rest).context(what);
    let (width, height, most) = (field("width")?, field("height")?, field("maximum")?);
    ensure!((1..=255).contains(&most), "expected a maximum of 1 to 255 (8 bits), got {most}");
    let got = Shape { channels, height, width };
    ensure!(got == shape, "expected the model's input, {shape} (channels x height x width), got a picture of {got}");
    let values = match rest.split_first() {
        Some((space, values)) if space.is_ascii_whitespace() => values,
        _ => bail!("expected a space after the maximum"),
    };
    ensure!(values.len() == shape.elements(), "expected {} bytes of pixels, got {}", shape.elements(), values.len());
    if let Some(value) = values.iter().find(|&&v| u32::from(v) > most) {
        bail!("expected pixels of at most {most}, got {value}");
    }
    let colours = channels as usize;
    let planes = (0..colours).flat_map(|c| values.iter().skip(c).step_by(colours));
    Ok(planes.map(|&v| f32::from(v) / most as f32).collect())
}

/// A decimal number of a picture's header, after spaces and comments.
fn number(rest: &mut &[u8]) -> Result<u32> {
    loop {
        match rest.split_first() {
            Some((c, after)) if c.is_ascii_whitespace() => *rest = after,
            Some((b'#', after)) => *rest = &after[after.iter().position(|&c| c == b'\n').unwrap_or(after.len())..],
            _ => break,
        }
    }
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    ensure!((1..=6).contains(&digits), "expected a number of 1 to 6 digits");
    let value = rest[..digits].iter().fold(0, |n, c| 10 * n + u32::from(c - b'0'));
    *rest = &rest[digits..];
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { channels: 1, height: 2, width: 3 };

    #[test]
    fn pictures_are_scaled_to_one() {
        let file = b"P5\n# made by hand\n3 2\n# again\n100\n\x00\x32\x64\x00\x00\x64";
        assert_eq!(picture(file, SHAPE).unwrap(), [0.0, 0.5, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn colours_become_planes() {
        let shape = Shape { channels: 3, height: 1, width: 2 };
        assert_eq!(picture(b"P6 2 1 4\n\x00\x01\x02\x04\x03\x02", shape).unwrap(), [0.0, 1.0, 0.25, 0.75, 0.5, 0.5]);
        assert!(picture(b"P5 2 1 4\n\x00\x01", shape).is_err());
    }

    #[test]
    fn hostile_pictures_are_refused() {
        let cases: [(&[u8], &str); 12] = [
            (b"", "P5"),
            (b"P2 3 2 255\n0 0 0 0 0 0", "P5"),
            (b"P5", "width"),
            (b"P5 3", "height"),
            (b"P5 3 2", "maximum"),
            (b"P5 3 2 255", "space"),
            (b"P5 3 2 255\n\x00", "6 bytes of pixels"),
            (b"P5 3 2 255\n\x00\x00\x00\x00\x00\x00\x00", "got 7"),
            (b"P5 99999999999999999999 2 255\n", "1 to 6 digits"),
            (b"P5 2 3 255\n\x00\x00\x00\x00\x00\x00", "a picture of 1x3x2"),
            (b"P5 3 2 65535\n\x00\x00\x00\x00\x00\x00", "8 bits"),
            (b"P5 3 2 10\n\x00\x00\x00\x00\x00\x0b", "at most 10"),
        ];
        for (bytes, text) in cases {
            let error = format!("{:#}", picture(bytes, SHAPE).unwrap_err());
            assert!(error.contains(text), "{text:?} not in {error:?}");
        }
        assert!(picture(b"P5 # no end of this comment", SHAPE).is_err());
    }

    #[test]
    fn raw_numbers_have_the_right_length() {
        assert_eq!(raw(&[0; 24], SHAPE).unwrap().len(), 6);
        assert!(raw(&[0; 23], SHAPE).is_err());
        assert!(raw(&[0; 28], SHAPE).is_err());
    }

    #[test]
    fn labels_stand_in_names() {
        assert_eq!(label_in_name(Path::new("digits/07-9.pgm")), Some(9));
        assert_eq!(label_in_name(Path::new("digits/seven.pgm")), None);
    }
}

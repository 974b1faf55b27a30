//! Calibration samples: what inputs look like.

use crate::error::{Error, Result};
use safenet_core::model::Shape;
use std::io::{Cursor, Read};

/// Elements of one array that are read at most: 1 GiB of 32-bit numbers.
const LARGEST: u64 = 1 << 28;
/// Bytes of an array's header that are read at most.
const HEADER: usize = 1 << 14;

/// Inputs on which the network's ranges are measured, with their classes where known.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    shape: Shape,
    data: Vec<f32>,
    labels: Option<Vec<i64>>,
}

impl Samples {
    /// Takes samples of one shape, one after the other, and optionally the class of each.
    ///
    /// # Errors
    /// [`Error::Samples`] if there is no sample, a part of one, a value that is not finite, or another number of labels.
    pub fn new(shape: Shape, data: Vec<f32>, labels: Option<Vec<i64>>) -> Result<Self> {
        let elements = shape.elements();
        if elements == 0 || data.is_empty() || !data.len().is_multiple_of(elements) {
            return Err(Error::Samples(format!(
                "expected a positive number of samples of {elements} elements ({shape}), got {} elements",
                data.len()
            )));
        }
        if let Some(i) = data.iter().position(|x| !x.is_finite()) {
            return Err(Error::Samples(format!(
                "expected finite values, got {} in sample {}, element {}",
                data[i],
                i / elements,
                i % elements
            )));
        }
        let count = data.len() / elements;
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != count) {
            return Err(Error::Samples(format!(
                "expected one label for each of {count} samples, got {}",
                labels.len()
            )));
        }
        Ok(Self { shape, data, labels })
    }

    /// Reads NumPy's .npz format. The samples are the array named `image`, or else the only array of the file besides
    /// `label`, of shape (N, C, H, W), (N, H, W) or (N, K). Arrays of float32 or float64 are taken as they are, arrays of
    /// uint8 are divided by 255. An array `label` of N integers gives the classes.
    ///
    /// # Errors
    /// [`Error::Samples`] if the file is damaged or holds something else, or more than 2^28 elements.
    pub fn from_npz(bytes: &[u8]) -> Result<Self> {
        let damaged =
            |e: zip::result::ZipError| Error::Samples(format!("expected an .npz file, got damaged data: {e}"));
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
        let others: Vec<&String> = names.iter().filter(|n| *n != "label.npy").collect();
        let image = match (names.iter().find(|n| *n == "image.npy"), others.as_slice()) {
            (Some(image), _) => image,
            (None, [only]) => only,
            _ => {
                return Err(Error::Samples(format!(
                    "expected an array named image, or a single array, got {} arrays: {}",
                    names.len(),
                    names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ")
                )));
            }
        };
        let mut read = |name: &str, most: u64| {
            let file = archive.by_name(name).map_err(damaged)?;
            Array::read(file, most).map_err(|e| Error::Samples(format!("array {name}: {e}")))
        };
        let array = read(image, LARGEST)?;
        let shape = match array.shape.as_slice() {
            [_, c, h, w] => [*c, *h, *w],
            [_, h, w] => [1, *h, *w],
            [_, k] => [*k, 1, 1],
            other => {
                return Err(Error::Samples(format!(
                    "array {image}: expected shape (N, C, H, W), (N, H, W) or (N, K), got {other:?}"
                )));
            }
        };
        let shape = crate::shape::checked(shape[0], shape[1], shape[2])
            .map_err(|e| Error::Samples(format!("array {image}: {e}")))?;
        let labels = if names.iter().any(|n| n == "label.npy") && image != "label.npy" {
            Some(
                read("label.npy", array.shape[0])?
                    .integers()
                    .map_err(|e| Error::Samples(format!("array label.npy: {e}")))?,
            )
        } else {
            None
        };
        Self::new(shape, array.reals().map_err(|e| Error::Samples(format!("array {image}: {e}")))?, labels)
    }

    /// Shape of one sample.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.data.len() / self.shape.elements().max(1)
    }

    /// The samples, one after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.shape.elements().max(1))
    }

    /// The class of each sample, where known.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }
}

/// One array in NumPy's .npy format (NEP 1): magic, version, header length, a Python dictionary, the elements.
struct Array {
    shape: Vec<u64>,
    kind: &'static str,
    bytes: Vec<u8>,
}

/// Element types that are read, as NumPy writes them, and their sizes.
const KINDS: [(&str, usize); 9] =
    [("<f4", 4), ("<f8", 8), ("|u1", 1), ("|i1", 1), ("<i2", 2), ("<i4", 4), ("<i8", 8), ("<u2", 2), ("<u4", 4)];

impl Array {
    /// Reads an array of at most `most` elements.
    fn read(mut file: impl Read, most: u64) -> std::result::Result<Self, String> {
        let mut take = |count: usize| {
            let mut bytes = vec![0; count];
            file.read_exact(&mut bytes).map_err(|e| format!("expected {count} more header bytes: {e}"))?;
            Ok::<_, String>(bytes)
        };
        let start = take(8)?;
        if start[..6] != *b"\x93NUMPY" {
            return Err("expected a NumPy array, got another kind of data".into());
        }
        let length = match start[6] {
            1 => take(2)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b)),
            2 | 3 => take(4)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b)),
            version => return Err(format!("expected format version 1 to 3, got {version}")),
        };
        if length > HEADER {
            return Err(format!("expected a header of at most {HEADER} bytes, got {length}"));
        }
        let header = String::from_utf8(take(length)?).map_err(|_| "expected a header in UTF-8".to_owned())?;
        let (kind, shape) = parse_header(&header)?;
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= most);
        let count = count.ok_or_else(|| format!("expected at most {most} elements, got shape {shape:?}"))?;
        let expected = count * kind.1 as u64;
        // Read what is there rather than reserve what the header claims: the file bounds the memory.
        let mut bytes = Vec::new();
        file.take(expected + 1).read_to_end(&mut bytes).map_err(|e| format!("reading elements: {e}"))?;
        if bytes.len() as u64 != expected {
            return Err(format!("expected {expected} bytes of elements for shape {shape:?}, got {}", bytes.len()));
        }
        Ok(Self { shape, kind: kind.0, bytes })
    }

    fn integers(self) -> std::result::Result<Vec<i64>, String> {
        if self.shape.len() != 1 || self.kind.contains('f') {
            return Err(format!("expected a vector of integers, got shape {:?} of {}", self.shape, self.kind));
        }
        let size = self.size();
        let signed = self.kind.contains('i');
        let value = |bytes: &[u8]| {
            let fill = if signed && bytes[size - 1] >= 0x80 { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..size].copy_from_slice(bytes);
            i64::from_le_bytes(wide)
        };
        Ok(self.bytes.chunks_exact(size).map(value).collect())
    }

    fn reals(self) -> std::result::Result<Vec<f32>, String> {
        let chunks = self.bytes.chunks_exact(self.size());
        match self.kind {
            "|u1" => Ok(self.bytes.iter().map(|&b| f32::from(b) / 255.0).collect()),
            "<f4" => Ok(chunks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            "<f8" => Ok(chunks
                .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
                .collect()),
            kind => Err(format!("expected elements of float32, float64 or uint8, got {kind}")),
        }
    }

    fn size(&self) -> usize {
        KINDS.iter().find(|k| k.0 == self.kind).map_or(1, |k| k.1)
    }
}

type Kind = (&'static str, usize);

/// Element type and shape from a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse_header(header: &str) -> std::result::Result<(Kind, Vec<u64>), String> {
    let after = |key: &str| {
        let rest = header.split_once(&format!("'{key}'")).map(|(_, rest)| rest.trim_start());
        rest.and_then(|rest| rest.strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| format!("expected a header with '{key}'"))
    };
    let descr = after("descr")?;
    let kind = descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map_or("a structure", |(kind, _)| kind);
    let kind = KINDS.into_iter().find(|k| k.0 == kind).ok_or_else(|| {
        format!(
            "expected elements of float32, float64 or uint8 (or integers, for labels), little-endian, got {kind:.20}"
        )
    })?;
    if !after("fortran_order")?.starts_with("False") {
        return Err("expected elements in C order, got Fortran order; save numpy.ascontiguousarray(x)".into());
    }
    let shape = after("shape")?.strip_prefix('(').and_then(|s| s.split_once(')')).map(|(inner, _)| inner);
    let shape = shape.ok_or_else(|| "expected a tuple as shape".to_owned())?;
    let dimensions = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape = dimensions.map(|d| d.parse::<u64>().map_err(|_| format!("expected numbers in the shape, got {d:.20}")));
    Ok((kind, shape.collect::<std::result::Result<Vec<u64>, String>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
        use std::io::Write;
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in arrays {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn images_and_labels_are_read() {
        let file = npz(&[
            ("image.npy", npy("|u1", "(2, 1, 1, 2)", &[0, 255, 51, 102])),
            ("label.npy", npy("<i2", "(2,)", &[3, 0, 255, 255])),
        ]);
        let samples = Samples::from_npz(&file).unwrap();
        assert_eq!(samples.shape(), Shape { channels: 1, height: 1, width: 2 });
        assert_eq!(samples.iter().collect::<Vec<_>>(), [&[0.0, 1.0][..], &[0.2, 0.4]]);
        assert_eq!(samples.labels(), Some(&[3, -1][..]));
        let reals: Vec<u8> = [0.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let samples = Samples::from_npz(&npz(&[("x.npy", npy("<f8", "(1, 2)", &reals))])).unwrap();
        assert_eq!((samples.shape().channels, samples.count()), (2, 1));
    }

    #[test]
    fn faults_are_named() {
        let text = |arrays: &[(&str, Vec<u8>)]| Samples::from_npz(&npz(arrays)).unwrap_err().to_string();
        assert!(Samples::from_npz(b"nothing").unwrap_err().to_string().contains("expected an .npz file"));
        assert!(
            text(&[("image.npy", npy("|u1", "(99999999, 1, 99999, 9999999)", &[]))])
                .contains("at most 268435456 elements")
        );
        assert!(
            text(&[("image.npy", npy("|u1", "(1, 1, 2, 2)", &[1, 2, 3]))]).contains("expected 4 bytes of elements")
        );
        let absurd = "(0, 9223372036854775808, 9223372036854775808, 4)";
        assert!(text(&[("image.npy", npy("|u1", absurd, &[]))]).contains("expected a tensor of 1 to"));
        assert!(text(&[("image.npy", npy("<f2", "(1, 1, 2, 2)", &[0; 8]))]).contains("got <f2"));
        assert!(text(&[("image.npy", npy("|u1", "(4,)", &[0; 4]))]).contains("expected shape (N, C, H, W)"));
        let image = || ("image.npy", npy("|u1", "(1, 2)", &[1, 2]));
        assert!(
            text(&[image(), ("label.npy", npy("|u1", "(3,)", &[1, 2, 3]))]).contains("label.npy: expected at most 1")
        );
        assert!(text(&[image(), ("label.npy", npy("<f4", "(1,)", &[0; 4]))]).contains("expected a vector of integers"));
        assert!(text(&[("a.npy", vec![]), ("b.npy", vec![])]).contains("got 2 arrays: a.npy, b.npy"));
        assert!(text(&[("image.npy", b"text".to_vec())]).contains("more header bytes"));
        assert!(text(&[("image.npy", npy("<f4", "(1, 1)", &f32::NAN.to_le_bytes()))]).contains("finite"));
        assert!(text(&[("image.npy", npy("<i4", "(1, 1)", &[0; 4]))]).contains("float32, float64 or uint8"));
    }
}

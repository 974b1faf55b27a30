//! Message frames: a kind, a length, a payload.
//!
//! ```text
//! kind u8 | zero u8 x 3 | payload length u32, little-endian | payload
//! ```
//!
//! The receiver knows from the public architecture which kind comes next and how long it is; anything else is an error
//! before a byte of payload is stored. An error frame may come at any time: a code and a text of at most 512 bytes.

use crate::error::{Error, ErrorKind, Result};
use alloc::{format, string::String, vec::Vec};

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 8;
/// Longest text of an error frame.
const ERROR_TEXT_BYTES: usize = 512;
/// Longest payload of an error frame: a code and the text.
const ERROR_BYTES: usize = 1 + ERROR_TEXT_BYTES;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// The sender stops; code and text.
    Error = 0,
    /// Client's opening: magic, version, parameters, model id, nonce.
    ClientHello = 1,
    /// Server's answer: nonce, most inferences it keeps prepared, the OT extension, and first message of the base OTs in which it
    /// sends.
    ServerHello = 2,
    /// Client's base OT messages and encryption keys.
    ClientKeys = 3,
    /// Server's base OT reply and tree corrections.
    ServerKeys = 4,
    /// Client's tree corrections.
    ClientCorrections = 5,
    /// Client asks to prepare inferences.
    Prepare = 6,
    /// One ciphertext of a layer's input mask.
    LinearRequest = 7,
    /// One ciphertext of factors in F_p.
    SlotRequest = 8,
    /// Columns of the OT extension.
    OtExtension = 9,
    /// One ciphertext of a layer's output mask.
    LinearResponse = 10,
    /// One ciphertext of products in F_p.
    SlotResponse = 11,
    /// Client starts an inference: bundle and masked input.
    Infer = 12,
    /// Server's message of one round of an activation layer.
    Request = 13,
    /// Client's message of one round of an activation layer.
    Reply = 14,
    /// Server's masked answer.
    Output = 15,
    /// Client is done.
    Goodbye = 16,
    /// A silent extension's next iteration.
    OtRefill = 17,
    /// What a silent extension begins with.
    OtSeed = 18,
    /// Client starts an inference in a stream.
    Stream = 19,
    /// Client's masked input of an inference in a stream.
    Input = 20,
}

impl FrameKind {
    fn name(code: u8) -> &'static str {
        const NAMES: [&str; 21] = [
            "error",
            "client hello",
            "server hello",
            "client keys",
            "server keys",
            "client corrections",
            "prepare",
            "linear request",
            "slot request",
            "OT extension",
            "linear response",
            "slot response",
            "infer",
            "request",
            "reply",
            "output",
            "goodbye",
            "OT refill",
            "OT seed",
            "stream",
            "input",
        ];
        NAMES.get(usize::from(code)).copied().unwrap_or("unknown")
    }
}

/// What a receiver is ready to take: a kind and the lengths it may have.
pub(crate) type Expected = (FrameKind, core::ops::RangeInclusive<usize>);

/// The header of a frame with a payload of `length` bytes.
pub(crate) fn header(kind: FrameKind, length: usize) -> Result<[u8; HEADER_BYTES]> {
    let length = u32::try_from(length).map_err(|_| {
        Error::new(
            ErrorKind::UnsupportedModel,
            format!("{} message: expected less than 4 GiB, got {length} bytes", FrameKind::name(kind as u8)),
        )
    })?;
    let mut out = [0; HEADER_BYTES];
    out[0] = kind as u8;
    out[4..].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// Which of the expected frames a header announces, and its payload's length.
pub(crate) fn parse_header(bytes: &[u8], expected: &[Expected]) -> Result<(FrameKind, usize)> {
    let malformed = |message: String| Err(Error::new(ErrorKind::MalformedMessage, message));
    let &[code, 0, 0, 0, a, b, c, d] = bytes else {
        let got: String = bytes.iter().map(|byte| format!(" {byte:02x}")).collect();
        return malformed(format!("frame header: expected a kind and three zero bytes, got{got}"));
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if code == FrameKind::Error as u8 {
        return match length {
            1..=ERROR_BYTES => Ok((FrameKind::Error, length)),
            _ => malformed(format!("error message: expected 1 to {ERROR_BYTES} bytes, got {length}")),
        };
    }
    match expected.iter().find(|(kind, _)| *kind as u8 == code) {
        Some((kind, lengths)) if lengths.contains(&length) => Ok((*kind, length)),
        Some((_, lengths)) if lengths.start() == lengths.end() => {
            malformed(format!("{} message: expected {} bytes, got {length}", FrameKind::name(code), lengths.start()))
        }
        Some((_, lengths)) => {
            let (least, most) = (lengths.start(), lengths.end());
            malformed(format!("{} message: expected {least} to {most} bytes, got {length}", FrameKind::name(code)))
        }
        None => {
            let names: Vec<_> = expected.iter().map(|(kind, _)| FrameKind::name(*kind as u8)).collect();
            malformed(format!("expected a message {}, got {} (kind {code})", names.join(" or "), FrameKind::name(code)))
        }
    }
}

/// The payload that tells the other party of an error. Texts of this library hold no secrets.
pub(crate) fn error_payload(error: &Error) -> Vec<u8> {
    let text = error.message();
    let end = (0..=ERROR_TEXT_BYTES.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let mut out = Vec::with_capacity(end + 1);
    out.push(match error.kind() {
        ErrorKind::Mismatch => 1,
        ErrorKind::BundleSpent => 2,
        _ => 0,
    });
    out.extend_from_slice(&text.as_bytes()[..end]);
    out
}

/// Whether a character of a peer's text may be shown: no control characters, line breaks or changes of writing direction.
fn is_plain(c: char) -> bool {
    !(c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// The error that an error frame's payload tells of.
pub(crate) fn peer_error(payload: &[u8]) -> Error {
    let (code, text) = payload.split_first().map_or((0, &[][..]), |(code, text)| (*code, text));
    let kind = match code {
        1 => ErrorKind::Mismatch,
        2 => ErrorKind::BundleSpent,
        _ => ErrorKind::Peer,
    };
    let text: String = String::from_utf8_lossy(text).chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
    Error::new(kind, format!("the other party reports: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_header_is_read_back_and_anything_else_is_named() {
        let expected = [(FrameKind::Infer, 4..=4), (FrameKind::Goodbye, 0..=0)];
        let good = header(FrameKind::Infer, 4).unwrap();
        assert_eq!(parse_header(&good, &expected).unwrap(), (FrameKind::Infer, 4));
        let text = |bytes: &[u8]| parse_header(bytes, &expected).unwrap_err().message().to_string();
        assert_eq!(text(&header(FrameKind::Infer, 5).unwrap()), "infer message: expected 4 bytes, got 5");
        assert_eq!(
            text(&header(FrameKind::Reply, 4).unwrap()),
            "expected a message infer or goodbye, got reply (kind 14)"
        );
        assert!(text(&[200, 0, 0, 0, 0, 0, 0, 0]).contains("unknown (kind 200)"));
        assert!(text(&[12, 1, 0, 0, 4, 0, 0, 0]).contains("three zero bytes"));
        assert!(text(&header(FrameKind::Error, 600).unwrap()).contains("1 to 513"));
    }

    #[test]
    fn an_error_crosses_the_wire_without_control_characters() {
        let error = Error::new(ErrorKind::BundleSpent, "bundle 3:\u{202e}spent\u{7}");
        let there = peer_error(&error_payload(&error));
        assert_eq!(there.kind(), ErrorKind::BundleSpent);
        assert_eq!(there.message(), "the other party reports: bundle 3: spent ");
        let long = Error::new(ErrorKind::Aborted, "ä".repeat(600));
        assert_eq!(error_payload(&long).len(), 513);
    }
}

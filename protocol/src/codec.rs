//! Control messages to bytes and back.
//!
//! bincode 2 in its standard configuration (little endian, variable-length integers) writes the payloads;
//! what it writes is described byte by byte in `docs/protocol.md`, so the crate can be replaced without a
//! change on the wire. Nothing else in the workspace names it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

use crate::frame::{self, Kind, MAX_PAYLOAD};

/// What bincode may count while it reads. It counts a number as wide as its type, not as it was written (8
/// bytes for a `u64` of one byte), so a limit of [`MAX_PAYLOAD`] would refuse large messages that are in
/// order. The bounds on lists keep the difference below one payload. It sets aside up to this much for one
/// announced string before it sees that the bytes are missing.
const COUNTED_BYTES: usize = 2 * MAX_PAYLOAD;

type Config = Configuration<LittleEndian, Varint, Limit<COUNTED_BYTES>>;

const CONFIG: Config = bincode::config::standard().with_limit::<COUNTED_BYTES>();

/// Why bytes are not a message, or a message does not fit into a frame.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The payload is not this message in this generation.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Bytes are left over behind the message: the peer speaks something else.
    #[error("{0} bytes behind the end of a message")]
    Trailing(usize),
    /// The message is larger than a frame may be.
    #[error("message of {0} bytes; the limit is {MAX_PAYLOAD}")]
    TooLong(usize),
}

/// Reads one message that fills the whole payload.
///
/// Memory stays bounded whatever the lengths inside announce: lists are bounded by their fields, strings by
/// twice a payload, and decoding ends at the first that is longer than what is there.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(CodecError::TooLong(payload.len()));
    }
    let (message, used) = bincode::serde::decode_from_slice(payload, CONFIG)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match payload.len() - used {
        0 => Ok(message),
        left => Err(CodecError::Trailing(left)),
    }
}

/// The bytes of one message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let payload = bincode::serde::encode_to_vec(message, CONFIG)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if payload.len() > MAX_PAYLOAD {
        return Err(CodecError::TooLong(payload.len()));
    }
    Ok(payload)
}

/// Appends the frame of one message to `out`; `out` is left as it was where the message does not fit.
pub fn encode_frame<T: Serialize>(kind: Kind, message: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    frame::encode(kind, &encode(message)?, out);
    Ok(())
}

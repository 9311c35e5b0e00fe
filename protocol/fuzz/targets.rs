//! What each fuzzer does with its bytes. The ordinary tests replay the corpus through the same functions.

// Included as a module by programs that each use a part of it.
#![allow(dead_code)]

use std::fmt::Debug;

use agent_protocol::{
    ClientMessage, FrameBuffer, Request, ServerMessage,
    address::Address,
    buffer::LARGEST_BYTES,
    codec,
    frame::{self, HEADER_BYTES},
    handshake::{Features, HELLO_BYTES, Hello, Token, WELCOME_BYTES, Welcome},
    spec::InitSpec,
};
use serde::{Serialize, de::DeserializeOwned};

/// A target by the name of its file and of its corpus folder.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const ALL: [Target; 9] = [
    ("frame", frames),
    ("hello", hello),
    ("welcome", welcome),
    ("request", request),
    ("client_message", client_message),
    ("server_message", server_message),
    ("address", address),
    ("connection", connection),
    ("spec", spec),
];

/// The first byte says in which pieces the rest arrives; cut up or whole, the same frames come out.
pub(crate) fn frames(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let mut whole = Vec::new();
    let mut rest = stream;
    let end = loop {
        match frame::decode(rest) {
            Ok(Some((header, frame))) => {
                let mut again = Vec::new();
                frame::encode(frame.kind, frame.payload, &mut again);
                assert_eq!(again, rest[..header.frame_bytes()]);
                assert_eq!(frame.data().is_ok(), frame.payload.len() >= frame::OFFSET_BYTES);
                whole.push((frame.kind, frame.payload));
                rest = &rest[header.frame_bytes()..];
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };

    let (mut buffer, mut seen, mut stream) = (FrameBuffer::new(), 0, stream);
    let cut_end = loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => {
                assert_eq!((frame.kind, frame.payload), whole[seen]);
                seen += 1;
                continue;
            }
            Ok(None) => {}
            Err(error) => break Some(error),
        }
        let space = buffer.unfilled();
        let count = (usize::from(cut) + 1).min(space.len()).min(stream.len());
        if count == 0 {
            break None;
        }
        space[..count].copy_from_slice(&stream[..count]);
        buffer.advance(count);
        stream = &stream[count..];
        assert!(buffer.capacity() <= LARGEST_BYTES);
    };
    assert_eq!((seen, cut_end), (whole.len(), end));
    assert_eq!(end.is_none() && buffer.is_empty(), end.is_none() && rest.is_empty());
}

/// A greeting, and init's answer to it.
pub(crate) fn hello(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<HELLO_BYTES>() else { return };
    let Ok(hello) = Hello::decode(bytes) else { return };
    assert_eq!(hello.encode(), *bytes);
    for token in [Token::default(), hello.token] {
        let answer = Welcome::answer(&hello, &token, Features::DESCRIPTORS);
        assert_eq!(Welcome::decode(&answer.encode()), Ok(answer));
    }
}

/// An answer to a greeting.
pub(crate) fn welcome(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<WELCOME_BYTES>() else { return };
    if let Ok(welcome) = Welcome::decode(bytes) {
        assert_eq!(welcome.encode(), *bytes);
    }
}

/// A request's payload.
pub(crate) fn request(data: &[u8]) {
    message::<Request>(data);
}

/// The payload of a message from the shim.
pub(crate) fn client_message(data: &[u8]) {
    message::<ClientMessage>(data);
}

/// The payload of a message from init.
pub(crate) fn server_message(data: &[u8]) {
    message::<ServerMessage>(data);
}

/// An address as a person writes it.
pub(crate) fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

/// A whole connection towards init: greeting, request, and frames behind it.
pub(crate) fn connection(data: &[u8]) {
    let Some((greeting, mut rest)) = data.split_first_chunk::<HELLO_BYTES>() else { return };
    if Hello::decode(greeting).is_err() {
        return;
    }
    while let Ok(Some((header, frame))) = frame::decode(rest) {
        match frame.kind {
            frame::Kind::Request => request(frame.payload),
            frame::Kind::Message => client_message(frame.payload),
            kind => {
                let (offset, bytes) = frame.data().expect("the header was checked");
                let prefix = frame::data_prefix(kind, offset, bytes.len());
                assert_eq!(prefix, rest[..HEADER_BYTES + frame::OFFSET_BYTES]);
            }
        }
        rest = &rest[header.frame_bytes()..];
    }
}

/// A document that tells init what to do.
pub(crate) fn spec(data: &[u8]) {
    if let Ok(spec) = InitSpec::from_json(data) {
        let again = InitSpec::from_json(spec.to_json().as_bytes()).expect("what was written can be read");
        assert_eq!(again, spec);
    }
}

/// What was read can be written and read again as the same, in no more bytes than before.
fn message<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = codec::decode::<T>(data) {
        let bytes = codec::encode(&value).expect("what was read can be written");
        assert!(bytes.len() <= data.len());
        assert_eq!(codec::decode::<T>(&bytes).expect("what was written can be read"), value);
    }
}

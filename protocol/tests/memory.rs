//! What hostile bytes can make the decoder set aside. One test, because the counter counts every thread.

use agent_protocol::{
    ClientMessage, Request, ServerMessage, codec,
    frame::MAX_PAYLOAD,
    message::{ExecRequest, MAX_ARGV, MAX_ENV, MAX_UNITS, MAX_WARNINGS, Stdio},
};
use peak_alloc::PeakAlloc;
use serde::de::DeserializeOwned;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// More than any payload may cost: its own bytes twice, as strings are first set aside and then filled, and
/// what the elements of the longest lists take beside their bytes.
const MOST: usize = 2 * MAX_PAYLOAD + MAX_ARGV * 24 + MAX_ENV * 48 + MAX_UNITS * 160 + MAX_WARNINGS * 24;

/// Decodes and returns what that took at its peak, in bytes.
fn cost<T: DeserializeOwned>(payload: &[u8]) -> (usize, Result<T, codec::CodecError>) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let result = codec::decode(payload);
    (HEAP.peak_usage() - before, result)
}

fn number(number: u64) -> Vec<u8> {
    [&[253][..], &number.to_le_bytes()].concat()
}

/// The bytes up to a length, that length, and then `fill` over and over.
fn hostile(front: &[u8], length: u64, fill: &[u8]) -> Vec<u8> {
    let mut payload = [front, &number(length)].concat();
    if !fill.is_empty() {
        payload.extend(fill.iter().cycle().take(MAX_PAYLOAD - payload.len()));
    }
    payload
}

/// Where a length stands: in front of argv, of its first element, of env, the directory and the user; of a
/// unit's name; of the units and their first name, and of a version.
const REQUESTS: [&[u8]; 7] = [&[2], &[2, 1], &[2, 0], &[2, 0, 1], &[2, 0, 0, 1], &[2, 0, 0, 0, 1], &[7]];
const ANSWERS: [&[u8]; 4] = [&[3], &[3, 0, 0, 0], &[3, 0, 0, 0, 1], &[2, 0]];

#[test]
fn memory_is_bounded_whatever_the_lengths_announce() {
    let mut worst = (0, 0);
    // Whatever else a first call sets up is not what is counted here.
    let _ = cost::<Request>(&[99]);

    let lengths =
        [1, 250, 4096, 16 * 1024, 16 * 1024 + 1, 1 << 17, 1 << 18, 1 << 20, 1 << 32, u64::MAX / 24, u64::MAX];
    for length in lengths {
        for fill in [&[][..], &[0], &[1, b'x'], &[1], &[0xff]] {
            for front in REQUESTS {
                let payload = hostile(front, length, fill);
                let (peak, _) = cost::<Request>(&payload);
                worst = worst.max((peak, payload.len()));
                assert!(peak <= MOST, "request {front:?}, length {length}, {fill:?}: {peak} bytes");
            }
            for front in ANSWERS {
                let payload = hostile(front, length, fill);
                let (peak, _) = cost::<ServerMessage>(&payload);
                worst = worst.max((peak, payload.len()));
                assert!(peak <= MOST, "answer {front:?}, length {length}, {fill:?}: {peak} bytes");
            }
            let (peak, _) = cost::<ClientMessage>(&hostile(&[], length, fill));
            assert!(peak <= 4096, "client message: {peak} bytes");
        }
    }

    println!("at most {} bytes, for a payload of {}", worst.0, worst.1);

    // A list that is too long is refused at its length, before anything is set aside for its elements.
    for (front, limit) in [(&[2][..], MAX_ARGV), (&[2, 0], MAX_ENV)] {
        let (peak, result) = cost::<Request>(&hostile(front, limit as u64 + 1, &[0]));
        assert!(result.is_err() && peak <= 4096, "{front:?}: {peak} bytes");
    }

    largest_requests_are_read();
}

/// The bounds must not refuse what the encoder lets through: as many bytes, or as many elements, as can be.
fn largest_requests_are_read() {
    let request = |argv: Vec<Vec<u8>>, env: Vec<(Vec<u8>, Vec<u8>)>| {
        Request::Exec(ExecRequest {
            argv,
            env,
            directory: None,
            user: None,
            stdin: false,
            stdio: Stdio::Frames,
            timeout_ms: Some(u64::MAX),
        })
    };
    let full = MAX_PAYLOAD - 100;
    let (words, variables) = (vec![b"x".to_vec(); MAX_ARGV], vec![(vec![], vec![]); MAX_ENV]);
    let left = full - 2 * MAX_ARGV - 2 * MAX_ENV;
    for request in [
        request(vec![vec![b'x'; full]], vec![]),
        request(words.clone(), vec![(vec![b'x'; left], vec![]); 1]),
        request(words.clone(), [variables[1..].to_vec(), vec![(vec![b'x'; left], vec![])]].concat()),
    ] {
        let payload = codec::encode(&request).unwrap();
        let (peak, result) = cost::<Request>(&payload);
        assert_eq!(result.unwrap(), request);
        println!("{peak} bytes for {} on the wire", payload.len());
        assert!(peak <= MOST, "{peak} bytes for {} on the wire", payload.len());
    }
    // And the encoder refuses what the decoder would.
    assert!(codec::encode(&request(vec![vec![]; MAX_ARGV + 1], vec![])).is_err());
    assert!(codec::encode(&request(vec![], vec![(vec![], vec![]); MAX_ENV + 1])).is_err());
    assert!(matches!(
        codec::encode(&request(vec![vec![b'x'; MAX_PAYLOAD]], vec![])),
        Err(codec::CodecError::TooLong(_))
    ));
}

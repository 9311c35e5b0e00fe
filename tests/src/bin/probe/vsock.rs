//! Attempts on the way by which the host reaches init in a machine.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::outcome::{Outcome, any, closed, open, print};

/// This machine by the number that means it in every machine, this machine by its own number, and the host.
const LOCAL: u32 = 1;
const HOST: u32 = 2;

/// Enough to fill any backlog, and fewer than the descriptors a program may have.
const HELD: usize = 900;

/// Dials init, and waits for it to say anything.
pub(crate) fn dial(own: &str, port: &str) {
    let (own, port) = (number(own), number(port));
    let ways = [LOCAL, own, HOST].map(|cid| {
        let outcome = stream(cid, port).map_or_else(|error| closed(error.to_string()), |to| listen_to(&to));
        (format!("cid {cid}"), outcome)
    });
    print("vsock", &any(ways));
}

/// Holds as many connections as it gets, and begins new ones for ever.
pub(crate) fn flood(port: &str) {
    let port = number(port);
    let mut held = Vec::new();
    let mut dialled = 0_u64;
    loop {
        if held.len() >= HELD {
            held.clear();
        }
        dialled += 1;
        if let Ok(mut to) = stream(LOCAL, port) {
            // Half a greeting.
            let _ = to.write_all(b"AGNT");
            held.push(to);
        }
        if dialled == 2000 {
            println!("flooding, {} are held", held.len());
        }
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

/// What matters of a Unix stream holds for this one, too.
fn stream(cid: u32, port: u32) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    Ok(fd.into())
}

fn listen_to(mut stream: &UnixStream) -> Outcome {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    // A whole greeting, to which init always has an answer.
    let _ = stream.write_all(&[0; 128]);
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => closed("hung up without a word"),
        Ok(_) => open("init answered"),
        Err(error) => closed(error.to_string()),
    }
}

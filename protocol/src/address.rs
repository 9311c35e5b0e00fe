//! Where init can be reached.

use std::{fmt, path::PathBuf, str::FromStr};

/// An address, written `unix:PATH`, `vsock:CID:PORT` or `hybrid:PATH:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A vsock port (vsock(7)).
    Vsock {
        /// Context id of the machine.
        cid: u32,
        /// Port inside it.
        port: u32,
    },
    /// A Unix socket that reaches a vsock port after `CONNECT PORT\n`, as firecracker, cloud-hypervisor and
    /// vhost-user devices offer; they answer `OK N\n`.
    Hybrid {
        /// The device's socket.
        path: PathBuf,
        /// Port inside the machine.
        port: u32,
    },
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: {problem}; write unix:PATH, vsock:CID:PORT or hybrid:PATH:PORT")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|problem| AddressError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Address, &'static str> {
    let (scheme, rest) = text.split_once(':').ok_or("it has no scheme")?;
    match scheme {
        "unix" => Ok(Address::Unix(path(rest)?)),
        "vsock" => {
            let (cid, port) = rest.split_once(':').ok_or("the port is missing")?;
            Ok(Address::Vsock { cid: number(cid)?, port: number(port)? })
        }
        "hybrid" => {
            let (socket, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
            Ok(Address::Hybrid { path: path(socket)?, port: number(port)? })
        }
        _ => Err("the scheme is unknown"),
    }
}

fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() {
        return Err("the path is empty");
    }
    if text.contains('\0') {
        return Err("the path holds a NUL");
    }
    Ok(PathBuf::from(text))
}

/// Digits alone: `u32::from_str` also takes a sign.
fn number(text: &str) -> Result<u32, &'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a number is not one");
    }
    text.parse().map_err(|_| "a number is missing or too large")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Hybrid { path, port } => write!(f, "hybrid:{}:{port}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in
            ["unix:/run/a b:c.sock", "vsock:3:1024", "hybrid:/tmp/a:b.sock:5000", "vsock:4294967295:0"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            "unix",
            "unix:",
            "tcp:1:2",
            "vsock:3",
            "vsock:x:1",
            "vsock:3:",
            "vsock:+3:1",
            "vsock:4294967296:1",
            "hybrid::1",
            "hybrid:/p",
            "unix:a\0b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}

//! Which id a sandbox started by root runs as on the host.
//!
//! Ids come from 0x7a000000-0x7affffff. Distributions give users and services ids below 65,536,
//! subordinate ranges begin at 100,000 and systemd's containers end at 0x6fffffff; systemd's foreign
//! range begins at 0x7ffe0000. Nothing on disk is ever owned by such an id: writable folders are
//! mounted so that what the sandbox creates belongs to the folder's owner. The id may therefore
//! differ from one start to the next, and only the living must not share one.

use std::io;

/// First id of the range.
pub const FIRST: u32 = 0x7a00_0000;
/// Number of ids in the range.
pub const COUNT: u32 = 0x0100_0000;
/// Ids tried before giving up. Chance hardly ever takes two in a row, but a host whose PID 1 reaps nobody keeps
/// an id busy for each process that was left to it.
const ATTEMPTS: u32 = 1024;

/// The id for the sandbox `seed` stands for: the same at every start unless another has taken it.
pub fn choose(seed: &[u8], mut taken: impl FnMut(u32) -> io::Result<bool>) -> io::Result<u32> {
    let start = fnv1a(seed);
    for attempt in 0..ATTEMPTS {
        let id = FIRST + start.wrapping_add(attempt) % COUNT;
        if !taken(id)? {
            return Ok(id);
        }
    }
    Err(io::Error::other(format!(
        "{ATTEMPTS} host ids in a row are in use, from {:#x}",
        FIRST + start % COUNT
    )))
}

/// Asks the kernel, which knows every living process, rather than a registry that a kill -9 makes wrong.
pub fn has_processes(id: u32) -> io::Result<bool> {
    crate::sys::user_has_processes(id)
}

/// Spreads names over the range; std's hasher may change between versions.
pub(super) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_sandbox_gets_the_same_id() {
        let free = |_| Ok(false);
        assert_eq!(choose(b"/srv/a", free).unwrap(), choose(b"/srv/a", free).unwrap());
        assert_ne!(choose(b"/srv/a", free).unwrap(), choose(b"/srv/b", free).unwrap());
    }

    #[test]
    fn a_taken_id_is_passed_over_and_the_range_never_left() {
        let first = choose(b"x", |_| Ok(false)).unwrap();
        let second = choose(b"x", |id| Ok(id == first)).unwrap();
        assert_ne!(first, second);
        for seed in 0..2000u32 {
            let id = choose(&seed.to_le_bytes(), |_| Ok(false)).unwrap();
            assert!((FIRST..FIRST + COUNT).contains(&id));
        }
    }

    #[test]
    fn a_full_neighbourhood_is_an_error() {
        assert!(choose(b"x", |_| Ok(true)).is_err());
    }
}

//! Reading files of ours that may be damaged.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// Reads a whole file, or refuses it where it is larger than such a file can be.
pub(crate) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
    }
    Ok(bytes)
}

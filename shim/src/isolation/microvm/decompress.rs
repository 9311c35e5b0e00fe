//! Kernels and their modules are packed on disk: this unpacks them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest module that is taken, unpacked. The largest of a distribution are drivers of graphics cards with some 20 MB;
/// none of those is ever needed.
const MAX_MODULE_BYTES: u64 = 32 * 1024 * 1024;

/// How a module is packed, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Xz,
    Zstd,
    /// The frames that kernels have, which are an older kind.
    Lz4,
}

/// The name without `.ko` and what follows, and how the file is packed; nothing where it is no module.
pub(super) fn split(file_name: &str) -> Option<(&str, Packing)> {
    let endings = [
        (".ko", Packing::Plain),
        (".ko.gz", Packing::Gzip),
        (".ko.xz", Packing::Xz),
        (".ko.zst", Packing::Zstd),
    ];
    endings.into_iter().find_map(|(ending, packing)| Some((file_name.strip_suffix(ending)?, packing)))
}

/// Reads a module and unpacks it. What a signature covers stays as it is.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let packing = split(name).map_or(Packing::Plain, |(_, packing)| packing);
    let file = File::open(path)?;
    // A pipe or a device would be waited for.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    unpack(packing, io::BufReader::new(file), MAX_MODULE_BYTES)
}

/// What is packed, up to `most` bytes.
pub(super) fn unpack(packing: Packing, packed: impl Read, most: u64) -> io::Result<Vec<u8>> {
    match packing {
        Packing::Plain => bounded(packed, most),
        Packing::Gzip => bounded(flate2::read::GzDecoder::new(packed), most),
        Packing::Xz => bounded(lzma_rust2::XzReader::new(packed, true), most),
        Packing::Zstd => {
            bounded(ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?, most)
        }
        Packing::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(packed), most),
    }
}

fn bounded(content: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    content.take(most + 1).read_to_end(&mut whole)?;
    if whole.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {most} bytes")));
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `module\n`, as the usual programs pack it.
    const GZIP: &[u8] = &[
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xcb, 0xcd, 0x4f, 0x29, 0xcd, 0x49, 0xe5,
        0x02, 0x00, 0x4f, 0x8a, 0x6e, 0x07, 0x07, 0x00, 0x00, 0x00,
    ];
    const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21, 0x01, 0x10,
        0x00, 0x00, 0x00, 0xa8, 0x70, 0x8e, 0x86, 0x01, 0x00, 0x06, 0x6d, 0x6f, 0x64, 0x75, 0x6c, 0x65, 0x0a,
        0x00, 0x00, 0x4f, 0x8a, 0x6e, 0x07, 0x00, 0x01, 0x1b, 0x07, 0x12, 0xeb, 0xd4, 0x17, 0x90, 0x42, 0x99,
        0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x39, 0x00, 0x00, 0x6d, 0x6f, 0x64, 0x75, 0x6c, 0x65, 0x0a, 0x26,
        0xd1, 0x51, 0x25,
    ];

    #[test]
    fn names_tell_the_packing() {
        assert_eq!(split("virtio-rng.ko"), Some(("virtio-rng", Packing::Plain)));
        assert_eq!(split("vsock.ko.gz"), Some(("vsock", Packing::Gzip)));
        assert_eq!(split("vsock.ko.xz"), Some(("vsock", Packing::Xz)));
        assert_eq!(split("vsock.ko.zst"), Some(("vsock", Packing::Zstd)));
        for other in ["modules.dep", "vsock.ko.bz2", "ko", "vsock.kox"] {
            assert_eq!(split(other), None, "{other}");
        }
    }

    #[test]
    fn each_packing_is_undone() {
        let ways = [
            (Packing::Plain, &b"module\n"[..]),
            (Packing::Gzip, GZIP),
            (Packing::Xz, XZ),
            (Packing::Zstd, ZSTD),
        ];
        for (packing, packed) in ways {
            assert_eq!(unpack(packing, packed, 7).unwrap(), b"module\n", "{packing:?}");
        }
    }

    #[test]
    fn what_grows_too_large_is_refused() {
        for (packing, packed) in [(Packing::Gzip, GZIP), (Packing::Xz, XZ), (Packing::Zstd, ZSTD)] {
            assert!(unpack(packing, packed, 6).is_err(), "{packing:?}");
        }
    }

    #[test]
    fn a_cut_off_module_is_refused() {
        for (packing, packed) in [(Packing::Gzip, GZIP), (Packing::Xz, XZ), (Packing::Zstd, ZSTD)] {
            for length in 0..packed.len() - 1 {
                let got = unpack(packing, &packed[..length], 100);
                // The last bytes of some packings are sums and padding; what comes out before them is never another text.
                assert!(got.is_err() || got.unwrap() == b"module\n", "{packing:?} {length}");
            }
        }
    }
}

//! A kernel as it is once it has unpacked itself.
//!
//! An emulated processor takes seconds to unpack a kernel, the host's takes one, and only for the first start with it. The
//! ELF file in an image is booted by the protocol that Xen calls PVH (`Documentation/arch/x86/xen` and qemu's
//! `docs/system/i386`). The code that unpacks also chooses where in memory the kernel lies: without it, the address is
//! always the same. A machine on the host's own processor therefore keeps to the image.

use std::fs;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use object::Endianness;
use object::elf::{FileHeader64, NoteType, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use super::cache::{Cached, Identity, Shelf, named};
use super::decompress::{self, Packing};
use super::image;

/// Most kernels that are kept, of some 50 MB each.
pub(super) const MAX_KERNELS: usize = 3;

/// Largest kernel that is unpacked. Those of distributions have less than 100 MB.
pub(super) const MAX_KERNEL_BYTES: u64 = 512 * 1024 * 1024;

/// Changes when the content for the same input changes.
const FORMAT: &str = "1";

const SHELF: Shelf = Shelf { ending: ".vmlinux", most: MAX_KERNELS };

/// The entry for PVH, by Xen's `xen/include/public/elfnote.h`.
const PHYS32_ENTRY: NoteType = NoteType(18);

/// The kernel of an image, unpacked now or for an earlier start.
///
/// There are images that this cannot be done with, by an error of the kind [`io::ErrorKind::InvalidData`]: they still boot.
pub(super) fn cached(image: &Path, folder: &Path) -> io::Result<Cached> {
    let mut identity = Identity::default();
    identity.word(FORMAT);
    identity.file(image)?;
    SHELF.get(folder, &identity.name(), |mut file| {
        let image = fs::read(image).map_err(|error| named(&error, image))?;
        file.write_all(&kernel_in(&image)?)
    })
}

/// The file to boot: the kernel itself if that can be had, else the image.
pub(super) fn best(image: &Path, folder: &Path) -> io::Result<File> {
    match cached(image, folder) {
        Ok(kernel) => Ok(kernel.file),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => File::open(image),
        Err(error) => Err(error),
    }
}

fn kernel_in(image: &[u8]) -> io::Result<Vec<u8>> {
    let no = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let payload = image::payload(image).ok_or_else(|| no("it has no part that is packed"))?;
    let packing = packing_of(payload).ok_or_else(|| no("it is packed in a way that is not known here"))?;
    // Gzip has the length itself, as its last word. After the others the kernel's build puts it.
    let payload = match packing {
        Packing::Gzip => payload,
        _ => &payload[..payload.len() - 4],
    };
    let kernel = decompress::unpack(packing, payload, MAX_KERNEL_BYTES)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if boots_by_pvh(&kernel) { Ok(kernel) } else { Err(no("it does not boot by PVH")) }
}

/// What the first bytes say.
fn packing_of(payload: &[u8]) -> Option<Packing> {
    let known: [(&[u8], Packing); 4] = [
        (&[0x1f, 0x8b], Packing::Gzip),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Packing::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
        (&[0x02, 0x21, 0x4c, 0x18], Packing::Lz4),
    ];
    known.into_iter().find_map(|(magic, packing)| payload.starts_with(magic).then_some(packing))
}

/// Whether there is an entry for it among the notes.
fn boots_by_pvh(kernel: &[u8]) -> bool {
    let entry = || -> object::Result<bool> {
        let header = FileHeader64::<Endianness>::parse(kernel)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, kernel)? {
            if segment.p_type(endian) != PT_NOTE {
                continue;
            }
            let Some(mut notes) = segment.notes(endian, kernel)? else { continue };
            while let Some(note) = notes.next()? {
                if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    entry().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::microvm::image_of;
    use crate::sandbox::testing::TempDir;

    /// An ELF file with one note.
    fn elf(name: [u8; 4], kind: NoteType) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
        for number in [0_u64, 64, 0] {
            file.extend(number.to_le_bytes());
        }
        file.extend([0; 4]);
        for number in [64_u16, 56, 1, 64, 0, 0] {
            file.extend(number.to_le_bytes());
        }
        file.extend([4_u32.to_le_bytes(), [0; 4]].concat());
        for number in [120_u64, 0, 0, 24, 24, 4] {
            file.extend(number.to_le_bytes());
        }
        for number in [4, 8, kind.0] {
            file.extend(number.to_le_bytes());
        }
        file.extend(name);
        file.extend([0; 8]);
        file
    }

    fn image_with(kernel: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(kernel);
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        payload.extend(block);
        payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        let mut image = image_of("6.1.0");
        image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0; 0x10]);
        image.extend(payload);
        image
    }

    #[test]
    fn the_kernel_comes_out_of_its_image_once() {
        let folder = TempDir::new();
        let cache = folder.path().join("cache");
        let image = folder.path().join("vmlinuz");
        let kernel = elf(*b"Xen\0", PHYS32_ENTRY);
        fs::write(&image, image_with(&kernel)).unwrap();
        for _ in ["unpacked", "kept"] {
            assert_eq!(io::read_to_string(best(&image, &cache).unwrap()).unwrap().into_bytes(), kernel);
        }
        assert_eq!(fs::read_dir(cache).unwrap().count(), 1);
    }

    #[test]
    fn an_image_that_cannot_be_unpacked_is_booted_as_it_is() {
        let folder = TempDir::new();
        let cache = folder.path().join("cache");
        let image = folder.path().join("vmlinuz");
        let mut damaged = image_with(&elf(*b"Xen\0", PHYS32_ENTRY));
        let end = damaged.len();
        damaged.truncate(end - 20);
        let mut unknown = image_with(b"");
        unknown[0x600 + 0x10] = b'?';
        let others = [
            image_of("6.1.0"),
            image_with(b"no ELF"),
            image_with(&elf(*b"GNU\0", PHYS32_ENTRY)),
            damaged,
            unknown,
        ];
        for other in others {
            fs::write(&image, &other).unwrap();
            let mut found = Vec::new();
            io::Read::read_to_end(&mut best(&image, &cache).unwrap(), &mut found).unwrap();
            assert_eq!(found, other);
            assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing is left of the attempt");
        }
        assert_eq!(best(&folder.path().join("none"), &cache).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_an_entry_for_pvh_counts() {
        assert!(boots_by_pvh(&elf(*b"Xen\0", PHYS32_ENTRY)));
        assert!(!boots_by_pvh(&elf(*b"Xen\0", NoteType(1))));
        assert!(!boots_by_pvh(b"\x7fELF"));
        let whole = elf(*b"Xen\0", PHYS32_ENTRY);
        for length in 0..whole.len() - 8 {
            assert!(!boots_by_pvh(&whole[..length]), "{length}");
        }
    }
}

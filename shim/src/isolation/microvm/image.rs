//! What the image of a kernel says about itself, by the boot protocol of x86 (`Documentation/arch/x86/boot.rst`).

/// As much of an image as [`version`] ever looks at: a 16-bit offset after the first sector, and the text there.
pub(super) const HEAD_BYTES: usize = 0x200 + 0xffff + TEXT_BYTES;

/// Longest text that is read. The kernel's own holds who built it and when, after the version.
const TEXT_BYTES: usize = 512;

/// Why a file is not the image of a kernel that a machine of ours can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKernel {
    /// Another kind of file.
    #[error("it does not begin as a kernel for x86 does")]
    Header,
    /// Older than Linux 2.6.
    #[error("it is too old to say its version")]
    TooOld,
    /// Init has 64 bits.
    #[error("it is one for machines of 32 bits")]
    ThirtyTwoBits,
    /// A file that is cut off, or made to confuse.
    #[error("its version cannot be read: the file is damaged")]
    Version,
}

/// The version in the beginning of an image, such as `6.1.0-28-amd64`. It names the folder of the modules.
pub(super) fn version(head: &[u8]) -> Result<String, NoKernel> {
    if u16_at(head, 0x1fe) != Some(0xaa55) || head.get(0x202..0x206) != Some(b"HdrS") {
        return Err(NoKernel::Header);
    }
    let protocol = u16_at(head, 0x206).ok_or(NoKernel::Header)?;
    if protocol < 0x0200 {
        return Err(NoKernel::TooOld);
    }
    // Since 2.12 it says whether its 64-bit entry exists.
    if protocol >= 0x020c && u16_at(head, 0x236).is_none_or(|flags| flags & 1 == 0) {
        return Err(NoKernel::ThirtyTwoBits);
    }
    let offset = usize::from(u16_at(head, 0x20e).ok_or(NoKernel::Version)?);
    // By the protocol: within the setup code. Zero says that there is no text; no count means four sectors.
    let sectors = head.get(0x1f1).map_or(0, |&count| if count == 0 { 4 } else { usize::from(count) });
    if offset == 0 || offset >= sectors * 0x200 {
        return Err(NoKernel::Version);
    }
    let text = head.get(offset + 0x200..).ok_or(NoKernel::Version)?;
    let text = &text[..text.len().min(TEXT_BYTES)];
    let end = text.iter().position(|&byte| byte == 0).ok_or(NoKernel::Version)?;
    let first = text[..end].split(|&byte| byte == b' ').next().unwrap_or_default();
    let version = str::from_utf8(first).map_err(|_| NoKernel::Version)?;
    if is_version(version) { Ok(version.to_owned()) } else { Err(NoKernel::Version) }
}

/// What is packed in a whole image, with the length that the build puts after it. Since 2.08 the image says where.
pub(super) fn payload(image: &[u8]) -> Option<&[u8]> {
    version(image.get(..image.len().min(HEAD_BYTES))?).ok()?;
    if u16_at(image, 0x206)? < 0x0208 {
        return None;
    }
    let setup = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    // From the beginning of what follows the setup code, of which the first sector is not counted.
    let begin = (setup + 1) * 0x200 + usize::try_from(u32_at(image, 0x248)?).ok()?;
    let length = usize::try_from(u32_at(image, 0x24c)?).ok()?;
    image.get(begin..begin.checked_add(length)?).filter(|payload| payload.len() > 8)
}

/// It becomes part of a path.
fn is_version(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(allowed)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The beginning of an image with this version, for tests.
#[cfg(test)]
pub(crate) fn image_of(version: &str) -> Vec<u8> {
    let mut image = vec![0; 0x200 * 3];
    image[0x1f1] = 2;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
    image[0x236] = 1;
    let text = format!("{version} (someone@somewhere) #1 SMP\0");
    image[0x400..0x400 + text.len()].copy_from_slice(text.as_bytes());
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_first_word() {
        assert_eq!(version(&image_of("6.1.0-28-cloud-amd64")).unwrap(), "6.1.0-28-cloud-amd64");
    }

    #[test]
    fn what_is_no_kernel_is_told_apart() {
        for other in [&b""[..], b"\x7fELF", &[0; 0x300]] {
            assert_eq!(version(other), Err(NoKernel::Header));
        }
        let mut small = image_of("6.1.0");
        small[0x236] = 0;
        assert_eq!(version(&small), Err(NoKernel::ThirtyTwoBits));
    }

    #[test]
    fn a_version_is_no_way_out_of_its_folder() {
        for evil in ["../../etc", "6/1", "", "/etc", "..", ".6"] {
            assert_eq!(version(&image_of(evil)), Err(NoKernel::Version), "{evil}");
        }
    }

    #[test]
    fn every_cut_and_every_offset_is_refused_in_words() {
        let whole = image_of("6.1.0");
        assert_eq!(payload(&whole), None);
        // Ends with the text's zero byte.
        let least = 0x400 + "6.1.0 (someone@somewhere) #1 SMP\0".len();
        for length in 0..least {
            assert!(version(&whole[..length]).is_err(), "{length}");
        }
        assert!(version(&whole[..least]).is_ok());
        for offset in [0, 1, 0x3ff, 0x400, 0xffff_u16] {
            let mut image = whole.clone();
            image[0x20e..0x210].copy_from_slice(&offset.to_le_bytes());
            assert_eq!(version(&image), Err(NoKernel::Version), "{offset:#x}");
        }
    }
}

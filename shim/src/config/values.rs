//! Values as people write them: on the command line, in variables and in files.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

/// `--mount SRC:DST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountValue {
    pub(crate) source: String,
    pub(crate) at: String,
    pub(crate) read_only: bool,
}

pub(crate) fn mount(text: &str) -> Result<MountValue, String> {
    let (rest, read_only) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (text, false),
    };
    // The path inside begins behind the last colon, so that the one on the host may hold colons.
    match rest.rsplit_once(':') {
        Some((source, at)) if !source.is_empty() && at.starts_with('/') => {
            Ok(MountValue { source: source.to_owned(), at: at.to_owned(), read_only })
        }
        _ => Err("write SRC:DST or SRC:DST:ro, where DST is an absolute path inside".to_owned()),
    }
}

/// `--secret NAME=FILE`, and `-e NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// `--memory 2G`: bytes, or with K, M, G or T of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write a number of bytes, such as 512M or 2G".to_owned();
    let text = text.trim_end_matches(['b', 'B']).trim_end_matches('i');
    let (digits, shift) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let place = "KMGT".find(unit.to_ascii_uppercase()).ok_or_else(wrong)?;
            (&text[..at], 10 * (u32::try_from(place).unwrap_or(0) + 1))
        }
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// `--cpus 1.5`, in thousandths.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    let wrong = || "write a number of processors above 0, such as 1.5".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 || (whole.is_empty() && part.is_empty()) {
        return Err(wrong());
    }
    let milli = format!("{whole}{part:0<3}").parse().map_err(|_| wrong())?;
    if milli == 0 { Err(wrong()) } else { Ok(milli) }
}

/// `--vcpus 4`.
pub(crate) fn vcpus(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number of processors above 0".to_owned())
}

/// `--image docker.io/library/debian:12`. It becomes an argument of an engine, which looks at it more closely.
pub(crate) fn image(text: &str) -> Result<String, String> {
    if text.starts_with("nix:") {
        return Err("an environment of Nix goes into the table [nix]".to_owned());
    }
    let first = text.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let plain = text.chars().all(|char| char.is_ascii_alphanumeric() || "._-/:@+".contains(char));
    if first && plain && text.len() <= MAX_IMAGE_BYTES {
        Ok(text.to_owned())
    } else {
        Err("write the name of an image, such as docker.io/library/debian:12".to_owned())
    }
}

/// Longest name of an image: registries take 255 bytes for its path, and a digest behind it.
const MAX_IMAGE_BYTES: usize = 512;

/// `--depth 1`.
pub(crate) fn depth(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number of commits above 0".to_owned())
}

/// `--timeout 90s`; a number alone is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    any_duration(text).and_then(|time| {
        if time.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(time) }
    })
}

/// The same, where none at all means something too.
pub(crate) fn any_duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// `--snapshot-every 90s`, in seconds; `off` is 0.
pub(crate) fn every(text: &str) -> Result<u32, String> {
    if text == "off" {
        return Ok(0);
    }
    let wrong = || "write a time from 1s to 7days, or `off`".to_owned();
    let time = any_duration(text).map_err(|_| wrong())?;
    let seconds = u32::try_from(time.as_secs()).map_err(|_| wrong())?;
    let is_whole = time.subsec_nanos() == 0 && seconds <= MOST_EVERY_SECONDS;
    is_whole.then_some(seconds).ok_or_else(wrong)
}

/// Longest time between two of what is done again and again.
const MOST_EVERY_SECONDS: u32 = 7 * 24 * 60 * 60;

/// The same as text.
pub(crate) fn pause(seconds: u32) -> String {
    match seconds {
        0 => "off".to_owned(),
        _ => humantime::format_duration(Duration::from_secs(seconds.into())).to_string(),
    }
}

/// A time in whole seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    const MOST_S: u64 = 24 * 3600;
    let seconds = any_duration(text)?.as_secs();
    if (1..=MOST_S).contains(&seconds) { Ok(seconds) } else { Err("write a time from 1s to 24h".to_owned()) }
}

/// Longest file of variables: the kernel takes less than that for a program's whole environment.
const ENV_FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A file of `NAME=VALUE` lines; empty lines and those that begin with `#` are passed over.
///
/// Values are taken as they are, without quotes or escapes: there is no one syntax for those.
pub(crate) fn env_file(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let file = fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    env_lines(file, path)
}

/// The same of a file that is open.
pub(crate) fn env_lines(file: fs::File, path: &Path) -> Result<BTreeMap<String, String>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let mut text = String::new();
    file.take(ENV_FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > ENV_FILE_MAX_BYTES {
        return Err(format!("{}: larger than {ENV_FILE_MAX_BYTES} bytes", path.display()));
    }
    parse_env(&text).map_err(|line| format!("{}:{line}: write NAME=VALUE", path.display()))
}

fn parse_env(text: &str) -> Result<BTreeMap<String, String>, usize> {
    // A pair whose name has a space in it was written with spaces around its `=`, and would set nothing.
    let plain = |(name, _): &(String, String)| !name.contains(char::is_whitespace);
    text.trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| pair(line.strip_prefix("export ").unwrap_or(line)).ok().filter(plain).ok_or(at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let value = |source: &str, at: &str, read_only| {
            Ok(MountValue { source: source.to_owned(), at: at.to_owned(), read_only })
        };
        assert_eq!(mount("/a:/b"), value("/a", "/b", false));
        assert_eq!(mount("a:/b:ro"), value("a", "/b", true));
        assert_eq!(mount("/a:c:/b:rw"), value("/a:c", "/b", false));
        for wrong in ["", "/a", "/a:", ":/b", "/a:b", "/a:ro"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes_expected) in
            [("1", 1), ("512M", 512 << 20), ("2g", 2 << 30), ("1KiB", 1024), ("3GB", 3 << 30)]
        {
            assert_eq!(bytes(text), Ok(bytes_expected), "{text}");
        }
        for wrong in ["", "0", "M", "1X", "-1", "1.5G", "99999999999999T", "1é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn processors() {
        for (text, milli) in [("1", 1000), ("1.5", 1500), (".25", 250), ("0.001", 1), ("16.", 16000)] {
            assert_eq!(cpus(text), Ok(milli), "{text}");
        }
        for wrong in ["", ".", "0", "0.0", "-1", "1.2345", "a", "1e3", "99999999999"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn images() {
        for text in
            ["debian:12", "docker.io/library/debian:12", "localhost/x@sha256:0123", "oci-archive:/x.tar"]
        {
            assert_eq!(image(text), Ok(text.to_owned()));
        }
        for wrong in
            ["", "-v", "--privileged", "a b", "a\nb", "nix:sets=go", "preset=claude", &"x".repeat(513)]
        {
            assert!(image(wrong).is_err(), "{wrong}");
        }
        assert_eq!((vcpus("4"), vcpus("0").is_err(), vcpus("1.5").is_err()), (Ok(4), true, true));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!((seconds("90"), seconds("2m")), (Ok(90), Ok(120)));
        assert!(seconds("10ms").is_err() && seconds("25h").is_err());
        assert!(duration("0").is_err() && duration("soon").is_err());
    }

    #[test]
    fn pauses() {
        for (text, seconds) in [("off", 0), ("0", 0), ("90", 90), ("2m", 120), ("7days", 604_800)] {
            assert_eq!(every(text), Ok(seconds), "{text}");
            assert_eq!(every(&pause(seconds)), Ok(seconds), "{text}");
        }
        for wrong in ["", "on", "-1", "500ms", "8days", "99999999999"] {
            assert!(every(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn env_files() {
        let parsed = parse_env("# keys\n\nA=1\nexport B=x y\n  C==\n").unwrap();
        let expected = [("A", "1"), ("B", "x y"), ("C", "=")];
        assert_eq!(parsed, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(parse_env("A=1\nwrong\n"), Err(2));
        assert_eq!(parse_env("A = 1\n"), Err(1));
        assert_eq!(parse_env("\u{feff}A=1\r\n").unwrap()["A"], "1");
        assert!(env_file(Path::new("/dev/zero")).unwrap_err().contains("larger than"));
    }
}

//! Runs one test on one layer, in a process of its own, and leaves nothing of it behind.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Test;
use crate::{
    binaries::BUILT,
    home::TAG,
    layer::{LAYER, Layer},
    own_nix,
    skip::SKIPS,
    traces,
};

/// How long a test may take on the default layer. The longest one takes a minute where nothing else runs.
const TEST_WITHIN: Duration = Duration::from_mins(4);

/// How much of what a failed test printed is kept.
const KEPT_PRINTED_BYTES: usize = 64 * 1024;

/// What came of a test, as its program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It passed.
    Passed,
    /// It failed, or did not end.
    Failed,
    /// It is marked as not to be run.
    Ignored,
}

/// A test that was run.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What came of it.
    pub came: Came,
    /// The end of what it printed.
    pub printed: String,
    /// What of it could not be done on this machine.
    pub skipped: Vec<String>,
    /// Whether this was the second time.
    pub again: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Runs a test. `number` is its own among all that run at the same time.
pub fn run(test: &Test, layer: &Layer, number: usize) -> anyhow::Result<Ran> {
    let tag = format!("c{}-{number}-", std::process::id());
    let folder = tempfile::tempdir()?;
    let skips = folder.path().join("skips");
    let mut printed = tempfile::tempfile()?;
    let begun = Instant::now();
    let mut child = Command::new(&test.program)
        .args(["--exact", test.path(), "--test-threads", "1"])
        .env(LAYER, layer.name)
        .env(TAG, &tag)
        .env(SKIPS, &skips)
        .env(BUILT, "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed.try_clone()?)
        .spawn()
        .with_context(|| format!("starting {}", test.program.display()))?;
    let within = TEST_WITHIN * layer.patience.min(2);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > within {
            child.kill()?;
            child.wait()?;
            end_all(&tag);
            break None;
        }
        sleep(Duration::from_millis(20));
    };
    let mut text = end_of(&mut printed)?;
    let came = if let Some(status) = status {
        came(status.success(), &text)
    } else {
        text.push_str(&format!("\nnot ended after {} seconds\n", within.as_secs()));
        Came::Failed
    };
    let skipped = fs::read_to_string(&skips).unwrap_or_default().lines().map(str::to_owned).collect();
    Ok(Ran { came, printed: text, skipped, again: false, seconds: begun.elapsed().as_secs_f64() })
}

/// Reads libtest's own words, whose form is stable: `test NAME ... ok`.
fn came(success: bool, printed: &str) -> Came {
    let ignored =
        printed.lines().any(|line| line.starts_with("test result: ok. 0 passed; 0 failed; 1 ignored"));
    let passed = printed.lines().any(|line| line.starts_with("test result: ok. 1 passed; 0 failed"));
    match (success, ignored, passed) {
        (true, true, _) => Came::Ignored,
        (true, false, true) => Came::Passed,
        // A program that runs no test and is content with that has not kept a promise.
        _ => Came::Failed,
    }
}

fn end_of(file: &mut File) -> anyhow::Result<String> {
    let length = file.metadata()?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(KEPT_PRINTED_BYTES as u64)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends what a test that was killed has left running, and removes its folders.
fn end_all(tag: &str) {
    // A process that is being started now shows in a later round. A sandbox's own parts end with each other.
    for _ in 0..20 {
        let left = traces::of_tag(tag);
        if left.is_empty() {
            break;
        }
        for pid in left {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(100));
    }
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(tag) {
            remove(&entry.path());
        }
    }
}

fn remove(folder: &Path) {
    own_nix::make_removable(folder);
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("removing {}: {error}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::{Came, came};

    #[test]
    fn the_words_of_libtest_are_understood() {
        let one = |words: &str| format!("running 1 test\ntest a ... x\n\ntest result: {words}; 0 measured\n");
        assert_eq!(came(true, &one("ok. 1 passed; 0 failed; 0 ignored")), Came::Passed);
        assert_eq!(came(true, &one("ok. 0 passed; 0 failed; 1 ignored")), Came::Ignored);
        assert_eq!(came(false, &one("FAILED. 0 passed; 1 failed; 0 ignored")), Came::Failed);
        assert_eq!(
            came(true, "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored"),
            Came::Failed
        );
        // It was killed after its test.
        assert_eq!(came(false, &one("ok. 1 passed; 0 failed; 0 ignored")), Came::Failed);
    }
}

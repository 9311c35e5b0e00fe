//! What the machine's kernel remembers of the host's files. Over virtio-fs the host has each of them open, and the bound on that
//! is the host's; so the machine forgets what nobody in it uses before the bound is reached.

use std::{fs::File, os::unix::fs::FileExt, time::Duration};

/// How many files are in memory, and how many of them nobody uses (Documentation/admin-guide/sysctl/fs.rst).
const COUNT: &str = "/proc/sys/fs/inode-nr";

/// What makes the kernel forget (Documentation/admin-guide/sysctl/vm.rst).
const FORGET: &str = "/proc/sys/vm/drop_caches";

/// Names and files, and nothing of what is in them.
const NAMES_AND_FILES: &[u8] = b"2\n";

/// More than a machine comes to know of in a second.
const PER_SECOND: u64 = 32_000;

/// Looking is cheap, and a machine at rest is to be at rest.
const OFTEN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(10);

/// Keeps a machine from remembering too much.
pub(crate) struct Forgetter {
    count: File,
    forget: File,
    most: u64,
}

impl Forgetter {
    /// Opens what is root's alone. `None` where there is no bound, or no such file: then the host's bound is met, and told there.
    pub(super) fn open(most: Option<u64>) -> Option<Self> {
        Some(Self {
            most: most?,
            count: File::open(COUNT).ok()?,
            forget: File::options().write(true).open(FORGET).ok()?,
        })
    }

    /// Looks now and then, for ever.
    pub(crate) async fn keep(&self) {
        // What is in use cannot be forgotten, and asking for it again and again would only be slow.
        let mut left = 0;
        loop {
            tokio::time::sleep(pause(self.most)).await;
            let Some(now) = self.count() else { continue };
            left = left.min(now);
            if is_too_much(now, left, self.most) {
                // It can only fail by being refused, and then the next time as well.
                let _ = self.forget.write_at(NAMES_AND_FILES, 0);
                left = self.count().unwrap_or(now);
            }
        }
    }

    fn count(&self) -> Option<u64> {
        let mut text = [0; 64];
        let read = self.count.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..read]).ok()?.split_whitespace().next()?.parse().ok()
    }
}

/// So short that half of the bound is not passed in between.
fn pause(most: u64) -> Duration {
    Duration::from_millis(most / 2 * 1000 / PER_SECOND).clamp(OFTEN, SELDOM)
}

/// Whether to forget: half of the bound is reached, and a good part of it is new since the last time.
fn is_too_much(now: u64, left: u64, most: u64) -> bool {
    now > most / 2 && now - left.min(now) > most / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_at_half_of_the_bound_and_not_again_for_what_is_in_use() {
        assert!(!is_too_much(9_000, 0, 20_000));
        assert!(is_too_much(11_000, 0, 20_000));
        assert!(!is_too_much(11_000, 10_500, 20_000));
        assert!(is_too_much(13_500, 10_500, 20_000));
    }

    #[test]
    fn the_closer_the_bound_the_more_often_it_looks() {
        assert_eq!(pause(0), OFTEN);
        assert_eq!(pause(20_000), Duration::from_millis(312));
        assert_eq!(pause(1 << 20), SELDOM);
    }
}

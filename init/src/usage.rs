//! What the processes inside use, from /proc: where no cgroup says so, this is all there is.

use std::{fs, time::Duration};

/// What all processes inside use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) processes: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu: Duration,
}

/// Most processes looked at for one answer; a bomb of them must not hold up the loop for long.
const MOST_PROCESSES: usize = 4096;

/// Adds up every process that /proc shows.
pub(crate) fn measure() -> Used {
    let page_bytes = rustix::param::page_size() as u64;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut used = Used::default();
    let Ok(entries) = fs::read_dir("/proc") else { return used };
    let pids = entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    for entry in pids.take(MOST_PROCESSES) {
        // A process may end between the two looks; then it uses nothing.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(Stat { ticks, pages, is_kernels: false }) = parse_stat(&stat) else { continue };
        used.processes += 1;
        used.memory_bytes += pages * page_bytes;
        used.cpu += Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1));
    }
    used
}

/// What one process uses.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// On a processor, its own and those of its reaped children.
    ticks: u64,
    /// Resident ones.
    pages: u64,
    /// The kernel's own threads, which only a machine shows: nobody's processes.
    is_kernels: bool,
}

/// PF_KTHREAD.
const OF_THE_KERNEL: u64 = 0x0020_0000;

/// From one line of /proc/PID/stat (proc(5)).
///
/// The name in the second field may hold anything, spaces and parentheses too: fields count from its last `)`.
fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        pages: number(24)?,
        is_kernels: number(9)? & OF_THE_KERNEL != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line =
            "7 (a) R 1 (b)) S 1 7 7 0 -1 4194560 1 0 0 0 11 22 33 44 20 0 1 0 5 1000 77 18446744073709551615";
        assert_eq!(parse_stat(line), Some(Stat { ticks: 110, pages: 77, is_kernels: false }));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn threads_of_the_kernel_are_told_apart() {
        let line = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 3 0 0 20 0 1 0 2 0 0 18446744073709551615";
        assert_eq!(parse_stat(line), Some(Stat { ticks: 3, pages: 0, is_kernels: true }));
    }

    #[test]
    fn this_process_uses_something() {
        let used = measure();
        assert!(used.processes >= 1 && used.memory_bytes > 0, "{used:?}");
    }
}

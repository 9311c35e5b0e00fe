//! What a sandbox uses of what it may use: what the host counts, and what init does.

use std::{os::fd::AsFd, path::Path, time::Instant};

use agent_protocol::{Request, ServerMessage, message::Resources};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::{
    channel::{Channel, Flow, Received},
    probe::PATIENCE,
    view::InitView,
};
use crate::isolation::{Limits, Remains};

/// What is used of what may be used, as it is shown. Where no cgroup counts memory, it is what all processes have together,
/// shared pages once for each; where none counts processes, threads are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ResourcesView(Resources);

/// What is known, best first: the host's own count, what init counts in a machine, what init sees in its process table.
pub(super) fn of(
    folder: &Path,
    remains: Option<&Remains>,
    limits: &Limits,
    init: &InitView,
) -> ResourcesView {
    let asked = Resources {
        cpu_limit_milli: limits.milli_cpus.map(u64::from),
        pids_limit: limits.pids,
        memory_bytes: Some(init.memory_bytes),
        cpu_ms: Some(init.cpu_ms),
        pids: Some(init.processes.into()),
        ..Resources::default()
    };
    let counted = remains.map(Remains::usage).unwrap_or_default();
    // An init of an earlier version does not know the question.
    let told = ask(folder, Instant::now() + PATIENCE).unwrap_or_default();
    ResourcesView(laid_over(counted, laid_over(told, asked)))
}

/// `first`, and `second` where it has nothing.
fn laid_over(first: Resources, second: Resources) -> Resources {
    Resources {
        memory_bytes: first.memory_bytes.or(second.memory_bytes),
        memory_peak_bytes: first.memory_peak_bytes.or(second.memory_peak_bytes),
        memory_limit_bytes: first.memory_limit_bytes.or(second.memory_limit_bytes),
        cpu_ms: first.cpu_ms.or(second.cpu_ms),
        cpu_limit_milli: first.cpu_limit_milli.or(second.cpu_limit_milli),
        pids: first.pids.or(second.pids),
        pids_limit: first.pids_limit.or(second.pids_limit),
        out_of_memory: first.out_of_memory.or(second.out_of_memory),
    }
}

fn ask(folder: &Path, end: Instant) -> Option<Resources> {
    let mut channel = Channel::open(folder, &Request::Resources).ok()?;
    loop {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now())).ok()?;
        if poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], left).ok()? == 0 {
            return None;
        }
        let mut answer = None;
        let flow = channel.pump(|received| match received {
            Received::Message(ServerMessage::Resources(resources)) => answer = Some(resources),
            Received::Welcome | Received::Message(_) | Received::Data(..) => {}
        });
        match (answer, flow) {
            (Some(answer), _) => return Some(answer),
            (None, Ok(Flow::Blocked | Flow::More)) => {}
            (None, Ok(Flow::Closed) | Err(_)) => return None,
        }
    }
}

impl ResourcesView {
    /// Lines for people, each with its name.
    pub fn describe(&self) -> [(&'static str, Option<String>); 3] {
        let Self(all) = self;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let memory = all.memory_bytes.map(|used| {
            let of = all.memory_limit_bytes.map_or(String::new(), |most| format!(" of {}", mib(most)));
            let peak =
                all.memory_peak_bytes.map_or(String::new(), |peak| format!(", at most {} so far", mib(peak)));
            let ended = all.out_of_memory.filter(|ended| *ended > 0);
            let ended =
                ended.map_or(String::new(), |ended| format!(", ran out: {ended} ended by the kernel"));
            format!("{}{of}{peak}{ended}", mib(used))
        });
        let time = all.cpu_ms.map(|ms| {
            let of = all.cpu_limit_milli.map_or(String::new(), |milli| {
                format!(", at most {}.{:03} processors", milli / 1000, milli % 1000)
            });
            format!("{}.{} s{of}", ms / 1000, ms % 1000 / 100)
        });
        let processes = all.pids.map(|now| {
            format!("{now}{}", all.pids_limit.map_or(String::new(), |most| format!(" of {most}")))
        });
        [("memory", memory), ("processor time", time), ("processes", processes)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_reads_beside_what_may_be() {
        let unbounded = Resources {
            memory_bytes: Some(5 << 20),
            cpu_ms: Some(1250),
            pids: Some(3),
            ..Resources::default()
        };
        let words = |all| ResourcesView(all).describe().map(|(_, value)| value.unwrap_or_default());
        assert_eq!(words(unbounded), ["5 MiB", "1.2 s", "3"]);
        let bounded = Resources {
            memory_limit_bytes: Some(64 << 20),
            memory_peak_bytes: Some(64 << 20),
            cpu_limit_milli: Some(1500),
            pids_limit: Some(100),
            out_of_memory: Some(2),
            ..unbounded
        };
        assert_eq!(
            words(bounded),
            [
                "5 MiB of 64 MiB, at most 64 MiB so far, ran out: 2 ended by the kernel",
                "1.2 s, at most 1.500 processors",
                "3 of 100"
            ]
        );
    }

    #[test]
    fn what_the_better_source_does_not_know_comes_from_the_other() {
        let host = Resources { memory_bytes: Some(1), pids: Some(2), ..Resources::default() };
        let inside = Resources { memory_bytes: Some(9), cpu_ms: Some(3), ..Resources::default() };
        let expected =
            Resources { memory_bytes: Some(1), pids: Some(2), cpu_ms: Some(3), ..Resources::default() };
        assert_eq!(laid_over(host, inside), expected);
    }
}

//! What recorded processes are doing, asked of the kernel without touching them.

use std::{fs, sync::OnceLock};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::isolation::{Process, ProcessId};

/// What a process is doing, as far as it matters to somebody who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It can run.
    Alive,
    /// A signal or a debugger stopped it.
    Stopped,
    /// It ended, or this number means another process by now.
    Gone,
}

/// What the recorded process is doing.
pub(crate) fn condition(id: ProcessId) -> Condition {
    let Ok(text) = fs::read(format!("/proc/{}/stat", id.pid)) else { return Condition::Gone };
    match parse_stat(&text) {
        Some((state, start)) if start == id.start_ticks => match state {
            b'Z' | b'X' | b'x' => Condition::Gone,
            b'T' | b't' => Condition::Stopped,
            _ => Condition::Alive,
        },
        _ => Condition::Gone,
    }
}

/// Whether it has ended but for others: the first process of a namespace sleeps, without memory and with nothing open, until
/// somebody has collected all others.
pub(crate) fn waits_for_others(id: ProcessId) -> bool {
    let sleeps = fs::read(format!("/proc/{}/stat", id.pid)).ok().and_then(|stat| parse_stat(&stat));
    // Giving up memory takes its time, in which a process runs.
    sleeps.is_some_and(|(state, _)| state == b'S')
        && fs::read(format!("/proc/{}/cmdline", id.pid)).is_ok_and(|command| command.is_empty())
}

/// The recorded process, held, so that its number cannot change its meaning; `None` where it is gone.
pub(crate) fn hold(id: ProcessId) -> Option<Process> {
    Process::find(id).ok().flatten().filter(|process| process.alive().unwrap_or(false))
}

/// Ends the recorded process; fine if it is gone.
pub(crate) fn kill(id: ProcessId) {
    if let Some(process) = hold(id) {
        // It may have ended since; a refusal of the kernel shows in the wait that follows.
        drop(process.signal(Signal::KILL));
    }
}

/// Kills what is left of the session that this process began. For a session that is known to be there: as long as one process is
/// in it, its number is nobody else's.
pub(crate) fn kill_session(leader: i32) {
    // What one of them starts meanwhile is found the next time.
    for _ in 0..SESSION_ROUNDS {
        let members = fs::read_dir("/proc").into_iter().flatten().flatten();
        let members = members.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut found = false;
        for process in members.filter_map(|pid| Process::now(pid).ok().flatten()) {
            // Held, so that what is read is about this process.
            let is_one = parent_and_session(process.id().pid).is_some_and(|(_, session)| session == leader);
            if is_one && process.alive().unwrap_or(false) {
                found |= process.signal(Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
    }
}

/// How often the members of a session are looked for.
const SESSION_ROUNDS: usize = 10;

fn parent_and_session(pid: i32) -> Option<(i32, i32)> {
    const FROM_STATE_TO_PARENT: usize = 1;
    const FROM_PARENT_TO_SESSION: usize = 2;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&stat[end_of_name + 1..]).ok()?.split_ascii_whitespace();
    let mut number = |skipped: usize| fields.nth(skipped)?.parse::<i32>().ok();
    Some((number(FROM_STATE_TO_PARENT)?, number(FROM_PARENT_TO_SESSION - 1)?))
}

/// Kills and reaps every child of this process, which has one thread. Returns whether there may be more.
pub(crate) fn kill_children() -> bool {
    let me = std::process::id();
    let children = fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap_or_default();
    let mut any = false;
    for child in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        any = true;
        // Its number is its own until it is reaped, and nobody else reaps it.
        let _ = kill_process(child, Signal::KILL);
        let _ = waitpid(Some(child), WaitOptions::NOHANG);
    }
    any
}

/// What to record about the process that has this number now; `None` where there is none.
pub(crate) fn identify(pid: i32) -> Option<ProcessId> {
    Process::now(pid).ok().flatten().map(|process| process.id())
}

/// The same where `parent` has started it, or it is in the session that `parent` began. Numbers are read from a file that may be
/// old: a process that has one of them by now is somebody else's.
pub(crate) fn identify_child(pid: i32, parent: ProcessId) -> Option<ProcessId> {
    let process = Process::now(pid).ok().flatten()?;
    // Held, so that what is read is about this process.
    let (of, session) = parent_and_session(pid)?;
    let belongs = of == parent.pid || session == parent.pid;
    (belongs && process.id().start_ticks >= parent.start_ticks).then(|| process.id())
}

/// Identifies this boot: process numbers and start times mean nothing in another one.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

/// The child of `init` that has the number `inside` in the sandbox.
///
/// Looks at the first few children only: the agent is one of the oldest.
pub(crate) fn child_of_init(init: ProcessId, inside: u32) -> Option<ProcessId> {
    const MOST: usize = 64;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", init.pid)).ok()?;
    children
        .split_ascii_whitespace()
        .take(MOST)
        .filter_map(|pid| pid.parse().ok())
        .find(|pid| innermost_number(*pid) == Some(inside))
        .and_then(identify)
}

fn innermost_number(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

/// State and start time. The command name before them may hold anything, parentheses and spaces included.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    const FROM_STATE_TO_START: usize = 19;
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&stat[end_of_name + 1..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(FROM_STATE_TO_START - 1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> ProcessId {
        identify(std::process::id().cast_signed()).unwrap()
    }

    #[test]
    fn this_process_is_alive_and_an_earlier_one_with_its_number_is_not() {
        assert_eq!(condition(me()), Condition::Alive);
        assert!(hold(me()).is_some());
        let earlier = ProcessId { start_ticks: me().start_ticks - 1, ..me() };
        assert_eq!(condition(earlier), Condition::Gone);
        assert!(hold(earlier).is_none());
    }

    #[test]
    fn only_a_child_is_one() {
        let mut child = std::process::Command::new("setsid").args(["sleep", "60"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        let other = identify(pid).unwrap();
        assert_eq!(identify_child(pid, me()), Some(other), "whatever session it began");
        assert_eq!(identify_child(me().pid, other), None);
        assert_eq!(identify_child(pid, ProcessId { start_ticks: other.start_ticks + 1, ..me() }), None);
        kill(other);
        child.wait().unwrap();
    }

    #[test]
    fn a_session_ends_without_its_leader() {
        let script = "sleep 60 & sleep 60 & echo $$; exec sleep 60";
        let mut leader = std::process::Command::new("setsid")
            .args(["sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let said = leader.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).unwrap();
        let pid: i32 = line.trim().parse().unwrap();
        let members = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            let of = |one: &i32| parent_and_session(*one).is_some_and(|(_, session)| session == pid);
            all.filter(of).filter_map(identify).filter(|id| condition(*id) != Condition::Gone).count()
        };
        assert_eq!(members(), 3);
        kill(identify(pid).unwrap());
        leader.wait().unwrap();
        kill_session(pid);
        assert_eq!(members(), 0);
        kill_session(pid);
    }

    #[test]
    fn a_hostile_command_name_does_not_move_the_fields() {
        let stat = b"7 (a) R 1 2) T 1 7 7 0 -1 4194560 91 0 0 0 1 2 0 0 20 0 1 0 12345 2928640 237 99";
        assert_eq!(parse_stat(stat), Some((b'T', 12345)));
        assert_eq!(parse_stat(b"7 (a"), None);
    }

    #[test]
    fn a_killed_process_is_gone_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = identify(child.id().cast_signed()).unwrap();
        kill(id);
        child.wait().unwrap();
        assert_eq!(condition(id), Condition::Gone);
        kill(id);
    }
}

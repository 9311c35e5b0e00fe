//! What a command costs before it does anything, counted in system calls: they do not depend on how fast the machine
//! is. In the release build both commands here take less than half a millisecond of processor time.

use std::process::{Command, Stdio};

use agent_tests::{Home, Who, agent_shim};
use anyhow::{Context, bail, ensure};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The help is written line by line, which is some thirty of them.
const HELP_CALLS: usize = 100;

/// Of a machine on which there is no sandbox.
const LIST_CALLS: usize = 60;

#[test]
fn help_and_an_empty_list_cost_next_to_nothing() -> anyhow::Result<()> {
    let home = Home::new(Who::Myself)?;
    for (args, most) in
        [(&["--help"][..], HELP_CALLS), (&["list"], LIST_CALLS), (&["list", "--json"], LIST_CALLS)]
    {
        let Some(calls) = system_calls(&home, args)? else {
            agent_tests::skip("no process may be traced here");
            return Ok(());
        };
        println!("{args:?}: {calls} system calls");
        ensure!((10..=most).contains(&calls), "{args:?}: {calls} system calls, of which {most} may be");
    }
    Ok(())
}

/// Counts those of the shim, from its first instruction on. It must start no thread and no process.
fn system_calls(home: &Home, args: &[&str]) -> anyhow::Result<Option<usize>> {
    // A shell that waits for us, and then becomes the shim.
    let mut stopped = Command::new("sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(agent_shim()).args(args).env_clear();
    stopped.env("HOME", home.path().join("home")).env("PATH", "/usr/bin:/bin");
    let child = stopped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let is_stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    ensure!(matches!(is_stopped, WaitStatus::Stopped(..)), "{is_stopped:?}");
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    if ptrace::seize(pid, options).is_err() {
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
        return Ok(None);
    }
    kill(pid, Signal::SIGCONT)?;
    let mut stops: Option<usize> = None;
    loop {
        match waitpid(pid, None).context("waiting for the shim to stop")? {
            WaitStatus::Exited(_, code) => {
                ensure!(code == 0, "{args:?} exited with {code}");
                // Each stops twice, but for the last, which never returns.
                return Ok(Some(stops.context("it was never executed")?.div_ceil(2)));
            }
            WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 => {
                stops = Some(0);
            }
            WaitStatus::PtraceEvent(_, _, event) if stops.is_some() && is_new_process(event) => {
                bail!("{args:?} starts a thread or a process")
            }
            WaitStatus::PtraceSyscall(_) => stops = stops.map(|stops| stops + 1),
            WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..) => {}
            other => bail!("{args:?}: {other:?}"),
        }
        ptrace::syscall(pid, None)?;
    }
}

fn is_new_process(event: i32) -> bool {
    use ptrace::Event::{PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK};
    [PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE].iter().any(|known| *known as i32 == event)
}

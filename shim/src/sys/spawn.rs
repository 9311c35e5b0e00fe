//! Making a child that carries out a list of steps and becomes a program.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_int},
    io,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
};

use rustix::process::Pid;

use super::{
    child::{ChildPlan, child_main},
    signals::{block_signals, restore_signals},
    step::{Program, Step},
};

/// Stack of the child until it executes; its frames are a few hundred bytes deep.
const CHILD_STACK_BYTES: usize = 64 * 1024;

/// A child that reached exec.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Where a launch ended early.
#[derive(Debug)]
pub(crate) enum SpawnError {
    Clone(io::Error),
    Step(usize, io::Error),
    Exec(io::Error),
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> io::Error {
        match error {
            SpawnError::Clone(error) | SpawnError::Step(_, error) | SpawnError::Exec(error) => error,
        }
    }
}

/// Runs `steps` and then `program` in a new process, and returns once it was executed.
///
/// The child has every signal at its default and none blocked. Descriptors without close-on-exec
/// would pass: [`Step::CloseAbove`] comes before the first [`Step::PassFd`] for that reason.
pub(crate) fn spawn(steps: &[Step], program: &Program) -> Result<Child, SpawnError> {
    let args = null_terminated(&program.args);
    let env = null_terminated(&program.env);
    let mut plan = ChildPlan { steps, path: &program.path, args: &args, env: &env, failed: None };
    let mut stack = vec![0u8; CHILD_STACK_BYTES];
    let mut pidfd: c_int = -1;

    // SAFETY: plain numbers.
    let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) } == 1;
    // A handler of the embedding program must not run in the child, on memory it shares with us.
    let mask = block_signals();
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if steps.iter().any(|step| matches!(step, Step::OwnNamespaces { .. })) {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    }
    // SAFETY: CLONE_VFORK suspends this thread until the child has executed or exited, so `stack`,
    // `plan` and what it borrows outlive every use, and nothing here reads them meanwhile. The
    // top of the stack is rounded down to the 16 bytes the ABI asks for.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(CHILD_STACK_BYTES);
        let top = top.sub(top as usize % 16);
        libc::clone(child_main, top.cast(), flags, (&raw mut plan).cast(), &raw mut pidfd)
    };
    let clone_error = io::Error::last_os_error();
    restore_signals(&mask);

    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(SpawnError::Clone(clone_error));
    };
    // Changing ids in a child that shares our memory made this process non-dumpable too.
    if dumpable {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    // SAFETY: the kernel stored a new descriptor there because the clone succeeded, and only we know it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match plan.failed {
        None => Ok(Child { pid, pidfd }),
        Some((at, errno)) => {
            // The child has exited already; without this it would stay a zombie.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            let error = io::Error::from_raw_os_error(errno);
            Err(if at < steps.len() { SpawnError::Step(at, error) } else { SpawnError::Exec(error) })
        }
    }
}

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn program(args: &[&str]) -> Program {
        let args: Vec<_> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
        Program { path: args[0].clone(), args, env: vec![] }
    }

    fn wait(child: &Child) -> i32 {
        let status = rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty());
        status.unwrap().unwrap().1.exit_status().unwrap_or(-1)
    }

    #[test]
    fn a_failed_step_is_named_by_its_index() {
        let steps = [Step::NewSession, Step::PassFd { from: 999, to: 5 }, Step::CloseAbove(2)];
        match spawn(&steps, &program(&["/bin/true"])) {
            Err(SpawnError::Step(1, error)) => assert_eq!(error.raw_os_error(), Some(libc::EBADF)),
            other => panic!("expected step 1 to fail, got {other:?}"),
        }
    }

    #[test]
    fn a_missing_program_is_an_exec_error() {
        let result = spawn(&[], &program(&["/no/such/program"]));
        assert!(matches!(result, Err(SpawnError::Exec(error)) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn only_promised_descriptors_pass_and_sigpipe_is_default() {
        // Deliberately without close-on-exec: the leak that must not happen.
        let leak = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 200).unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let steps = [Step::CloseAbove(2), Step::PassFd { from: null.as_raw_fd(), to: 7 }];
        let script = "[ -e /proc/self/fd/7 ] && [ ! -e /proc/self/fd/200 ] || exit 1
            grep -q '^SigIgn:\t0000000000000000$' /proc/self/status || exit 2
            grep -q '^SigBlk:\t0000000000000000$' /proc/self/status || exit 3";
        let child = spawn(&steps, &program(&["/bin/sh", "-c", script])).unwrap();
        assert_eq!(wait(&child), 0);
    }
}

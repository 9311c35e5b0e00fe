//! What init gives up, for itself and for everything it will ever start, before it starts anything.
//!
//! Agent and init usually share a user, so the kernel alone would let the agent reach PID 1. All that stands
//! between them is set up here, once, on init itself: children inherit it and pay nothing for it.

mod capabilities;
mod filter;
mod landlock;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Pid, setsid};
pub use rustix::thread::CapabilitySet;

use crate::sys;

/// Makes this process unreadable for others of its user: memory, environment and descriptors.
///
/// The first thing `main` does: `execve` resets it, and until then `pidfd_getfd` takes any descriptor.
pub fn forbid_inspection() -> nix::Result<()> {
    prctl::set_dumpable(false)
}

/// Gives up every capability, the bounding set included, for good.
pub fn give_up_capabilities() -> Result<()> {
    capabilities::give_up(CapabilitySet::empty())
}

/// What a sandbox may do beyond the default.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Programs inside may create user namespaces, to sandbox their own tools.
    pub nested_namespaces: bool,
    /// Programs inside may connect to abstract sockets of the host, if they share its network.
    pub host_abstract_sockets: bool,
    /// Paths of one folder, of which nothing else can be used; empty for no such folder.
    pub readable: Vec<String>,
    /// What init itself keeps: as PID 1 of a machine it has to change users and to power off.
    /// Programs never get any of it.
    pub keep_capabilities: CapabilitySet,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            nested_namespaces: false,
            host_abstract_sockets: false,
            readable: Vec::new(),
            keep_capabilities: CapabilitySet::empty(),
        }
    }
}

/// What could be enforced, for the log and for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether Landlock keeps signals inside, and abstract sockets unless permitted.
    pub landlock_scoped: bool,
    /// Instructions of the system call filter.
    pub filter_len: usize,
}

/// Takes every measure, in this order, and refuses to go on without any of them.
///
/// Only Landlock's scopes may be missing: they are the second lock on doors that a network namespace and the PID
/// namespace already close. Sockets that programs may not create (vsock) have to be open by now.
pub fn enforce(policy: &Policy) -> Result<Report> {
    // Programs get descriptors they are promised, never one that init was started with.
    sys::close_on_exec_from(3).context("keeping inherited descriptors from programs")?;
    leave_inherited_session()?;
    prctl::set_no_new_privs().context("forbidding new privileges")?;
    capabilities::give_up(policy.keep_capabilities)?;
    let landlock_scoped = landlock::confine(policy)?;
    let filter_len = filter::install(policy, Pid::this()).context("installing the system call filter")?;
    verify()?;
    Ok(Report { landlock_scoped, filter_len })
}

/// Groups and sessions are things that others can act upon: init is alone in its own.
fn leave_inherited_session() -> Result<()> {
    match setsid() {
        // A leader already. Its session may hold others only if they were there before us.
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno).context("creating a session for init"),
    }
}

/// Asks the kernel instead of trusting the calls above.
fn verify() -> Result<()> {
    ensure!(!prctl::get_dumpable()?, "init can still be inspected by other processes of its user");
    ensure!(prctl::get_no_new_privs()?, "programs could still gain privileges");
    Ok(())
}

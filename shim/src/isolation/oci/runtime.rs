//! The program that makes the container.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::programs;

/// An OCI runtime of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runtime {
    pub(super) program: PathBuf,
    pub(super) kind: Kind,
}

/// What differs between runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Gives a container a user namespace with any id in it.
    Crun,
    /// Works as root of its namespaces throughout, and so wants id 0 in the container's.
    Runc,
}

/// The preferred one first: it takes a third of the time.
const KINDS: [Kind; 2] = [Kind::Crun, Kind::Runc];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Crun => "crun",
            Kind::Runc => "runc",
        }
    }
}

impl Runtime {
    /// Looks for one in a list of folders like `PATH`; for this one, where it is named.
    pub(super) fn find(search: &OsStr, named: Option<&str>) -> Option<Runtime> {
        let wanted = |kind: &Kind| named.is_none_or(|name| kind.name() == name);
        KINDS.into_iter().filter(wanted).find_map(|kind| {
            let found = programs::find(kind.name(), search)?;
            // Root's sandboxes run as an id that may not get through a link in a home.
            Some(Runtime { program: found.canonicalize().ok()?, kind })
        })
    }

    /// Its arguments, the program's name first: make the container of the bundle at `place`, start it, and end.
    pub(super) fn command_line(&self, place: &Path, id: &str, inherited: i32) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec![self.kind.name().into(), "--root".into(), place.join(STATE).into()];
        if self.kind == Kind::Crun {
            args.push("--cgroup-manager=disabled".into());
        }
        args.extend(["run", "--detach", "--preserve-fds"].map(OsString::from));
        args.extend([inherited.to_string().into(), "--pid-file".into(), place.join(PID_FILE).into()]);
        args.extend(["--bundle".into(), place.into(), id.into()]);
        args
    }
}

/// Where the runtime keeps its own state, in the bundle.
pub(super) const STATE: &str = "state";

/// Where the runtime writes init's number, in the bundle.
pub(super) const PID_FILE: &str = "pid";

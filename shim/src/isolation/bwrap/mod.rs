//! Bubblewrap: namespaces of the host's own kernel, without privileges and without a daemon.
//!
//! The caller's process starts bwrap; bwrap makes the namespaces, becomes init's parent and stays only
//! to record its exit. Init lives on when bwrap is killed. Root takes one more step first, see `stage`.

mod args;
mod explain;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::IsolationError;
use super::handover::{Passed, c_string, open_record};
use super::plan::LaunchPlan;
use super::{
    Capabilities, Handles, Launched, Layer, NetworkKind, Patience, Reach, Report, Request, draft, record,
    start, userns,
};
use crate::programs::{self, Answer, Question};
use crate::sys::Program;

pub(crate) use explain::explain;

/// The first version with `--disable-userns`.
const OLDEST: &str = "0.8.0";

/// How long bwrap may take to say its version, where a launch failed and that may be why.
const VERSION_WITHIN: Duration = Duration::from_secs(5);

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    name: "bwrap",
    reach: Reach::InheritedListener,
    passes_descriptors: true,
    shares_kernel: true,
    makes: "sandbox",
    networks: &[NetworkKind::Host, NetworkKind::None],
    takes_images: false,
    door: None,
    patience: Patience::OF_PROCESSES,
};

/// The layer, with the bwrap it will use.
#[derive(Clone, Debug)]
pub struct Bubblewrap {
    program: PathBuf,
}

impl Bubblewrap {
    /// Looks for bwrap in a list of folders like `PATH`.
    pub fn find(search: &OsStr) -> Result<Bubblewrap, IsolationError> {
        programs::find("bwrap", search)
            // Root runs it as an id that may not get through a link in its home.
            .and_then(|found| found.canonicalize().ok())
            .map(|program| Bubblewrap { program })
            .ok_or_else(|| IsolationError::BwrapMissing { searched: search.to_string_lossy().into_owned() })
    }

    /// Its version, for `doctor` and for a launch that failed; asking costs a millisecond.
    pub fn version(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let question = Question {
            program: &self.program,
            args: vec!["--version".into()],
            variables: vec![(OsStr::new("PATH"), &path)],
            user: None,
            patience: VERSION_WITHIN,
        };
        let Answer::Ended { stdout, .. } = question.ask() else { return None };
        stdout.trim().strip_prefix("bubblewrap ").map(str::to_owned)
    }
}

impl Layer for Bubblewrap {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError> {
        draft::draft(CAPABILITIES.name, &self.program, request)
    }

    fn to_shell(&self, plan: &LaunchPlan) -> String {
        args::to_shell(plan)
    }

    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError> {
        let rendered = args::render(plan);
        let last = rendered.status_fd + i32::try_from(rendered.files.len()).unwrap_or(0);
        let cgroup = plan.limits.make()?;
        let mut passed = Passed::by(plan, handles, cgroup.as_ref(), last)?;
        passed.add(open_record(&record_path(&plan.folder))?, rendered.status_fd)?;
        // What it has begun when it is killed waits for it, and is found by its session.
        passed.note_it_in(rendered.status_fd);
        for (number, content) in &rendered.files {
            passed.content(content, *number)?;
        }

        let program = Program {
            path: c_string(&self.program)?,
            args: rendered.args.iter().map(c_string).collect::<Result<_, _>>()?,
            env: plan.env.iter().map(|(k, v)| c_string(format!("{k}={v}"))).collect::<Result<_, _>>()?,
        };
        start::start(plan, &rendered.sources, &passed, &program, cgroup)
    }

    fn report(&self, folder: &Path) -> io::Result<Report> {
        record::read(&record_path(folder))
    }

    fn explain(&self, printed: &str) -> IsolationError {
        explain(printed, userns::setting, || self.version())
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("bwrap.status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bwrap_names_where_it_was_looked_for() {
        let error = Bubblewrap::find(OsStr::new("/no/bin:/no/sbin")).unwrap_err();
        assert_eq!(error.to_string(), "bubblewrap is not installed: there is no `bwrap` in /no/bin:/no/sbin");
        assert_eq!(error.kind(), super::super::ErrorKind::Requirement);
    }
}

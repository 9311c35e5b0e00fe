//! A container, made by crun or runc: no engine, no daemon, no image.
//!
//! The runtime gets a bundle that holds the same mounts as every layer. A launcher of ours makes it in namespaces of its
//! own, where the runtime is root without any right outside, for an ordinary user and for root alike. It becomes
//! init's parent and stays only to record its exit; init lives on when it is killed.

mod bundle;
mod config;
mod explain;
/// The process that makes the bundle and waits for the container.
pub mod launcher;
mod runtime;
mod shown;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::error::IsolationError;
use super::handover::{self, Passed, open_record, step};
use super::plan::LaunchPlan;
use super::{
    Capabilities, Handles, Launched, Layer, NetworkKind, Patience, Reach, Report, Request, draft, record,
    start, userns,
};
use crate::terminal::sanitize::sanitized;
use explain::explain;
use runtime::Runtime;

pub use launcher::LAUNCHER;

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    name: "oci",
    reach: Reach::InheritedListener,
    passes_descriptors: true,
    shares_kernel: true,
    makes: "container",
    networks: &[NetworkKind::Host, NetworkKind::None],
    takes_images: true,
    door: None,
    patience: Patience::OF_PROCESSES,
};

/// The layer, with the runtime it will use.
#[derive(Clone, Debug)]
pub struct Oci {
    runtime: Runtime,
}

impl Oci {
    /// Looks for a runtime in a list of folders like `PATH`; for this one, where it is named.
    pub fn find(search: &OsStr, named: Option<&'static str>) -> Result<Oci, IsolationError> {
        let searched = || search.to_string_lossy().into_owned();
        let runtime = Runtime::find(search, named).ok_or_else(|| match named {
            Some(name) => IsolationError::NamedRuntimeMissing { name, searched: searched() },
            None => IsolationError::OciRuntimeMissing { searched: searched() },
        })?;
        Ok(Oci { runtime })
    }
}

impl Layer for Oci {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, request: &Request) -> Result<LaunchPlan, IsolationError> {
        draft::draft(CAPABILITIES.name, &self.runtime.program, request)
    }

    fn to_shell(&self, plan: &LaunchPlan) -> String {
        match bundle::bundle(plan, &self.runtime, Path::new("agent-shim")) {
            Ok(bundle) => shown::to_shell(plan, &bundle),
            // The launch itself says the same.
            Err(error) => format!("# {}\n", sanitized(error.to_string().as_bytes())),
        }
    }

    fn launch(&self, plan: &LaunchPlan, handles: Handles) -> Result<Launched, IsolationError> {
        let ours = std::env::current_exe().map_err(|source| step("finding our own binary", source))?;
        let mut bundle = bundle::bundle(plan, &self.runtime, &ours)
            .map_err(|error| IsolationError::Plan(error.to_string()))?;
        bundle.job.ends_with = plan.dies_with_parent.then(|| std::process::id().cast_signed());
        let last = bundle.record_fd + i32::try_from(bundle.files.len()).unwrap_or(0);
        let cgroup = plan.limits.make()?;
        let mut passed = Passed::by(plan, handles, cgroup.as_ref(), last)?;
        passed.job(&bundle.job, bundle.job_fd)?;
        passed.add(open_record(&record_path(&plan.folder))?, bundle.record_fd)?;
        for (number, content) in &bundle.files {
            passed.content(content, *number)?;
        }
        let program = handover::launcher(&bundle.launcher, LAUNCHER, bundle.job_fd)?;
        start::start(plan, &bundle.sources, &passed, &program, cgroup)
    }

    fn report(&self, folder: &Path) -> io::Result<Report> {
        record::read(&record_path(folder))
    }

    fn explain(&self, printed: &str) -> IsolationError {
        explain(printed, userns::setting, self.runtime.kind)
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("oci.status")
}

#[cfg(test)]
mod tests;

//! A machine of its own, made by qemu: another kernel, reached over vsock.

mod cpio;
mod decompress;
mod image;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod needs;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::error::IsolationError;
use super::plan::LaunchPlan;
use super::{Capabilities, Handles, Launched, Layer, Patience, Reach, Report, Request};

pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    name: "microvm",
    reach: Reach::Machine { port: 1024 },
    passes_descriptors: false,
    shares_kernel: false,
    makes: "machine",
    patience: Patience::OF_MACHINES,
};

/// The layer, with the qemu it will use.
#[derive(Clone, Debug)]
pub struct MicroVm {
    qemu: PathBuf,
}

impl MicroVm {
    /// Looks for qemu in a list of folders like `PATH`.
    pub fn find(search: &OsStr) -> Result<MicroVm, IsolationError> {
        let _ = search;
        Err(IsolationError::Plan("machines are not built yet".to_owned()))
    }
}

impl Layer for MicroVm {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn plan(&self, _request: &Request) -> Result<LaunchPlan, IsolationError> {
        Err(IsolationError::Plan(self.qemu.display().to_string()))
    }

    fn to_shell(&self, _plan: &LaunchPlan) -> String {
        String::new()
    }

    fn launch(&self, _plan: &LaunchPlan, _handles: Handles) -> Result<Launched, IsolationError> {
        Err(IsolationError::Plan(self.qemu.display().to_string()))
    }

    fn report(&self, _folder: &Path) -> io::Result<Report> {
        Ok(Report::default())
    }

    fn explain(&self, printed: &str) -> IsolationError {
        IsolationError::Plan(printed.to_owned())
    }
}

//! The init of a sandbox, from the specification to the last exit.

use anyhow::{Context, Result};

use crate::args::SpecSource;
use crate::harden::{self, Policy};
use crate::signals::{self, Role, SignalState};
use crate::sys;

/// Brings the sandbox up and returns the code to exit with. For now it hardens itself and starts nothing.
pub fn run(source: &SpecSource, _given: SignalState) -> Result<u8> {
    let _spec = read(source).context("reading the specification")?;
    sys::close_on_exec_from(3).context("closing inherited descriptors for programs")?;
    signals::take_over(Role::Sandbox).context("blocking signals")?;
    harden::enforce(&Policy::default())?;
    Ok(0)
}

fn read(source: &SpecSource) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    match source {
        SpecSource::File(path) => bytes = std::fs::read(path).with_context(|| path.display().to_string())?,
        SpecSource::Descriptor(fd) => {
            let fd = sys::adopt_descriptor(*fd).with_context(|| format!("descriptor {fd}"))?;
            std::fs::File::from(fd).read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}

//! The kernel that machines would boot, by the rules of a start.

use std::path::Path;

use crate::isolation::microvm::kernel::{self, KernelError};
use crate::isolation::microvm::needs::{ALWAYS, Need};
use crate::requirement::facts::MachineKernel;
use crate::requirement::machine::Machine;

pub(super) fn of_machines(machine: &Machine) -> MachineKernel {
    let wish = machine.kernel.as_deref().map(|wish| machine.file(wish));
    look(wish.as_deref(), &machine.root).unwrap_or_else(|error| MachineKernel::Not {
        requirement: error.requirement(),
        why: with_causes(&error),
    })
}

fn look(wish: Option<&Path>, root: &Path) -> Result<MachineKernel, KernelError> {
    let kernel = kernel::find(wish, root)?;
    let inventory = kernel.inventory()?;
    let has = |need| inventory.lack(need).is_none();
    Ok(MachineKernel::Found {
        lacks: ALWAYS.iter().filter_map(|need| inventory.lack(*need)).map(|lack| lack.to_string()).collect(),
        virtiofs: has(Need::Virtiofs),
        plan9: has(Need::Plan9),
        image: kernel.image.clone(),
        version: kernel.version.clone(),
    })
}

/// On one line.
fn with_causes(error: &KernelError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}

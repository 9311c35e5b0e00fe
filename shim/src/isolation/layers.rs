//! The layers there are. What is above asks one of these, and no other place of the program knows them by name.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use serde::{Deserialize, Serialize};

use super::{
    Capabilities, IsolationError, Layer, bwrap,
    engine::{self, Engine, WithEngine},
    microvm, oci,
};

/// What runs a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of the host's kernel, by bubblewrap
    #[default]
    Bwrap,
    /// A container of its own, by crun or runc
    Oci,
    /// A machine of its own, by qemu
    Microvm,
}

/// What a container was asked to be made by. What is absent is found by rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContainerMaker<'a> {
    /// An engine, and the image that it makes the container of.
    pub engine: Option<(Engine, &'a str)>,
    /// A runtime, by its name.
    pub runtime: Option<&'static str>,
}

impl Isolation {
    /// What the layer can do.
    pub fn capabilities(self) -> &'static Capabilities {
        match self {
            Isolation::Bwrap => &bwrap::CAPABILITIES,
            Isolation::Oci => &oci::CAPABILITIES,
            Isolation::Microvm => &microvm::CAPABILITIES,
        }
    }

    /// The layer, with the programs that it finds in a list of folders like `PATH`.
    pub fn find(
        self,
        container: ContainerMaker<'_>,
        search: &OsStr,
    ) -> Result<Box<dyn Layer>, IsolationError> {
        Ok(match (self, container.engine) {
            (Isolation::Bwrap, _) => Box::new(bwrap::Bubblewrap::find(search)?),
            (Isolation::Oci, Some((engine, image))) => Box::new(WithEngine::find(engine, image, search)?),
            (Isolation::Oci, None) => Box::new(oci::Oci::find(search, container.runtime)?),
            (Isolation::Microvm, _) => Box::new(microvm::MicroVm::find(search)?),
        })
    }
}

/// Is one of the processes that a layer starts from our own binary, where we were called to be one.
pub fn own_process(args: &[OsString]) -> Option<ExitCode> {
    if let Some(job) = oci::launcher::job(args) {
        return Some(oci::launcher::run(job));
    }
    if let Some(job) = engine::launcher::job(args) {
        return Some(engine::launcher::run(job));
    }
    if let Some(job) = microvm::launcher::job(args) {
        return Some(microvm::launcher::run(job));
    }
    microvm::kvm::is_called(args).then(microvm::kvm::run)
}

/// Variables of the person's that programs of layers have a use for, whichever process of ours calls them.
pub(crate) fn variable_names() -> &'static [&'static str] {
    engine::variable_names()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_layer_is_called_what_a_person_calls_it() {
        for isolation in Isolation::value_variants() {
            let asked = isolation.to_possible_value().expect("every one can be asked for");
            assert_eq!(asked.get_name(), isolation.capabilities().name);
        }
    }
}

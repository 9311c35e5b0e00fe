//! The layer that the tests of this process run on, by name, and what a test may ask of it.
//!
//! A test does not care which one it is. One that looks at the inside through the host asks here whether that can be done.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{binaries::open_to_others, home::SEARCH_PATH, podman};

/// The variable that names the layer.
pub const LAYER: &str = "AGENT_TESTS_ISOLATION";

/// One way of running sandboxes, as the tests know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, as given to `--isolation`.
    pub name: &'static str,
    /// Whether processes inside are processes of the host.
    pub shares_kernel: bool,
    /// How many times as long as on bubblewrap anything may take: emulated machines need seconds to boot.
    pub patience: u32,
    /// How many tests run at once for each processor of this machine.
    pub tests_per_processor: usize,
    /// Programs without which there is no such layer; one of each group is enough.
    pub programs: &'static [&'static [&'static str]],
}

/// All layers, the default first.
pub const LAYERS: [Layer; 3] = [
    Layer {
        name: "bwrap",
        shares_kernel: true,
        patience: 1,
        tests_per_processor: 2,
        programs: &[&["bwrap"]],
    },
    Layer {
        name: "oci",
        shares_kernel: true,
        patience: 1,
        tests_per_processor: 2,
        programs: &[&["crun", "runc"]],
    },
    Layer {
        name: "microvm",
        shares_kernel: false,
        patience: 4,
        tests_per_processor: 1,
        programs: &[&["qemu-system-x86_64"], &["virtiofsd"], &["vhost-device-vsock"], &["passt"]],
    },
];

/// What the tests can be run on by hand as well; it makes the same promises as the layer that it is a part of.
pub(crate) const PODMAN: Layer = Layer {
    name: "podman",
    shares_kernel: true,
    patience: 2,
    tests_per_processor: 1,
    programs: &[&["podman"]],
};

/// The layer of this process: the default, unless the variable names another.
///
/// # Panics
///
/// If it names none.
pub fn layer() -> &'static Layer {
    static CHOSEN: OnceLock<&'static Layer> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var(LAYER).unwrap_or_else(|_| LAYERS[0].name.to_owned());
        Layer::named(&name).unwrap_or_else(|| panic!("{LAYER} names no layer: `{name}`"))
    })
}

impl Layer {
    /// The layer of this name.
    pub fn named(name: &str) -> Option<&'static Layer> {
        LAYERS.iter().chain([&PODMAN]).find(|layer| layer.name == name)
    }

    /// How often something is done that is done many times: as often where it is cheap, and often enough elsewhere.
    pub fn often(&self, times: usize) -> usize {
        (times / (self.patience * self.patience) as usize).max(2)
    }

    /// What has to be in the environment of the shim. Nothing on the default layer.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        if self == &LAYERS[0] {
            return Vec::new();
        }
        if *self == PODMAN {
            return vec![
                ("AGENT_SHIM_ISOLATION", "oci".into()),
                ("AGENT_SHIM_ENGINE", "podman".into()),
                ("AGENT_SHIM_IMAGE", podman::IMAGE.into()),
            ];
        }
        let mut variables = vec![("AGENT_SHIM_ISOLATION", self.name.into())];
        if !self.shares_kernel
            && let Some(kernel) = kernel()
        {
            variables.push(("AGENT_SHIM_KERNEL", kernel.into()));
        }
        variables
    }

    /// Where its programs are found: in the places named, and before them where `.ci/setup --tests` has put what it built.
    pub fn search_path(&self, places: &str) -> String {
        match tools() {
            Some(tools) if !self.shares_kernel => format!("{}:{places}", tools.display()),
            _ => places.to_owned(),
        }
    }

    /// Puts its programs into a folder that is to be all that the shim finds.
    pub fn link_programs(&self, folder: &Path) -> anyhow::Result<()> {
        let path = self.search_path(SEARCH_PATH);
        for name in self.programs.iter().copied().flatten() {
            let found = path.split(':').map(|place| Path::new(place).join(name)).find(|path| path.exists());
            if let Some(found) = found {
                std::os::unix::fs::symlink(found, folder.join(name))?;
            }
        }
        Ok(())
    }

    /// What this machine lacks for it.
    pub fn missing(&self) -> Vec<String> {
        let path = self.search_path(SEARCH_PATH);
        let is_there = |name: &&str| path.split(':').any(|folder| Path::new(folder).join(name).is_file());
        let lacking = self.programs.iter().filter(|group| !group.iter().any(is_there));
        let mut missing: Vec<String> = lacking.map(|group| group.join(" or ")).collect();
        if !self.shares_kernel && kernel().is_none() {
            missing.push("a kernel".to_owned());
        }
        missing
    }
}

/// The folder of the programs that are built for the tests: what a variable names, else what the setup has made.
pub(crate) fn tools() -> Option<&'static Path> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || given("AGENT_TESTS_TOOLS").or_else(|| opened("tools/bin"));
    TOOLS.get_or_init(find).as_deref()
}

/// The kernel for machines: what a variable names, else what the setup has unpacked.
pub(crate) fn kernel() -> Option<&'static Path> {
    static KERNEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || given("AGENT_SHIM_KERNEL").or_else(|| opened("kernels/cloud"));
    KERNEL.get_or_init(find).as_deref()
}

/// A second kernel, for what the first one lacks: what the setup has unpacked beside it.
pub(crate) fn full_kernel() -> Option<&'static Path> {
    static KERNEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    KERNEL.get_or_init(|| opened("kernels/full")).as_deref()
}

fn given(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// A folder below cargo's own, where the ordinary user of the tests can reach it.
fn opened(below: &str) -> Option<PathBuf> {
    let folder = target().join(below);
    folder.is_dir().then(|| open_to_others(&folder).expect("a copy for others"))
}

/// Cargo's folder for what it builds: `.../target/TRIPLE/PROFILE/deps/TEST`.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors().nth(4).expect("a target folder").to_owned()
}

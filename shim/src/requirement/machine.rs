//! The machine that is looked at: this one, or one that a test made up.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Distribution, Facts, gather};
use crate::config::{load::Sources, settings::Settings};
use crate::isolation::Caller;
use crate::programs;
use crate::sandbox::paths::DataDir;
use crate::sys;

/// How long a program that is asked something may take. A slow disk holds up the first start of a large one.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Where to look. Every check goes through it, so that each can be made to fail.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The folder in which its files are.
    pub root: PathBuf,
    /// The environment: `PATH`, `HOME`, `TERM`, Nix's variables and our own.
    pub variables: BTreeMap<OsString, OsString>,
    /// The shim's own binary, beside which init is looked for.
    pub shim: PathBuf,
    /// The folder that would be worked on.
    pub project: PathBuf,
    /// Who starts sandboxes.
    pub caller: Caller,
    /// What the kernel says of Landlock.
    pub landlock_abi: Option<u32>,
    /// Whether a person is there.
    pub is_terminal: bool,
    /// Whether packages under an unfree licence are allowed by a setting of ours.
    pub unfree: bool,
    /// The kernel for machines that a person named.
    pub kernel: Option<PathBuf>,
    /// How long a program that is asked something may take.
    pub patience: Duration,
}

impl Machine {
    /// This one.
    pub fn here() -> io::Result<Machine> {
        let mut variables: BTreeMap<_, _> = std::env::vars_os().collect();
        // As for a build: Nix asks for it where the user has no entry in /etc/passwd.
        variables
            .entry("USER".into())
            .or_insert_with(|| rustix::process::getuid().as_raw().to_string().into());
        // A folder that is gone is nobody's project.
        let project = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let data = DataDir::from_variables(|name| variables.get(OsStr::new(name)).cloned());
        let caller = Caller::detect(data.as_ref().map_or(&project, |data| data.path()))?;
        let configured = Configured::load();
        Ok(Machine {
            root: "/".into(),
            shim: std::env::current_exe()?,
            project,
            caller,
            landlock_abi: u32::try_from(sys::landlock_abi()).ok().filter(|abi| *abi > 0),
            is_terminal: io::stdin().is_terminal() && io::stdout().is_terminal(),
            unfree: configured.unfree,
            kernel: configured.kernel,
            variables,
            patience: ANSWERED_WITHIN,
        })
    }

    /// Its distribution.
    pub fn distribution(&self) -> Distribution {
        Distribution::below(&self.root)
    }

    /// Looks at everything. Changes nothing.
    pub fn look(&self) -> Facts {
        gather::facts(self)
    }

    /// A variable of the environment; an empty one is none.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A file of the machine.
    pub(super) fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The folders in which programs are.
    pub(super) fn path(&self) -> &OsStr {
        self.variable("PATH").unwrap_or(OsStr::new("/usr/bin:/bin"))
    }

    /// A program in PATH.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        programs::find(name, self.path())
    }
}

/// What a person's own configuration and the variables say. One that cannot be read says nothing here: whoever starts a
/// sandbox is told.
#[derive(Default)]
struct Configured {
    unfree: bool,
    kernel: Option<PathBuf>,
}

impl Configured {
    fn load() -> Configured {
        let Ok(layers) = Sources::from_environment("/".into()).load(None) else {
            return Configured::default();
        };
        let settings = layers.with(Settings::default());
        Configured {
            unfree: settings.nix.unfree.is_some_and(|unfree| unfree.value),
            kernel: settings.kernel.map(|kernel| kernel.value),
        }
    }
}

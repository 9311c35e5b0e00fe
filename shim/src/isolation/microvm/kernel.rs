//! The kernel of a machine: found by rule, and asked for what it lacks before anything boots.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::image::{self, NoKernel};
use super::modules::{self, Broken, Catalog, ModuleFile};
use super::needs::Need;
use crate::requirement::Requirement;

/// A kernel, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What qemu loads.
    pub image: PathBuf,
    /// Its own word for it, such as `6.1.0-28-amd64`.
    pub version: String,
    /// The folder of its modules. A kernel can do without, if everything is built in and its configuration says so.
    pub modules: Option<PathBuf>,
    /// What it was built from, where that was kept.
    pub config: Option<PathBuf>,
}

/// What a kernel has. Made once for a launch.
#[derive(Debug)]
pub struct Inventory<'a> {
    kernel: &'a Kernel,
    catalog: Catalog,
    config: Option<String>,
}

/// Why there is no kernel, or not one that does.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Nothing was named, and the usual places are empty.
    #[error("there is no kernel for a machine: none in {}", list(looked))]
    NotFound {
        /// Where was looked.
        looked: Vec<PathBuf>,
    },
    /// A folder was named, and has none.
    #[error("there is no kernel in {}: neither `boot/vmlinuz-*` nor `kernel`", path.display())]
    NotInFolder {
        /// The folder.
        path: PathBuf,
    },
    /// It is not there, or not for us to read.
    #[error("the kernel {} cannot be read", path.display())]
    Unreadable {
        /// The image.
        path: PathBuf,
        /// What the host's kernel answered.
        source: io::Error,
    },
    /// Another file.
    #[error("{} is not a kernel that a machine can run", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoKernel,
    },
    /// Without modules, and without a word on what is built in.
    #[error("the modules of the kernel {version} are missing: there is no {}", list(looked))]
    NoModules {
        /// The kernel.
        version: String,
        /// Where was looked.
        looked: Vec<PathBuf>,
    },
    /// It cannot do something that the machine needs.
    #[error("the kernel {version} has no {} ({option})", need.words())]
    Lacks {
        /// The kernel.
        version: String,
        /// What is missing.
        need: Need,
        /// The switch of its configuration.
        option: &'static str,
    },
    /// It could, but the module's file is not there: distributions have packages with more of them.
    #[error("the kernel {version} has no {} here: the module `{module}` is not in {}", need.words(), folder.display())]
    NoFile {
        /// The kernel.
        version: String,
        /// What is missing.
        need: Need,
        /// The module.
        module: String,
        /// The folder of its modules.
        folder: PathBuf,
    },
    /// A list or a module of the kernel's is damaged.
    #[error("cannot read {}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// Finds the kernel: the one that is wished for, else that of a NixOS, else the newest of `/boot` that has modules.
///
/// A wish is an image, or a folder with one in it. Nothing stands in for a wish that fails. `root` is `/`.
pub fn find(wish: Option<&Path>, root: &Path) -> Result<Kernel, KernelError> {
    let Some(wish) = wish else {
        return find_by_rule(root);
    };
    let unreadable = |source| KernelError::Unreadable { path: wish.to_owned(), source };
    if !fs::metadata(wish).map_err(unreadable)?.is_dir() {
        return open(wish, None, root);
    }
    let found = in_folder(wish);
    if found.is_empty() {
        return Err(KernelError::NotInFolder { path: wish.to_owned() });
    }
    first_that_works(found, Some(wish), root)
}

fn find_by_rule(root: &Path) -> Result<Kernel, KernelError> {
    let booted = root.join("run/booted-system");
    let boot = root.join("boot");
    for (folder, images) in [(&booted, in_folder(&booted)), (&boot, in_folder(&boot))] {
        if !images.is_empty() {
            return first_that_works(images, Some(folder), root);
        }
    }
    Err(KernelError::NotFound { looked: vec![boot.join("vmlinuz-*"), booted.join("kernel")] })
}

/// The first that can be used; where none can, why the first cannot.
fn first_that_works(images: Vec<PathBuf>, folder: Option<&Path>, root: &Path) -> Result<Kernel, KernelError> {
    let mut first_error = None;
    for image in images {
        match open(&image, folder, root) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(KernelError::NotFound { looked: vec![] }))
}

/// Images in a folder, best first: the one that a system keeps under a fixed name, else the newest by its name.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let fixed = ["kernel", "bzImage", "vmlinuz"].map(|name| folder.join(name));
    let mut found = fixed.into_iter().filter(|path| path.is_file()).take(1).collect::<Vec<_>>();
    for folder in [folder.to_owned(), folder.join("boot")] {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let mut versions = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((numbers(name.strip_prefix("vmlinuz-")?), entry.path()))
            })
            .collect::<Vec<_>>();
        versions.sort_by(|one, other| other.cmp(one));
        found.extend(versions.into_iter().map(|(_, path)| path));
    }
    found
}

/// Orders versions as people do: 6.10 comes after 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|byte: char| !byte.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Reads an image's version and finds what belongs to it, `folder` being what was named or looked at.
fn open(image: &Path, folder: Option<&Path>, root: &Path) -> Result<Kernel, KernelError> {
    let unreadable = |source| KernelError::Unreadable { path: image.to_owned(), source };
    let file = File::open(image).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let mut head = Vec::new();
    file.take(image::HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    let version =
        image::version(&head).map_err(|source| KernelError::NotOne { path: image.to_owned(), source })?;

    let nearby = nearby(image, folder);
    let places = module_places(&nearby, &version, root);
    let modules = places.iter().find(|place| place.join("kernel").is_dir() || has_lists(place)).cloned();
    let named = format!("config-{version}");
    let beside = nearby.iter().flat_map(|place| [place.join(&named), place.join("boot").join(&named)]);
    let of_modules = modules.iter().map(|place| place.join("config"));
    let config = beside.chain(of_modules).find(|path| path.is_file());
    if modules.is_none() && config.is_none() {
        return Err(KernelError::NoModules { version, looked: places });
    }
    Ok(Kernel { image: image.to_owned(), version, modules, config })
}

/// Folders around an image in which the rest of it may lie.
fn nearby(image: &Path, folder: Option<&Path>) -> Vec<PathBuf> {
    let mut places = folder.map(Path::to_owned).into_iter().collect::<Vec<_>>();
    // NixOS has links to images in the store, and the modules beside the image itself.
    for path in [Some(image.to_owned()), image.canonicalize().ok()].into_iter().flatten() {
        places.extend(path.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    let mut once = Vec::new();
    for place in places {
        // The image `vmlinuz` in the current folder has an ancestor without a name.
        let place = if place.as_os_str().is_empty() { PathBuf::from(".") } else { place };
        if !once.contains(&place) {
            once.push(place);
        }
    }
    once
}

fn module_places(nearby: &[PathBuf], version: &str, root: &Path) -> Vec<PathBuf> {
    let system = [root.to_owned(), root.join("usr"), root.join("run/booted-system/kernel-modules")];
    let mut places = Vec::new();
    for place in nearby {
        // Fedora and Arch keep the image with its modules.
        if place.file_name().is_some_and(|name| name == version) {
            places.push(place.clone());
        }
        places.extend(
            ["lib/modules", "usr/lib/modules", "kernel-modules/lib/modules"]
                .map(|below| place.join(below).join(version)),
        );
    }
    places.extend(system.map(|place| place.join("lib/modules").join(version)));
    let mut once = Vec::new();
    for place in places {
        if !once.contains(&place) {
            once.push(place);
        }
    }
    once
}

fn has_lists(folder: &Path) -> bool {
    ["modules.dep", "modules.builtin"].iter().any(|list| folder.join(list).is_file())
}

impl Kernel {
    /// Reads what it has.
    pub fn inventory(&self) -> Result<Inventory<'_>, KernelError> {
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |source| KernelError::Damaged { path, source }
        };
        let catalog = match &self.modules {
            Some(folder) => Catalog::read(folder).map_err(damaged(folder))?,
            None => Catalog::default(),
        };
        let config = match &self.config {
            Some(path) => modules::read_list(path).map_err(damaged(path))?,
            None => None,
        };
        Ok(Inventory { kernel: self, catalog, config })
    }

    /// What to load for these needs, in order.
    pub fn modules_for(&self, needs: &[Need]) -> Result<Vec<ModuleFile>, KernelError> {
        self.inventory()?.modules_for(needs, &[])
    }
}

impl Inventory<'_> {
    /// What to load, in order, so that the kernel has all that is needed, and of what is wanted all that it can have.
    pub fn modules_for(&self, needs: &[Need], wants: &[Need]) -> Result<Vec<ModuleFile>, KernelError> {
        if let Some(lack) = needs.iter().find_map(|&need| self.lack(need)) {
            return Err(lack);
        }
        let wanted = wants.iter().filter(|&&want| self.lack(want).is_none());
        let names = needs.iter().chain(wanted).flat_map(|&need| self.names(need)).collect::<Vec<_>>();
        let Some(folder) = &self.kernel.modules else {
            return Ok(Vec::new());
        };
        let order = self.catalog.in_order(&names, &mut |path| modules::uses_of_file(&folder.join(path)));
        let order = order.map_err(|broken| match broken {
            Broken::File(path, source) => KernelError::Damaged { path: folder.join(path), source },
            Broken::Missing { name, wanted } => {
                let need =
                    needs.iter().chain(wants).copied().find(|need| self.names(*need).contains(&&*wanted));
                KernelError::NoFile {
                    version: self.kernel.version.clone(),
                    need: need.unwrap_or(Need::VirtioPci),
                    module: name,
                    folder: folder.clone(),
                }
            }
        })?;
        Ok(order.into_iter().map(|(name, path)| ModuleFile { name, file: folder.join(path) }).collect())
    }

    /// What keeps it from having that, if anything does. What can only be built in is believed to be there unless the
    /// configuration says otherwise.
    pub fn lack(&self, need: Need) -> Option<KernelError> {
        need.parts().iter().find_map(|part| {
            let said = self.config.as_deref().map(|config| setting(config, part.option));
            let lacks = || {
                let version = self.kernel.version.clone();
                Some(KernelError::Lacks { version, need, option: part.option })
            };
            let Some(module) = part.module else {
                return if said == Some(None) { lacks() } else { None };
            };
            if self.catalog.has_file(module) || self.catalog.is_built_in(module) || said == Some(Some('y')) {
                return None;
            }
            match (said, &self.kernel.modules) {
                (Some(Some(_)), Some(folder)) => Some(KernelError::NoFile {
                    version: self.kernel.version.clone(),
                    need,
                    module: module.to_owned(),
                    folder: folder.clone(),
                }),
                _ => lacks(),
            }
        })
    }

    /// The modules of a need that are files: what is built in has none.
    fn names(&self, need: Need) -> Vec<&'static str> {
        let names = need.parts().iter().filter_map(|part| part.module);
        names.filter(|name| self.catalog.has_file(name)).collect()
    }
}

/// What a configuration says of an option: `y`, `m`, or nothing.
fn setting(config: &str, option: &str) -> Option<char> {
    config.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('=')?.chars().next())
}

impl KernelError {
    /// What the host lacks, for `doctor` to name it too. It has the hint.
    pub fn requirement(&self) -> Requirement {
        match self {
            Self::NotFound { .. } => Requirement::MachineKernelMissing,
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Requirement::MachineKernelUnreadable
            }
            Self::Lacks { .. } | Self::NoFile { .. } => Requirement::MachineKernelLacks,
            Self::NotInFolder { .. }
            | Self::Unreadable { .. }
            | Self::NotOne { .. }
            | Self::NoModules { .. }
            | Self::Damaged { .. } => Requirement::MachineKernelUnusable,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", no ")
}

#[cfg(test)]
mod tests;

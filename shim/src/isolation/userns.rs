//! What keeps a kernel that has user namespaces from making them: each distribution has a switch of its own.

use std::fs;
use std::path::Path;

use crate::requirement::Requirement;

/// What switches user namespaces off on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsernsSwitch {
    /// Older Debian's and Arch's patch.
    DebianSysctl,
    /// Ubuntu 23.10 and later.
    AppArmor,
    /// The count is zero or used up.
    MaxNamespaces,
}

impl UsernsSwitch {
    /// The requirement that it takes away.
    pub(crate) fn requirement(self) -> Requirement {
        match self {
            Self::DebianSysctl => Requirement::UserNamespacesSysctl,
            Self::AppArmor => Requirement::UserNamespacesApparmor,
            Self::MaxNamespaces => Requirement::UserNamespacesCount,
        }
    }
}

/// Looks for the switch of each distribution.
pub(crate) fn switched_off_by(setting: impl Fn(&str) -> Option<String>) -> Option<UsernsSwitch> {
    let is = |name: &str, value: &str| setting(name).is_some_and(|found| found.trim() == value);
    if is("kernel/unprivileged_userns_clone", "0") {
        Some(UsernsSwitch::DebianSysctl)
    } else if is("user/max_user_namespaces", "0") {
        Some(UsernsSwitch::MaxNamespaces)
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        Some(UsernsSwitch::AppArmor)
    } else {
        None
    }
}

/// A file below /proc/sys.
pub(super) fn setting(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()
}

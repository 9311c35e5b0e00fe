//! Devices of the host, opened and used.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::requirement::facts::Device;
use crate::sys;

/// /dev/kvm, by what it is for: it opens on hosts on which it makes no machine, and makes machines that hang. `trouble` says
/// whether one runs; it is asked last.
pub(super) fn kvm(path: &Path, trouble: impl FnOnce() -> Option<String>) -> Device {
    let device = match open(path) {
        Ok(device) => device,
        Err(state) => return state,
    };
    match sys::make_virtual_machine(device.as_fd()) {
        Ok(()) => trouble().map_or(Device::Works, |why| Device::Unusable { why }),
        Err(error) => Device::Unusable { why: format!("making a virtual machine: {error}") },
    }
}

/// A device of which nothing more is asked.
pub(super) fn openable(path: &Path) -> Device {
    open(path).map_or_else(|state| state, |_| Device::Works)
}

fn open(path: &Path) -> Result<File, Device> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Device::Missing,
        io::ErrorKind::PermissionDenied => Device::NoPermission { why: error.to_string() },
        _ => Device::Unusable { why: format!("opening it: {error}") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_missing_is_no_device_or_has_no_driver() {
        let folder = tempfile::tempdir().unwrap();
        let none = || None;
        assert_eq!(kvm(&folder.path().join("kvm"), none), Device::Missing);
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert!(
            matches!(kvm(&plain, none), Device::Unusable { why } if why.contains("making a virtual machine"))
        );
        assert_eq!(openable(&plain), Device::Works);
        assert_eq!(openable(Path::new("/dev/null")), Device::Works);
        assert!(matches!(openable(folder.path()), Device::Unusable { .. }));
    }
}

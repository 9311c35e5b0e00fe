//! Virtual machines.

use super::packages::VIRTIOFSD;
use super::{NIXOS, REBUILD};
use crate::requirement::{Distribution, Family, Fix};

pub(super) fn kvm(on: &Distribution) -> Fix {
    let fix = Fix::said("load the kernel's module for KVM");
    match on.family {
        Family::Nixos => fix
            .write("boot.kernelModules = [ \"kvm-intel\" \"kvm-amd\" ];", NIXOS)
            .run(on.sudo, REBUILD),
        _ => fix.run(on.sudo, "{sudo}modprobe kvm_intel || {sudo}modprobe kvm_amd"),
    }
    .note(
        "where that fails, switch virtualisation on in the firmware, or nested virtualisation where this is a virtual \
         machine",
    )
}

pub(super) fn virtiofsd(on: &Distribution) -> Fix {
    let too_old = match on.family {
        Family::Debian => on.is_before(13, 0),
        Family::Ubuntu => on.is_before(23, 4),
        _ => false,
    };
    if !too_old {
        return on.install(&VIRTIOFSD);
    }
    Fix::said("build virtiofsd, of which this release has only the old one for root")
        .run(on.sudo, "{sudo}apt-get install libcap-ng-dev libseccomp-dev")
        .run(on.sudo, "cargo install virtiofsd")
        .note("with a Rust of today, from https://rustup.rs")
}

pub(super) fn vsock(on: &Distribution) -> Fix {
    let fix = Fix::said("load the kernel's module for vsock");
    match on.family {
        Family::Nixos => fix.write("boot.kernelModules = [ \"vhost_vsock\" ];", NIXOS).run(on.sudo, REBUILD),
        _ => fix
            .run(on.sudo, "echo vhost_vsock | {sudo}tee /etc/modules-load.d/agent-shim.conf")
            .run(on.sudo, "{sudo}modprobe vhost_vsock"),
    }
    .note(
        "/dev/vhost-vsock is for the group `kvm`; `cargo install vhost-device-vsock` does without the module",
    )
}

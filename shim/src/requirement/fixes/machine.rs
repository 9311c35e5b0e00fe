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

/// A kernel to boot, in a folder of the person's own where the packages can be unpacked.
pub(super) fn machine_kernel(on: &Distribution, summary: &str) -> Fix {
    let fix = Fix::said(summary);
    match on.family {
        // The image, its modules and its configuration are in one package there.
        Family::Debian => fix
            .run(
                on.sudo,
                "apt-get download \"$(apt-cache depends -i linux-image-cloud-amd64 | sed -n 's/.*Depends. //p')\"",
            )
            .run(on.sudo, "dpkg -x linux-image-*.deb ~/.local/share/agent-shim-kernel")
            .run(on.sudo, "export AGENT_SHIM_KERNEL=~/.local/share/agent-shim-kernel")
            .note("nothing is installed by that"),
        Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get update && {sudo}apt-get install linux-image-generic linux-modules-extra-\"$(uname -r)\"")
            .run(on.sudo, "{sudo}chmod a+r /boot/vmlinuz-*")
            .note("or name one by `--kernel`"),
        Family::Fedora => fix.run(on.sudo, "{sudo}dnf install kernel-core kernel-modules").note("or name one by `--kernel`"),
        Family::Arch => fix.run(on.sudo, "{sudo}pacman -S linux").note("or name one by `--kernel`"),
        Family::Gentoo => {
            fix.run(on.sudo, "{sudo}emerge --ask sys-kernel/gentoo-kernel-bin").note("or name one by `--kernel`")
        }
        Family::Nixos | Family::Other => Fix::said(format!(
            "{summary}, and name it by `--kernel`: an image, or a folder with `boot/vmlinuz-*` and `lib/modules` in it"
        )),
    }
}

/// Ubuntu's are for root alone.
pub(super) fn readable_kernel(on: &Distribution) -> Fix {
    Fix::said("let everybody read it")
        .run(on.sudo, "{sudo}chmod a+r /boot/vmlinuz-*")
        .note("an update brings one that has to be made readable again; or name another by `--kernel`")
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

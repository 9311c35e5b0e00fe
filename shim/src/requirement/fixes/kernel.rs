//! The kernel, and what it lets whom do.

use super::{NIXOS, REBUILD};
use crate::requirement::{Distribution, Family, Fix};

pub(super) fn newer_kernel(on: &Distribution) -> Fix {
    let fix = Fix::said("start a newer kernel");
    let package = if cfg!(target_arch = "aarch64") { "linux-image-arm64" } else { "linux-image-amd64" };
    let fix = match on.family {
        Family::Debian if on.is_before(12, 0) => {
            let release = on.codename.as_deref().unwrap_or("bullseye");
            fix.run(on.sudo, &format!("{{sudo}}apt-get install -t {release}-backports {package}"))
        }
        Family::Debian => fix.run(on.sudo, &format!("{{sudo}}apt-get install {package}")),
        Family::Ubuntu => match on.version {
            // Releases in between have no other kernel.
            Some((year, 4)) if year % 2 == 0 => {
                fix.run(on.sudo, &format!("{{sudo}}apt-get install linux-generic-hwe-{year}.04"))
            }
            _ => fix.run(on.sudo, "{sudo}apt-get install linux-generic"),
        },
        Family::Fedora => fix.run(on.sudo, "{sudo}dnf upgrade kernel"),
        Family::Arch => fix.run(on.sudo, "{sudo}pacman -Syu linux"),
        Family::Gentoo => fix.run(on.sudo, "{sudo}emerge --ask --update sys-kernel/gentoo-kernel-bin"),
        Family::Nixos => fix
            .write("boot.kernelPackages = pkgs.linuxPackages_latest;", NIXOS)
            .run(on.sudo, "{sudo}nixos-rebuild boot"),
        Family::Other => return Fix::said("start a newer kernel: by the system's packages"),
    };
    fix.run(on.sudo, "{sudo}reboot")
}

pub(super) fn user_namespaces_built(on: &Distribution) -> Fix {
    let own = "the distribution's own kernel has them: install it and restart";
    let fix = Fix::said("start a kernel with user namespaces");
    match on.family {
        Family::Gentoo => Fix::said("build the kernel with user namespaces")
            .write("CONFIG_USER_NS=y", "/usr/src/linux/.config")
            .run(on.sudo, "{sudo}make -C /usr/src/linux olddefconfig all modules_install install")
            .run(on.sudo, "{sudo}reboot"),
        Family::Nixos => {
            fix.write("security.allowUserNamespaces = true;", NIXOS).run(on.sudo, REBUILD).note(own)
        }
        _ => fix.note(own),
    }
}

/// What Ubuntu itself does for the programs of its own that need user namespaces. A word for bwrap alone, where
/// `kernel.apparmor_restrict_unprivileged_userns=0` would lift it for all.
pub(super) fn apparmor_profile(on: &Distribution) -> Fix {
    Fix::said("give bwrap an AppArmor profile that allows user namespaces")
        .run(
            on.sudo,
            "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) \
             {\\n  userns,\\n}\\n' | {sudo}tee /etc/apparmor.d/bwrap",
        )
        .run(on.sudo, "{sudo}apparmor_parser -r /etc/apparmor.d/bwrap")
        .note("a `bwrap` that is elsewhere needs its own path in there")
}

pub(super) fn landlock(on: &Distribution) -> Fix {
    let fix = Fix::said("name landlock among the kernel's security modules");
    match on.family {
        Family::Nixos => fix.write("security.lsm = [ \"landlock\" ];", NIXOS).run(on.sudo, REBUILD),
        Family::Gentoo => fix.write("CONFIG_SECURITY_LANDLOCK=y", "/usr/src/linux/.config"),
        _ => fix,
    }
    .note("the kernel's own list is in /sys/kernel/security/lsm: start with `lsm=landlock,` and that list; Linux 5.13 or later has it")
}

pub(super) fn limits(on: &Distribution) -> Fix {
    let unit = "[Service]\\nDelegate=cpu memory pids\\n";
    let delegate = format!(
        "{{sudo}}mkdir -p /etc/systemd/system/user@.service.d && printf '{unit}' | \
         {{sudo}}tee /etc/systemd/system/user@.service.d/agent-shim.conf && {{sudo}}systemctl daemon-reload"
    );
    match on.family {
        Family::Nixos => Fix::said("hand the controllers down to users")
            .write("systemd.services.\"user@\".serviceConfig.Delegate = \"cpu memory pids\";", NIXOS)
            .run(on.sudo, REBUILD),
        _ => Fix::said("hand the controllers down to users").run(on.sudo, &delegate),
    }
    .run(on.sudo, "systemd-run --user --scope -p Delegate=yes agent-shim start ...")
    .note(
        "without systemd, start in a group of cgroup v2 that you may write to; a machine that still binds the \
         controllers to version 1 needs `systemd.unified_cgroup_hierarchy=1` for its kernel",
    )
}

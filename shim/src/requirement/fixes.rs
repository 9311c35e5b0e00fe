//! The fix of each requirement on each distribution.

use super::distribution::Family;
use super::{Distribution, Fix, Requirement};

/// Where NixOS is configured, and how that comes into force.
const NIXOS: &str = "/etc/nixos/configuration.nix";
const REBUILD: &str = "{sudo}nixos-rebuild switch";

/// Nix's own installer, for one user: it needs neither systemd nor a policy for SELinux.
const NIX_INSTALLER: &str =
    "sh <(curl --proto '=https' --tlsv1.2 -L https://nixos.org/nix/install) --no-daemon";

/// A program by the name of its package.
struct Package {
    /// What people call it.
    name: &'static str,
    /// The program that is looked for.
    program: &'static str,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    gentoo: &'static str,
    nixos: &'static str,
    /// Where it comes from, for everybody else.
    home: &'static str,
}

const BUBBLEWRAP: Package = Package {
    name: "bubblewrap",
    program: "bwrap",
    debian: "bubblewrap",
    fedora: "bubblewrap",
    arch: "bubblewrap",
    gentoo: "sys-apps/bubblewrap",
    nixos: "bubblewrap",
    home: "https://github.com/containers/bubblewrap",
};

const GIT: Package = Package {
    name: "git",
    program: "git",
    debian: "git",
    fedora: "git",
    arch: "git",
    gentoo: "dev-vcs/git",
    nixos: "git",
    home: "https://git-scm.com",
};

const PASTA: Package = Package {
    name: "pasta",
    program: "pasta",
    debian: "passt",
    fedora: "passt",
    arch: "passt",
    gentoo: "net-misc/passt",
    nixos: "passt",
    home: "https://passt.top",
};

const CRUN: Package = Package {
    name: "crun",
    program: "crun",
    debian: "crun",
    fedora: "crun",
    arch: "crun",
    gentoo: "app-containers/crun",
    nixos: "crun",
    home: "https://github.com/containers/crun",
};

const VIRTIOFSD: Package = Package {
    name: "virtiofsd",
    program: "virtiofsd",
    debian: "virtiofsd",
    fedora: "virtiofsd",
    arch: "virtiofsd",
    gentoo: "app-emulation/virtiofsd",
    nixos: "virtiofsd",
    home: "https://gitlab.com/virtio-fs/virtiofsd",
};

const QEMU: Package = if cfg!(target_arch = "aarch64") {
    Package {
        name: "qemu",
        program: "qemu-system-aarch64",
        debian: "qemu-system-arm",
        fedora: "qemu-system-aarch64",
        arch: "qemu-system-aarch64",
        gentoo: "app-emulation/qemu",
        nixos: "qemu",
        home: "https://www.qemu.org",
    }
} else {
    Package {
        name: "qemu",
        program: "qemu-system-x86_64",
        debian: "qemu-system-x86",
        fedora: "qemu-system-x86",
        arch: "qemu-system-x86",
        gentoo: "app-emulation/qemu",
        nixos: "qemu",
        home: "https://www.qemu.org",
    }
};

/// The one table of fixes.
pub(super) fn fix(requirement: Requirement, on: &Distribution) -> Fix {
    use Requirement as R;
    match requirement {
        R::KernelTooOld | R::KernelTooOldForRoot => newer_kernel(on),
        R::BwrapMissing => on.install(&BUBBLEWRAP),
        R::BwrapTooOld => on
            .upgrade(&BUBBLEWRAP)
            .note("Debian 12, Ubuntu 24.04 and later have it; anywhere else, put a newer `bwrap` first in PATH"),
        R::BwrapBroken => on.reinstall(&BUBBLEWRAP).note("or take what stands before the system's `bwrap` out of PATH"),
        R::UserNamespacesNotBuilt => user_namespaces_built(on),
        R::UserNamespacesSysctl => on.setting(
            "switch user namespaces on",
            "kernel.unprivileged_userns_clone",
            "1",
            "90-agent-shim-userns",
            "security.unprivilegedUsernsClone = true;",
        ),
        R::UserNamespacesCount => on.setting(
            "allow user namespaces",
            "user.max_user_namespaces",
            "15000",
            "90-agent-shim-userns-count",
            "boot.kernel.sysctl.\"user.max_user_namespaces\" = 15000;",
        ),
        R::UserNamespacesApparmor => apparmor_profile(on),
        R::UserNamespacesRefused => Fix::said(
            "run agent-shim outside of the container, or start the container with \
             `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined` \
             (Docker) or `--security-opt seccomp=unconfined --security-opt unmask=ALL --security-opt label=disable` (Podman)",
        )
        .note("in a systemd service, `RestrictNamespaces=` refuses them too"),
        R::IdMappedMountsMissing => Fix::said(
            "run as the ordinary user who owns the folder, or keep the project and the data folder \
             (AGENT_SHIM_DATA) on ext4, xfs, btrfs or tmpfs",
        ),
        R::AgentInitMissing => Fix::said(
            "install agent-init beside agent-shim or in ../libexec/agent-shim, or name it in AGENT_SHIM_INIT; \
             a variable that names no program is to be unset",
        ),
        R::DataFolderUnknown => Fix::said("set HOME, XDG_DATA_HOME or AGENT_SHIM_DATA"),
        R::DataFolderNotWritable => {
            Fix::said("make the folder your own, or set AGENT_SHIM_DATA to one that you may write to")
        }
        R::DataFolderForeign => Fix::said(
            "where all in it is your own, make it yours alone (`chown`, `chmod 700`); or be the user it belongs to, \
             or set AGENT_SHIM_DATA to a folder of your own",
        ),
        R::DiskSpaceLow => Fix::said(
            "destroy sandboxes that are no longer needed (`agent-shim list`), or set AGENT_SHIM_DATA to a folder on \
             a larger disk",
        ),
        R::LandlockMissing => landlock(on),
        R::LimitsNotDelegated => limits(on),
        R::TerminalUnknown => Fix::said("name your terminal").run(on.sudo, "export TERM=xterm-256color"),
        R::GitMissing => on.install(&GIT),
        R::GitTooOld => on.upgrade(&GIT),
        R::PastaMissing => on.install(&PASTA),
        R::NixBuildMissing => install_nix(on),
        R::NixTooOld => upgrade_nix(on),
        R::NixBroken => {
            Fix::said("see what it says itself").run(on.sudo, "nix-store --verify").note("or install Nix again")
        }
        R::NixStoreMissing => nix_store(on),
        R::NixStoreNotWritable => nix_access(on),
        R::NixDaemonDown => nix_daemon(on),
        R::NixFlakesOff => nix_flakes(on),
        R::UnfreeNotAllowed => Fix::said("allow them with `--unfree` where one is wanted, or always")
            .run(on.sudo, "export AGENT_SHIM_UNFREE=1"),
        R::OciRuntimeMissing => on.install(&CRUN),
        R::OciRuntimeTooOld => on.upgrade(&CRUN),
        R::QemuMissing => on.install(&QEMU),
        R::QemuTooOld => on.upgrade(&QEMU),
        R::KvmMissing => kvm(on),
        R::KvmNoPermission => {
            on.group("join the group that may use it", "kvm").note("you may have to log in again before it counts")
        }
        R::KvmUnusable => Fix::said(
            "see why. Another hypervisor may have the processor to itself, or this is a virtual machine without nested \
             virtualisation",
        )
        .run(on.sudo, "{sudo}dmesg | grep -i kvm"),
        R::VirtiofsdMissing | R::VirtiofsdNeedsRoot => virtiofsd(on),
        R::VsockMissing => vsock(on),
    }
}

impl Distribution {
    fn install(&self, package: &Package) -> Fix {
        let Package { name, program, debian, fedora, arch, gentoo, nixos, home } = package;
        let fix = Fix::said(format!("install {name}"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get update && {{sudo}}apt-get install {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf install {fedora}")),
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -S {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask {gentoo}")),
            Family::Nixos => fix
                .write(&format!("environment.systemPackages = [ pkgs.{nixos} ];"), NIXOS)
                .run(self.sudo, REBUILD),
            Family::Other => {
                Fix::said(format!("install {name}: the package that has `{program}` in it, or {home}"))
            }
        }
    }

    fn upgrade(&self, package: &Package) -> Fix {
        let Package { name, debian, fedora, arch, gentoo, home, .. } = package;
        let fix = Fix::said(format!("upgrade {name}"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get update && {{sudo}}apt-get install {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf upgrade {fedora}")),
            // A package by itself may not fit to older libraries.
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -Syu {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask --update {gentoo}")),
            Family::Nixos => fix.run(self.sudo, "{sudo}nixos-rebuild switch --upgrade"),
            Family::Other => Fix::said(format!("upgrade {name}: by the system's packages, or from {home}")),
        }
    }

    fn reinstall(&self, package: &Package) -> Fix {
        let Package { name, debian, fedora, arch, gentoo, .. } = package;
        let fix = Fix::said(format!("install {name} again"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get install --reinstall {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf reinstall {fedora}")),
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -S {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask --oneshot {gentoo}")),
            Family::Nixos => fix.run(self.sudo, "{sudo}nix-store --verify --check-contents --repair"),
            Family::Other => fix,
        }
    }

    /// A setting of the kernel, now and after the next start.
    fn setting(&self, summary: &str, key: &str, value: &str, file: &str, nixos: &str) -> Fix {
        let fix = Fix::said(summary);
        if self.family == Family::Nixos {
            return fix.write(nixos, NIXOS).run(self.sudo, REBUILD);
        }
        fix.run(self.sudo, &format!("echo '{key} = {value}' | {{sudo}}tee /etc/sysctl.d/{file}.conf"))
            .run(self.sudo, &format!("{{sudo}}sysctl -w {key}={value}"))
    }

    fn group(&self, summary: &str, group: &str) -> Fix {
        let fix = Fix::said(summary);
        if self.family == Family::Nixos {
            return fix
                .write(&format!("users.users.<you>.extraGroups = [ \"{group}\" ];"), NIXOS)
                .run(self.sudo, REBUILD);
        }
        fix.run(self.sudo, &format!("{{sudo}}usermod -aG {group} \"$USER\""))
    }
}

fn newer_kernel(on: &Distribution) -> Fix {
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

fn user_namespaces_built(on: &Distribution) -> Fix {
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
fn apparmor_profile(on: &Distribution) -> Fix {
    Fix::said("give bwrap an AppArmor profile that allows user namespaces")
        .run(
            on.sudo,
            "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) \
             {\\n  userns,\\n}\\n' | {sudo}tee /etc/apparmor.d/bwrap",
        )
        .run(on.sudo, "{sudo}apparmor_parser -r /etc/apparmor.d/bwrap")
        .note("a `bwrap` that is elsewhere needs its own path in there")
}

fn landlock(on: &Distribution) -> Fix {
    let fix = Fix::said("name landlock among the kernel's security modules");
    match on.family {
        Family::Nixos => fix.write("security.lsm = [ \"landlock\" ];", NIXOS).run(on.sudo, REBUILD),
        Family::Gentoo => fix.write("CONFIG_SECURITY_LANDLOCK=y", "/usr/src/linux/.config"),
        _ => fix,
    }
    .note("the kernel's own list is in /sys/kernel/security/lsm: start with `lsm=landlock,` and that list; Linux 5.13 or later has it")
}

fn limits(on: &Distribution) -> Fix {
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

fn install_nix(on: &Distribution) -> Fix {
    let fix = Fix::said("install Nix");
    let log_in = "you may have to log in again before the group counts; `--env host` needs no Nix";
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get update && {sudo}apt-get install nix-bin nix-setup-systemd")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note(log_in),
        Family::Arch => fix
            .run(on.sudo, "{sudo}pacman -S nix")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note(log_in),
        // Its relatives have no package.
        Family::Fedora if on.version.is_some() && !on.is_before(44, 0) => fix
            .run(on.sudo, "{sudo}dnf install nix nix-daemon")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .note("`--env host` needs no Nix"),
        Family::Nixos => fix.write("nix.enable = true;", NIXOS).run(on.sudo, REBUILD),
        Family::Fedora | Family::Gentoo | Family::Other => {
            fix.run(on.sudo, NIX_INSTALLER).note("for bash; `--env host` needs no Nix")
        }
    }
}

fn upgrade_nix(on: &Distribution) -> Fix {
    let fix = Fix::said("upgrade Nix");
    match on.family {
        Family::Nixos => fix.run(on.sudo, "{sudo}nixos-rebuild switch --upgrade"),
        Family::Arch => fix.run(on.sudo, "{sudo}pacman -Syu nix"),
        Family::Debian if on.is_before(12, 0) => {
            fix.run(on.sudo, "{sudo}apt-get remove nix-bin").run(on.sudo, NIX_INSTALLER)
        }
        Family::Debian | Family::Ubuntu => {
            fix.run(on.sudo, "{sudo}apt-get update && {sudo}apt-get install nix-bin")
        }
        Family::Fedora if on.version.is_some() && !on.is_before(44, 0) => {
            fix.run(on.sudo, "{sudo}dnf upgrade nix")
        }
        Family::Fedora | Family::Gentoo | Family::Other => {
            fix.run(on.sudo, "nix-channel --update && nix-env --install --attr nixpkgs.nix")
        }
    }
}

fn nix_store(on: &Distribution) -> Fix {
    let fix = Fix::said("make the Nix store");
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get install nix-setup-systemd")
            .run(on.sudo, "{sudo}systemd-tmpfiles --create"),
        Family::Fedora | Family::Arch | Family::Nixos => fix.run(on.sudo, "{sudo}systemd-tmpfiles --create"),
        Family::Gentoo | Family::Other => {
            fix.run(on.sudo, "{sudo}mkdir -p /nix/store /nix/var/nix && {sudo}chown -R \"$(id -un)\" /nix")
        }
    }
    .note("a store elsewhere is named by NIX_STORE_DIR and NIX_STATE_DIR")
}

fn nix_access(on: &Distribution) -> Fix {
    let fix = Fix::said("have the Nix daemon write to it");
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get install nix-setup-systemd")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note("you may have to log in again before the group counts"),
        Family::Arch => fix
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note("you may have to log in again before the group counts"),
        Family::Fedora => fix
            .run(on.sudo, "{sudo}dnf install nix-daemon")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket"),
        Family::Nixos => fix.run(on.sudo, "{sudo}systemctl restart nix-daemon.socket"),
        Family::Gentoo | Family::Other => Fix::said("make the store your own, for you are its only user")
            .run(on.sudo, "{sudo}chown -R \"$(id -un)\" /nix"),
    }
}

fn nix_daemon(on: &Distribution) -> Fix {
    let fix = Fix::said("start the Nix daemon");
    match on.family {
        Family::Nixos => fix.run(on.sudo, "{sudo}systemctl restart nix-daemon.socket"),
        _ => fix.run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket"),
    }
    .note(
        "without systemd, run `nix-daemon` as root in the background; where the socket is there and may not be opened, \
         join the group `nix-users`; what the daemon says is in `journalctl -u nix-daemon`",
    )
}

fn nix_flakes(on: &Distribution) -> Fix {
    let fix = Fix::said("switch flakes on");
    match on.family {
        Family::Nixos => fix
            .write("nix.settings.experimental-features = [ \"nix-command\" \"flakes\" ];", NIXOS)
            .run(on.sudo, REBUILD),
        _ => fix.run(
            on.sudo,
            "mkdir -p ~/.config/nix && echo 'extra-experimental-features = nix-command flakes' >> \
             ~/.config/nix/nix.conf",
        ),
    }
}

fn kvm(on: &Distribution) -> Fix {
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

fn virtiofsd(on: &Distribution) -> Fix {
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

fn vsock(on: &Distribution) -> Fix {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Step;

    const RELEASES: [(&str, Family); 8] = [
        ("ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm", Family::Debian),
        ("ID=debian", Family::Debian),
        ("ID=ubuntu\nVERSION_ID=\"24.04\"", Family::Ubuntu),
        ("ID=fedora\nVERSION_ID=44", Family::Fedora),
        ("ID=arch", Family::Arch),
        ("ID=gentoo\nVERSION_ID=2.17", Family::Gentoo),
        ("ID=nixos\nVERSION_ID=25.05", Family::Nixos),
        ("ID=alpine\nVERSION_ID=3.20", Family::Other),
    ];

    fn on(text: &str) -> Distribution {
        Distribution::from_os_release(text, true)
    }

    fn all() -> impl Iterator<Item = (Requirement, Family, Fix)> {
        RELEASES.into_iter().flat_map(|(text, family)| {
            let distribution = on(text);
            assert_eq!(distribution.family, family);
            Requirement::ALL
                .iter()
                .map(move |requirement| (*requirement, family, requirement.fix(&distribution)))
        })
    }

    fn commands(fix: &Fix) -> Vec<&str> {
        fix.steps
            .iter()
            .filter_map(|step| match step {
                Step::Run { command } => Some(command.as_str()),
                Step::Write { .. } => None,
            })
            .collect()
    }

    #[test]
    fn every_fix_is_one_line_of_whole_commands() {
        for (requirement, family, fix) in all() {
            let line = fix.to_string();
            assert!(
                !line.contains(['\n', '\t', '{']) || line.contains("flags=(unconfined)"),
                "{family:?}: {line}"
            );
            assert!(!line.contains("  ") || line.contains("userns"), "{requirement} on {family:?}: {line}");
            assert!(
                !line.ends_with(['.', ' ']) || line.ends_with(".."),
                "{requirement} on {family:?}: {line}"
            );
            assert!(fix.steps.is_empty() || !fix.summary.contains(": "), "{requirement}: {line}");
        }
    }

    /// A shell would take each, and nothing of a template is left.
    #[test]
    fn every_command_can_be_parsed() {
        for (requirement, family, fix) in all() {
            for command in commands(&fix) {
                assert!(!command.contains("{sudo}"), "{requirement} on {family:?}: {command}");
                let status =
                    std::process::Command::new("bash").args(["-n", "-c", command]).status().expect("bash");
                assert!(status.success(), "{requirement} on {family:?}: {command}");
            }
        }
    }

    #[test]
    fn each_distribution_has_its_own_commands_and_root_needs_no_sudo() {
        let of = |text: &str, requirement: Requirement| requirement.fix(&on(text)).to_string();
        let bwrap = |text: &str| of(text, Requirement::BwrapMissing);
        assert_eq!(
            bwrap("ID=debian"),
            "install bubblewrap: `sudo apt-get update && sudo apt-get install bubblewrap`"
        );
        assert_eq!(bwrap("ID=fedora"), "install bubblewrap: `sudo dnf install bubblewrap`");
        assert_eq!(bwrap("ID=arch"), "install bubblewrap: `sudo pacman -S bubblewrap`");
        assert_eq!(bwrap("ID=gentoo"), "install bubblewrap: `sudo emerge --ask sys-apps/bubblewrap`");
        assert_eq!(
            bwrap("ID=nixos"),
            "install bubblewrap: put `environment.systemPackages = [ pkgs.bubblewrap ];` into \
             /etc/nixos/configuration.nix, then `sudo nixos-rebuild switch`"
        );
        assert!(bwrap("ID=void").contains("the package that has `bwrap` in it"));
        let root = Distribution::from_os_release("ID=debian", false);
        assert_eq!(
            Requirement::BwrapMissing.fix(&root).to_string(),
            "install bubblewrap: `apt-get update && apt-get install bubblewrap`"
        );
        for (requirement, _, _) in all() {
            for (text, _) in RELEASES {
                let fix = requirement.fix(&Distribution::from_os_release(text, false));
                assert!(!commands(&fix).iter().any(|command| command.contains("sudo")), "{fix}");
            }
        }
    }

    #[test]
    fn releases_that_lack_a_package_say_so() {
        let virtiofsd = |text: &str| Requirement::VirtiofsdMissing.fix(&on(text)).to_string();
        assert!(virtiofsd("ID=debian\nVERSION_ID=12").contains("cargo install virtiofsd"));
        assert!(virtiofsd("ID=debian\nVERSION_ID=13").contains("apt-get install virtiofsd"));
        assert!(virtiofsd("ID=ubuntu\nVERSION_ID=22.04").contains("cargo install virtiofsd"));
        assert!(virtiofsd("ID=ubuntu\nVERSION_ID=24.04").contains("apt-get install virtiofsd"));
        let nix = |text: &str| Requirement::NixBuildMissing.fix(&on(text)).to_string();
        assert!(nix("ID=fedora\nVERSION_ID=44").contains("dnf install nix"));
        assert!(nix("ID=fedora\nVERSION_ID=42").contains("https://nixos.org/nix/install"));
        assert!(
            nix("ID=rocky\nID_LIKE=\"rhel fedora\"\nVERSION_ID=9").contains("https://nixos.org/nix/install")
        );
        let kernel = |text: &str| Requirement::KernelTooOld.fix(&on(text)).to_string();
        assert!(
            kernel("ID=debian\nVERSION_ID=11\nVERSION_CODENAME=bullseye")
                .contains("-t bullseye-backports linux-image-")
        );
        assert!(kernel("ID=ubuntu\nVERSION_ID=20.04").contains("linux-generic-hwe-20.04"));
    }

    #[test]
    fn settings_are_made_to_last() {
        let of = |text: &str| Requirement::UserNamespacesSysctl.fix(&on(text)).to_string();
        for text in ["ID=debian", "ID=arch", "ID=alpine"] {
            assert!(of(text).contains("sysctl -w kernel.unprivileged_userns_clone=1"), "{}", of(text));
            assert!(of(text).contains("/etc/sysctl.d/"), "{}", of(text));
        }
        assert!(of("ID=nixos").contains("security.unprivilegedUsernsClone = true;"));
    }
}

//! The fix of each requirement on each distribution.

mod kernel;
mod machine;
mod nix;
mod packages;
#[cfg(test)]
mod tests;

use self::kernel::{apparmor_profile, landlock, limits, newer_kernel, user_namespaces_built};
use self::machine::{kvm, machine_kernel, readable_kernel, virtiofsd, vsock};
use self::nix::{install_nix, nix_access, nix_daemon, nix_flakes, nix_store, upgrade_nix};
use self::packages::{BUBBLEWRAP, CRUN, GIT, PASST, PASTA, PODMAN, QEMU};
use super::distribution::Family;
use super::{Distribution, Fix, Requirement};

/// Where NixOS is configured, and how that comes into force.
const NIXOS: &str = "/etc/nixos/configuration.nix";
const REBUILD: &str = "{sudo}nixos-rebuild switch";

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
            "install agent-init and agent-git beside agent-shim or in ../libexec/agent-shim, or name agent-init in AGENT_SHIM_INIT; \
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
            .run(on.sudo, "export AGENT_SHIM_NIX_UNFREE=true"),
        R::OciRuntimeMissing => on.install(&CRUN),
        R::OciRuntimeTooOld => on.upgrade(&CRUN),
        R::EngineMissing => on.install(&PODMAN),
        R::QemuMissing => on.install(&QEMU),
        R::MachineKernelMissing => machine_kernel(on, "have a kernel for machines"),
        R::MachineKernelUnusable => machine_kernel(on, "take another kernel for machines"),
        R::MachineKernelLacks => machine_kernel(on, "take a kernel that has it"),
        R::MachineKernelUnreadable => readable_kernel(on),
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
        R::VirtiofsdMissing | R::VirtiofsdNeedsRoot | R::VirtiofsdTooOld => virtiofsd(on),
        R::ShareMissing => virtiofsd(on).note("or name a kernel with 9p by `--kernel`: Debian's cloud kernels have none"),
        R::VsockMissing => vsock(on),
        R::PasstMissing => on.install(&PASST).note("or do without a network by `--network none`"),
    }
}

impl Distribution {
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

//! A plan for tests.

use super::plan::{Card, Files, MachinePlan, Processor, Vsock};
use crate::isolation::limits::LimitPlan;
use crate::isolation::plan::{Access, Caller, LaunchPlan, Mount, Namespaces, Network, PromisedFd};

/// One with a mount of each kind.
pub(super) fn plan() -> LaunchPlan {
    let at = |at: &str| at.to_owned();
    LaunchPlan {
        layer: "microvm",
        program: "/usr/bin/qemu-system-x86_64".into(),
        hostname: "web".to_owned(),
        folder: "/data/web".into(),
        caller: Caller::Ordinary,
        mounts: vec![
            Mount::system("/usr"),
            Mount::text("/etc/passwd", "root\n"),
            Mount::Proc { at: at("/proc") },
            Mount::system("/proc/sys"),
            Mount::Dev { at: at("/dev") },
            Mount::Tmpfs { at: at("/dev/shm"), size_bytes: 4096, mode: 0o1777 },
            Mount::Seal { at: at("/dev") },
            Mount::given("/root/project", "/workspace", Access::ReadWrite),
            Mount::Tmpfs { at: at("/workspace/state"), size_bytes: 4096, mode: 0o555 },
            Mount::Seal { at: at("/workspace/state") },
            Mount::Seal { at: at("/") },
        ],
        readable: vec![],
        namespaces: Namespaces { network: Network::Nat, nested: false },
        env: vec![],
        fds: vec![PromisedFd { name: super::SPEC, number: 4 }, PromisedFd { name: super::TOKEN, number: 5 }],
        command: vec![],
        limits: LimitPlan::default(),
        container: None,
        machine: Some(machine()),
        dies_with_parent: false,
    }
}

/// With a program for everything, one of them where the system has none.
pub(super) fn machine() -> MachinePlan {
    MachinePlan {
        kernel: "/boot/vmlinuz-6.1.0".into(),
        kernel_version: "6.1.0".to_owned(),
        modules: vec![],
        init: "/usr/bin/agent-init".into(),
        memory_bytes: 2 << 30,
        vcpus: 2,
        processor: Processor::Tcg { because: None },
        files: Files::Virtiofs { program: "/home/me/.cargo/bin/virtiofsd".into(), most_files: 1 << 20 },
        vsock: Vsock::Device { program: "/usr/bin/vhost-device-vsock".into() },
        card: Card::Passt { program: "/usr/bin/passt".into() },
        umask: 0o022,
    }
}

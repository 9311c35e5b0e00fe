//! What a layer needs and this machine does not have: told with what to do, exit code 4, and nothing is left behind.
//!
//! Each test has a folder of programs as its whole PATH, so that what is missing is missing, whatever is installed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use agent_tests::{Home, Layer, Output, Traces, Who, finish, skip};
use anyhow::{Context, ensure};

/// What a kernel has that needs no modules. Nothing here boots it.
const BUILT_IN: [&str; 7] =
    ["virtio_pci", "vmw_vsock_virtio_transport", "unix", "virtiofs", "9pnet_virtio", "9p", "virtio_net"];

/// Programs of a machine, as they answer questions. They do nothing else.
const MACHINES: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "[ \"$1\" = --version ] && echo 'QEMU emulator version 7.2.13'; exit 1"),
    ("virtiofsd", "echo '--translate-uid <TRANSLATE_UID>'"),
    ("vhost-device-vsock", "exit 1"),
    ("passt", "exit 1"),
];

struct Scene {
    home: Home,
    bin: PathBuf,
}

impl Scene {
    /// A person with all that a machine needs, as far as can be seen without one.
    fn new(who: Who) -> anyhow::Result<Scene> {
        let home = Home::new(who)?;
        home.project("project")?;
        let bin = home.project("bin")?;
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o755))?;
        let scene = Scene { home, bin };
        for (name, script) in MACHINES {
            scene.program(name, script)?;
        }
        scene.kernel(&BUILT_IN)?;
        Ok(scene)
    }

    fn program(&self, name: &str, script: &str) -> anyhow::Result<()> {
        self.home.program(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n")).map(drop)
    }

    /// A program of this machine's, if it has it.
    fn real(&self, name: &str) -> anyhow::Result<bool> {
        let machines = Layer::named("microvm").context("a layer of machines")?;
        let search = machines.search_path(&self.home.search_path());
        let found = search.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
        let Some(found) = found else {
            skip(&format!("there is no {name}"));
            return Ok(false);
        };
        let at = self.bin.join(name);
        drop(fs::remove_file(&at));
        symlink(found, at)?;
        Ok(true)
    }

    fn without(&self, program: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.bin.join(program))?)
    }

    /// A kernel with these modules built in.
    fn kernel(&self, built_in: &[&str]) -> anyhow::Result<()> {
        for folder in
            ["kernel", "kernel/boot", "kernel/lib", "kernel/lib/modules", "kernel/lib/modules/6.1.0"]
        {
            self.home.project(folder)?;
            fs::set_permissions(self.home.path().join(folder), fs::Permissions::from_mode(0o755))?;
        }
        let list = built_in.iter().map(|name| format!("kernel/{name}.ko\n")).collect::<String>();
        self.home.file("kernel/lib/modules/6.1.0/modules.builtin", list.as_bytes())?;
        self.home.file("kernel/boot/vmlinuz-6.1.0", &image("6.1.0"))?;
        Ok(())
    }

    fn shim(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.shim_with(args, None)
    }

    fn shim_with(&self, args: &[&str], kernel: Option<&Path>) -> anyhow::Result<Output> {
        let shim = self.home.shim(args);
        // PATH has nothing of the system's, also not what changes the user.
        let program = shim.get_program().to_owned();
        let mut named = Command::new(if program == "setpriv" { "/usr/bin/setpriv".into() } else { program });
        named.args(shim.get_args()).env_clear().current_dir(self.home.path());
        named.envs(shim.get_envs().filter_map(|(name, value)| Some((name, value?))));
        named.env("PATH", &self.bin).env_remove("AGENT_SHIM_KERNEL");
        if let Some(kernel) = kernel {
            named.env("AGENT_SHIM_KERNEL", kernel);
        }
        finish(named, b"")
    }

    /// `start` and `run` fail with these words and a hint, and nothing has happened.
    fn refuses(&self, flags: &[&str], words: &str, hint: &str) -> anyhow::Result<()> {
        self.refuses_command(flags, &["--", "cat"], words, hint)
    }

    fn refuses_command(
        &self,
        flags: &[&str],
        command: &[&str],
        words: &str,
        hint: &str,
    ) -> anyhow::Result<()> {
        for (subcommand, code) in [("start", 4), ("run", 125)] {
            let first = [subcommand, "--name", "box", "--env", "host"];
            let output = self.shim(&[&first[..], flags, &["project"], command].concat())?.exits(code)?;
            let output = output.complains(words)?.complains("\nhint: ")?;
            ensure!(
                output.errors().split_once("\nhint: ").is_some_and(|(_, rest)| rest.contains(hint)),
                "{output}"
            );
            self.nothing_is_left()?;
        }
        Ok(())
    }

    fn refuses_machine(&self, flags: &[&str], words: &str, hint: &str) -> anyhow::Result<()> {
        let kernel: &[&str] = if flags.contains(&"--kernel") { &[] } else { &["--kernel", "kernel"] };
        self.refuses(&[&["--isolation", "microvm"], kernel, flags].concat(), words, hint)
    }

    /// `doctor` finds the same, and has the same hint for it.
    fn doctor_says(&self, isolation: &str, kernel: &Path, id: &str) -> anyhow::Result<()> {
        let flags = ["doctor", "--isolation", isolation, "--json"];
        let report = self.shim_with(&flags, Some(kernel))?.exits(4)?.json()?;
        let findings = report["checks"].as_array().into_iter().flatten();
        let mut findings = findings.flat_map(|check| check["findings"].as_array().into_iter().flatten());
        let found =
            findings.find(|finding| finding["id"] == id).with_context(|| format!("no {id}: {report:#}"))?;
        ensure!(found["severity"] == "required", "{found:#}");
        let layers = report["layers"].as_array().context("layers")?;
        let layer = layers.iter().find(|layer| layer["layer"] == isolation).context("the layer")?;
        ensure!(layer["usable"] == false, "{layer:#}");
        ensure!(layer["missing"].as_array().is_some_and(|missing| missing.contains(&id.into())), "{layer:#}");
        let first = ["start", "--name", "box", "--env", "host", "--isolation", isolation];
        let output =
            self.shim_with(&[&first[..], &["project", "--", "cat"]].concat(), Some(kernel))?.exits(4)?;
        output.complains(&format!("\nhint: {}\n", found["hint"].as_str().context("a hint")?))?;
        Ok(())
    }

    /// Of the sandbox: no folder, no process, no mount, nothing where temporary things are.
    fn nothing_is_left(&self) -> anyhow::Result<()> {
        ensure!(self.shim(&["list", "--json"])?.success()?.text() == "[]");
        for folder in ["data/agent-shim/agents", "tmp", "run"] {
            let entries: Vec<_> =
                fs::read_dir(self.home.path().join(folder)).into_iter().flatten().flatten().collect();
            ensure!(entries.is_empty(), "{entries:?}");
        }
        let processes = Traces::of(&self.home)?.processes;
        ensure!(processes.is_empty(), "{processes:#?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&*self.home.path().to_string_lossy()), "{mounts}");
        Ok(())
    }
}

/// The beginning of a kernel's image, as far as it says the version.
fn image(version: &str) -> Vec<u8> {
    let mut image = vec![0; 0x600];
    image[0x1f1] = 2;
    image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\0\0HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
    image[0x236] = 1;
    let text = format!("{version} (somebody)\0");
    image[0x400..0x400 + text.len()].copy_from_slice(text.as_bytes());
    image
}

#[test]
fn there_is_no_qemu() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.without("qemu-system-x86_64")?;
        scene.refuses_machine(&[], "there is no `qemu-system-x86_64` in ", "(qemu-missing;")?;
    }
    Ok(())
}

#[test]
fn there_is_no_kernel_or_it_is_none() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.home.project("empty")?;
        scene.home.file("notes", b"not a kernel")?;
        scene.refuses_machine(
            &["--kernel", "empty"],
            "there is no kernel in ",
            "(machine-kernel-unusable;",
        )?;
        scene.refuses_machine(
            &["--kernel", "notes"],
            "notes is not a kernel",
            "(machine-kernel-unusable;",
        )?;
        scene.refuses_machine(&["--kernel", "gone"], "gone cannot be read", "(machine-kernel-unusable;")?;
        fs::remove_dir_all(scene.home.path().join("kernel/lib"))?;
        let words = "the modules of the kernel 6.1.0 are missing";
        scene.refuses_machine(&[], words, "(machine-kernel-unusable;")?;
    }
    Ok(())
}

#[test]
fn doctor_finds_what_a_start_fails_for() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let kernel = scene.home.path().join("kernel");
    let notes = scene.home.file("notes", b"not a kernel")?;
    scene.doctor_says("oci", &kernel, "oci-runtime-missing")?;
    scene.doctor_says("microvm", &notes, "machine-kernel-unusable")?;
    scene.kernel(&BUILT_IN[2..])?;
    scene.doctor_says("microvm", &kernel, "machine-kernel-lacks")?;
    scene.kernel(&BUILT_IN)?;
    scene.without("passt")?;
    scene.doctor_says("microvm", &kernel, "passt-missing")?;
    scene.without("qemu-system-x86_64")?;
    scene.doctor_says("microvm", &kernel, "qemu-missing")
}

/// Where nothing is named and the machine has none either.
#[test]
fn no_kernel_is_found() -> anyhow::Result<()> {
    let boot = fs::read_dir("/boot").into_iter().flatten().flatten();
    let has_one =
        boot.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("vmlinuz"));
    if has_one || Path::new("/run/booted-system/kernel").exists() {
        skip("this machine has kernels");
        return Ok(());
    }
    let scene = Scene::new(Who::Ordinary)?;
    scene.refuses(&["--isolation", "microvm"], "there is no kernel for a machine", "(machine-kernel-missing;")
}

#[test]
fn the_kernel_lacks_something() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    for (missing, words) in [
        ("vmw_vsock_virtio_transport", "the kernel 6.1.0 has no vsock (CONFIG_VIRTIO_VSOCKETS)"),
        ("virtio_pci", "the kernel 6.1.0 has no virtio devices on PCI (CONFIG_VIRTIO_PCI)"),
        ("virtio_net", "the kernel 6.1.0 has no virtio network card (CONFIG_VIRTIO_NET)"),
    ] {
        let others: Vec<_> = BUILT_IN.into_iter().filter(|name| *name != missing).collect();
        scene.kernel(&others)?;
        scene.refuses_machine(&[], words, "(machine-kernel-lacks;")?;
    }
    Ok(())
}

#[test]
fn the_kernel_is_for_root_alone() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let image = scene.home.path().join("kernel/boot/vmlinuz-6.1.0");
    fs::set_permissions(image, fs::Permissions::from_mode(0o0))?;
    scene.refuses_machine(&[], "cannot be read", "(machine-kernel-unreadable;")
}

#[test]
fn files_cannot_be_shared() -> anyhow::Result<()> {
    if ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd"].iter().any(|path| Path::new(path).exists()) {
        skip("a virtiofsd is installed where no PATH is needed");
        return Ok(());
    }
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        // What qemu of Debian 12 brings along says of itself.
        scene.program("virtiofsd", "echo 'usage: virtiofsd [options]'")?;
        let words = "virtiofsd is too old: it has no `--translate-uid`";
        scene.refuses_machine(&["--share", "virtiofs"], words, "use `--share 9p`")?;
        scene.without("virtiofsd")?;
        let words = "cannot be shown files of the host by virtiofs: ";
        scene.refuses_machine(&["--share", "virtiofs"], words, "use `--share 9p`")?;

        let others: Vec<_> = BUILT_IN.into_iter().filter(|name| !name.starts_with("9p")).collect();
        scene.kernel(&others)?;
        scene.refuses_machine(&[], "has no 9p over virtio (CONFIG_NET_9P_VIRTIO)", "(share-missing;")?;
        scene.program("virtiofsd", MACHINES[1].1)?;
        let words = "cannot be shown files of the host by 9p: ";
        scene.refuses_machine(&["--share", "9p"], words, "use `--share virtiofs`")?;
    }
    Ok(())
}

#[test]
fn the_host_cannot_reach_it() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    scene.without("vhost-device-vsock")?;
    if fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok() {
        skip("this machine has a device for vsock");
        return Ok(());
    }
    scene.refuses_machine(&[], "there is no `vhost-device-vsock` in ", "(vsock-missing;")
}

#[test]
fn it_cannot_have_a_network() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    scene.without("passt")?;
    let words = "cannot be given a network: there is no `passt` in ";
    scene.refuses_machine(&["--network", "nat"], words, "(passt-missing;")
}

#[test]
fn it_cannot_have_that_much_memory() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    scene.refuses_machine(&["--memory", "100000G"], "of memory: the host has ", "--memory")
}

#[test]
fn kvm_cannot_be_used() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    if !nix::unistd::geteuid().is_root() && fs::OpenOptions::new().write(true).open("/dev/kvm").is_ok() {
        skip("the user of the tests may use KVM");
        return Ok(());
    }
    scene.refuses_machine(&["--accel", "kvm"], "KVM cannot be used here: ", "leave out `--accel kvm`")
}

/// Its version is asked for when it has failed, and by then everything else has been started.
#[test]
fn qemu_is_too_old() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let old = "[ \"$1\" = --version ] && { echo 'QEMU emulator version 4.2.1 (Debian 1:4.2-3ubuntu6.30)'; exit; }\n\
               echo \"qemu: 'vhost-user-vsock-pci' is not a valid device model name\" >&2; exit 1";
    scene.program("qemu-system-x86_64", old)?;
    for program in ["vhost-device-vsock", "passt"] {
        if !scene.real(program)? {
            return Ok(());
        }
    }
    scene.refuses_machine(
        &["--share", "9p"],
        "qemu 4.2.1 is too old: 5.1.0 or later is needed",
        "(qemu-too-old;",
    )
}

#[test]
fn there_is_no_runtime_for_containers() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.refuses(
            &["--isolation", "oci"],
            "no runtime for containers is installed",
            "(oci-runtime-missing;",
        )?;
    }
    Ok(())
}

/// What docker prints without its daemon.
const NO_DAEMON: &str =
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";

const OF_AN_IMAGE: [&str; 6] =
    ["--isolation", "oci", "--image", "registry.invalid/image:1", "--engine", "podman"];

#[test]
fn an_engine_is_missing_or_does_not_run() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let docker = [&OF_AN_IMAGE[..5], &["docker"]].concat();
    scene.refuses(&OF_AN_IMAGE, "podman is not installed: there is no `podman` in ", "install podman")?;
    scene.refuses(&docker, "docker is not installed: there is no `docker` in ", "install docker")?;
    scene.program("docker", &format!("echo '{NO_DAEMON}' >&2; exit 1"))?;
    scene.refuses(&docker, "docker does not answer: Cannot connect", "start it")
}

#[test]
fn an_image_is_not_to_be_had() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let script = "case $1 in\n\
                  image) echo 'Error: inspecting object: registry.invalid/image:1: image not known' >&2; exit 125;;\n\
                  pull) echo 'Error: pinging container registry registry.invalid: no such host' >&2; exit 125;;\n\
                  esac";
    scene.program("podman", script)?;
    let words = "podman cannot get the image `registry.invalid/image:1`: pinging container registry";
    scene.refuses(&OF_AN_IMAGE, words, "`podman images`")
}

/// One with nothing but files in it, as `FROM scratch` makes them.
#[test]
fn an_image_has_nothing_to_run() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let id = "c0".repeat(32);
    scene
        .program("podman", &format!("[ \"$1\" = image ] && {{ echo {id}; echo '{{}}'; exit; }}; exit 125"))?;
    let words = "the image `registry.invalid/image:1` names no command, and none was given";
    scene.refuses_command(&OF_AN_IMAGE, &[], words, "agent-shim run --image IMAGE")
}

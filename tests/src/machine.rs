//! `agent-init` as the first process of a real guest: qemu, a kernel and no shim in between.
//!
//! The kernel is the one that `AGENT_SHIM_KERNEL` names, or what `.ci/setup --tests` has unpacked; its modules lie where a package
//! of Debian's has them. Without one, or without qemu, tests say that they are skipped. The guest's root folder is shared by
//! 9p where the kernel has it, and by virtio-fs otherwise.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use agent_protocol::{
    Request, ServerMessage,
    address::Address,
    failure::Failure,
    handshake::{TOKEN_BYTES, Token, Verdict},
    message::{ExecRequest, Status},
};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Done, Raw, agent_git, agent_init, copy_program,
    layer::{kernel, tools},
    shell, skip,
    standalone::follow,
    until, until_within,
};

/// The guest's own number. Each device has its own, so machines side by side may have the same.
pub const CID: u32 = 3;

/// The kernel that guests boot here, for a test that makes its own. `None`, and told, where there is none.
pub fn guest_kernel() -> anyhow::Result<Option<PathBuf>> {
    if !is_there("qemu-system-x86_64") {
        skip("there is no qemu-system-x86_64 in PATH");
        return Ok(None);
    }
    Ok(Kernel::find()?.map(|kernel| kernel.image))
}

/// Where init listens.
pub const PORT: u32 = 1024;

/// Booting takes some seconds without KVM, and longer where others boot at the same time.
const MACHINE_WITHIN: Duration = Duration::from_mins(2);

/// What init knows its host by.
pub const TOKEN: Token = Token([b't'; TOKEN_BYTES]);

/// A guest whose init does what the test's spec says. Killed on drop.
pub struct Machine {
    folder: tempfile::TempDir,
    qemu: Child,
    helpers: Vec<Child>,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Ended {
    /// What was on its console.
    pub console: String,
    /// What init reported.
    pub report: String,
}

impl Machine {
    /// Boots a guest, and waits until init answers. `None`, and told, where that cannot be done here.
    pub fn start(spec: Value) -> anyhow::Result<Option<Self>> {
        let Some(mut machine) = Self::launch(spec, |_| {})? else { return Ok(None) };
        // The device is not asked before the guest has its driver: what it has to keep until then it may keep for ever.
        until_within(MACHINE_WITHIN, "init to answer", || {
            ensure!(machine.qemu.try_wait()?.is_none(), "the machine has ended: {}", machine.console());
            Ok(machine.text("console").contains("the machine is up").then(|| machine.status().ok()).flatten())
        })
        .with_context(|| machine.console())?;
        Ok(Some(machine))
    }

    /// Boots a guest whose spec or files `spoil` may change at the last moment, and waits for nothing.
    pub fn launch(mut spec: Value, spoil: impl FnOnce(&mut Files)) -> anyhow::Result<Option<Self>> {
        let Some(kernel) = Kernel::find()? else { return Ok(None) };
        let Some(kind) = kernel.share() else { return Ok(None) };
        for program in ["qemu-system-x86_64", "vhost-device-vsock"] {
            if !is_there(program) {
                skip(&format!("there is no {program} in PATH"));
                return Ok(None);
            }
        }
        // Short: paths of sockets have an end.
        let folder = tempfile::Builder::new().prefix("as-m").tempdir_in("/tmp")?;
        let root = folder.path().join("root");
        make_root(&root)?;

        let mut files = Files::default();
        let drivers = if kind == "9p" { ["9pnet_virtio", "9p"] } else { ["virtiofs", "fuse"] };
        let mut wanted = vec!["virtio_pci", "vmw_vsock_virtio_transport", "virtio_net", "virtio_rng"];
        wanted.extend(drivers);
        wanted.extend(spec["test_modules"].as_array().into_iter().flatten().filter_map(Value::as_str));
        let modules = kernel.add_modules(&wanted, &mut files)?;
        complete(&mut spec, kind, &modules);
        files.0.insert("init".into(), (0o755, stripped(agent_init(), folder.path())?));
        files.0.insert("agent/spec.json".into(), (0o600, serde_json::to_vec(&spec)?));
        files.0.insert("agent/token".into(), (0o600, TOKEN.0.to_vec()));
        spoil(&mut files);
        fs::write(folder.path().join("initrd"), files.archive())?;
        Self::run(folder, &kernel, kind).map(Some)
    }

    fn run(folder: tempfile::TempDir, kernel: &Kernel, kind: &str) -> anyhow::Result<Self> {
        let at = |name: &str| folder.path().join(name);
        let text = |name: &str| at(name).display().to_string();
        let mut helpers = Vec::new();
        let device =
            format!("guest-cid={CID},socket={},uds-path={}", text("device.sock"), text("vsock.sock"));
        helpers.push(quiet("vhost-device-vsock", &at("device.log"))?.args(["--vm", &device]).spawn()?);
        if kind == "virtiofs" {
            // Everything in the share is the test's own user's, whoever asks inside.
            let squash = |id: u32| format!("squash-guest:0:{id}:4294967295");
            let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let mut daemon = quiet("virtiofsd", &at("virtiofsd.log"))?;
            daemon.arg("--shared-dir").arg(at("root")).arg("--socket-path").arg(at("fs.sock"));
            daemon.args([
                "--sandbox",
                "none",
                "--translate-uid",
                &squash(uid),
                "--translate-gid",
                &squash(gid),
            ]);
            helpers.push(daemon.spawn()?);
            until("virtiofsd to listen", || Ok(at("fs.sock").exists().then_some(())))?;
        }
        until("the vsock device to listen", || Ok(at("device.sock").exists().then_some(())))?;

        let mut qemu = quiet("qemu-system-x86_64", &at("qemu.log"))?;
        qemu.args("-M q35 -accel tcg -cpu max -m 512 -smp 1 -nodefaults -display none -no-reboot".split(' '));
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-numa", "node,memdev=mem"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(at("initrd"));
        qemu.args(["-append", "console=ttyS0 panic=-1 reboot=t no_timer_check quiet rdinit=/init"]);
        for port in ["console", "report"] {
            let file = format!("file,id={port},path={}", text(port));
            qemu.args(["-chardev", &file, "-serial", &format!("chardev:{port}")]);
        }
        let control = format!("unix:{},server=on,wait=off", text("qmp.sock"));
        let device = format!("socket,id=vsock,path={}", text("device.sock"));
        qemu.args(["-qmp", &control, "-chardev", &device, "-device", "vhost-user-vsock-pci,chardev=vsock"]);
        qemu.args([
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-pci,netdev=net",
            "-device",
            "virtio-rng-pci",
        ]);
        if kind == "9p" {
            let share = format!("local,id=root,path={},security_model=none", text("root"));
            qemu.args(["-fsdev", &share, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
        } else {
            let share = format!("socket,id=fs,path={}", text("fs.sock"));
            qemu.args(["-chardev", &share, "-device", "vhost-user-fs-pci,chardev=fs,tag=root"]);
        }
        let qemu = qemu.spawn().context("starting qemu")?;
        Ok(Self { folder, qemu, helpers })
    }

    /// The guest's root folder on the host. All in `work` can be written to inside, as `/work`.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Where init is called.
    pub fn address(&self) -> Address {
        Address::Hybrid { path: self.folder.path().join("vsock.sock"), port: PORT }
    }

    /// Everything that was on the guest's console up to now, and what those around it said.
    pub fn console(&self) -> String {
        ["console", "device.log", "virtiofsd.log", "qemu.log"].map(|name| self.text(name)).concat()
    }

    /// Dials init, which has heard nothing yet.
    pub fn dial(&self) -> anyhow::Result<Raw> {
        let mut stream = UnixStream::connect(self.folder.path().join("vsock.sock"))?;
        stream.set_read_timeout(Some(crate::deadline()))?;
        // In one write: of half a line the device makes an error.
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
        // Byte by byte: what follows is init's.
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).context("the device hung up")?;
            answer.push(byte[0]);
        }
        ensure!(answer.starts_with(b"OK "), "the device's answer: {}", String::from_utf8_lossy(&answer));
        Raw::over(stream)
    }

    /// Asks init for something.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Raw> {
        let mut raw = self.dial()?;
        let verdict = raw.greet_with(TOKEN)?;
        ensure!(verdict == Verdict::Welcome, "init's verdict was {verdict:?}");
        raw.request(request)?;
        Ok(raw)
    }

    /// Everything at this moment.
    pub fn status(&self) -> anyhow::Result<Status> {
        match self.ask(&Request::Status)?.message()? {
            ServerMessage::Status(status) => Ok(*status),
            other => bail!("expected a status, not {other:?}"),
        }
    }

    /// Runs a command to its end; the inner error is init's refusal.
    pub fn exec(&self, request: &ExecRequest) -> anyhow::Result<Result<Done, Failure>> {
        follow(self.ask(&Request::Exec(request.clone()))?, request.stdin).with_context(|| self.console())
    }

    /// What a shell command writes. It must succeed.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        let done = self.exec(&shell(script))?.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let (stdout, stderr) =
            (String::from_utf8(done.stdout)?, String::from_utf8_lossy(&done.stderr).into_owned());
        ensure!(done.exit.how.shell_code() == 0, "{script}: {:?}\n{stdout}\n{stderr}", done.exit);
        Ok(stdout)
    }

    /// Asks for the end, and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<Ended> {
        let mut raw = self.ask(&Request::Stop { force: false })?;
        match raw.message()? {
            ServerMessage::Done => self.ended(),
            other => bail!("stop was answered with {other:?}"),
        }
    }

    /// Waits until the machine has switched itself off.
    pub fn ended(&mut self) -> anyhow::Result<Ended> {
        let ended =
            until_within(MACHINE_WITHIN, "the machine to switch itself off", || Ok(self.qemu.try_wait()?));
        let status = ended.with_context(|| self.console())?;
        ensure!(status.success(), "qemu: {status}: {}", self.text("qemu.log"));
        Ok(Ended { console: self.console(), report: self.text("report") })
    }

    /// Lets qemu's own processors stand still, or go on: `stop` or `cont`.
    pub fn tell_qemu(&self, command: &str) -> anyhow::Result<()> {
        let stream = UnixStream::connect(self.folder.path().join("qmp.sock"))?;
        stream.set_read_timeout(Some(crate::deadline()))?;
        let mut lines = BufReader::new(&stream).lines();
        lines.next().context("qemu's greeting")??;
        for command in ["qmp_capabilities", command] {
            writeln!(&stream, "{}", json!({ "execute": command }))?;
            // Events come in between.
            let done = lines.by_ref().map_while(Result::ok).find(|line| line.contains("\"return\""));
            done.with_context(|| format!("qemu did not answer {command}"))?;
        }
        Ok(())
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.helpers.iter_mut().chain([&mut self.qemu]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the guest's kernel unpacks: names, modes and contents.
#[derive(Default)]
pub struct Files(pub BTreeMap<String, (usize, Vec<u8>)>);

impl Files {
    /// As cpio(5) has it, in the form that the kernel reads ("newc").
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut add = |name: &str, mode: usize, content: &[u8]| {
            let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0]
                .map(|field| format!("{field:08x}"));
            archive.extend(b"070701");
            archive.extend(fields.concat().bytes());
            for part in [format!("{name}\0").as_bytes(), content] {
                archive.extend(part);
                archive.resize(archive.len().next_multiple_of(4), 0);
            }
        };
        for folder in ["agent", "modules"] {
            add(folder, 0o040_700, b"");
        }
        for (name, (mode, content)) in &self.0 {
            add(name, 0o100_000 | *mode, content);
        }
        add("TRAILER!!!", 0, b"");
        archive
    }
}

/// A kernel, and the modules that belong to it.
struct Kernel {
    image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    fn find() -> anyhow::Result<Option<Self>> {
        let image = kernel().map(|named| {
            let files =
                fs::read_dir(named.join("boot")).into_iter().flatten().flatten().map(|file| file.path());
            let is_image = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
            };
            files.filter(is_image).min().unwrap_or_else(|| named.to_owned())
        });
        let Some(image) = image else {
            skip("there is no kernel for machines: neither AGENT_SHIM_KERNEL nor target/kernels");
            return Ok(None);
        };
        let name = image.file_name().context("a kernel's name")?.to_string_lossy().into_owned();
        let version = name.strip_prefix("vmlinuz-").context("a kernel called vmlinuz-VERSION")?;
        let base = image.parent().and_then(Path::parent).context("a kernel in a folder called boot")?;
        let mut modules = BTreeMap::new();
        collect(&base.join("lib/modules").join(version).join("kernel"), &mut modules)?;
        Ok(Some(Self { image, modules }))
    }

    /// How this kernel can share a folder with us.
    fn share(&self) -> Option<&'static str> {
        if self.modules.contains_key("9p") {
            return Some("9p");
        }
        if self.modules.contains_key("virtiofs") && is_there("virtiofsd") {
            return Some("virtiofs");
        }
        skip("the kernel knows no 9p, and there is no virtiofsd in PATH");
        None
    }

    /// Puts modules and what they need into the archive; returns their paths in the order of loading.
    fn add_modules(&self, wanted: &[&str], files: &mut Files) -> anyhow::Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            self.add_module(name, files, &mut order)?;
        }
        Ok(order)
    }

    fn add_module(&self, name: &str, files: &mut Files, order: &mut Vec<String>) -> anyhow::Result<()> {
        // Without a file it is part of the kernel.
        let Some(path) = self.modules.get(name) else { return Ok(()) };
        let inside = format!("modules/{name}.ko");
        if files.0.contains_key(&inside) {
            return Ok(());
        }
        let content = fs::read(path)?;
        for needed in depends(&content) {
            self.add_module(&needed, files, order)?;
        }
        order.push(format!("/{inside}"));
        files.0.insert(inside, (0o600, content));
        Ok(())
    }
}

/// What the module itself says that it needs.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|bytes| bytes == key) else { return Vec::new() };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn collect(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, modules)?;
        } else if path.extension().is_some_and(|end| end == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            modules.insert(name, path);
        }
    }
    Ok(())
}

/// What every test's machine has unless its spec says otherwise.
fn complete(spec: &mut Value, kind: &str, modules: &[String]) {
    let defaults = json!({
        "name": "guest",
        "control": { "listen": { "vsock_port": PORT }, "token": { "file": "/agent/token" } },
        "env": { "PATH": "/bin", "HOME": "/home", "LANG": "C.UTF-8" },
        "workdir": "/work",
        "user": { "uid": 1000, "gid": 1000, "name": "sandbox" },
        "machine": {
            "modules": modules,
            "root": { "tag": "root", "kind": kind },
            "mounts": [
                { "kind": "proc", "at": "/proc" },
                { "kind": "dev", "at": "/dev" },
                { "kind": "tmpfs", "at": "/dev/shm", "size_bytes": 64 << 20, "mode": 0o1777 },
                { "kind": "tmpfs", "at": "/tmp", "size_bytes": 64 << 20, "mode": 0o1777 },
                { "kind": "tmpfs", "at": "/run", "size_bytes": 16 << 20, "mode": 0o755 },
                { "kind": "read-only", "at": "/etc" },
            ],
            "network": { "address": "10.0.2.15/24", "gateway": "10.0.2.2" },
            "report": "/dev/ttyS1",
        },
    });
    let Value::Object(spec) = spec else { return };
    spec.remove("test_modules");
    for (name, value) in defaults.as_object().into_iter().flatten() {
        spec.entry(name).or_insert_with(|| value.clone());
    }
}

/// A root folder whose tools are busybox's.
fn make_root(root: &Path) -> anyhow::Result<()> {
    for folder in ["bin", "proc", "dev", "tmp", "run", "etc", "home", "work"] {
        fs::create_dir_all(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o777))?;
    }
    let busybox = which("busybox").context("there is no busybox in PATH")?;
    copy_program(&busybox, &root.join("bin/busybox"))?;
    let applets = Command::new(&busybox).arg("--list").output()?.stdout;
    for applet in String::from_utf8(applets)?.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    copy_program(agent_git(), &root.join("bin/agent-git"))?;
    Ok(())
}

/// Without what only debuggers read: the kernel unpacks it into memory.
fn stripped(program: &Path, folder: &Path) -> anyhow::Result<Vec<u8>> {
    let copy = folder.join("stripped");
    let done = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    Ok(fs::read(if done.is_ok_and(|status| status.success()) { &copy } else { program })?)
}

fn quiet(program: &str, log: &Path) -> anyhow::Result<Command> {
    let (stdout, log) = (fs::File::create(log)?, fs::File::options().append(true).open(log)?);
    let mut command = Command::new(which(program).unwrap_or_else(|| program.into()));
    command.stdin(Stdio::null()).stdout(stdout).stderr(log);
    Ok(command)
}

pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let built = tools().map(Path::to_owned);
    built
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
}

fn is_there(program: &str) -> bool {
    which(program).is_some()
}

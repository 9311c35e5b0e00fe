//! Limits by a cgroup of the host's, on a host that has one to hand down: a guest with a kernel and a person of its own, in
//! which the shim runs as it does anywhere. Where the tests run there is often none, and then nothing else sees these limits hold.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use agent_tests::{agent_git, agent_init, agent_shim, copy_program, guest_kernel, skip, until_within};
use anyhow::{Context, ensure};
use serde_json::Value;

/// A minute on a quiet machine; everything in it is carried out by a program.
const GUEST_WITHIN: Duration = Duration::from_secs(400);

#[test]
fn a_cgroup_of_the_hosts_bounds_a_sandbox_and_tells_what_it_ended() -> anyhow::Result<()> {
    let Some(kernel) = guest_kernel()? else { return Ok(()) };
    let folder = tempfile::Builder::new().prefix("as-d").tempdir_in("/tmp")?;
    let root = folder.path().join("root");
    if !make_root(&root)? {
        return Ok(());
    }
    let archive = folder.path().join("archive");
    fs::write(&archive, archive_of(&root)?)?;
    let console = fs::File::create(folder.path().join("console"))?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args("-M q35 -accel tcg -cpu max -m 1400 -smp 2 -nodefaults -display none -no-reboot".split(' '))
        .args([
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 panic=-1 reboot=t no_timer_check quiet rdinit=/init",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()?;
    let ended = until_within(GUEST_WITHIN, "the guest to switch itself off", || Ok(qemu.try_wait()?));
    let _ = qemu.kill();
    let _ = qemu.wait();
    let said = fs::read(folder.path().join("console"))?;
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    ended.with_context(|| said.clone())?;
    judge(&said).with_context(|| said.clone())
}

fn judge(said: &str) -> anyhow::Result<()> {
    let started = section(said, "started")?;
    let bounds = ["125829120", "50"];
    ensure!(bounds.iter().all(|bound| started.lines().any(|line| line == *bound)), "the bounds: {started}");

    // It is larger than each of its children, and stays.
    let status = json(section(said, "child")?)?;
    ensure!(status["agent"]["last_exit"]["code"] == 2, "{:#}", status["agent"]);
    let resources = &status["resources"];
    for (field, expected) in [
        ("memory_limit_bytes", 125_829_120),
        ("cpu_limit_milli", 1500),
        ("pids_limit", 50),
        ("out_of_memory", 2),
    ] {
        ensure!(resources[field] == expected, "{field}: {resources:#}");
    }
    ensure!(resources["memory_peak_bytes"].as_u64() > Some(80 << 20), "{resources:#}");
    ensure!(resources["cpu_ms"].as_u64() > Some(0), "{resources:#}");

    let command = section(said, "command")?;
    ensure!(
        command.contains("code 137") && command.contains("killed by SIGKILL (out of memory)"),
        "{command}"
    );
    ensure!(command.contains("memory ran out: the kernel has ended"), "{command}");

    let exit = &json(section(said, "agent")?)?["agent"]["last_exit"];
    ensure!(exit["out_of_memory"] == true && exit["limit"] == "memory", "{exit:#}");

    let left = section(said, "left")?;
    ensure!(left.trim() == "/sys/fs/cgroup/me/shell/", "what is left: {left}");
    Ok(())
}

fn section<'a>(said: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let (_, from) = said.split_once(&format!("<<{name}\n")).with_context(|| format!("no {name}"))?;
    Ok(from.split_once("\n>>").with_context(|| format!("{name} does not end"))?.0)
}

/// The kernel may speak in between.
fn json(text: &str) -> anyhow::Result<Value> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('[')).collect();
    let text = lines.join("\n");
    Ok(serde_json::from_str(&text[text.find('{').context("no object")?..])?)
}

/// A small system: busybox, bubblewrap with its libraries, our programs. `false`, and told, where something is missing here.
fn make_root(root: &Path) -> anyhow::Result<bool> {
    for folder in ["usr/bin", "usr/lib", "usr/lib64", "etc", "new", "proc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find =
        |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists());
    let (Some(busybox), Some(bwrap)) = (find("busybox"), find("bwrap")) else {
        skip("there is no busybox, or no bwrap, in PATH");
        return Ok(false);
    };
    let programs = [&busybox, &bwrap, agent_shim(), agent_init(), agent_git()];
    let probe = PathBuf::from(env!("CARGO_BIN_EXE_probe"));
    for program in programs.into_iter().chain([probe.as_path()]) {
        let to = root.join("usr/bin").join(program.file_name().context("a program's name")?);
        copy_program(&program.canonicalize()?, &to)?;
        // Smaller by far, where that can be done.
        let _ = Command::new("strip").arg(&to).stderr(Stdio::null()).status();
    }
    let libraries = String::from_utf8(Command::new("ldd").arg(&bwrap).output()?.stdout)?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join("usr").join(library.trim_start_matches("/usr").trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library's folder")?)?;
        copy_program(&Path::new(library).canonicalize()?, &to)?;
    }
    let applets = Command::new(&busybox).arg("--list").output()?.stdout;
    for applet in String::from_utf8(applets)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("usr/bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nme:x:1000:1000:me:/home/me:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "me:x:1000:\n")?;
    fs::write(root.join("init"), include_str!("host.sh"))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    Ok(true)
}

/// As cpio(5) has it, in the form that the kernel reads ("newc"). Everything is root's.
fn archive_of(root: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = Vec::new();
    add_below(root, root, &mut archive)?;
    add("TRAILER!!!", 0, b"", &mut archive)?;
    Ok(archive)
}

fn add_below(root: &Path, folder: &Path, archive: &mut Vec<u8>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = path.symlink_metadata()?;
        let name = path.strip_prefix(root)?.to_str().context("a name")?;
        let content = if found.is_symlink() {
            fs::read_link(&path)?.into_os_string().into_encoded_bytes()
        } else if found.is_file() {
            fs::read(&path)?
        } else {
            Vec::new()
        };
        add(name, found.mode(), &content, archive)?;
        if found.is_dir() {
            add_below(root, &path, archive)?;
        }
    }
    Ok(())
}

fn add(name: &str, mode: u32, content: &[u8], archive: &mut Vec<u8>) -> anyhow::Result<()> {
    write!(archive, "070701")?;
    let (mode, size, name_size) = (mode as usize, content.len(), name.len() + 1);
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(archive, "{field:08x}")?;
    }
    for part in [format!("{name}\0").as_bytes(), content] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    Ok(())
}

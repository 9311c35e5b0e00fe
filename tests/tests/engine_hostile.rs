//! Images whose files are an attacker's: what podman mounts into a container is named by links that lead out of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent_tests::{Home, copy_program, podman::Podman};
use anyhow::{Context, ensure};

/// Places that something is mounted at, or that are read: each line is in an image of its own, as links.
const LINKED: [&[&str]; 8] = [
    &[],
    &["workspace", "home/sandbox", "tmp"],
    &["home", "opt"],
    &["run"],
    &["run/agent"],
    &["run/agent/init", "run/agent/git", "run/agent/handover"],
    &["etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"],
    &["proc", "sys", "dev"],
];

#[test]
fn links_in_an_image_lead_nowhere_outside() -> anyhow::Result<()> {
    for (home, podman) in Podman::everyone()? {
        let user = home.uid();
        let precious = home.project("precious")?;
        for folder in ["sandbox", "agent", "handover"] {
            home.project(&format!("precious/{folder}"))?;
        }
        for name in ["file", "init", "git", "passwd", "resolv.conf", "agent/init", "agent/git"] {
            home.file(&format!("precious/{name}"), b"precious")?;
        }
        let before = facts(&precious)?;
        for (number, links) in LINKED.iter().enumerate() {
            tried(&home, &podman, number, links, &precious)
                .with_context(|| format!("{links:?} as user {user}"))?;
            let now = facts(&precious)?;
            ensure!(now == before, "{links:?} as user {user}: {before:#?} became {now:#?}");
        }
    }
    Ok(())
}

/// Started or refused: what counts is what it touched, and that a sandbox that runs is one.
fn tried(home: &Home, podman: &Podman, number: usize, links: &[&str], precious: &Path) -> anyhow::Result<()> {
    let image = format!("localhost/agent-shim-hostile-{number}:latest");
    make_image(podman, &image, links, precious)?;
    let project = home.project(&format!("project-{number}"))?;
    let name = format!("box-{number}");
    let words = [
        "start",
        "--name",
        &name,
        "--env",
        "host",
        "--isolation",
        "oci",
        "--engine",
        "podman",
        "--image",
        &image,
    ];
    let started = home.run(words.into_iter().chain([
        project.to_str().context("a path")?,
        "--",
        "/bin/sh",
        "-c",
        "exec /bin/cat",
    ]))?;
    let runs = started.code() == 0;
    // The control: without any link it runs.
    ensure!(runs || !links.is_empty(), "{started}");
    if runs {
        let look = "id -u; cat /proc/1/comm; echo x > /workspace/made; ls -A /run/agent/handover; \
                    cat /precious/file /workspace/file /etc/passwd /home/file /opt/file 2>/dev/null; true";
        let said = home.run(["exec", &name, "--", "/bin/sh", "-c", look])?.text();
        ensure!(!said.contains("precious"), "{said}");
        ensure!(said.starts_with("1000\ninit") || !links.is_empty(), "{said}");
        if links.is_empty() {
            every_way_is_closed(home, &name, &project)?;
        }
        // It is no root, whatever its image says of users and rights.
        let rights = home
            .run([
                "exec",
                &name,
                "--",
                "/bin/sh",
                "-c",
                "/bin/rooted id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
            ])?
            .text();
        ensure!(!rights.lines().any(|line| line == "0"), "{rights}");
    }
    home.run(["destroy", "--force", &name])?;
    podman.say(&["rmi", "--force", &image])?;
    Ok(())
}

/// The attacker's program finds every way closed that it knows.
fn every_way_is_closed(home: &Home, name: &str, project: &Path) -> anyhow::Result<()> {
    copy_program(Path::new(env!("CARGO_BIN_EXE_probe")), &project.join("probe"))?;
    fs::set_permissions(project.join("probe"), fs::Permissions::from_mode(0o755))?;
    let output = home.run(["exec", name, "--", "/workspace/probe", "containers"])?.success()?;
    let text = output.text();
    let open: Vec<_> =
        text.lines().skip(1).filter(|line| line.split('\t').nth(1) != Some("closed")).collect();
    ensure!(text.lines().count() > 10 && open.is_empty(), "{open:#?}");
    Ok(())
}

/// A shell with a few programs, one of them with root's rights, and the links.
fn make_image(podman: &Podman, image: &str, links: &[&str], precious: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    for name in ["bin", "etc", "home", "run/agent", "opt"] {
        let at = root.join(name);
        if !links.iter().any(|link| {
            Path::new(name).starts_with(link)
                || Path::new(link).starts_with("run")
                    && name == "run/agent"
                    && !link.starts_with("run/agent/")
        }) {
            fs::create_dir_all(at)?;
        }
    }
    copy_program(Path::new("/usr/bin/busybox"), &root.join("bin/busybox"))?;
    copy_program(Path::new("/usr/bin/busybox"), &root.join("bin/rooted"))?;
    fs::set_permissions(root.join("bin/rooted"), fs::Permissions::from_mode(0o4755))?;
    for applet in ["sh", "cat", "id", "ls", "grep", "echo", "true"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for link in links {
        let at = root.join(link);
        fs::create_dir_all(at.parent().context("a folder")?)?;
        let target = precious.join(at.file_name().context("a name")?);
        let target = if target.exists() { target } else { precious.to_owned() };
        symlink(&target, &at)?;
        // The control: who follows it as it is gets there.
        ensure!(at.exists(), "{}", at.display());
    }
    let mut tar = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--directory"])
        .arg(root)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut import = podman.command(&[
        "import",
        "--quiet",
        "--change",
        "USER root",
        "--change",
        "ENV LD_PRELOAD=/bin/rooted",
        "--change",
        "ENTRYPOINT [\"/bin/rooted\"]",
        "-",
        image,
    ]);
    let imported = import.stdin(tar.stdout.take().context("the archive")?).output()?;
    ensure!(
        tar.wait()?.success() && imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
    Ok(())
}

/// All that can have been changed.
fn facts(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut facts = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let content = if found.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path)?
            };
            let fact = format!(
                "{:o} {}:{} {}.{} {content:?}",
                found.mode(),
                found.uid(),
                found.gid(),
                found.ctime(),
                found.ctime_nsec()
            );
            facts.insert(path, fact);
        }
    }
    Ok(facts)
}

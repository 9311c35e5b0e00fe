//! qemu itself is the attacker's, as if a machine had taken it over: a program of the test's stands in its place, with what qemu is
//! given, and tries what it can reach. Nothing boots.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use agent_tests::{Share, Who, finish};
use anyhow::{Context, ensure};

use crate::hostile::{MARKER, Outside, faults_below, intruder, marked, outcomes};

/// More than this many things are tried.
const TRIED: usize = 50;

#[test]
fn beside_virtiofsd() -> anyhow::Result<()> {
    [Who::Ordinary, Who::Myself].into_iter().try_for_each(|who| it_gets_nothing(who, Share::Virtiofs))
}

#[test]
fn with_files_of_its_own() -> anyhow::Result<()> {
    [Who::Ordinary, Who::Myself].into_iter().try_for_each(|who| it_gets_nothing(who, Share::Plan9))
}

fn it_gets_nothing(who: Who, share: Share) -> anyhow::Result<()> {
    let Some((outside, mut home)) = Outside::new(who, share)? else { return Ok(()) };
    let bin = home.project("bin")?;
    intruder(&home, "bin/qemu-system-x86_64", None)?;
    home.variable("PATH", format!("{}:{}", bin.display(), home.search_path()));
    // A kernel of the person's own, in a place of theirs.
    let kernel = home.path().join("own-kernel");
    let image = share.kernel()?.context("a kernel")?;
    let base = image.parent().and_then(Path::parent).context("a kernel in a folder called boot")?;
    agent_tests::copy_program(base, &kernel)?;
    let image = kernel.join("boot").join(image.file_name().context("a kernel's name")?);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600))?;
    chown(&image, Some(home.uid()), Some(home.uid()))?;
    home.variable("AGENT_SHIM_KERNEL", kernel);
    let before = fs::read(&image)?;

    let project = home.project("project")?;
    let name = format!("hidden-{}", project.display());
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let service = TcpListener::bind("127.0.0.1:0")?;
    let port = service.local_addr()?.port();
    let lines = [vec![MARKER.to_owned(), name, port.to_string()], outside.targets()].concat();
    home.file("project/targets", format!("{}\n", lines.join("\n")).as_bytes())?;

    // With a key in the session's keyring, as a login puts it there.
    let shim = agent_tests::agent_shim().as_os_str();
    let words = [
        "start",
        "--name",
        "box",
        "--env",
        "host",
        "--workspace",
        "bind",
        "--network",
        "nat",
        "--share",
        share.name(),
    ];
    let words =
        words.map(OsStr::new).into_iter().chain([project.as_os_str()]).chain(["--", "cat"].map(OsStr::new));
    let with_key = [OsStr::new("with-key"), shim].into_iter().chain(words);
    let output = finish(home.command(env!("CARGO_BIN_EXE_intruder"), with_key), b"")?;
    ensure!(output.code() != 0, "{output}");
    for text in [&output.stdout, &output.stderr] {
        ensure!(!text.contains(&0x1b) && !text.contains(&0x9b) && !text.contains(&7), "{output}");
    }

    let report = fs::read_to_string(project.join("part")).with_context(|| format!("{output}"))?;
    let tried = outcomes(&report);
    ensure!(tried.len() > TRIED, "{tried:#?}");
    // Files with names that nobody likes are nothing to refuse, nor is what a process does to itself.
    let allowed = |name: &str| name.starts_with("control: ") || name == "making a mess";
    let failed: Vec<_> = tried.iter().filter(|(name, done, _)| *done != allowed(name)).collect();
    ensure!(failed.is_empty(), "{} for {who:?}: {failed:#?}", share.name());

    let faults = faults_below(std::slice::from_ref(&project), home.uid());
    ensure!(faults.is_empty(), "{faults:#?}");
    ensure!(fs::read(&image)? == before, "the person's kernel is another one");
    outside.is_unharmed()?;
    hidden.set_nonblocking(true)?;
    service.set_nonblocking(true)?;
    ensure!(hidden.accept().is_err() && service.accept().is_err(), "somebody called");
    let found: Vec<_> = marked(&project).into_iter().filter(|path| !path.ends_with("targets")).collect();
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

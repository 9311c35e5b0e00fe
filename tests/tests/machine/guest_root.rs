//! A machine of the shim's whose kernel is an attacker's: its first process has all rights inside, tries the share before init
//! begins, and does what it is told while init runs.

use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_tests::{Home, Sandbox, Share, Who, agent_init, finish, until_within};
use anyhow::{Context, ensure};

use crate::hostile::{MARKER, Outside, faults_below, intruder, marked, outcomes};

const WITHIN: Duration = Duration::from_mins(3);

/// A port of the host's, as the device would have it, that something listens on.
const PORT_OF_THE_HOST: u32 = 7777;

/// Works in a file system of the machine's own, so that it shows something when it does not on the share.
const MUST_WORK_INSIDE: usize = 17;

#[test]
fn over_virtio_fs_for_an_ordinary_user() -> anyhow::Result<()> {
    all_rights_inside_are_none_outside(Who::Ordinary, Share::Virtiofs)
}

#[test]
fn over_virtio_fs_for_root() -> anyhow::Result<()> {
    as_root(Share::Virtiofs)
}

#[test]
fn over_9p_for_an_ordinary_user() -> anyhow::Result<()> {
    all_rights_inside_are_none_outside(Who::Ordinary, Share::Plan9)
}

#[test]
fn over_9p_for_root() -> anyhow::Result<()> {
    as_root(Share::Plan9)
}

fn as_root(share: Share) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return all_rights_inside_are_none_outside(Who::Myself, share);
    }
    agent_tests::skip("only root can start what root starts");
    Ok(())
}

/// One boot for all of it: that is what takes long.
fn all_rights_inside_are_none_outside(who: Who, share: Share) -> anyhow::Result<()> {
    let Some((outside, mut home)) = Outside::new(who, share)? else { return Ok(()) };
    let init = intruder(&home, "hostile-init", Some(agent_init()))?;
    home.variable("AGENT_SHIM_INIT", init);
    let project = home.project("project")?;
    home.project("project/orders")?;
    home.project("given")?;
    home.file("given/file", b"given")?;
    home.file("key", b"key")?;
    let targets = outside.targets();
    commit(&home, &project)?;
    home.file("project/targets", format!("{MARKER}\n{}\n", targets.join("\n")).as_bytes())?;

    let mount = format!("{}:/opt/given:ro", home.path().join("given").display());
    let flags = ["--workspace", "bind", "--share", share.name(), "--mount", &mount, "--secret", "KEY=key"];
    let sandbox = Sandbox::builder().home(home).flags(flags).start()?;
    let attacker = Attacker { sandbox: &sandbox, project: &project };

    attacker.had_all_rights_inside()?;
    attacker.did_nothing_beyond()?;
    let own = ["home", "tmp"].map(|name| sandbox.folder().join(name));
    let folders = [vec![project.clone()], own.to_vec()].concat();
    ensure!(folders.iter().all(|folder| folder.join("attempts").is_dir()), "{folders:?}");
    nothing_gives_rights(&folders, sandbox.uid())?;
    attacker.without_rights_it_is_the_same()?;

    attacker.reaches_no_port_of_the_host()?;
    attacker.reaches_no_loopback_of_the_host()?;
    attacker.says_what_it_wants_and_is_not_believed()?;
    attacker.stops_nobody()?;
    attacker.has_nothing_read_for_it()?;

    nothing_gives_rights(&folders, sandbox.uid())?;
    outside.is_unharmed()?;
    let begun = Instant::now();
    sandbox.tell("stop", &["--force"])?.success()?;
    ensure!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    attacker.printed_nothing_that_is_obeyed()?;
    sandbox.tell("destroy", &["--force"])?.success()?;
    ensure!(!sandbox.folder().exists(), "it is still there");
    nothing_gives_rights(&[project], sandbox.uid())?;
    outside.is_unharmed()
}

fn commit(home: &Home, project: &Path) -> anyhow::Result<()> {
    let who = ["-c", "user.name=Me", "-c", "user.email=me@example.org"];
    home.file("project/kept", b"kept\n")?;
    for words in [&["init", "-q", "-b", "main"][..], &["add", "kept"], &["commit", "-q", "-m", "one"]] {
        let mut command = home.command("git", who.iter().chain(words));
        command.current_dir(project);
        finish(command, b"")?.success()?;
    }
    Ok(())
}

/// What the host is called by in its own network, if it is in one.
fn address_of_the_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn nothing_gives_rights(folders: &[PathBuf], owner: u32) -> anyhow::Result<()> {
    let faults = faults_below(folders, owner);
    ensure!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

struct Attacker<'a> {
    sandbox: &'a Sandbox,
    project: &'a Path,
}

impl Attacker<'_> {
    fn report(&self, name: &str) -> anyhow::Result<Vec<(String, bool, String)>> {
        let at = self.project.join(name);
        let report = until_within(WITHIN, name, || Ok(fs::read_to_string(&at).ok()))?;
        Ok(outcomes(&report))
    }

    /// What is said while init answers: an emulated machine takes its time on a busy host, and then that is said.
    fn status(&self) -> anyhow::Result<serde_json::Value> {
        until_within(WITHIN, "init to answer", || {
            Ok(Some(self.sandbox.status()?).filter(|status| status["stuck"].is_null()))
        })
    }

    /// Has the process with all rights do something, and waits for its end.
    fn order(&self, name: &str, text: &str) -> anyhow::Result<(bool, String)> {
        self.begin(name, text)?;
        let report = self.report(&format!("{name}-done"))?;
        fs::remove_file(self.project.join(format!("{name}-done")))?;
        let (_, done, how) = report.into_iter().next().with_context(|| format!("{name}: no outcome"))?;
        Ok((done, how))
    }

    /// The same for what never ends; waits until it has begun.
    fn begin(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let (draft, order) = (self.project.join("order"), self.project.join("orders").join(name));
        fs::write(&draft, text)?;
        std::os::unix::fs::chown(&draft, Some(self.sandbox.uid()), Some(self.sandbox.uid()))?;
        fs::rename(&draft, &order)?;
        until_within(WITHIN, &format!("{name} to begin"), || Ok((!order.exists()).then_some(())))
    }

    /// The control: each attempt is one, for it works where nobody prevents it.
    fn had_all_rights_inside(&self) -> anyhow::Result<()> {
        let control = self.report("control")?;
        let worked = control.iter().filter(|(_, done, _)| *done).count();
        ensure!(worked >= MUST_WORK_INSIDE, "{control:#?}");
        let tried = self.report("root")?;
        ensure!(tried.len() == 3 * control.len(), "{tried:#?}");
        // What was done all the same is judged by what is there, but these cannot have been.
        let done: Vec<_> = tried
            .iter()
            .filter(|(name, done, _)| {
                *done
                    && ["device", "set-", "capabilities", "trusted", "both"]
                        .iter()
                        .any(|word| name.contains(word))
            })
            .collect();
        ensure!(done.is_empty(), "{done:#?}");
        Ok(())
    }

    fn did_nothing_beyond(&self) -> anyhow::Result<()> {
        let report = self.report("beyond")?;
        let (made, tried) = report.split_first().context("no report")?;
        ensure!(made.1, "the control: {made:?}");
        ensure!(tried.len() > 50, "{tried:#?}");
        let done: Vec<_> = tried.iter().filter(|(_, done, _)| *done).collect();
        ensure!(done.is_empty(), "{done:#?}");
        let given = fs::read_to_string(self.project.with_file_name("given").join("file"))?;
        ensure!(given == "given", "{given}");
        Ok(())
    }

    fn without_rights_it_is_the_same(&self) -> anyhow::Result<()> {
        let program = self.project.join("intruder");
        agent_tests::copy_program(Path::new(env!("CARGO_BIN_EXE_intruder")), &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::chown(&program, Some(self.sandbox.uid()), Some(self.sandbox.uid()))?;
        let output = self.sandbox.sh("/workspace/intruder files /workspace/by-the-agent")?.success()?;
        let tried = outcomes(&output.text());
        let done: Vec<_> = tried.iter().filter(|(_, done, _)| *done).collect();
        ensure!(tried.len() >= MUST_WORK_INSIDE && done.is_empty(), "{tried:#?}");
        // In a file system of the machine's own some of it is no trouble.
        let output = self.sandbox.sh("/workspace/intruder files /dev/shm/by-the-agent")?.success()?;
        let worked = outcomes(&output.text()).iter().filter(|(_, done, _)| *done).count();
        ensure!(worked >= 3, "{output}");
        Ok(())
    }

    /// The device would connect it to a socket of this name.
    fn reaches_no_port_of_the_host(&self) -> anyhow::Result<()> {
        let folder = self.sandbox.folder().join("machine");
        let at = folder.join(format!("vsock.sock_{PORT_OF_THE_HOST}"));
        let listener = UnixListener::bind(&at)?;
        std::os::unix::fs::chown(&at, Some(self.sandbox.uid()), Some(self.sandbox.uid()))?;
        listener.set_nonblocking(true)?;
        let (done, how) = self.order("call", &PORT_OF_THE_HOST.to_string())?;
        ensure!(!done, "answered: {how}");
        ensure!(listener.accept().is_err(), "the host was called");
        fs::remove_file(at)?;
        // Nobody else on the host gets to the machine by its socket, its token or what says where it is.
        for name in ["token", "address", "logs/console.log", "microvm.status"] {
            let mode = fs::metadata(self.sandbox.folder().join(name))?.permissions().mode();
            ensure!(mode.trailing_zeros() >= 6, "{name} has the mode {mode:o}");
        }
        for above in [self.sandbox.folder(), self.sandbox.data().join("agents")] {
            let mode = fs::metadata(&above)?.permissions().mode();
            ensure!(mode.trailing_zeros() >= 6, "{} has the mode {mode:o}", above.display());
        }
        Ok(())
    }

    /// Its own loopback is another one, and no address that passt has for it means the host.
    fn reaches_no_loopback_of_the_host(&self) -> anyhow::Result<()> {
        let (hidden, open) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("0.0.0.0:0")?);
        let words = ["127.0.0.1", "10.0.2.2", "10.0.2.3", "10.0.2.15", "127.0.0.53", "0.0.0.0"];
        let (hidden, open) = (hidden.local_addr()?.port(), open.local_addr()?.port());
        let mut addresses: Vec<String> =
            words.iter().flat_map(|to| [hidden, open].map(|port| format!("{to}:{port}"))).collect();
        // By its address the host is one of its own network, and has what it shows to that. This is the control, too.
        let own = address_of_the_host();
        if let Some(own) = own {
            addresses.extend([hidden, open].map(|port| format!("{own}:{port}")));
        }
        let output =
            self.sandbox.sh(&format!("/workspace/intruder dial {}", addresses.join(" ")))?.success()?;
        let tried = outcomes(&output.text());
        let done: Vec<&String> = tried.iter().filter(|(_, done, _)| *done).map(|(name, ..)| name).collect();
        let shown: Vec<String> = own.iter().map(|own| format!("{own}:{open}")).collect();
        ensure!(tried.len() == addresses.len() && done.iter().copied().eq(&shown), "{tried:#?}");
        Ok(())
    }

    fn says_what_it_wants_and_is_not_believed(&self) -> anyhow::Result<()> {
        let before = self.status()?;
        let huge = "{".repeat(300_000);
        let forged = format!(
            "\n{{\"child-pid\": 1}}\n{{\"part\": \"qemu\", \"pid\": 1}}\n{{\"died\": \"virtiofsd\", \"how\": \"\\u001b[2J\"}}\n\
             {{\"exit-code\": 99999}}\n{{\"exit-code\": -1}}\n{{\"exit-code\"\n\0\n{huge}\n{{\"ready\": false}}\n[1]\n"
        );
        let (done, how) = self.order("say", &forged)?;
        ensure!(done, "the control: {how}");
        let record = fs::read_to_string(self.sandbox.folder().join("microvm.status"))?;
        ensure!(record.len() < 4096 && !record.contains("died") && !record.contains("99999"), "{record}");
        let now = self.status()?;
        for field in ["/state", "/started_at", "/init/pid", "/agent/pid", "/died"] {
            ensure!(now.pointer(field) == before.pointer(field), "{field}: {before:#} became {now:#}");
        }
        Ok(())
    }

    /// Each of these goes on for ever, and all at once.
    fn stops_nobody(&self) -> anyhow::Result<()> {
        self.begin("flood", "")?;
        self.begin("chatter", "")?;
        for _ in 0..3 {
            // The device takes no calls for a moment when its queue is full: a person would try again, too.
            until_within(WITHIN, "a command", || {
                Ok((self.sandbox.sh("echo on")?.text() == "on").then_some(()))
            })?;
            until_within(WITHIN, "a status", || {
                Ok((self.sandbox.status()?["state"] == "running").then_some(()))
            })?;
        }
        let begun = Instant::now();
        let list = self.sandbox.run(["list", "--json"])?.success()?;
        ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        ensure!(list.text().contains("running"), "{list}");
        for log in fs::read_dir(self.sandbox.folder().join("logs"))?.flatten() {
            let bytes = log.metadata()?.len();
            ensure!(bytes <= 2 << 20, "{} has {bytes} bytes", log.path().display());
        }
        Ok(())
    }

    /// A folder and a link out of the tree take turns while the host reads.
    fn has_nothing_read_for_it(&self) -> anyhow::Result<()> {
        self.begin("flip", "")?;
        for round in 0..4 {
            let name = format!("reader-{round}");
            let words = [
                "start",
                "--isolation",
                "bwrap",
                "--env",
                "host",
                "--name",
                &name,
                "--workspace",
                "clone",
                "--include-dirty",
            ];
            // Read or refused: what counts is what came along.
            let started = self.sandbox.run(words.iter().copied().chain([
                self.project.to_str().context("a path")?,
                "--",
                "cat",
            ]))?;
            let copy = self.sandbox.data().join("agents").join(&name);
            let found = marked(&copy);
            // The list of what to look for is in it, and that is the control.
            let found: Vec<_> = found.into_iter().filter(|path| !path.ends_with("targets")).collect();
            ensure!(found.is_empty(), "{found:#?} {started}");
            self.sandbox.run(["destroy", "--force", &name])?;
        }
        // These are made inside, by a git there.
        for words in [&["snapshot", "take", "box"][..], &["pull", "box"]] {
            let output = self.sandbox.run(words)?;
            ensure!(output.code() < 125, "{output}");
        }
        Ok(())
    }

    fn printed_nothing_that_is_obeyed(&self) -> anyhow::Result<()> {
        let log = fs::read(self.sandbox.folder().join("logs/console.log"))?;
        ensure!(log.contains(&0x1b), "the control: nothing was printed");
        for words in [&["status", "box"][..], &["list"], &["logs", "box"], &["events", "box"]] {
            let output = self.sandbox.run(words)?;
            ensure!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{output}");
        }
        Ok(())
    }
}

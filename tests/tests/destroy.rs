//! `destroy` leaves nothing: processes, mounts, sockets and files are as before the sandbox.

use std::{collections::BTreeSet, fs, path::Path};

use agent_tests::{Home, Part, Sandbox, Traces, Who, sockets_of, until};
use anyhow::ensure;
use nix::sys::signal::Signal;

/// What an agent may leave for `destroy` to find: processes that mind no signal, files that cannot be deleted as
/// they are, links out of the sandbox.
const MESSY: &str = "
    (trap '' HUP TERM; exec setsid sleep 1000) & sleep 1000 &
    mkdir -p ~/deep/er/est /tmp/closed ~/ro; touch ~/deep/er/file ~/ro/file; mkfifo ~/pipe
    ln -s /workspace ~/link; ln -s /etc/passwd /tmp/passwd; chmod 0 ~/deep/er /tmp/closed; chmod 555 ~/ro
    touch ~/done; exec cat";

/// A sandbox, and the host as it was before it.
struct Case {
    sandbox: Sandbox,
    before: Traces,
    sockets: BTreeSet<u64>,
}

impl Case {
    fn start(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        home.project("project")?;
        home.file("project/kept", b"kept")?;
        let before = Traces::of(&home)?;
        let sandbox = Sandbox::builder().home(home).agent(MESSY).start()?;
        until("the agent to make its mess", || Ok((sandbox.sh("[ -e ~/done ]")?.code() == 0).then_some(())))?;
        let (during, sockets) = (Traces::of(&sandbox)?, sockets_of(&sandbox));
        ensure!(during.processes.len() >= 5, "the test sees too little: {:#?}", during.processes);
        ensure!(!sockets.is_empty(), "the test sees no socket");
        Ok(Self { sandbox, before, sockets })
    }

    fn destroy(&self) -> anyhow::Result<()> {
        self.sandbox.run(["destroy", "--force", "box"])?.success()?;
        self.left_nothing()
    }

    fn left_nothing(&self) -> anyhow::Result<()> {
        let mut after = Traces::of(&self.sandbox)?.with_sockets(&self.sockets)?;
        // The place for all sandboxes stays.
        for folder in [self.sandbox.data(), self.sandbox.data().join("agents")] {
            let is_it = |entry: &String| Path::new(entry.split(' ').next().unwrap_or_default()) == folder;
            after.files.retain(|entry| !is_it(entry));
        }
        ensure!(after == self.before, "before: {:#?}\nafter: {after:#?}", self.before);
        self.sandbox.run(["status", "box"])?.exits(1)?;
        self.sandbox.run(["destroy", "box"])?.exits(1)?.complains("hint:")?;
        ensure!(self.sandbox.run(["list", "--json"])?.success()?.text() == "[]");
        Ok(())
    }
}

#[test]
fn of_one_that_runs() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        case.sandbox.run(["destroy", "box"])?.exits(2)?.complains("hint:")?;
        ensure!(case.sandbox.status()?["state"] == "running");
        case.destroy()?;
    }
    Ok(())
}

#[test]
fn of_one_that_was_stopped() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        case.sandbox.tell("stop", &["--force"])?.success()?;
        case.sandbox.run(["destroy", "box"])?.success()?;
        case.left_nothing()?;
    }
    Ok(())
}

#[test]
fn after_the_kill_of_any_part() -> anyhow::Result<()> {
    for part in Part::all().iter().copied() {
        for who in Home::everyone() {
            let case = Case::start(*who)?;
            case.sandbox.kill(part)?;
            case.destroy()?;
        }
    }
    Ok(())
}

#[test]
fn after_the_kill_of_everything_of_ours_on_the_host() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        case.sandbox.kill(Part::Layer)?;
        case.sandbox.kill(Part::Monitor)?;
        case.destroy()?;

        let case = Case::start(*who)?;
        for part in [Part::Monitor, Part::Layer, Part::Init] {
            case.sandbox.signal(part, Signal::SIGKILL)?;
        }
        case.destroy()?;
    }
    Ok(())
}

#[test]
fn of_any_part_that_is_stopped_by_a_signal() -> anyhow::Result<()> {
    for part in Part::all().iter().copied() {
        let case = Case::start(Who::Myself)?;
        case.sandbox.signal(part, Signal::SIGSTOP)?;
        case.destroy()?;
    }
    Ok(())
}

/// Commands that run and viewers that watch end with the sandbox, and say so.
#[test]
fn while_commands_run() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself)?;
    let mut shim = case.sandbox.shim(["exec", "box", "--", "sleep", "1000"]);
    let mut client = shim.stderr(std::process::Stdio::null()).spawn()?;
    case.sandbox.wait_for("the command", |event| {
        event["event"] == "exec-started" && event["command"] == "sleep 1000"
    })?;
    case.sandbox.run(["destroy", "--force", "box"])?.success()?;
    let status = client.wait()?;
    ensure!(!status.success(), "the client ended with {status}");
    case.left_nothing()
}

/// A removal that was cut short is seen, can be gone on with, and does not take the name.
#[test]
fn that_was_cut_short() -> anyhow::Result<()> {
    for removed in
        [&["sandbox.json"][..], &["sandbox.json", "run.json", "events.jsonl"], &["run.json", "logs"]]
    {
        let case = Case::start(Who::Myself)?;
        case.sandbox.tell("stop", &["--force"])?.success()?;
        for name in removed {
            let path = case.sandbox.folder().join(name);
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        let list = case.sandbox.run(["list", "--json"])?.success()?.json()?;
        ensure!(list[0]["name"] == "box", "{list:#}");
        case.sandbox.run(["destroy", "box"])?.success()?;
        case.left_nothing()?;
    }
    Ok(())
}

/// A command that runs beside a destroy finds a sandbox or none, and nothing is made anew by it.
#[test]
fn while_others_look() -> anyhow::Result<()> {
    for _ in 0..4 {
        let case = Case::start(Who::Myself)?;
        case.sandbox.kill(Part::Monitor)?;
        let mut lookers = Vec::new();
        for words in [&["list"][..], &["status", "box"], &["events", "box"], &["exec", "box", "--", "true"]] {
            let mut shim = case.sandbox.shim(words);
            shim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            lookers.push(shim.spawn()?);
        }
        let destroyed = case.sandbox.run(["destroy", "--force", "box"])?;
        for mut looker in lookers {
            looker.wait()?;
        }
        destroyed.success()?;
        until("the host to be as before", || Ok(case.left_nothing().ok()))?;
        case.left_nothing()?;
    }
    Ok(())
}

/// Two at once: one does it, the other finds nothing or does no harm.
#[test]
fn twice_at_once() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself)?;
    let mut other = case.sandbox.shim(["destroy", "--force", "box"]);
    other.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut other = other.spawn()?;
    let codes = [case.sandbox.run(["destroy", "--force", "box"])?.code(), other.wait()?.code().unwrap_or(-1)];
    ensure!(codes.contains(&0) && codes.iter().all(|code| [0, 1, 2].contains(code)), "{codes:?}");
    case.left_nothing()
}

/// The project and what was mounted are the person's: nothing in them is touched.
#[test]
fn leaves_the_project_and_the_mounts_alone() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let data = home.project("mounted")?;
        home.file("mounted/file", b"1")?;
        let sandbox = Sandbox::builder()
            .home(home)
            .flags(["--mount", &format!("{}:/mnt/data", data.display())])
            .agent("echo 2 > /mnt/data/file; echo 3 > /workspace/file; ln -s /mnt/data ~/data; touch ~/done; cat")
            .start()?;
        until("the agent", || Ok((sandbox.sh("[ -e ~/done ]")?.code() == 0).then_some(())))?;
        sandbox.run(["destroy", "--force", "box"])?.success()?;
        ensure!(fs::read_to_string(data.join("file"))? == "2\n");
        ensure!(fs::read_to_string(sandbox.project().join("file"))? == "3\n");
    }
    Ok(())
}

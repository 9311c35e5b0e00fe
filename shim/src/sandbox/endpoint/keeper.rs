//! The process that keeps an endpoint: the parent of its isolation layer, and its end.
//!
//! A command can be killed at any instant, also while the layer is being made. So a process of its own does that, which
//! adopts whatever is left over, ends it when the line to the command breaks, and lets go of the lock last. Killed
//! itself, it takes the layer and init with it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{Request, spec::OnAgentExit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::folder_of;
use crate::{
    isolation::{Layer, Network, NetworkChoice, Patience, Process, Remains},
    sandbox::{
        Sandbox,
        channel::{Channel, Flow, Received},
        launch::{self, chain, of_isolation},
        monitor,
        paths::DataDir,
        process,
        record::{Record, SyncMode},
        remove,
        start::{Cause, Failure, Occasion, Report},
        tools::Need,
    },
};

/// Before a machine that has no init yet is called again.
const REOPEN: Duration = Duration::from_millis(100);

/// How long what runs inside may take to end in order: git removes its lock files when it is asked to end.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// How long the kernel may take to end what is killed.
const KILL_WITHIN: Duration = Duration::from_secs(2);

/// What is read of the layer's messages to explain a failure.
const MAX_PRINTED_BYTES: u64 = 16 * 1024;

/// What the layer and init print.
const LOG: &str = "init.log";

/// The whole life of a keeper. Standard input is the lock, standard output the line to the command.
pub fn keep(data: &DataDir, sandbox: &Sandbox) -> ExitCode {
    let Ok((lock, line)) = monitor::detach() else { return ExitCode::FAILURE };
    let mut keeper =
        Keeper { folder: folder_of(sandbox), line, layer: None, process: None, remains: Remains::default() };
    let begun = keeper.begin(data, sandbox).and_then(|()| keeper.come_up());
    match begun {
        Ok(()) => {
            keeper.tell(&Report::Ready);
            keeper.wait();
            keeper.end();
        }
        Err(failure) => {
            keeper.end();
            keeper.tell(&Report::Failed(failure));
        }
    }
    drop(lock);
    ExitCode::SUCCESS
}

struct Keeper {
    folder: PathBuf,
    line: UnixStream,
    layer: Option<Box<dyn Layer>>,
    /// The layer's.
    process: Option<Process>,
    remains: Remains,
}

/// What of a sandbox an endpoint has: its folders, its tools and what it may use.
fn stripped(record: &Record) -> Record {
    let mut record = record.clone();
    record.network = NetworkChoice::Only(Network::None);
    record.nested = false;
    record.on_agent_exit = OnAgentExit::Stay;
    record.sync = SyncMode::Manual;
    record.snapshots.every_s = 0;
    record.command.clear();
    record.agent = None;
    record.env.clear();
    record.mounts.clear();
    record.secrets.clear();
    record.steps.clear();
    record.services.clear();
    record.worktrees.clear();
    record
}

impl Keeper {
    fn begin(&mut self, data: &DataDir, sandbox: &Sandbox) -> Result<(), Failure> {
        let io = |doing: &'static str| move |error: io::Error| other(doing, &error);
        let record = sandbox.record().map_err(|error| other("reading its record", &error))?;
        sandbox.make_folders().map_err(io("making its folders"))?;
        // What one left behind that was killed with its keeper.
        remove::remove_tree(&self.folder).map_err(io("removing what an earlier one left"))?;
        DirBuilder::new().mode(0o700).create(&self.folder).map_err(io("making a folder for it"))?;
        let occasion = Occasion { need: Need::IfBuilt, ..Occasion::default() };
        let mut prepared = launch::prepare(data, sandbox, &stripped(&record), &occasion)
            .map_err(|error| error.to_failure())?;
        prepared.plan.dies_with_parent = true;
        // The layer's record of the sandbox itself stays as it is. Root opens nothing through a link.
        prepared.plan.folder = self.folder.canonicalize().map_err(io("looking at its folder"))?;
        let log = OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.folder.join(LOG));
        let launched = prepared.launch(&self.folder, log.map_err(io("opening init's log"))?);
        self.layer = Some(prepared.layer);
        let launched = launched.map_err(|error| error.to_failure())?;
        self.remains = launched.remains;
        self.process = Some(launched.supervisor);
        Ok(())
    }

    /// Waits for init's first word. Until a machine has one, its device closes what is opened.
    fn come_up(&mut self) -> Result<(), Failure> {
        let patience =
            self.layer.as_ref().map_or(Patience::OF_PROCESSES, |layer| layer.capabilities().patience);
        let end = Instant::now() + patience.start;
        let mut open = None;
        loop {
            let ended = self.process.as_ref().is_none_or(|process| !process.alive().unwrap_or(true));
            let channel = match open.take() {
                None => Channel::open(&self.folder, &Request::Ping),
                Some(channel) => Ok(channel),
            };
            if let Ok(mut channel) = channel {
                let mut welcome = false;
                match channel.pump(|received| welcome |= matches!(received, Received::Welcome)) {
                    _ if welcome => return Ok(()),
                    Ok(Flow::Closed) if !channel.is_unheard() => return Err(self.why_not()),
                    Ok(Flow::Closed) => {}
                    Err(error) => return Err(other("speaking with init", &error)),
                    Ok(Flow::Blocked | Flow::More) => open = Some(channel),
                }
            }
            if ended {
                return Err(self.why_not());
            }
            if Instant::now() >= end {
                let message = format!("init did not answer within {} s", patience.start.as_secs());
                return Err(Failure { cause: Cause::Other, messages: vec![message], hint: None });
            }
            if self.left() {
                let messages = vec!["it was called off".to_owned()];
                return Err(Failure { cause: Cause::Cancelled, messages, hint: None });
            }
            let again = if open.is_some() { end } else { end.min(Instant::now() + REOPEN) };
            let mut fds = vec![(self.line.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.process.iter().map(|process| (process.as_fd(), PollFlags::POLLIN)));
            fds.extend(open.iter().map(|channel| (channel.as_fd(), channel.wants())));
            wait_for(&fds, again);
        }
    }

    fn why_not(&self) -> Failure {
        if let Some(process) = &self.process {
            // What it printed last.
            let _ = process.exited_within(KILL_WITHIN);
        }
        let mut printed = Vec::new();
        if let Ok(file) = fs::File::open(self.folder.join(LOG)) {
            // What cannot be read is not explained.
            let _ = file.take(MAX_PRINTED_BYTES).read_to_end(&mut printed);
        }
        let printed = String::from_utf8_lossy(&printed).trim().to_owned();
        match &self.layer {
            Some(layer) => of_isolation(&layer.explain(&printed)),
            None => Failure { cause: Cause::Other, messages: vec![printed], hint: None },
        }
    }

    /// Whether the command has gone. It says nothing, so whatever there is to be read is its end.
    fn left(&self) -> bool {
        let mut fds = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Until the command or the layer has gone.
    fn wait(&self) {
        let Some(process) = &self.process else { return };
        while !self.left() && process.alive().unwrap_or(false) {
            let mut fds = [
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
            ];
            // An interrupted wait is taken up again.
            let _ = poll(&mut fds, PollTimeout::NONE);
        }
    }

    /// Ends everything, and removes what is left on disk.
    fn end(&mut self) {
        self.stop();
        if let Some(process) = self.process.take() {
            process::kill(process.id());
        }
        // Init is the layer's child, and ours without it.
        let end = Instant::now() + KILL_WITHIN;
        while process::kill_children() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        while let Err(error) = self.remains.clean()
            && error.kind() == io::ErrorKind::ResourceBusy
            && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(1));
        }
        // What cannot be removed is the next one's, or goes with the sandbox.
        let _ = remove::remove_tree(&self.folder);
    }

    /// Asks init for the end, and waits for it.
    fn stop(&self) {
        let Ok(mut channel) = Channel::open(&self.folder, &Request::Stop { force: false }) else { return };
        let end = Instant::now() + STOP_WITHIN;
        while let Ok(Flow::More | Flow::Blocked) = channel.pump(|_| {})
            && Instant::now() < end
        {
            wait_for(&[(channel.as_fd(), channel.wants())], end);
        }
        if let Some(process) = &self.process {
            let _ = process.exited_within(end.saturating_duration_since(Instant::now()));
        }
    }

    fn tell(&mut self, report: &Report) {
        let Ok(mut text) = serde_json::to_vec(report) else { return };
        text.push(b'\n');
        // It may have gone.
        let _ = self.line.write_all(&text);
    }
}

fn wait_for(descriptors: &[(BorrowedFd<'_>, PollFlags)], end: Instant) {
    let mut fds: Vec<_> = descriptors.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    // An interrupted wait is taken up again by the caller.
    let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
}

fn other(doing: &str, error: &dyn std::error::Error) -> Failure {
    let mut messages = vec![doing.to_owned()];
    messages.extend(chain(error));
    Failure { cause: Cause::Other, messages, hint: None }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use agent_protocol::spec::{Service, Step};

    use super::*;
    use crate::sandbox::{
        record::{AgentRecord, MountRecord, SecretRecord, WorktreeRecord},
        spec::spec_for,
    };

    #[test]
    fn nothing_is_started_in_it_and_nothing_of_the_persons_is_there() {
        let mut record = Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH);
        record.command = vec!["agent".to_owned()];
        record.agent = Some(AgentRecord { name: "claude".to_owned(), ..AgentRecord::default() });
        record.env = [("TOKEN".to_owned(), "t".to_owned())].into();
        record.secrets = vec![SecretRecord { name: "key".to_owned(), file: "/key".into() }];
        record.mounts =
            vec![MountRecord { source: "/data".into(), at: "/mnt/data".to_owned(), read_only: false }];
        record.steps = vec![Step::default()];
        record.services = vec![Service::default()];
        record.worktrees = vec![WorktreeRecord { branch: "fix".parse().unwrap(), command: None }];
        record.on_agent_exit = OnAgentExit::End;
        let stripped = stripped(&record);
        assert!(stripped.network.is_none() && stripped.mounts.is_empty() && stripped.secrets.is_empty());
        let spec = spec_for(&stripped, &[], &Occasion::default(), None, None);
        spec.validate().unwrap();
        assert!(spec.agent.is_none() && spec.agents.is_empty() && spec.env.is_empty());
        assert!(spec.steps.is_empty() && spec.services.is_empty());
        assert_eq!(spec.on_agent_exit, OnAgentExit::Stay);
    }
}

//! What a sandbox may cost, as far as it does not depend on how fast the machine is. Times are `bench/`'s.

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{
    Request, ServerMessage,
    address::Address,
    exit::How,
    frame::Kind,
    handshake::Token,
    message::{AttachFrom, AttachRequest, ExecRequest, LeaseWish, Stdio, TerminalSize},
};
use agent_shim::client::{Connection, Incoming, Target};
use agent_tests::{
    Boot, Home, Layer, Machine, Sandbox, Who, agent_init, counting_qemu, deadline, finish, until,
};
use anyhow::{Context, bail, ensure};

/// Overrides the number of commands that must leave nothing behind.
const EXECS_VARIABLE: &str = "AGENT_SHIM_EXECS";

/// Enough to fill every ring and table that has a bound, so that what still grows afterwards has none.
const WARM_UP: usize = 1000;

/// An allocator may round up; a leak of 30 bytes a command is more than this.
const MEMORY_GROWTH_KB: u64 = 256;

#[test]
fn init_is_small() -> anyhow::Result<()> {
    const LIMIT_BYTES: u64 = 2_500_000;
    let profile = agent_init().parent().context("a profile's folder")?;
    let released = profile.with_file_name("release").join("agent-init");
    let Ok(file) = fs::metadata(&released) else {
        agent_tests::skip(&format!("{} was not built", released.display()));
        return Ok(());
    };
    ensure!(file.len() <= LIMIT_BYTES, "{} has {} bytes", released.display(), file.len());
    Ok(())
}

/// A billion instructions a second is what a slow processor does; and counted, they do not depend on who else uses the host.
#[test]
fn init_is_ready_in_a_machine_after_a_hundred_million_instructions() -> anyhow::Result<()> {
    const MOST_MS: f64 = 100.0;
    let machines = Layer::named("microvm").context("a layer")?;
    let missing = machines.missing();
    if !missing.is_empty() {
        agent_tests::skip(&format!("machines need {}", missing.join(", ")));
        return Ok(());
    }
    let mut home = Home::new(Who::Myself)?;
    let counting = counting_qemu(home.path())?;
    let path = machines.search_path(&home.search_path());
    home.variable("PATH", format!("{}:{path}", counting.display()));
    machines.variables().into_iter().for_each(|(name, value)| home.variable(name, value));
    home.project("project")?;
    let start = "start --name box --env host --accel tcg --vcpus 1 project -- sleep 1000";
    home.run(start.split(' '))?.success()?;
    let boot = Boot::of(&home.data().join("agents/box"))?;
    ensure!(boot.init <= MOST_MS, "at 1 ns an instruction: {boot:?}");
    Ok(())
}

/// What is the machine's own is not counted: its kernel, and init's program, which is larger where it is built for tests.
#[test]
fn init_is_small_in_a_machine_and_one_thread() -> anyhow::Result<()> {
    const MOST_KB: u64 = 1024;
    let Some(machine) = Machine::start(serde_json::json!({}))? else { return Ok(()) };
    let status = machine.sh("cat /proc/1/status")?;
    let number = |key: &str| -> anyhow::Result<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = value.and_then(|value| value.split_whitespace().next());
        Ok(value.with_context(|| format!("no {key} in {status}"))?.parse()?)
    };
    assert_eq!(number("Threads")?, 1);
    let memory = number("RssAnon")?;
    ensure!(memory <= MOST_KB, "{memory} kB");
    Ok(())
}

/// Nothing on a timer: a hundred sandboxes at rest are no load.
#[test]
fn a_sandbox_at_rest_never_wakes_up() -> anyhow::Result<()> {
    const WINDOW: Duration = Duration::from_millis(2500);
    let sandbox = Sandbox::builder().start()?;
    let ours = Processes::of(&sandbox)?;
    for process in ours.both() {
        assert_eq!(process.threads()?, 1, "{}", process.name);
    }
    // It comes to rest first: what the last question to it caused may still be under way.
    let mut before = ours.switches()?;
    until("a sandbox at rest", || {
        let now = ours.switches()?;
        Ok((std::mem::replace(&mut before, now) == now).then_some(()))
    })?;
    // The window is what is tested.
    thread::sleep(WINDOW);
    assert_eq!(ours.switches()?, before, "context switches of init and monitor, in {WINDOW:?} of rest");
    Ok(())
}

#[test]
fn commands_leave_no_descriptor_thread_or_memory_behind() -> anyhow::Result<()> {
    let commands: usize = env::var(EXECS_VARIABLE).ok().map_or(Ok(10_000), |number| number.parse())?;
    let sandbox = Sandbox::builder().start()?;
    let caller = Caller::of(&sandbox);
    let ours = Processes::of(&sandbox)?;
    let streams = [Stdio::Descriptors, Stdio::Frames].into_iter().cycle();
    for stdio in streams.clone().take(WARM_UP) {
        caller.succeed(&["true"], stdio)?;
    }
    let before = ours.settled()?;
    for stdio in streams.take(commands) {
        caller.succeed(&["true"], stdio)?;
    }
    // On a busy machine the last connection may not have been let go by the first look.
    let after = until("no more descriptors than before", || {
        let after = ours.settled()?;
        let are_back =
            before.iter().zip(&after).all(|(before, after)| after.descriptors <= before.descriptors);
        Ok(are_back.then_some(after))
    })?;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.threads, after.threads, "threads after {commands} commands");
        let grown = after.memory_kb.saturating_sub(before.memory_kb);
        assert!(grown <= MEMORY_GROWTH_KB, "{grown} kB more after {commands} commands: {before:?} {after:?}");
    }
    Ok(())
}

#[test]
fn fifty_commands_run_at_the_same_time() -> anyhow::Result<()> {
    const COMMANDS: usize = 50;
    let sandbox = Sandbox::builder().start()?;
    // Nobody goes on before all are there.
    let script = format!(
        "mkdir -p /tmp/all; touch /tmp/all/$$; until [ $(ls /tmp/all | wc -l) -ge {COMMANDS} ]; do sleep 0.1; done; echo $$"
    );
    let outputs = in_parallel(COMMANDS, COMMANDS, |_| Ok(sandbox.sh(&script)?.success()?.text()))?;
    let distinct: BTreeSet<String> = outputs.into_iter().collect();
    assert_eq!(distinct.len(), COMMANDS, "{distinct:?}");
    assert_eq!(sandbox.status()?["init"]["execs"], 0);
    Ok(())
}

#[test]
fn twenty_viewers_see_the_same() -> anyhow::Result<()> {
    const VIEWERS: usize = 20;
    let sandbox = Sandbox::builder().start()?;
    let caller = Caller::of(&sandbox);
    let mut viewers = (0..VIEWERS).map(|_| caller.attach()).collect::<anyhow::Result<Vec<_>>>()?;
    assert_eq!(sandbox.status()?["init"]["viewers"], VIEWERS);
    viewers[0].send_data(Kind::Terminal, 0, b"all-of-you\n")?;
    for viewer in &mut viewers {
        // The terminal's echo, and what the agent, which is cat, says.
        see(viewer, b"all-of-you\r\nall-of-you\r\n")?;
    }
    drop(viewers);
    until("the last viewer's end", || Ok((sandbox.status()?["init"]["viewers"] == 0).then_some(())))
}

#[test]
fn a_hundred_sandboxes_live_at_once_and_leave_nothing() -> anyhow::Result<()> {
    const SANDBOXES: usize = 100;
    const AT_A_TIME: usize = 8;
    let home = Home::new(Who::Myself)?;
    let project = home.project("project")?;
    let project = project.to_str().context("a path in UTF-8")?;
    let name = |number: usize| format!("box-{number:03}");
    let all: Vec<String> = (0..SANDBOXES).map(name).collect();
    let started = in_parallel(SANDBOXES, AT_A_TIME, |number| {
        home.run(["start", "--name", &name(number), "--env", "host", project, "--", "cat"])?.success()
    });
    let listed = home.run(["list", "--json"]).and_then(|output| output.success()?.json());
    // Whatever came of it, nothing is left running.
    let destroyed = in_parallel(SANDBOXES, AT_A_TIME, |number| {
        home.run(["destroy", "--force", &name(number)])?.success()
    });
    started?;
    let listed = listed?;
    let running: Vec<&str> = listed
        .as_array()
        .context("an array")?
        .iter()
        .filter(|sandbox| sandbox["state"] == "running" && sandbox["agent"]["pid"].is_u64())
        .filter_map(|sandbox| sandbox["name"].as_str())
        .collect();
    assert_eq!(running, all);
    destroyed?;
    assert_eq!(home.run(["list", "--json"])?.success()?.json()?, serde_json::json!([]));
    let left: Vec<_> =
        fs::read_dir(home.data().join("agents"))?.flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A double fork leaves an orphan to init, which reaps it and goes on serving.
#[test]
fn ten_thousand_orphans_leave_no_zombie_while_commands_run() -> anyhow::Result<()> {
    const ORPHANS: u64 = 10_000;
    let sandbox = Sandbox::builder().start()?;
    let caller = Caller::of(&sandbox);
    let init = Processes::of(&sandbox)?.init;
    let reaped = || -> anyhow::Result<u64> {
        sandbox.status()?["init"]["orphans_reaped"].as_u64().context("a number of orphans")
    };
    let before = reaped()?;
    let is_over = AtomicBool::new(false);
    let commands = thread::scope(|scope| {
        let commands = scope.spawn(|| -> anyhow::Result<usize> {
            let mut commands = 0;
            while !is_over.load(Ordering::Relaxed) {
                caller.succeed(&["true"], Stdio::Descriptors)?;
                commands += 1;
            }
            Ok(commands)
        });
        let storm = format!("i=0; while [ $i -lt {ORPHANS} ]; do ( : & ); i=$((i+1)); done");
        let storm = sandbox.sh(&storm).and_then(agent_tests::Output::success);
        is_over.store(true, Ordering::Relaxed);
        let commands = commands.join().ok().context("the thread that runs commands")??;
        storm.map(|_| commands)
    })?;
    ensure!(commands > 0, "no command ran meanwhile");
    until("the last orphan", || Ok((reaped()? - before >= ORPHANS).then_some(())))?;
    until("the last zombie's end", || Ok((init.zombies()? == 0).then_some(())))
}

/// Our two processes of a sandbox.
struct Processes {
    init: Process,
    monitor: Process,
}

/// One of them, as the host sees it.
struct Process {
    name: &'static str,
    pid: u64,
}

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Holding {
    /// Where we may count them: an ordinary user may not look at a process that cannot be inspected.
    descriptors: Option<usize>,
    threads: u64,
    memory_kb: u64,
}

impl Processes {
    fn of(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let status = sandbox.status()?;
        let process = |name: &'static str| -> anyhow::Result<Process> {
            let pid = status[name]["pid"].as_u64().with_context(|| format!("no {name} in {status}"))?;
            Ok(Process { name, pid })
        };
        Ok(Self { init: process("init")?, monitor: process("monitor")? })
    }

    fn both(&self) -> [&Process; 2] {
        [&self.init, &self.monitor]
    }

    /// How often each went to sleep and was interrupted.
    fn switches(&self) -> anyhow::Result<[u64; 2]> {
        Ok([self.init.switches()?, self.monitor.switches()?])
    }

    /// What each holds once it has done all that was asked.
    fn settled(&self) -> anyhow::Result<[Holding; 2]> {
        let mut before = self.switches()?;
        until("init and monitor at rest", || {
            let now = self.switches()?;
            Ok((std::mem::replace(&mut before, now) == now).then_some(()))
        })?;
        Ok([self.init.holding()?, self.monitor.holding()?])
    }
}

impl Process {
    fn field(&self, key: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}, {}", self.name))?;
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.split_whitespace().next())
            .with_context(|| format!("no {key} in {path}"))?;
        Ok(value.parse()?)
    }

    fn threads(&self) -> anyhow::Result<u64> {
        self.field("Threads")
    }

    fn switches(&self) -> anyhow::Result<u64> {
        // The involuntary ones are left out: being interrupted is no act of its own.
        self.field("voluntary_ctxt_switches")
    }

    fn holding(&self) -> anyhow::Result<Holding> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok().map(Iterator::count);
        Ok(Holding { descriptors, threads: self.threads()?, memory_kb: self.field("VmRSS")? })
    }

    /// Children that ended and were not waited for.
    fn zombies(&self) -> anyhow::Result<usize> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid))?;
        let is_zombie = |pid: &&str| {
            // One that is gone by now is none. The name in parentheses may hold anything.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        Ok(children.split_whitespace().filter(is_zombie).count())
    }
}

/// Calls init as the shim does, without a process for each call.
struct Caller {
    address: Address,
}

impl Caller {
    fn of(sandbox: &Sandbox) -> Self {
        let socket: PathBuf = sandbox.data().join("agents").join(sandbox.name()).join("control.sock");
        Self { address: Address::Unix(socket) }
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        let deadline = Instant::now() + deadline();
        Ok(Connection::open(Target::Address(&self.address), &Token::default(), deadline)?)
    }

    /// Runs a command, each time over a new connection.
    fn succeed(&self, argv: &[&str], stdio: Stdio) -> anyhow::Result<()> {
        let mut connection = self.connect()?;
        if stdio == Stdio::Descriptors {
            connection.expect_descriptors(2);
        }
        connection.request(&Request::Exec(ExecRequest {
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: Vec::new(),
            directory: None,
            user: None,
            stdin: false,
            stdio,
            timeout_ms: None,
        }))?;
        loop {
            match connection.recv("running a command", Some(Instant::now() + deadline()))? {
                Incoming::Data { .. } | Incoming::Message(ServerMessage::ExecStarted(_)) => {}
                Incoming::Message(ServerMessage::ExecExited(exited)) => {
                    ensure!(exited.exit.how == How::Code(0), "{argv:?}: {:?}", exited.exit);
                    return Ok(());
                }
                Incoming::Message(other) => bail!("{argv:?}: {other:?}"),
            }
        }
    }

    /// Becomes a viewer; the first one gets the lease.
    fn attach(&self) -> anyhow::Result<Connection> {
        let mut connection = self.connect()?;
        connection.request(&Request::Attach(AttachRequest {
            lease: LeaseWish::IfFree,
            size: Some(TerminalSize { columns: 80, rows: 24 }),
            from: AttachFrom::Screen,
        }))?;
        match connection.recv("attaching", Some(Instant::now() + deadline()))? {
            Incoming::Message(ServerMessage::Attached(_)) => Ok(connection),
            other => bail!("attaching: {other:?}"),
        }
    }
}

/// Waits until a viewer was shown this.
fn see(viewer: &mut Connection, what: &[u8]) -> anyhow::Result<()> {
    let deadline = Instant::now() + deadline();
    let mut seen = Vec::new();
    while !seen.windows(what.len()).any(|window| window == what) {
        match viewer.recv("watching", Some(deadline)) {
            Ok(Incoming::Data { bytes, .. }) => seen.extend_from_slice(bytes),
            Ok(Incoming::Message(_)) => {}
            Err(error) => {
                return Err(error).context(format!("what was seen: {:?}", String::from_utf8_lossy(&seen)));
            }
        }
    }
    Ok(())
}

/// Does something this many times, so many at once; the results are in order.
fn in_parallel<T: Send>(
    times: usize,
    at_once: usize,
    act: impl Fn(usize) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let mut results = thread::scope(|scope| {
        let work = || -> anyhow::Result<Vec<(usize, T)>> {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= times {
                    return Ok(done);
                }
                done.push((number, act(number)?));
            }
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().ok().context("a thread panicked")??);
        }
        anyhow::Ok(all)
    })?;
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Init raises its own limit so that its other bounds are what is reached first; what it starts is not to notice.
#[test]
fn commands_get_the_descriptor_limit_that_init_was_given() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let given = finish(sandbox.command("sh", ["-c", "ulimit -Sn; ulimit -Hn"]), b"")?.success()?.text();
    assert_eq!(sandbox.sh("ulimit -Sn; ulimit -Hn")?.success()?.text(), given);
    Ok(())
}

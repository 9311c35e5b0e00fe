//! Starts a sandbox through the isolation layer alone, with a store in it, and waits for its end.
//!
//! `isolated INIT FOLDER STORE AT VIEW -- AGENT...`
//!
//! FOLDER is the person's, with a `project` in it. VIEW is `whole`, `closure` for the names in FOLDER/closure, or
//! `nested`, which is the same for an agent that makes namespaces of its own. Init's output is this program's, and
//! FOLDER/control.sock reaches it. A line on standard error says what keeps the closure. With BARE in the environment there
//! is nothing of the host beside the store, as with tools that come from it.

use std::{
    env, fs,
    io::{Seek, Write},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent_protocol::spec::{Agent, Control, InitSpec, Listen, LogLevel, OnAgentExit, Restart, RestartPolicy};
use agent_shim::{
    env::{Environment, host},
    isolation::{
        Caller, Closure, Handles, Layer, Limits, MachineWishes, Mount, Network, PromisedFd, Request,
        StoreView, bwrap::Bubblewrap, plan::WORKSPACE,
    },
};
use anyhow::{Context, bail};

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("isolated: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &[String]) -> anyhow::Result<u8> {
    let [init, folder, store, at, view, dashes, agent @ ..] = args else { bail!("{args:?}") };
    anyhow::ensure!(dashes == "--", "{args:?}");
    let folder = Path::new(folder).canonicalize()?;
    for name in ["home", "tmp"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let view = StoreView::of(view, Path::new(store), &folder)?;
    let mut environment = match env::var_os("BARE") {
        Some(_) => Environment::default(),
        None => host::environment(Path::new("/"), &Network::None)?,
    };
    let mount = Mount::Store { source: store.into(), at: at.clone(), view };
    environment.mounts.push(mount);
    let variables = environment.variables.clone();
    let request = Request {
        name: "box".to_owned(),
        folder: folder.clone(),
        workspace: folder.join("project"),
        objects: Vec::new(),
        environment,
        mounts: Vec::new(),
        secrets: Vec::new(),
        hidden: Vec::new(),
        network: Network::None,
        nested_namespaces: args[4] == "nested",
        limits: Limits::default(),
        git: Path::new(init).with_file_name("agent-git"),
        init: init.into(),
        init_args: ["--spec-fd", "4"].map(str::to_owned).to_vec(),
        init_env: Vec::new(),
        fds: vec![PromisedFd { name: "control", number: 3 }, PromisedFd { name: "spec", number: 4 }],
        machine: MachineWishes::default(),
        caller: Caller::detect(&folder)?,
        dies_with_parent: true,
    };
    let layer = Bubblewrap::find("/usr/local/bin:/usr/bin:/bin".as_ref())?;
    let plan = layer.plan(&request)?;
    let spec = InitSpec {
        control: Some(Control { listen: Listen::Fd(3), token: None }),
        hardening: agent_protocol::spec::Hardening {
            nested_user_namespaces: request.nested_namespaces,
            ..Default::default()
        },
        readable: plan.readable.clone(),
        env: variables.into_iter().collect(),
        workdir: Some(WORKSPACE.to_owned()),
        agent: Some(Agent {
            argv: agent.to_vec(),
            restart: Restart { policy: RestartPolicy::Never, ..Restart::default() },
            ..Agent::default()
        }),
        on_agent_exit: OnAgentExit::End,
        linger_ms: 0,
        log_level: LogLevel::Warn,
        ..InitSpec::default()
    };
    let mut file = tempfile::tempfile_in(&folder)?;
    file.write_all(&serde_json::to_vec(&spec)?)?;
    file.rewind()?;
    let socket = folder.join("control.sock");
    if let Err(error) = fs::remove_file(&socket) {
        anyhow::ensure!(error.kind() == std::io::ErrorKind::NotFound, "{error}");
    }
    let listener = UnixListener::bind(&socket)?;
    let stdout = std::io::stdout();
    let stderr = std::io::stderr();
    let handles = Handles {
        promised: vec![("control", listener.into()), ("spec", OwnedFd::from(file))],
        stdout: rustix::io::dup(&stdout)?,
        stderr: rustix::io::dup(&stderr)?,
    };
    eprintln!("kept by {}", if plan.readable.is_empty() { "mounts" } else { "init" });
    let launched = layer.launch(&plan, handles)?;
    let pid = rustix::process::Pid::from_raw(launched.supervisor.id().pid);
    let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    let code = ended.and_then(|(_, status)| status.exit_status()).context("bwrap's exit code")?;
    launched.remains.clean()?;
    Ok(u8::try_from(code)?)
}

/// How a view is written on the command line.
trait Written: Sized {
    fn of(view: &str, store: &Path, folder: &Path) -> anyhow::Result<Self>;
}

impl Written for StoreView {
    fn of(view: &str, store: &Path, folder: &Path) -> anyhow::Result<Self> {
        if view == "whole" {
            return Ok(Self::Whole);
        }
        let names = fs::read_to_string(folder.join("closure")).context("reading the closure")?;
        let paths: Vec<PathBuf> = names.lines().map(|name| store.join(name)).collect();
        Ok(Self::Closure(Closure::new(store, paths)?))
    }
}

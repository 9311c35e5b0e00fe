//! What init is told: the record of a sandbox as an [`InitSpec`]. No I/O.

use std::collections::BTreeMap;

use agent_protocol::spec::{
    Agent, Control, Hardening, InitSpec, Limits, Listen, LogLevel, Restart, Terminal, Watch,
};

use super::{
    record::{DEFAULT_SYNC_IDLE_S, Record, SyncMode, Workspace, WorktreeRecord},
    start::Occasion,
};
use crate::isolation::plan::WORKSPACE;

/// The descriptor under which init finds its listening socket.
pub(crate) const CONTROL_FD: i32 = 3;

/// The spec for one start.
///
/// `variables` come from the environment the tools come from; nothing of the caller's own environment is in
/// them but the type of their terminal, and only what was asked for by `-e` and `--env-file` is added. Secrets are mounts and never here.
pub(crate) fn spec_for(
    record: &Record,
    variables: &[(String, String)],
    occasion: &Occasion,
    term: Option<&str>,
    max_processes: Option<u64>,
) -> InitSpec {
    let mut env: BTreeMap<String, String> = variables.iter().cloned().collect();
    env.extend(record.env.clone());
    let mut terminal = Terminal::default();
    if let Some(term) = record.env.get("TERM").map(String::as_str).or(term) {
        term.clone_into(&mut terminal.term);
    }
    if let Some(size) = occasion.size {
        terminal.cols = size.columns.max(1);
        terminal.rows = size.rows.max(1);
    }
    // Steps and services belong to the project, as the agent does.
    let folder = record.cloned.as_ref().and_then(|cloned| cloned.folder.as_ref());
    let folder = folder.map(|folder| format!("{WORKSPACE}/{folder}"));
    let (mut steps, mut services) = (record.steps.clone(), record.services.clone());
    let dirs = steps.iter_mut().map(|step| &mut step.workdir);
    for workdir in dirs.chain(services.iter_mut().map(|service| &mut service.workdir)) {
        *workdir = workdir.take().or_else(|| folder.clone());
    }
    let standing = record.command_without_prompt();
    let agents = record.worktrees.iter().map(|worktree| {
        let mut agent = session_of(record, worktree, &standing, terminal.clone());
        agent.env = agent_env(record, occasion);
        (worktree.branch.unit(), agent)
    });
    InitSpec {
        agents: agents.collect(),
        name: record.name.to_string(),
        control: Some(Control { listen: Listen::Fd(CONTROL_FD), token: None }),
        env,
        workdir: Some(WORKSPACE.to_owned()),
        // An endpoint has none.
        agent: (!record.command.is_empty()).then(|| Agent {
            argv: record.command.clone(),
            env: agent_env(record, occasion),
            workdir: folder,
            restart: Restart { policy: record.restart, ..Restart::default() },
            terminal: Some(terminal),
            ..Agent::default()
        }),
        hardening: Hardening { nested_user_namespaces: record.nested, ..Hardening::default() },
        on_agent_exit: record.on_agent_exit,
        steps,
        services,
        // Events are in the journal; what init prints goes into a file that nothing bounds but this.
        log_level: LogLevel::Warn,
        // Memory and processor time are the isolation layer's to bound, outside.
        limits: Limits { pids: max_processes, ..Limits::default() },
        watch: watch(record),
        ..InitSpec::default()
    }
}

/// What the monitor has to hear of, for what it does by itself.
fn watch(record: &Record) -> Option<Watch> {
    let sync = record.effective_sync();
    let repository = (sync == SyncMode::AutoCommit).then(|| WORKSPACE.to_owned());
    let takes_snapshots = record.workspace == Workspace::Clone && record.snapshots.is_on();
    let quiet_s = match sync {
        SyncMode::AutoIdle => Some(record.sync_idle_s),
        SyncMode::Manual | SyncMode::AutoCommit => takes_snapshots.then_some(DEFAULT_SYNC_IDLE_S),
    };
    (repository.is_some() || quiet_s.is_some())
        .then(|| Watch { repository, quiet_ms: quiet_s.map(|seconds| seconds * 1000) })
}

/// The session of a worktree, without the variables that it shares with the main agent. `standing` is what runs there
/// where nothing else was asked for.
pub(crate) fn session_of(
    record: &Record,
    worktree: &WorktreeRecord,
    standing: &[String],
    terminal: Terminal,
) -> Agent {
    // Where the project is a folder of a repository, that folder of the worktree.
    let folder = record.cloned.as_ref().and_then(|cloned| cloned.folder.as_ref());
    let path = worktree.branch.path();
    Agent {
        argv: worktree.command.clone().unwrap_or_else(|| standing.to_vec()),
        workdir: Some(folder.map_or_else(|| path.clone(), |folder| format!("{path}/{folder}"))),
        restart: Restart { policy: record.restart, ..Restart::default() },
        terminal: Some(terminal),
        ..Agent::default()
    }
}

/// What only the agents get: neither steps, services nor other commands see it.
fn agent_env(record: &Record, occasion: &Occasion) -> BTreeMap<String, String> {
    let mut env = record.agent.as_ref().map(|agent| agent.variables.clone()).unwrap_or_default();
    env.extend(occasion.private.reveal().clone());
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::record::{CloneRecord, SecretRecord};
    use agent_protocol::{
        message::TerminalSize,
        spec::{OnAgentExit, RestartPolicy},
    };
    use std::time::SystemTime;

    fn record() -> Record {
        let mut record = Record::new("web".parse().unwrap(), "/src/web".into(), SystemTime::UNIX_EPOCH);
        record.command = vec!["my-agent".to_owned(), "--flag".to_owned()];
        record.secrets = vec![SecretRecord { name: "API_KEY".to_owned(), file: "/keys/api".into() }];
        record
    }

    fn variables() -> Vec<(String, String)> {
        [("HOME", "/home/sandbox"), ("PATH", "/usr/bin:/bin")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn the_spec_of_a_plain_sandbox() {
        let spec = spec_for(&record(), &variables(), &Occasion::default(), None, None);
        spec.validate().unwrap();
        let json: serde_json::Value = serde_json::from_str(&spec.to_json()).unwrap();
        assert_eq!(json["name"], "web");
        assert_eq!(json["control"]["listen"]["fd"], 3);
        assert_eq!(json["workdir"], "/workspace");
        assert_eq!(json["agent"]["argv"], serde_json::json!(["my-agent", "--flag"]));
        assert_eq!(json["agent"]["terminal"]["term"], "xterm-256color");
        assert_eq!(json["env"], serde_json::json!({ "HOME": "/home/sandbox", "PATH": "/usr/bin:/bin" }));
    }

    #[test]
    fn each_worktree_has_the_agent_once_more_or_another_program() {
        let mut record = record();
        let other = Some(vec!["sh".to_owned()]);
        record.worktrees = [("a/b", None), ("a-b", other)]
            .map(|(branch, command)| WorktreeRecord { branch: branch.parse().unwrap(), command })
            .to_vec();
        let private = [("KEY".to_owned(), "k".to_owned())].into_iter().collect();
        let occasion = Occasion { private, ..Occasion::default() };
        let spec = spec_for(&record, &variables(), &occasion, None, None);
        spec.validate().unwrap();
        let [(same_unit, same), (other_unit, other)] = &spec.agents[..] else { panic!() };
        assert_eq!((same_unit.as_str(), other_unit.as_str()), ("worktree.a..b", "worktree.a-b"));
        assert_eq!(
            (same.argv.as_slice(), other.argv.as_slice()),
            (&record.command[..], &["sh".to_owned()][..])
        );
        assert_eq!(same.workdir.as_deref(), Some("/workspace/.worktrees/a/b"));
        assert_eq!((same.env["KEY"].as_str(), other.env["KEY"].as_str()), ("k", "k"));
        assert_eq!(same.restart.policy, record.restart);
        // A project that is a folder of its repository is that folder in each worktree.
        record.cloned = Some(CloneRecord { folder: Some("app".to_owned()), ..CloneRecord::default() });
        let spec = spec_for(&record, &variables(), &occasion, None, None);
        assert_eq!(spec.agents[0].1.workdir.as_deref(), Some("/workspace/.worktrees/a/b/app"));
        assert_eq!(spec.agent.unwrap().workdir.as_deref(), Some("/workspace/app"));
    }

    #[test]
    fn secrets_are_nowhere_in_it() {
        let json = spec_for(&record(), &variables(), &Occasion::default(), None, None).to_json();
        assert!(!json.contains("API_KEY") && !json.contains("/keys/api"), "{json}");
    }

    #[test]
    fn what_was_asked_for_is_passed_on() {
        let mut record = record();
        record.env = [("PATH", "/opt/bin"), ("TERM", "vt100")].map(|(k, v)| (k.into(), v.into())).into();
        record.restart = RestartPolicy::Always;
        record.on_agent_exit = OnAgentExit::End;
        let private = [("KEY".to_owned(), "k".to_owned())].into_iter().collect();
        let spec = spec_for(
            &record,
            &variables(),
            &Occasion { size: Some(TerminalSize { columns: 0, rows: 50 }), private, ..Occasion::default() },
            Some("linux"),
            Some(99),
        );
        spec.validate().unwrap();
        let agent = spec.agent.unwrap();
        // The agent's alone: steps, services and other commands have no use for its keys.
        assert_eq!((agent.env["KEY"].as_str(), spec.env.get("KEY")), ("k", None));
        let terminal = agent.terminal.unwrap();
        assert_eq!((terminal.cols, terminal.rows, terminal.term.as_str()), (1, 50, "vt100"));
        record.env.remove("TERM");
        let seen = spec_for(&record, &variables(), &Occasion::default(), Some("linux"), None)
            .agent
            .unwrap()
            .terminal
            .unwrap();
        assert_eq!(seen.term, "linux");
        assert_eq!(agent.restart.policy, RestartPolicy::Always);
        assert_eq!(spec.on_agent_exit, OnAgentExit::End);
        assert_eq!(spec.env["PATH"], "/opt/bin");
        assert_eq!(spec.limits.pids, Some(99));
    }
}

//! Every key there is: the one table that reading, `config show`, the variables and docs/configuration.md go by.

use std::fmt;

/// Something that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// As in a file; `nix.sets` is `sets` in the table `[nix]`.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds where nobody sets it.
    pub default: &'static str,
    /// The flag that sets it.
    pub flag: Option<&'static str>,
    /// Whether a project's file may set it.
    pub project: Project,
    /// What happens to what a lower layer says.
    pub merge: Merge,
    /// What it does.
    pub about: &'static str,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// A network, or the switch that it was.
    Network,
    /// Text.
    Text,
    /// A list of words, or one text with commas or spaces between them.
    Words,
    /// A list of texts, or one text.
    List,
    /// Text that is run by `sh -c`, or a list of the program and its arguments.
    Command,
    /// A size in bytes, such as `"2G"`.
    Size,
    /// A number.
    Number,
    /// A time such as `"90s"`, or a number of seconds.
    Time,
    /// A table of texts.
    Table,
    /// Tables of their own, with keys of their own.
    Tables,
}

/// Whether a project's file may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Project {
    /// Always.
    Free,
    /// Always where it narrows what the layers below say, otherwise with a person's consent.
    Narrowing,
    /// With a person's consent.
    Consent,
}

/// What a layer does to the one below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// It replaces it.
    Replaces,
    /// It adds to it.
    Adds,
    /// It adds to it, and replaces what has the same name.
    ByName,
}

/// What every variable of ours begins with.
pub const PREFIX: &str = "AGENT_SHIM_";

/// Variables of ours that are no setting.
pub const OTHER_VARIABLES: [&str; 2] = ["AGENT_SHIM_DATA", "AGENT_SHIM_INIT"];

use Kind::{Choice, Command, List, Network, Number, Size, Switch, Table, Tables, Text, Time, Words};
use Merge::{Adds, ByName, Replaces};
use Project::{Consent, Free, Narrowing};

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    flag: &'static str,
    rest: (Project, Merge),
    about: &'static str,
) -> Key {
    let flag = if flag.is_empty() { None } else { Some(flag) };
    Key { name, kind, default, flag, project: rest.0, merge: rest.1, about }
}

/// All of them, as they stand in the documentation.
#[rustfmt::skip] // A table.
pub const KEYS: &[Key] = &[
    key("isolation", Choice(&["bwrap", "oci", "microvm"]), "bwrap", "--isolation", (Narrowing, Replaces),
        "What keeps the sandbox apart from the host."),
    key("env", Choice(&["host", "nix"]), "nix if Nix is installed", "--env", (Narrowing, Replaces),
        "Where its tools come from."),
    key("workspace", Choice(&["bind", "clone"]), "clone of a git repository, otherwise bind", "--workspace", (Narrowing, Replaces),
        "How the project gets in: the folder itself, or a clone of the sandbox's own."),
    key("branch", Text, "what is checked out", "--branch", (Consent, Replaces),
        "The branch that is cloned."),
    key("all-branches", Switch, "false", "--all-branches", (Narrowing, Replaces),
        "Clone every branch and tag."),
    key("depth", Number, "all of them", "--depth", (Narrowing, Replaces),
        "Clone no more than so many of the last commits."),
    key("include-dirty", Switch, "false", "--include-dirty", (Narrowing, Replaces),
        "Take changes that are not committed along, as a commit on top."),
    key("clone-objects", Choice(&["copy", "reflink", "share"]), "copy", "--clone-objects", (Narrowing, Replaces),
        "How the clone gets its objects; all but `copy` show every object of the repository."),
    key("sync", Choice(&["manual", "auto-commit", "auto-idle"]), "manual", "--sync", (Free, Replaces),
        "When the agent's work is brought home: when you say so, at each commit, or when it has been quiet. For clones."),
    key("sync-idle", Time, "30s", "--sync-idle", (Free, Replaces),
        "How long it has to be quiet."),
    key("network", Network, "auto", "--network", (Narrowing, Replaces),
        "The network: the host's, none, one of its own behind the host's, or a device in a bridge. `auto` is `nat` for a machine and otherwise `host`; `true` is `auto` and `false` is `none`."),
    key("nested", Switch, "false", "--nested", (Narrowing, Replaces),
        "Programs inside may make user namespaces, as agents that sandbox their own tools must. `false` also keeps a machine from making machines, which it may where nobody says it."),
    key("vcpus", Number, "up to 4", "--vcpus", (Narrowing, Replaces),
        "How many processors a machine has."),
    key("kernel", Text, "the newest one found", "--kernel", (Consent, Replaces),
        "A machine's kernel: its image, or a folder with `boot` and `lib/modules` in it."),
    key("share", Choice(&["virtiofs", "9p"]), "virtiofs where it can be", "--share", (Free, Replaces),
        "How a machine reaches files of the host."),
    key("accel", Choice(&["auto", "kvm", "tcg"]), "auto", "--accel", (Narrowing, Replaces),
        "What carries out a machine's instructions: the processor by KVM, or a program, which is slower by far."),
    key("engine", Choice(&["crun", "runc", "podman", "docker"]), "the first one found that can do it", "--engine", (Consent, Replaces),
        "What runs a container. An image needs podman or docker."),
    key("image", Text, "none", "--image", (Consent, Replaces),
        "The image of a container, such as `docker.io/library/debian:12`."),
    key("store", Choice(&["whole", "closure"]), "closure", "--store", (Narrowing, Replaces),
        "What it sees of the Nix store."),
    key("restart", Choice(&["always", "on-failure", "never"]), "never for `run`, on-failure for `start`", "--restart", (Free, Replaces),
        "When the agent is started again after it ended."),
    key("agent", Text, "the preset's, with Nix", "--agent", (Free, Replaces),
        "The agent, by name. An agent and a command in a later layer replace both of an earlier one."),
    key("provider", Text, "the agent's own", "--provider", (Consent, Replaces),
        "Whose models the agent uses."),
    key("prompt", Text, "none", "--prompt", (Free, Replaces),
        "What the agent is to do first."),
    key("ask", Switch, "false", "--ask", (Narrowing, Replaces),
        "The agent asks before it does something, as it does outside."),
    key("agent-config", Choice(&["own", "copy", "read-only"]), "own", "--agent-config", (Narrowing, Replaces),
        "What of your own configuration of the agent gets in."),
    key("command", Command, "none", "--", (Free, Replaces),
        "The agent as a command. Beside `agent`, further arguments for it, a project's with consent."),
    key("mounts", List, "none", "--mount", (Consent, ByName),
        "Further files and folders of the host: `SRC:DST` or `SRC:DST:ro`. One at the same DST replaces another."),
    key("secrets", Table, "none", "--secret", (Consent, ByName),
        "Files that are provided as /run/secrets/NAME: `NAME = \"FILE\"`."),
    key("variables", Table, "none", "-e", (Consent, ByName),
        "Variables for everything inside."),
    key("env-files", List, "none", "--env-file", (Consent, Adds),
        "Files with variables, one `NAME=VALUE` a line, read when a sandbox is made. `variables` of the same layer win."),
    key("nix.preset", Text, "claude", "--nix-preset", (Free, Replaces),
        "Packages around an agent: claude, codex, gemini or opencode."),
    key("nix.sets", Words, "none", "--nix-sets", (Free, Adds),
        "Groups of packages, such as nodejs, python, go or rust."),
    key("nix.packages", Words, "none", "--nix-packages", (Free, Adds),
        "Packages of nixpkgs, such as jq or python312Packages.pip."),
    key("nix.exact", Switch, "false", "--image", (Free, Replaces),
        "These packages and sets, and no preset unless it is named here; what lower layers say of them is dropped."),
    key("nix.nixpkgs", Text, "a commit that came with agent-shim", "--nixpkgs", (Consent, Replaces),
        "Where packages come from: a folder, `COMMIT`, `COMMIT:sha256-HASH`, or a flake reference."),
    key("nix.unfree", Switch, "false", "--unfree", (Narrowing, Replaces),
        "Allow all packages under an unfree licence."),
    key("limits.memory", Size, "none", "--memory", (Narrowing, Replaces),
        "Most memory."),
    key("limits.cpus", Number, "none", "--cpus", (Narrowing, Replaces),
        "Most processors, such as 1.5."),
    key("limits.pids", Number, "none", "--pids", (Narrowing, Replaces),
        "Most processes and threads."),
    key("snapshots.every", Time, "1m", "--snapshot-every", (Free, Replaces),
        "Keep the work in progress this long after the last time, while something changes. `off` or 0: not by itself."),
    key("snapshots.ignored", Switch, "false", "--snapshot-ignored", (Free, Replaces),
        "Keep what git ignores as well."),
    key("snapshots.keep", Number, "50", "", (Free, Replaces),
        "Most snapshots of a worktree, 1 to 1000. Older ones are kept further and further apart."),
    key("snapshots.days", Number, "7", "", (Free, Replaces),
        "How long snapshots are kept, 1 to 365 days. The newest always is."),
    key("steps", Tables, "none", "", (Free, ByName),
        "Setup steps, in their order: see below."),
    key("services", Tables, "none", "", (Free, ByName),
        "Programs beside the agent: see below."),
    key("agents", Tables, "those built in", "", (Consent, ByName),
        "Agents of your own, or changes to those built in: see below."),
    key("providers", Tables, "those built in", "", (Consent, ByName),
        "Providers of your own, or changes to those built in: see below."),
];

/// Keys of a table of their own: name, what it is, what holds without it, what it does.
pub type UnitKey = (&'static str, &'static str, &'static str, &'static str);

const NAME: UnitKey = ("name", "text", "required", "Unique among steps and services.");
const RUN: UnitKey = ("command", "command", "required", "What is run.");
const VARIABLES: UnitKey = ("variables", "table of texts", "none", "Variables of its own.");
const WORKDIR: UnitKey = ("workdir", "text", "/workspace", "Where it starts; absolute, inside.");

/// Keys of a step.
#[rustfmt::skip] // A table.
pub const STEP_KEYS: &[UnitKey] = &[
    NAME, RUN, VARIABLES, WORKDIR,
    ("timeout", "time", "30m", "It is killed, and has failed, after this long."),
];

/// Keys of a service.
#[rustfmt::skip] // A table.
pub const SERVICE_KEYS: &[UnitKey] = &[
    NAME, RUN, VARIABLES, WORKDIR,
    ("after", "list of texts", "none", "Services that must have been ready once before this one starts."),
    ("restart", "`always`, `on-failure`, `never`, or a table", "on-failure", "When it is started again."),
    ("readiness", "`none`, `first-output`, `notify`, or a table with `delay` or `command`", "none", "When it counts as ready."),
    ("ready-timeout", "time", "1m", "It is killed, and has failed, if it is not ready by then; 0 for never."),
    ("health", "table", "none", "A command that asks whether it still works."),
    ("watchdog", "time", "0", "It must send `WATCHDOG=1` at least this often; 0 for never."),
    ("stop", "table", "SIGTERM, then 10s", "How it is told to stop."),
];

/// Keys of `restart` as a table.
#[rustfmt::skip] // A table.
pub const RESTART_KEYS: &[UnitKey] = &[
    ("policy", "`always`, `on-failure`, `never`", "on-failure", "After which ends."),
    ("backoff", "table", "", "The wait before: `initial` (100ms), `max` (30s), `factor` (2), `jitter-percent` (10)."),
    ("stable", "time", "10s", "A run at least this long forgets the failures before it."),
    ("fast-fail", "table", "", "When to give up: `count` (3) ends in a row, `within` (10s)."),
];

/// Keys of `backoff`.
pub const BACKOFF_KEYS: &[&str] = &["initial", "max", "factor", "jitter-percent"];
/// Keys of `fast-fail`.
pub const FAST_FAIL_KEYS: &[&str] = &["count", "within"];
/// Keys of `readiness` as a table.
#[rustfmt::skip] // A table.
pub const READINESS_KEYS: &[UnitKey] = &[
    ("delay", "time", "", "Ready when it has run this long. Alone."),
    ("command", "command", "", "Ready when this succeeds."),
    ("interval", "time", "250ms", "From one result of the command to the next try."),
    ("timeout", "time", "5s", "A try that takes longer is killed and has failed."),
];
/// Keys of `health`.
#[rustfmt::skip] // A table.
pub const HEALTH_KEYS: &[UnitKey] = &[
    ("command", "command", "required", "It succeeds while all is well."),
    ("interval", "time", "30s", "From one result to the next try."),
    ("timeout", "time", "5s", "A try that takes longer is killed and has failed."),
    ("retries", "number", "3", "So many failures in a row, and the service is stopped as failed."),
    ("start-delay", "time", "0", "From ready to the first try."),
];
/// Keys of `stop`.
#[rustfmt::skip] // A table.
pub const STOP_KEYS: &[UnitKey] = &[
    ("signal", "text", "SIGTERM", "What its process group gets first."),
    ("hangup", "true or false", "false", "SIGHUP too, half a second later."),
    ("grace", "time", "10s", "How long it may take before SIGKILL."),
];

impl Key {
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace(['.', '-'], "_").to_uppercase())
    }
}

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                f.write_str(&words.join(", "))
            }
            Switch => f.write_str("true or false"),
            Network => f.write_str("`auto`, `host`, `none`, `nat`, `bridge=NAME`, or true or false"),
            Text => f.write_str("text"),
            Words => f.write_str("list of words"),
            List => f.write_str("list of texts"),
            Command => f.write_str("command"),
            Size => f.write_str("size"),
            Number => f.write_str("number"),
            Time => f.write_str("time"),
            Table => f.write_str("table of texts"),
            Tables => f.write_str("tables"),
        }
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Free => "yes",
            Narrowing => "to narrow",
            Consent => "with consent",
        })
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Replaces => "replaces",
            Adds => "adds",
            ByName => "by name",
        })
    }
}

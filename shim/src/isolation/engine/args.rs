//! A plan as the command line of an engine. No I/O.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::error::EngineError;
use super::{Engine, HANDOVER, PLACE, host_user, launcher};
use crate::isolation::limits::Limits;
use crate::isolation::plan::{
    Access, Caller, Container, HOME, LaunchPlan, Mount, Network, Origin, StoreView, USER,
};
use crate::isolation::shown;
use crate::isolation::sources::Staged;
use crate::terminal::{quote::quoted, sanitize::sanitized};

/// How many ids there are inside.
const IDS_INSIDE: u32 = 0x1_0000;

/// A command line, and what root puts in place for it.
#[derive(Debug)]
pub(super) struct Rendered<'a> {
    pub(super) args: Vec<OsString>,
    pub(super) staged: Vec<Staged<'a>>,
}

/// Whether every path can be said to the engine.
pub(super) fn check(plan: &LaunchPlan) -> Result<(), EngineError> {
    let Some(container) = &plan.container else { return Ok(()) };
    let sources = plan.mounts.iter().filter_map(|mount| match mount {
        Mount::Bind { source, .. } | Mount::Store { source, .. } => Some(source.to_string_lossy()),
        _ => None,
    });
    let places = plan.mounts.iter().map(|mount| mount.at().into());
    let odd = |path: &std::borrow::Cow<'_, str>| {
        path.contains([',', '"', ':']) || path.chars().any(char::is_control)
    };
    match sources.chain(places).find(odd) {
        Some(path) => Err(EngineError::OddPath { engine: container.engine, path: path.into_owned() }),
        None => Ok(()),
    }
}

/// What makes the container `name`. A plan without a container has no command line.
pub(super) fn render<'a>(plan: &'a LaunchPlan, name: &str) -> Rendered<'a> {
    let mut rendered = Rendered { args: Vec::new(), staged: Vec::new() };
    let Some(container) = &plan.container else { return rendered };
    let mut args: Vec<OsString> =
        ["run", "--detach", "--pull=never", "--no-healthcheck", "--log-driver=none", "--restart=no"]
            .map(Into::into)
            .into();
    let mut add = |option: String| args.push(option.into());
    add(format!("--name={name}"));
    add(format!("--label=agent-shim.sandbox={}", container.name));
    add(format!("--hostname={}", plan.hostname));
    // Init gives up the same by itself; an engine that does it earlier leaves less to be wrong.
    add("--cap-drop=all".to_owned());
    add("--security-opt=no-new-privileges".to_owned());
    // A label would keep the container from what it is shown, and from the launcher.
    add("--security-opt=label=disable".to_owned());
    let hidden = container.engine.differences().hide_cgroups.map(str::to_owned);
    for option in hidden
        .into_iter()
        .chain(user(plan.caller, container))
        .chain(network(plan, container))
        .chain(limits(plan, &container.limits))
    {
        add(option);
    }
    for (name, value) in &plan.env {
        add(format!("--env={name}={value}"));
    }
    add("--workdir=/".to_owned());
    add(format!("--entrypoint={}", plan.command[0]));
    let place = plan.folder.join(PLACE).join(launcher::FOLDER);
    args.push(bind(&place, HANDOVER, Access::ReadOnly, container.engine));
    for mount in &plan.mounts {
        let options = rendered.mount(plan, mount, container.engine);
        args.extend(options);
    }
    // By its id: the name may mean another image by now.
    args.push(container.id.clone().into());
    args.extend(plan.command[1..].iter().map(Into::into));
    rendered.args = args;
    rendered
}

/// Who runs inside, and as whom on the host.
fn user(caller: Caller, container: &Container) -> Vec<String> {
    let user = container.user;
    let mut options = match (container.engine.differences().maps_ids, caller) {
        (false, _) => {
            let group = rustix::process::getegid().as_raw();
            return vec![format!("--user={}:{group}", host_user(caller))];
        }
        (true, Caller::Ordinary) => vec![format!("--userns=keep-id:uid={user},gid={user}")],
        // One piece: engines that show an image under other owners without a copy can do that with no other map. The ids
        // around the sandbox's own are those of files alone, for nothing inside can change who it is.
        (true, Caller::Root { runs_as }) => {
            let first = runs_as - user;
            ["uidmap", "gidmap"].map(|map| format!("--{map}=0:{first}:{IDS_INSIDE}")).into()
        }
    };
    options.push(format!("--user={user}:{user}"));
    if container.engine.differences().names_user {
        options.push(format!("--passwd-entry={USER}:*:{user}:{user}:{USER}:{HOME}:/bin/sh"));
    }
    options
}

fn network(plan: &LaunchPlan, container: &Container) -> Option<String> {
    let name = match plan.namespaces.network {
        Network::None => Some("none"),
        Network::Host => Some("host"),
        // An engine is asked for no bridge: it has none that it knows of.
        Network::Nat | Network::Bridge(_) => container.engine.differences().nat,
    };
    name.map(|name| format!("--network={name}"))
}

fn limits(plan: &LaunchPlan, limits: &Limits) -> Vec<String> {
    let Limits { memory_bytes, milli_cpus, pids } = *limits;
    let mut options = Vec::new();
    if let Some(bytes) = memory_bytes {
        // Swap included, as on every layer.
        options.extend([format!("--memory={bytes}"), format!("--memory-swap={bytes}")]);
    }
    if let Some(milli) = milli_cpus {
        options.push(format!("--cpus={}.{:03}", milli / 1000, milli % 1000));
    }
    if let Some(pids) = pids.filter(|_| plan.limits.init_max_processes.is_none()) {
        options.push(format!("--pids-limit={pids}"));
    }
    options
}

impl<'a> Rendered<'a> {
    fn mount(&mut self, plan: &LaunchPlan, mount: &'a Mount, engine: Engine) -> Vec<OsString> {
        match mount {
            Mount::Bind { source, at, access, origin } => {
                let source = match (plan.caller, origin) {
                    (Caller::Root { .. }, Origin::Caller) => self.stage(plan, source, *access),
                    _ => source.clone(),
                };
                vec![bind(&source, at, *access, engine)]
            }
            Mount::Store { source, at, view: StoreView::Whole } => {
                vec![bind(source, at, Access::ReadOnly, engine)]
            }
            Mount::Store { source, at, view: StoreView::Closure(closure) } => {
                let names = closure.names().iter();
                names
                    .map(|name| bind(&source.join(name), &format!("{at}/{name}"), Access::ReadOnly, engine))
                    .collect()
            }
            Mount::Tmpfs { at, size_bytes, mode } => {
                let cover = engine.differences().cover;
                vec![format!("--tmpfs={at}:{cover},size={size_bytes},mode={mode:o}").into()]
            }
            // Those are the image's, or the engine's.
            Mount::Proc { .. }
            | Mount::Dev { .. }
            | Mount::Dir { .. }
            | Mount::Symlink { .. }
            | Mount::File { .. }
            | Mount::Seal { .. } => Vec::new(),
        }
    }

    /// Where root puts it so that it belongs to the sandbox's id.
    fn stage(&mut self, plan: &LaunchPlan, source: &'a Path, access: Access) -> PathBuf {
        let at = plan.folder.join(PLACE).join(self.staged.len().to_string());
        self.staged.push(Staged { source, access, is_store: false, at: at.clone() });
        at
    }
}

/// What is read-only is shown without what is mounted in it: engines make the uppermost mount read-only and no other.
fn bind(source: &Path, at: &str, access: Access, engine: Engine) -> OsString {
    let mut option = OsString::from("--mount=type=bind,source=");
    option.push(source);
    option.push(format!(",target={at}"));
    if access == Access::ReadOnly {
        option.push(match engine {
            Engine::Podman => ",readonly,bind-nonrecursive=true",
            Engine::Docker => ",readonly,bind-recursive=disabled",
        });
    }
    option
}

/// The command that a person would type, and as comments what has to be there for it.
pub(super) fn to_shell(plan: &LaunchPlan) -> String {
    let Some(container) = &plan.container else { return String::new() };
    let mut out = String::new();
    let rendered = render(plan, &container.name);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# the image is {}", sanitized(&container.image));
    for fd in &plan.fds {
        let _ = writeln!(out, "# descriptor {} comes over {HANDOVER}: {}", fd.number, fd.name);
    }
    if let Caller::Root { runs_as } = plan.caller {
        let _ = writeln!(out, "# in a mount namespace in which, with its owner shown as {runs_as},");
        for staged in &rendered.staged {
            let _ = writeln!(out, "#   {} is {}", shown::path(&staged.at), shown::path(staged.source));
        }
    }
    let _ = write!(out, "{}", quoted(plan.program.as_os_str().as_encoded_bytes()));
    for arg in &rendered.args {
        let arg = arg.as_encoded_bytes();
        out.push_str(if arg.starts_with(b"--") && arg != b"--handover" { " \\\n  " } else { " " });
        out.push_str(&quoted(arg));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::limits::LimitPlan;
    use crate::isolation::plan::{INIT, Namespaces, PromisedFd};

    fn plan(engine: Engine, caller: Caller) -> LaunchPlan {
        LaunchPlan {
            layer: "oci",
            program: format!("/usr/bin/{}", engine.name()).into(),
            hostname: "web".to_owned(),
            folder: "/data/agents/web".into(),
            caller,
            mounts: vec![
                Mount::given("/data/agents/web/home", HOME, Access::ReadWrite),
                Mount::given("/src/web", "/workspace", Access::ReadWrite),
                Mount::given("/keys", "/mnt/keys", Access::ReadOnly),
                Mount::Tmpfs { at: "/workspace/state".to_owned(), size_bytes: 4096, mode: 0o555 },
            ],
            readable: Vec::new(),
            namespaces: Namespaces { network: Network::None, nested: false },
            env: Vec::new(),
            fds: vec![PromisedFd { name: "control", number: 3 }],
            command: [INIT, "--handover", "/run/agent/handover/socket"].map(str::to_owned).into(),
            limits: LimitPlan::default(),
            machine: None,
            container: Some(Container {
                engine,
                image: "debian:12".to_owned(),
                id: "sha256:abc".to_owned(),
                name: "agent-shim-web-1".to_owned(),
                user: 1000,
                variables: Vec::new(),
                limits: Limits { memory_bytes: Some(1 << 20), milli_cpus: Some(1500), pids: Some(99) },
            }),
            dies_with_parent: false,
        }
    }

    fn words(plan: &LaunchPlan) -> Vec<String> {
        render(plan, "n").args.iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    const COMMON: [&str; 14] = [
        "--pull=never",
        "--name=n",
        "--label=agent-shim.sandbox=agent-shim-web-1",
        "--hostname=web",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--memory=1048576",
        "--memory-swap=1048576",
        "--cpus=1.500",
        "--pids-limit=99",
        "--entrypoint=/run/agent/init",
        "--workdir=/",
        "--log-driver=none",
    ];

    #[test]
    fn each_engine_is_told_the_same_in_its_own_words() {
        for engine in [Engine::Podman, Engine::Docker] {
            let words = words(&plan(engine, Caller::Ordinary));
            for word in COMMON {
                assert!(words.iter().any(|found| found == word), "{word} is not in {words:?}");
            }
            assert_eq!(words[words.len() - 3..], ["sha256:abc", "--handover", "/run/agent/handover/socket"]);
            assert!(words.contains(&"--mount=type=bind,source=/src/web,target=/workspace".to_owned()));
        }
        let podman = words(&plan(Engine::Podman, Caller::Ordinary));
        assert!(podman.contains(&"--userns=keep-id:uid=1000,gid=1000".to_owned()));
        assert!(podman.iter().any(|word| word.ends_with("target=/mnt/keys,readonly,bind-nonrecursive=true")));
        assert!(podman.contains(&"--tmpfs=/workspace/state:ro,notmpcopyup,size=4096,mode=555".to_owned()));
        let docker = words(&plan(Engine::Docker, Caller::Ordinary));
        let own = format!("--user={}:", rustix::process::geteuid().as_raw());
        assert!(
            docker.iter().any(|word| word.starts_with(&own))
                && !docker.iter().any(|word| word.contains("keep-id"))
        );
        assert!(
            docker.iter().any(|word| word.ends_with("target=/mnt/keys,readonly,bind-recursive=disabled"))
        );
    }

    #[test]
    fn for_root_the_user_inside_is_the_sandboxes_id_on_the_host() {
        let plan = plan(Engine::Podman, Caller::Root { runs_as: 0x7a00_0007 });
        let words = words(&plan);
        let maps: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("--uidmap=")).collect();
        assert_eq!(maps, ["0:2046819359:65536"]);
        assert!(
            words
                .contains(&"--mount=type=bind,source=/data/agents/web/engine/1,target=/workspace".to_owned())
        );
        assert_eq!(render(&plan, "n").staged[1].source, Path::new("/src/web"));
    }

    #[test]
    fn networks_have_the_engines_names() {
        let named = |engine, network| {
            let mut plan = plan(engine, Caller::Ordinary);
            plan.namespaces.network = network;
            words(&plan).into_iter().find(|word| word.starts_with("--network"))
        };
        assert_eq!(named(Engine::Podman, Network::Host).as_deref(), Some("--network=host"));
        assert_eq!(named(Engine::Podman, Network::Nat), None);
        assert_eq!(named(Engine::Docker, Network::Nat).as_deref(), Some("--network=bridge"));
    }

    #[test]
    fn a_path_that_an_engine_would_misread_is_refused() {
        for (source, at) in
            [("/a,readonly", "/x"), ("/a", "/x,source=/"), ("/a\"b", "/x"), ("/a:b", "/x"), ("/a\nb", "/x")]
        {
            let mut plan = plan(Engine::Podman, Caller::Ordinary);
            assert!(check(&plan).is_ok());
            plan.mounts.push(Mount::given(source, at, Access::ReadOnly));
            assert!(check(&plan).is_err(), "{source} {at}");
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let shown = to_shell(&plan(Engine::Docker, Caller::Ordinary));
        assert!(shown.starts_with("# the image is debian:12\n# descriptor 3 comes over"), "{shown}");
        assert!(shown.contains("/usr/bin/docker run \\\n  --detach"), "{shown}");
    }
}

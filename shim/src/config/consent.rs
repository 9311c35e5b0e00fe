//! What a project's file may not do by itself: whatever opens the sandbox further than the layers below it do.
//!
//! The agent can write that file. So narrowing is free, as is what happens inside anyway (packages, commands, steps), and
//! all else is asked of a person, once for this content. Paths are part of what they agree to as they are, links followed: a
//! folder of the project that becomes a link to somewhere else is another question.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    error::ConfigError,
    load::ProjectFile,
    origin::{Origin, Sourced},
    settings::{LimitSettings, NixSettings, Settings, Variable},
};
use crate::{
    env::pin::Nixpkgs,
    isolation::{Accelerator, Network, NetworkChoice},
    sandbox::record::{AgentConfig, CloneObjects, Engine, EnvKind, Isolation, Store, Workspace},
};

/// What a person is asked to agree to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// One by one, in the order of the keys.
    pub asks: Vec<Ask>,
    /// Every path of this machine in it, and where it leads.
    pub paths: BTreeMap<PathBuf, PathBuf>,
}

/// One thing that a project's file wants and may not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The key that says it.
    pub key: &'static str,
    /// What it means, as the end of "it wants to".
    pub words: String,
    /// Where it stands.
    pub origin: Origin,
}

/// What needs consent in a project's file, given what the layers below it say.
pub fn request(project: &ProjectFile, below: &Settings) -> Result<Option<Request>, ConfigError> {
    let folder = project.path.parent().unwrap_or(Path::new("/"));
    let mut asking = Asking { request: Request::default(), folder };
    asking.settings(&project.settings, below)?;
    Ok(Some(asking.request).filter(|request| !request.asks.is_empty()))
}

/// Puts the paths that were agreed to in place of those that lead there.
pub(super) fn pin(settings: &mut Settings, paths: &BTreeMap<PathBuf, PathBuf>) {
    let pin = |path: &mut PathBuf| {
        if let Some(agreed) = paths.get(path) {
            path.clone_from(agreed);
        }
    };
    settings.mounts.iter_mut().for_each(|mount| pin(&mut mount.value.source));
    settings.secrets.values_mut().for_each(|file| pin(&mut file.value));
    settings.kernel.iter_mut().for_each(|kernel| pin(&mut kernel.value));
    for variable in &mut settings.variables {
        if let Variable::File(file) = &mut variable.value {
            pin(file);
        }
    }
}

struct Asking<'a> {
    request: Request,
    /// The project's.
    folder: &'a Path,
}

impl Asking<'_> {
    fn ask(&mut self, key: &'static str, origin: &Origin, words: impl Into<String>) {
        self.request.asks.push(Ask { key, words: words.into(), origin: origin.clone() });
    }

    /// Asks if this was said, and `opens` more than what holds below.
    fn unless_narrower<T>(
        &mut self,
        key: &'static str,
        said: Option<&Sourced<T>>,
        opens: impl FnOnce(&T) -> bool,
        words: impl FnOnce(&T) -> String,
    ) {
        if let Some(Sourced { value, origin }) = said.filter(|said| opens(&said.value)) {
            self.ask(key, origin, words(value));
        }
    }

    /// Where a path leads, to be shown and to be held to.
    fn resolved(&mut self, path: &Path, origin: &Origin) -> Result<String, ConfigError> {
        let there = path.canonicalize().map_err(|error| {
            ConfigError::failed(format!("{origin}: cannot use {}", path.display())).because(error)
        })?;
        let words = if there == path {
            there.display().to_string()
        } else {
            format!("{} (which is {})", path.display(), there.display())
        };
        self.request.paths.insert(path.to_owned(), there);
        Ok(words)
    }

    fn settings(&mut self, project: &Settings, below: &Settings) -> Result<(), ConfigError> {
        // Each by its name, so that none can be added and forgotten here.
        let Settings {
            isolation,
            env,
            workspace,
            branch,
            all_branches,
            depth,
            include_dirty,
            clone_objects,
            // What comes home is checked, lies in refs of its own and changes nothing of the person's.
            sync: _,
            sync_idle: _,
            network,
            nested,
            vcpus,
            kernel,
            // Both show the same files.
            share: _,
            accel,
            engine,
            image,
            store,
            restart: _,
            agent,
            provider,
            prompt: _,
            ask,
            agent_config,
            command,
            mounts,
            secrets,
            variables,
            nix,
            limits,
            // Kept inside, and bounded there.
            snapshots: _,
            steps: _,
            services: _,
            agents,
            providers,
        } = project;
        let is_on = |below: &Option<Sourced<bool>>| below.as_ref().is_some_and(|below| below.value);

        let openness = value(below.isolation.as_ref()).copied().map_or(0, isolation_openness);
        self.unless_narrower(
            "isolation",
            isolation.as_ref(),
            |isolation| isolation_openness(*isolation) > openness,
            |_| "be kept apart from this machine less than usual".to_owned(),
        );
        self.unless_narrower(
            "env",
            env.as_ref(),
            |env| *env == EnvKind::Host && value(below.env.as_ref()) != Some(env),
            |_| "see this machine's own programs in /usr".to_owned(),
        );
        let openness = value(below.workspace.as_ref()).copied().map_or(0, workspace_openness);
        self.unless_narrower(
            "workspace",
            workspace.as_ref(),
            |workspace| workspace_openness(*workspace) > openness,
            |_| "change the project's folder itself".to_owned(),
        );
        let chosen = value(below.branch.as_ref());
        self.unless_narrower(
            "branch",
            branch.as_ref(),
            |branch| Some(branch) != chosen,
            |branch| format!("see the branch `{branch}`, whatever is checked out"),
        );
        let has = is_on(&below.all_branches);
        let words = |_: &bool| "see every branch and tag of the repository".to_owned();
        self.unless_narrower("all-branches", all_branches.as_ref(), |on| *on && !has, words);
        let deepest = value(below.depth.as_ref()).copied();
        self.unless_narrower(
            "depth",
            depth.as_ref(),
            |depth| deepest.is_some_and(|deepest| *depth > deepest),
            |depth| format!("see {depth} commits, more than you allow"),
        );
        let has = is_on(&below.include_dirty);
        let words = |_: &bool| "see changes and files that you have not committed".to_owned();
        self.unless_narrower("include-dirty", include_dirty.as_ref(), |on| *on && !has, words);
        let openness = value(below.clone_objects.as_ref()).copied().map_or(0, objects_openness);
        self.unless_narrower(
            "clone-objects",
            clone_objects.as_ref(),
            |objects| objects_openness(*objects) > openness,
            |_| "see every object of the repository, also those of other branches".to_owned(),
        );
        let usual = value(below.isolation.as_ref()).copied().unwrap_or_default();
        let here = value(isolation.as_ref()).copied().unwrap_or(usual);
        let has = resolved_network(value(below.network.as_ref()), usual);
        self.unless_narrower(
            "network",
            network.as_ref(),
            |network| network_opens(&resolved_network(Some(network), here), &has),
            |network| match resolved_network(Some(network), here) {
                Network::Bridge(name) => format!("be in the network of the bridge `{name}` of this machine"),
                Network::Nat => "reach what this machine's network reaches".to_owned(),
                Network::None | Network::Host => "share this machine's network".to_owned(),
            },
        );
        let has = is_on(&below.nested);
        let words = |_: &bool| {
            "let programs inside make user namespaces, which opens much of the kernel to them".to_owned()
        };
        self.unless_narrower("nested", nested.as_ref(), |on| *on && !has, words);
        let most = value(below.vcpus.as_ref()).copied();
        self.unless_narrower(
            "vcpus",
            vcpus.as_ref(),
            |vcpus| most.is_some_and(|most| *vcpus > most),
            |vcpus| format!("have {vcpus} processors, more than you allow"),
        );
        if let Some(kernel) =
            kernel.as_ref().filter(|kernel| Some(&kernel.value) != value(below.kernel.as_ref()))
        {
            let source = self.resolved(&kernel.value, &kernel.origin)?;
            self.ask("kernel", &kernel.origin, format!("boot its machine with the kernel {source}"));
        }
        let has = value(below.accel.as_ref()).is_none_or(|accel| *accel != Accelerator::Tcg);
        let words = |_: &Accelerator| "run its machine by KVM, a part of this machine's kernel".to_owned();
        self.unless_narrower("accel", accel.as_ref(), |accel| *accel != Accelerator::Tcg && !has, words);
        let chosen = value(below.engine.as_ref());
        let words = |engine: &Engine| format!("be run by {} on this machine", json!(engine));
        self.unless_narrower("engine", engine.as_ref(), |engine| Some(engine) != chosen, words);
        let chosen = value(below.image.as_ref());
        let words = |image: &String| format!("have the image `{image}` fetched and unpacked on this machine");
        self.unless_narrower("image", image.as_ref(), |image| Some(image) != chosen, words);
        let has = value(below.store.as_ref()) == Some(&Store::Whole);
        let words = |_: &Store| "see the whole Nix store of this machine".to_owned();
        self.unless_narrower("store", store.as_ref(), |store| *store == Store::Whole && !has, words);
        let chosen = value(below.provider.as_ref());
        self.unless_narrower(
            "provider",
            provider.as_ref(),
            |provider| Some(provider) != chosen,
            |provider| format!("use the models, and your key, of the provider `{provider}`"),
        );
        let asks = is_on(&below.ask);
        let words = |_: &bool| "let the agent act without asking".to_owned();
        self.unless_narrower("ask", ask.as_ref(), |ask| !*ask && asks, words);
        let given = value(below.agent_config.as_ref()).copied().unwrap_or_default();
        self.unless_narrower(
            "agent-config",
            agent_config.as_ref(),
            |config| *config != AgentConfig::Own && *config != given,
            |_| "see your own configuration of the agent, and your login".to_owned(),
        );
        // A command of its own gets no keys. An agent does, and its arguments say whom it sends them to, and whether it asks.
        if let (Some(agent), Some(arguments)) = (agent, command) {
            let words = format!("give the agent `{}` the arguments {}", agent.value, json!(arguments.value));
            self.ask("command", &arguments.origin, words);
        }
        for mount in mounts {
            let source = self.resolved(&mount.value.source, &mount.origin)?;
            let access = if mount.value.read_only { "read" } else { "read and change" };
            self.ask("mounts", &mount.origin, format!("{access} {source}, as {}", mount.value.at));
        }
        for (name, file) in secrets {
            let source = self.resolved(&file.value, &file.origin)?;
            self.ask("secrets", &file.origin, format!("read {source}, as the secret `{name}`"));
        }
        for variable in variables {
            match &variable.value {
                Variable::Pair(name, value) => {
                    let words = format!("set the variable {name} to `{value}`");
                    self.ask("variables", &variable.origin, words);
                }
                Variable::File(file) => {
                    let source = self.resolved(file, &variable.origin)?;
                    self.ask("env-files", &variable.origin, format!("set the variables in {source}"));
                }
            }
        }
        self.nix(nix, &below.nix);
        self.limits(limits, &below.limits);
        // Programs, keys and addresses in their own words: each of them can matter.
        for (name, agent) in agents {
            let words = format!("say what the agent `{name}` is: {}", json!(agent.value));
            self.ask("agents", &agent.origin, words);
        }
        for (name, provider) in providers {
            let words = format!("say what the provider `{name}` is: {}", json!(provider.value));
            self.ask("providers", &provider.origin, words);
        }
        Ok(())
    }

    fn nix(&mut self, project: &NixSettings, below: &NixSettings) {
        let NixSettings { preset: _, sets: _, packages: _, exact: _, nixpkgs, unfree } = project;
        if let Some(nixpkgs) = nixpkgs
            && below.nixpkgs.as_ref().is_none_or(|below| below.value != nixpkgs.value)
        {
            // Expressions are more than data: they read files while they are evaluated, and building what they say runs
            // what they say, outside.
            let changes = match &nixpkgs.value {
                Nixpkgs::Path(path) if path.starts_with(self.folder) => ", which the agent can change",
                _ => "",
            };
            let words = format!(
                "have Nix on this machine do whatever {} says{changes}, which can read your files",
                nixpkgs.value
            );
            if let Nixpkgs::Path(path) = &nixpkgs.value {
                self.request.paths.insert(path.clone(), path.clone());
            }
            self.ask("nix.nixpkgs", &nixpkgs.origin, words);
        }
        let has = below.unfree.as_ref().is_some_and(|unfree| unfree.value);
        let words = |_: &bool| "use packages under any unfree licence".to_owned();
        self.unless_narrower("nix.unfree", unfree.as_ref(), |on| *on && !has, words);
    }

    fn limits(&mut self, project: &LimitSettings, below: &LimitSettings) {
        fn above<T: PartialOrd + Copy>(below: Option<&Sourced<T>>) -> impl Fn(&T) -> bool {
            let limit = below.map(|below| below.value);
            move |wanted| limit.is_some_and(|limit| *wanted > limit)
        }
        let LimitSettings { memory, cpus, pids } = project;
        self.unless_narrower("limits.memory", memory.as_ref(), above(below.memory.as_ref()), |bytes| {
            format!("use {bytes} bytes of memory, more than you allow")
        });
        self.unless_narrower("limits.cpus", cpus.as_ref(), above(below.cpus.as_ref()), |milli| {
            format!("use {} processors, more than you allow", f64::from(*milli) / 1000.0)
        });
        self.unless_narrower("limits.pids", pids.as_ref(), above(below.pids.as_ref()), |pids| {
            format!("run {pids} processes, more than you allow")
        });
    }
}

fn value<T>(below: Option<&Sourced<T>>) -> Option<&T> {
    below.map(|below| &below.value)
}

/// The network that a choice is on a layer. One that the layer does not have is refused later.
fn resolved_network(choice: Option<&NetworkChoice>, isolation: Isolation) -> Network {
    let choice = choice.cloned().unwrap_or_default();
    choice.on(isolation.capabilities()).unwrap_or(match choice {
        NetworkChoice::Only(network) => network,
        NetworkChoice::Auto => Network::Host,
    })
}

/// Whether a network reaches what another one does not.
fn network_opens(network: &Network, below: &Network) -> bool {
    match (network, below) {
        // Each bridge is another network.
        (Network::Bridge(network), Network::Bridge(below)) => network != below,
        _ => network_openness(network) > network_openness(below),
    }
}

/// Higher is more open.
fn network_openness(network: &Network) -> u8 {
    match network {
        Network::None => 0,
        Network::Nat => 1,
        Network::Bridge(_) => 2,
        Network::Host => 3,
    }
}

/// Higher is more open.
fn isolation_openness(isolation: Isolation) -> u8 {
    // A kernel of its own stands between what runs inside and the host's.
    u8::from(isolation.capabilities().shares_kernel)
}

/// Higher is more open.
fn workspace_openness(workspace: Workspace) -> u8 {
    match workspace {
        Workspace::Clone => 0,
        Workspace::Bind => 1,
    }
}

/// Higher is more open.
fn objects_openness(objects: CloneObjects) -> u8 {
    match objects {
        CloneObjects::Copy => 0,
        CloneObjects::Reflink | CloneObjects::Share => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        read,
        schema::{KEYS, Project},
        testing::{project, user},
    };

    fn asks_below(text: &str, below: &str) -> Vec<Ask> {
        let file = ProjectFile {
            path: "/p/agent-shim.toml".into(),
            sha256: String::new(),
            settings: read::file(&project(text)).unwrap(),
        };
        let below = read::file(&user(below)).unwrap().over(Settings::defaults());
        request(&file, &below).unwrap().unwrap_or_default().asks
    }

    fn asked(text: &str, below: &str) -> Vec<&'static str> {
        asks_below(text, below).iter().map(|ask| ask.key).collect()
    }

    /// For each key: a value in a project's file, and what the person's file says.
    const WIDER: [(&str, &str, &str); 38] = [
        ("workspace", "workspace = \"bind\"", ""),
        ("branch", "branch = \"b\"", ""),
        ("branch", "branch = \"b\"", "branch = \"a\""),
        ("all-branches", "all-branches = true", ""),
        ("depth", "depth = 2", "depth = 1"),
        ("include-dirty", "include-dirty = true", ""),
        ("clone-objects", "clone-objects = \"share\"", "clone-objects = \"copy\""),
        ("env", "env = \"host\"", ""),
        ("network", "network = true", "network = false"),
        ("network", "network = \"nat\"", "network = \"none\""),
        ("network", "network = \"host\"", "network = \"nat\""),
        ("network", "network = \"bridge=br0\"", "network = \"nat\""),
        ("network", "network = \"bridge=br0\"", "isolation = \"microvm\""),
        ("network", "network = \"bridge=br0\"", "network = \"bridge=br1\""),
        ("vcpus", "vcpus = 5", "vcpus = 4"),
        ("kernel", "kernel = \"/etc/passwd\"", ""),
        ("accel", "accel = \"auto\"", "accel = \"tcg\""),
        ("engine", "engine = \"docker\"", ""),
        ("image", "image = \"debian:12\"", ""),
        ("image", "image = \"debian:12\"", "image = \"debian:11\""),
        ("nested", "nested = true", ""),
        ("store", "store = \"whole\"", "store = \"closure\""),
        ("provider", "provider = \"mine\"", ""),
        ("ask", "ask = false", "ask = true"),
        ("agent-config", "agent-config = \"copy\"", ""),
        ("agent-config", "agent-config = \"read-only\"", ""),
        ("command", "agent = \"claude\"\ncommand = [\"--dangerously-skip-permissions\"]", "ask = true"),
        ("mounts", "mounts = [\"/etc:/host-etc:ro\"]", ""),
        ("secrets", "[secrets]\nkey = \"/etc/passwd\"", ""),
        ("variables", "[variables]\nANTHROPIC_BASE_URL = \"http://evil\"", ""),
        ("env-files", "env-files = [\"/etc/passwd\"]", ""),
        ("nix.nixpkgs", "[nix]\nnixpkgs = \"github:evil/nixpkgs\"", ""),
        ("nix.unfree", "[nix]\nunfree = true", ""),
        ("limits.memory", "[limits]\nmemory = \"2G\"", "[limits]\nmemory = \"1G\""),
        ("limits.cpus", "[limits]\ncpus = 2", "[limits]\ncpus = 1.5"),
        ("limits.pids", "[limits]\npids = 10", "[limits]\npids = 9"),
        ("agents", "[agents.claude]\ncommand = [\"evil\"]", ""),
        ("providers", "[providers.anthropic]\nurl = \"http://evil\"", ""),
    ];

    /// The same keys where they ask for no more than there is.
    const NARROWER: [(&str, &str); 34] = [
        ("isolation = \"bwrap\"", ""),
        ("workspace = \"clone\"", ""),
        ("workspace = \"bind\"", "workspace = \"bind\""),
        ("branch = \"b\"", "branch = \"b\""),
        ("all-branches = false", "all-branches = true"),
        ("depth = 1", ""),
        ("depth = 1", "depth = 2"),
        ("include-dirty = false", ""),
        ("clone-objects = \"copy\"", "clone-objects = \"share\""),
        ("clone-objects = \"share\"", "clone-objects = \"reflink\""),
        ("env = \"nix\"", "env = \"host\""),
        ("env = \"host\"", "env = \"host\""),
        ("network = false", ""),
        ("network = true", ""),
        ("network = \"nat\"", ""),
        ("network = \"bridge=br0\"", ""),
        ("network = \"nat\"", "network = \"bridge=br0\""),
        ("network = \"nat\"", "isolation = \"microvm\""),
        ("isolation = \"microvm\"\nnetwork = true", ""),
        ("vcpus = 64", ""),
        ("vcpus = 3", "vcpus = 4"),
        ("kernel = \"/etc/passwd\"", "kernel = \"/etc/passwd\""),
        ("accel = \"kvm\"", ""),
        ("engine = \"podman\"\nimage = \"a\"", "engine = \"podman\"\nimage = \"a\""),
        ("nested = false", "nested = true"),
        ("nested = true", "nested = true"),
        ("store = \"closure\"", ""),
        ("ask = true", ""),
        ("agent-config = \"own\"", "agent-config = \"copy\""),
        ("provider = \"mine\"", "provider = \"mine\""),
        ("[nix]\nunfree = false", "[nix]\nunfree = true"),
        ("[limits]\nmemory = \"2G\"\ncpus = 2\npids = 10", ""),
        ("[limits]\nmemory = \"2G\"\ncpus = 2\npids = 10", "[limits]\nmemory = \"2G\"\ncpus = 2\npids = 10"),
        ("[nix]\nnixpkgs = \"github:a/b\"", "[nix]\nnixpkgs = \"github:a/b\""),
    ];

    #[test]
    fn whatever_widens_is_asked_each_by_itself() {
        for (key, text, below) in WIDER {
            assert_eq!(asked(text, below), [key], "{text}");
        }
        // One value is all there is of these.
        let alone = ["isolation"];
        for key in KEYS.iter().filter(|key| key.project != Project::Free && !alone.contains(&key.name)) {
            assert!(WIDER.iter().any(|(known, ..)| *known == key.name), "{} is tried", key.name);
        }
    }

    #[test]
    fn narrowing_is_free() {
        for (text, below) in NARROWER {
            assert_eq!(asked(text, below), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_happens_inside_is_free() {
        let text = r#"
            prompt = "fix it"
            restart = "always"
            share = "9p"
            command = ["build", "--fast"]
            sync = "auto-idle"
            sync-idle = "10s"
            [nix]
            preset = "codex"
            sets = ["go"]
            packages = ["jq"]
            exact = true
            [snapshots]
            every = "off"
            ignored = true
            keep = 10
            days = 1
            [[steps]]
            name = "install"
            command = "make"
            [[services]]
            name = "db"
            command = "db"
        "#;
        let agent = text.replace("command = [\"build\", \"--fast\"]", "agent = \"codex\"");
        assert_eq!((asked(text, ""), asked(&agent, "")), (vec![], vec![]));
        for key in KEYS.iter().filter(|key| key.project == Project::Free) {
            let name = key.name.rsplit('.').next().unwrap();
            assert!(text.contains(name) || agent.contains(name), "{} is tried", key.name);
        }
    }

    #[test]
    fn a_question_says_where_a_path_leads() {
        let asks = asks_below("mounts = [\"/proc/self/../../etc:/x\"]", "");
        assert_eq!(asks[0].words, "read and change /proc/self/../../etc (which is /etc), as /x");
        let text = "[agents.mine]\nkeys = [\"AWS_SECRET_ACCESS_KEY\"]";
        assert!(asks_below(text, "")[0].words.contains("AWS_SECRET_ACCESS_KEY"));
    }
}

//! Agents that are known by name: what they are started with, what of the person's they get, and what they do not.
//!
//! The agents here are scripts under the names of real ones, in a folder that is mounted: each writes down what it was given.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use agent_tests::{Home, Output, finish, until};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// Writes arguments and variables into the project, and stays.
const AGENT: &str = r#"#!/bin/sh
{ for word in "$@"; do printf 'arg %s\n' "$word"; done; env | sed 's/^/env /'; } > /workspace/.seen
mv /workspace/.seen /workspace/seen
exec cat
"#;

const KEY: &str = "sk-the-key-that-must-not-leak";

/// A person with a project, and with agents that are seen inside.
struct Scene {
    home: Home,
}

impl Scene {
    fn new(who: agent_tests::Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        home.project("project")?;
        home.project("tools")?;
        for agent in ["claude", "codex", "gemini", "opencode"] {
            home.program(&format!("tools/{agent}"), AGENT)?;
        }
        Ok(Self { home })
    }

    /// A file below the person's home folder.
    fn own(&self, path: &str, content: &str) -> anyhow::Result<PathBuf> {
        let mut folder = PathBuf::from("home");
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            self.home.project(folder.to_str().context("text")?)?;
        }
        self.home.file(&format!("home/{path}"), content.as_bytes())
    }

    /// `agent-shim start FLAGS --name web project`, with these variables.
    fn start(&self, variables: &[(&str, &str)], flags: &[&str]) -> anyhow::Result<Output> {
        let tools = format!("{}/tools:/opt/tools:ro", self.home.path().display());
        let words = ["start", "--env", "host", "--name", "web", "--mount", &tools];
        let path = ["-e", "PATH=/opt/tools:/usr/local/bin:/usr/bin:/bin"];
        let mut shim = self.home.shim(words.iter().chain(&path).chain(flags).chain(&["project"]));
        shim.envs(variables.iter().copied());
        drop(fs::remove_file(self.home.path().join("project/seen")));
        finish(shim, b"")
    }

    /// Starts the sandbox that is there.
    fn again(&self, variables: &[(&str, &str)], flags: &[&str]) -> anyhow::Result<Output> {
        let mut shim = self.home.shim(["start", "web"].iter().chain(flags));
        shim.envs(variables.iter().copied());
        drop(fs::remove_file(self.home.path().join("project/seen")));
        finish(shim, b"")
    }

    /// What the agent wrote down.
    fn seen(&self) -> anyhow::Result<Seen> {
        let file = self.home.path().join("project/seen");
        until("the agent's first act", || Ok(file.exists().then_some(())))?;
        Ok(Seen(fs::read_to_string(file)?))
    }

    fn inside(&self, script: &str) -> anyhow::Result<Output> {
        self.home.run(["exec", "web", "--", "sh", "-c", script])
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.home.run(["stop", "--force", "web"])?.success().map(drop)
    }

    fn sandbox(&self) -> PathBuf {
        self.home.data().join("agents/web")
    }
}

struct Seen(String);

impl Seen {
    fn arguments(&self) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix("arg ")).collect()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix("env ")?.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The files below a folder that hold these bytes.
fn holding(folder: &Path, bytes: &str) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().ok();
            if kind.is_some_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if kind.is_some_and(|kind| kind.is_file())
                && fs::read(entry.path())
                    .is_ok_and(|content| String::from_utf8_lossy(&content).contains(bytes))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn an_agent_starts_without_questions_and_with_its_prompt() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene
            .start(&[("GEMINI_API_KEY", KEY)], &["-a", "gemini", "--prompt=-x y", "--no-network"])?
            .success()?;
        let seen = scene.seen()?;
        ensure!(seen.arguments() == ["--yolo", "--prompt-interactive=-x y"], "{}", seen.0);
        ensure!(seen.variable("GEMINI_CLI_TRUST_WORKSPACE") == Some("true"), "{}", seen.0);
        let settings = scene.inside("cat ~/.gemini/settings.json")?.success()?.json()?;
        ensure!(
            settings == json!({ "security": { "auth": { "selectedType": "gemini-api-key" } } }),
            "{settings}"
        );
        scene.stop()?;

        // Asked for, its own questions stay; and further arguments come along.
        scene
            .again(&[("GEMINI_API_KEY", KEY)], &["-a", "gemini", "--ask", "--prompt", "z", "--", "--debug"])?
            .success()?;
        let seen = scene.seen()?;
        ensure!(seen.arguments() == ["--debug", "--prompt-interactive=z"], "{}", seen.0);
        ensure!(seen.variable("GEMINI_CLI_TRUST_WORKSPACE").is_none(), "{}", seen.0);
        scene.stop()?;

        // What it was to do first is not to be done again.
        scene.again(&[("GEMINI_API_KEY", KEY)], &[])?.success()?;
        let seen = scene.seen()?;
        ensure!(seen.arguments() == ["--debug"], "{}", seen.0);
    }
    Ok(())
}

#[test]
fn a_key_reaches_the_agent_and_nothing_else() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        // All processes of the machine are looked at, and those of other tests have a key too.
        let key = format!("sk-of-this-test-alone-{}", std::process::id());
        let key = key.as_str();
        let variables = [("ANTHROPIC_API_KEY", key), ("GITHUB_TOKEN", "ghp-also-secret")];
        let output = scene.start(&variables, &["-a", "claude"])?.success()?;
        output
            .complains("`claude` gets ANTHROPIC_API_KEY of your environment, for the provider `anthropic`")?;
        let seen = scene.seen()?;
        // Under a name about which it does not ask.
        ensure!(seen.variable("CLAUDE_API_KEY") == Some(key), "{}", seen.0);
        ensure!(
            seen.variable("ANTHROPIC_API_KEY").is_none() && seen.variable("GITHUB_TOKEN").is_none(),
            "{}",
            seen.0
        );
        fs::remove_file(scene.home.path().join("project/seen"))?;

        let other = scene.inside("env")?.success()?.text();
        ensure!(!other.contains(key) && !other.contains("CLAUDE_API_KEY"), "{other}");
        let on_disk = holding(scene.home.path(), key);
        ensure!(on_disk.is_empty(), "{on_disk:?}");
        for words in [&["status", "web", "--json"][..], &["start", "web", "-n"], &["events", "web", "--json"]]
        {
            let output = scene.home.run(words)?;
            ensure!(!output.text().contains(key) && !output.errors().contains(key), "{output}");
        }
        // Nor does a process of ours show it: the monitor, the layer, init.
        for process in fs::read_dir("/proc")?.flatten() {
            let read = |file: &str| {
                let bytes = fs::read(process.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let line = read("cmdline");
            let program = line.split('\0').next().unwrap_or_default();
            let is_ours = ["agent-shim", "bwrap", "crun", "init", "qemu-system-x86_64"]
                .iter()
                .any(|name| program.ends_with(name));
            let shown = line.contains(key) || (is_ours && read("environ").contains(key));
            ensure!(!shown, "{line}");
        }
    }
    Ok(())
}

#[test]
fn a_launch_that_is_shown_names_the_key_and_no_more() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    let output =
        scene.start(&[("OPENROUTER_API_KEY", KEY)], &["-a", "claude", "-p", "openrouter", "-n", "--json"])?;
    let output = output.success()?;
    ensure!(!output.text().contains(KEY) && !output.errors().contains(KEY), "{output}");
    let shown = output.json()?;
    let agent = &shown["spec"]["agent"];
    ensure!(agent["env"]["ANTHROPIC_AUTH_TOKEN"] == "(not shown)", "{agent:#}");
    ensure!(agent["env"]["ANTHROPIC_BASE_URL"] == "https://openrouter.ai/api", "{agent:#}");
    ensure!(
        shown["spec"]["env"].as_object().is_some_and(|env| !env.contains_key("ANTHROPIC_AUTH_TOKEN")),
        "{shown:#}"
    );
    ensure!(shown["record"]["agent"]["keys"] == json!(["ANTHROPIC_AUTH_TOKEN"]), "{shown:#}");
    let list = scene.home.run(["list", "--json"])?.success()?.json()?;
    ensure!(list == json!([]), "{list:#}");
    Ok(())
}

#[test]
fn what_is_missing_is_said_before_anything_is_made() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        let key = [("OPENAI_API_KEY", KEY)];
        scene.start(&key, &["-a", "codx"])?.exits(64)?.complains("did you mean `codex`?")?;
        scene.start(&key, &["-a", "codex", "-p", "opnai"])?.exits(64)?.complains("did you mean `openai`?")?;
        scene
            .start(&key, &["-a", "codex", "-p", "gemini"])?
            .exits(64)?
            .complains("this agent is served by ollama, openai")?;
        let output = scene.start(&[], &["-a", "codex", "-p", "openai"])?.exits(4)?;
        output
            .complains("OPENAI_API_KEY, or CODEX_API_KEY is not set")?
            .complains("--secret OPENAI_API_KEY=FILE")?;
        // Without a provider too, where nobody could log in.
        scene.start(&[], &["-a", "codex"])?.exits(4)?.complains("there is no login in ~/.codex/auth.json")?;
        scene.own(".codex/auth.json", "{}")?;
        scene.start(&[], &["-a", "codex"])?.exits(4)?.complains("`--agent-config copy` takes it along")?;
        fs::remove_file(scene.home.path().join("tools/codex"))?;
        scene
            .start(&key, &["-a", "codex"])?
            .exits(3)?
            .complains("there is no `codex`")?
            .complains("npm install -g")?;
        // In the terminal of `run` a missing program has the shell's code.
        let mut run = scene.home.shim(["run", "--env", "host", "-a", "codex", "project"]);
        run.env("OPENAI_API_KEY", KEY);
        finish(run, b"")?.exits(127)?.complains("there is no `codex`")?;
        let list = scene.home.run(["list", "--json"])?.success()?.json()?;
        ensure!(list == json!([]), "{list:#}");
        ensure!(holding(scene.home.path(), KEY).is_empty());
    }
    Ok(())
}

#[test]
fn a_script_whose_interpreter_is_not_inside_is_told_as_that() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    fs::remove_file(scene.home.path().join("tools/gemini"))?;
    scene.home.program("tools/gemini", "#!/usr/bin/env no-such-node\n")?;
    let output = scene.start(&[("GEMINI_API_KEY", KEY)], &["-a", "gemini"])?.exits(3)?;
    output.complains("/opt/tools/gemini needs `no-such-node`, which is not in the environment")?;
    Ok(())
}

#[test]
fn a_key_can_come_from_a_file_and_is_fetched_at_each_start() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        let file = scene.home.file("key", b"first\n")?;
        let secret = format!("OPENAI_API_KEY={}", file.display());
        scene.start(&[], &["-a", "opencode", "-p", "openai", "--secret", &secret])?.success()?;
        ensure!(scene.seen()?.variable("OPENAI_API_KEY") == Some("first"), "{}", scene.seen()?.0);
        let record: Value = serde_json::from_slice(&fs::read(scene.sandbox().join("sandbox.json"))?)?;
        ensure!(!record.to_string().contains("first"), "{record:#}");
        scene.stop()?;
        fs::write(&file, "second")?;
        scene.again(&[], &[])?.success()?;
        ensure!(scene.seen()?.variable("OPENAI_API_KEY") == Some("second"), "{}", scene.seen()?.0);
        scene.stop()?;
        fs::write(&file, "\n")?;
        scene.again(&[], &[])?.exits(3)?.complains("it is empty")?;
        // The sandbox is as it was.
        let status = scene.home.run(["status", "web", "--json"])?.success()?.json()?;
        ensure!(status["state"] == "stopped" && status["starts"] == 2, "{status:#}");
    }
    Ok(())
}

#[test]
fn by_default_nothing_of_the_persons_configuration_enters() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.own(".claude/CLAUDE.md", "my rules")?;
        scene.own(".claude/.credentials.json", KEY)?;
        scene.start(&[("ANTHROPIC_API_KEY", "x")], &["-a", "claude"])?.success()?;
        let files = scene.inside("cd; find . -type f")?.success()?.text();
        ensure!(files == "./.claude.json", "{files}");
        let trusted = scene.inside("cat ~/.claude.json")?.success()?.json()?;
        ensure!(trusted["projects"]["/workspace"]["hasTrustDialogAccepted"] == true, "{trusted:#}");
    }
    Ok(())
}

#[test]
fn a_copy_is_made_once_and_is_the_agents_own_from_then_on() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.own(".claude/.credentials.json", "login")?;
        scene.own(".claude/CLAUDE.md", "my rules")?;
        scene.own(".claude/skills/deep/SKILL.md", "a skill")?;
        scene.own(".claude/history.jsonl", "what I did elsewhere")?;
        scene.own(".claude.json", r#"{ "theme": "light", "projects": { "/secret/project": {} } }"#)?;
        symlink("/etc/passwd", scene.home.path().join("home/.claude/skills/out"))?;
        let output = scene.start(&[], &["-a", "claude", "--agent-config", "copy"])?.success()?;
        let output = output.complains("skills/out")?;
        ensure!(output.errors().contains("it leads out of the folder"), "{output}");
        let files = scene.inside("cd; find . -type f | sort")?.success()?.text();
        let expected = "./.claude.json\n./.claude/.credentials.json\n./.claude/CLAUDE.md\n./.claude/skills/deep/SKILL.md";
        ensure!(files == expected, "{files}");
        let state = scene.inside("cat ~/.claude.json")?.success()?.json()?;
        ensure!(state["theme"] == "light" && state["hasCompletedOnboarding"] == true, "{state:#}");
        ensure!(!state.to_string().contains("/secret/project"), "{state:#}");
        // It can write them, and nobody else can read them.
        scene
            .inside("cd ~/.claude && echo mine > CLAUDE.md && test $(stat -c %a .credentials.json) = 600")?
            .success()?;
        scene.stop()?;
        // The login is the sandbox's own now, and an agent may do with its home what it likes.
        scene.own(".claude/CLAUDE.md", "new rules")?;
        scene.again(&[], &[])?.success()?.complains("`--fresh` copies it again")?;
        ensure!(scene.inside("cat ~/.claude/CLAUDE.md")?.text() == "mine");
        scene.inside("cd; rm -r .claude; mkdir /tmp/x; ln -s /etc .claude")?.success()?;
        scene.stop()?;
        scene.again(&[], &["--fresh"])?.success()?;
        ensure!(scene.inside("cat ~/.claude/CLAUDE.md")?.text() == "new rules");
        ensure!(fs::read_to_string(scene.home.path().join("home/.claude/CLAUDE.md"))? == "new rules");
    }
    Ok(())
}

#[test]
fn what_is_mounted_follows_the_person_and_cannot_be_written() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.own(".codex/auth.json", "login")?;
        let rules = scene.own(".codex/AGENTS.md", "one")?;
        scene.own(".codex/prompts/fix.md", "fix it")?;
        scene.own(".codex/history.jsonl", "what I did elsewhere")?;
        let output = scene.start(&[], &["-a", "codex", "--agent-config", "read-only"])?.success()?;
        output.complains(
            "copied, because the agent replaces what cannot be replaced under a mount: ~/.codex/auth.json",
        )?;
        let files = scene.inside("cd; find .codex -type f | sort")?.success()?.text();
        ensure!(files == ".codex/AGENTS.md\n.codex/auth.json\n.codex/prompts/fix.md", "{files}");
        fs::write(&rules, "two")?;
        ensure!(scene.inside("cat ~/.codex/AGENTS.md")?.text() == "two");
        let refused =
            scene.inside("echo x > ~/.codex/AGENTS.md; touch ~/.codex/prompts/new; rm ~/.codex/AGENTS.md")?;
        ensure!(refused.code() != 0 && fs::read_to_string(&rules)? == "two", "{refused}");
        // A login that is renewed is written to a new file and moved over the old one.
        scene
            .inside("cd ~/.codex && echo new > auth.new && mv auth.new auth.json && echo x > own.toml")?
            .success()?;
        scene.stop()?;
        scene.again(&[], &[])?.success()?;
        let kept = scene.inside("cat ~/.codex/auth.json ~/.codex/AGENTS.md")?.success()?.text();
        ensure!(kept == "new\ntwo", "{kept}");
        scene.stop()?;
        // A link that the agent left where a mount is to be is not followed.
        fs::remove_file(scene.sandbox().join("home/.codex/AGENTS.md"))?;
        symlink(scene.home.path().join("project/planted"), scene.sandbox().join("home/.codex/AGENTS.md"))?;
        scene.again(&[], &[])?.exits(3)?.complains("is a symbolic link")?;
        ensure!(!scene.home.path().join("project/planted").exists());
    }
    Ok(())
}

#[test]
fn too_much_configuration_leaves_no_sandbox_behind() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    scene.own(".codex/auth.json", "login")?;
    let large = scene.own(".codex/prompts/large", "")?;
    fs::OpenOptions::new().write(true).open(large)?.set_len(33 * 1024 * 1024)?;
    let output = scene.start(&[], &["-a", "codex", "--agent-config", "copy"])?.exits(3)?;
    output.complains("more than 33554432 bytes")?.complains("--agent-config own")?;
    ensure!(scene.home.run(["list", "--json"])?.success()?.json()? == json!([]));
    Ok(())
}

#[test]
fn the_list_says_what_is_found_and_shows_no_value() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    scene.own(".codex/auth.json", "login")?;
    let list = |words: &[&str]| {
        let mut shim = scene.home.shim(words);
        shim.env("OPENROUTER_API_KEY", KEY).env("ANTHROPIC_API_KEY", KEY);
        finish(shim, b"")?.success()
    };
    let view = list(&["agents", "--json"])?.json()?;
    ensure!(view["agents"]["claude"]["found"]["keys"] == json!(["ANTHROPIC_API_KEY"]), "{view:#}");
    ensure!(view["agents"]["codex"]["found"]["login"] == ".codex/auth.json", "{view:#}");
    ensure!(view["providers"]["openrouter"]["found"]["keys"] == json!(["OPENROUTER_API_KEY"]), "{view:#}");
    ensure!(view["providers"]["bedrock"]["missing"] == json!(["AWS_REGION"]), "{view:#}");
    let text = list(&["agents"])?.text();
    ensure!(!view.to_string().contains(KEY) && !text.contains(KEY), "{text}");
    for word in
        ["AGENT", "claude", "~/.codex/auth.json", "PROVIDER", "ANTHROPIC_AUTH_TOKEN + ANTHROPIC_BASE_URL"]
    {
        ensure!(text.contains(word), "{word}: {text}");
    }
    Ok(())
}

#[test]
fn an_agent_of_ones_own_comes_from_the_configuration() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::new(*who)?;
        scene.home.program("tools/my-agent", AGENT)?;
        scene.own(
            ".config/agent-shim/config.toml",
            r#"
            [agents.mine]
            command = ["my-agent", "--always"]
            no-prompt = ["--yes"]
            prompt = { flag = "--message" }
            keys = ["MY_KEY"]
            variables = { MY_MODE = "quiet" }
            config = [".mine/rules"]
            [agents.claude]
            no-prompt = ["--permission-mode", "auto"]
            [providers.house]
            url = "http://house"
            keys = ["HOUSE_KEY"]
            agents.mine = { variables = { MY_URL = "{url}/v1" }, with.HOUSE_KEY.name = "MY_KEY" }
            agents.claude.with.HOUSE_KEY.name = "ANTHROPIC_AUTH_TOKEN"
            "#,
        )?;
        scene.own(".mine/rules", "be kind")?;
        let key = [("HOUSE_KEY", KEY)];
        let flags = ["-a", "mine", "-p", "house", "--prompt", "do it", "--agent-config", "copy"];
        scene.start(&key, &flags)?.success()?;
        let seen = scene.seen()?;
        ensure!(seen.arguments() == ["--always", "--yes", "--message", "do it"], "{}", seen.0);
        ensure!(
            seen.variable("MY_URL") == Some("http://house/v1") && seen.variable("MY_KEY") == Some(KEY),
            "{}",
            seen.0
        );
        ensure!(
            seen.variable("MY_MODE") == Some("quiet") && seen.variable("HOUSE_KEY").is_none(),
            "{}",
            seen.0
        );
        ensure!(scene.inside("cat ~/.mine/rules")?.text() == "be kind");
        scene.stop()?;
        // What a sandbox was made with stays, whatever becomes of the file.
        scene.own(".config/agent-shim/config.toml", "")?;
        scene.again(&key, &[])?.success()?;
        ensure!(scene.seen()?.arguments() == ["--always", "--yes"], "{}", scene.seen()?.0);
    }
    Ok(())
}

#[test]
fn the_persons_own_agents_are_listed_and_meant_by_what_is_nearly_their_name() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    let own =
        "[agents.aider]\ncommand = ['sh']\nkeys = ['A', ['B', 'C']]\n[providers.house]\nagents.aider = {}\n";
    scene.own(".config/agent-shim/config.toml", own)?;
    let view = scene.home.run(["agents", "--json"])?.success()?.json()?;
    ensure!(view["agents"]["aider"]["keys"] == json!([["A"], ["B", "C"]]), "{view:#}");
    ensure!(
        view["agents"]["aider"]["program"].is_string()
            && view["agents"]["aider"]["providers"] == json!(["house"])
    );
    ensure!(view["agents"]["claude"]["preset"] == "claude", "{view:#}");
    scene.start(&[], &["-a", "aidr"])?.exits(64)?.complains("did you mean `aider`?")?;
    scene.start(&[], &["-a", "aider", "-p", "huse"])?.exits(64)?.complains("did you mean `house`?")?;
    Ok(())
}

#[test]
fn steps_and_services_do_not_get_the_agents_keys() -> anyhow::Result<()> {
    let scene = Scene::new(Home::everyone()[0])?;
    let own = r#"
        [[steps]]
        name = "look"
        command = ["sh", "-c", "env > /workspace/step"]
        [[services]]
        name = "watch"
        command = ["sh", "-c", "env > /workspace/service; exec cat"]
    "#;
    scene.own(".config/agent-shim/config.toml", own)?;
    scene.start(&[("OPENAI_API_KEY", KEY)], &["-a", "opencode", "-p", "openai"])?.success()?;
    ensure!(scene.seen()?.variable("OPENAI_API_KEY") == Some(KEY));
    for unit in ["step", "service"] {
        let file = scene.home.path().join("project").join(unit);
        let seen = until(unit, || Ok(fs::read_to_string(&file).ok().filter(|text| text.contains("PATH="))))?;
        ensure!(!seen.contains(KEY) && !seen.contains("OPENCODE_"), "{seen}");
    }
    Ok(())
}

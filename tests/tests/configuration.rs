//! What a person and a project configure: the layers, the questions about what widens access, and that it all really runs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use agent_tests::{Home, Output, Pty, Who, finish};
use anyhow::{Context, ensure};
use serde_json::Value;

/// A person with a project.
struct Scene {
    home: Home,
    project: PathBuf,
}

impl Scene {
    fn new(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        home.project("home/.config")?;
        home.project("home/.config/agent-shim")?;
        let project = home.project("project")?;
        Ok(Self { home, project })
    }

    fn with(who: Who, project: &str) -> anyhow::Result<Self> {
        let scene = Self::new(who)?;
        scene.projects(project)?;
        Ok(scene)
    }

    fn projects(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.home.file("project/agent-shim.toml", text.as_bytes())
    }

    fn persons(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.home.file("home/.config/agent-shim/config.toml", text.as_bytes())
    }

    fn run(&self, line: &str) -> anyhow::Result<Output> {
        self.home.run(line.split_whitespace())
    }

    fn with_variable(&self, name: &str, value: &str, line: &str) -> anyhow::Result<Output> {
        let mut shim = self.home.shim(line.split_whitespace());
        shim.env(name, value);
        finish(shim, b"")
    }

    fn start(&self) -> anyhow::Result<Output> {
        self.run("start --name web project")
    }

    fn record(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.home.data().join("agents/web/sandbox.json"))?)?)
    }

    fn exec(&self, script: &str) -> anyhow::Result<String> {
        Ok(self.home.run(["exec", "web", "--", "sh", "-c", script])?.success()?.text())
    }

    fn no_sandbox(&self) -> anyhow::Result<()> {
        let listed = self.run("list --quiet")?.text();
        ensure!(listed.is_empty(), "nothing was made: {listed}");
        Ok(())
    }

    /// A person at a terminal starts the project, and is asked.
    fn asked(&self) -> anyhow::Result<Pty> {
        Pty::spawn(&self.home.shim(["start", "--name", "web", "project"]))
    }
}

/// What one value of `config show --json` is, and which layer said it.
fn shown(output: &Output, key: &str) -> anyhow::Result<(Value, String)> {
    let json = output.json()?;
    let rows = json["settings"].as_array().context("rows")?;
    let row = rows.iter().find(|row| row["key"] == key).with_context(|| format!("{key} in {json}"))?;
    Ok((row["value"].clone(), row["origin"]["layer"].as_str().unwrap_or_default().to_owned()))
}

const WORK: &str = r#"
command = "cat"
prompt = "not for a command"

[limits]
pids = 300

[[steps]]
name = "first"
command = "echo first >> /workspace/order"

[[steps]]
name = "second"
command = ["sh", "-c", "echo $WORD >> order"]
variables = { WORD = "second" }

[[services]]
name = "web"
command = "cat /tmp/db >> /workspace/order; touch /workspace/up; exec sleep 1000"
after = ["db"]
readiness = { command = ["test", "-e", "/workspace/up"], interval = "50ms" }

[[services]]
name = "db"
command = "echo db > /tmp/db; echo ready; exec sleep 1000"
readiness = "first-output"
"#;

#[test]
fn steps_and_services_of_a_project_run_without_a_question() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::with(*who, WORK)?;
        scene.start()?.success()?;
        // The agent starts when all that stands before it is done and ready, and the command returns after that.
        ensure!(fs::read_to_string(scene.project.join("order"))? == "first\nsecond\ndb\n");
        let record = scene.record()?;
        ensure!(record["limits"]["pids"] == 300 && record["steps"][0]["name"] == "first");
        ensure!(record["command"] == serde_json::json!(["/bin/sh", "-c", "cat"]), "{record}");
        scene.run("status web")?.success()?;
    }
    Ok(())
}

#[test]
fn later_layers_have_the_last_word_and_show_says_whose_it_is() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "[limits]\npids = 30\nmemory = \"3G\"\n[nix]\nsets = [\"go\"]")?;
    scene.persons(
        "store = \"closure\"\n[limits]\npids = 40\nmemory = \"4G\"\ncpus = 4\n[nix]\nsets = \"rust\"",
    )?;
    let show = |variable: &str| {
        scene.with_variable("AGENT_SHIM_LIMITS_PIDS", variable, "config show --json project")
    };
    let output = show("20")?.success()?;
    ensure!(shown(&output, "limits.pids")? == (20.into(), "variable".to_owned()));
    ensure!(shown(&output, "limits.memory")? == ((3_u64 << 30).into(), "project".to_owned()));
    ensure!(shown(&output, "limits.cpus")? == (4.0.into(), "user".to_owned()));
    ensure!(shown(&output, "network")? == (true.into(), "default".to_owned()));
    let rows = output.json()?;
    let sets: Vec<&Value> =
        rows["settings"].as_array().context("rows")?.iter().filter(|row| row["key"] == "nix.sets").collect();
    ensure!(sets.len() == 2 && sets[0]["value"] == "rust" && sets[1]["origin"]["line"] == 5, "{sets:?}");
    ensure!(rows["needs_consent"].as_array().is_some_and(Vec::is_empty));
    ensure!(shown(&show("")?, "limits.pids")? == (30.into(), "project".to_owned()));
    // For people, with the place.
    let text = scene.run("config show project")?.success()?.text();
    ensure!(text.contains("project/agent-shim.toml:2") && text.contains("config.toml:7"), "{text}");
    // And flags come last. Memory and processors cannot be bounded on every machine.
    scene.projects("[limits]\npids = 30")?;
    scene.persons("store = \"closure\"")?;
    scene.run("start --name web --pids 10 --no-network project -- cat")?.success()?;
    let record = scene.record()?;
    ensure!(record["limits"]["pids"] == 10 && record["store"] == "closure" && record["network"] == false);
    Ok(())
}

#[test]
fn what_is_wrong_is_shown_with_its_place_and_makes_nothing() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "command = \"cat\"\nnetwrk = false\n")?;
    let output = scene.start()?.exits(64)?;
    let errors = output.errors();
    ensure!(errors.contains("project/agent-shim.toml:2:1: unknown key `netwrk`"), "{errors}");
    ensure!(errors.contains("  | netwrk = false\n  | ^^^^^^\n"), "{errors}");
    ensure!(errors.contains("hint: did you mean `network`?"), "{errors}");
    for (text, complaint) in [
        ("network = \"no\"", ":1:11: expected true or false, without quotes, found text"),
        ("env = \"hots\"", "did you mean `host`?"),
        ("[limits]\nmemory = \"lots\"", ":2:10: write a number of bytes"),
        ("pids = 3", "it belongs into the table [limits]"),
        ("[nix]\nnetwork = false", "it belongs above the first table"),
        ("[[steps]]\nname = \"a\"\ncomand = \"x\"", "did you mean `command`?"),
        ("[agents.mine]\ncomand = [\"x\"]", "did you mean `command`?"),
        ("mounts = [\"/etc\"]", ":1:11: write SRC:DST"),
        ("a = = 1", ":1:5: "),
        ("network = false\nnetwork = true", ":2:1: "),
    ] {
        scene.projects(text)?;
        scene.run("config show project")?.exits(64)?.complains(complaint)?;
        scene.start()?.exits(64)?.complains(complaint)?;
    }
    scene.no_sandbox()?;
    // Whoever cannot repair it passes over it.
    scene.run("start --name web --no-project-config project -- cat")?.success()?;
    // Commands that need no configuration never read it.
    scene.persons("nonsense = 1")?;
    for line in ["list", "status web", "exec web -- true", "logs web", "stop web", "restart web", "start web"]
    {
        if line.starts_with("start") {
            scene.run("stop --force web")?.success()?;
        }
        scene.run(line)?.success()?;
    }
    scene
        .run("start --name other --no-project-config project -- cat")?
        .exits(64)?
        .complains("config.toml:1:1")?;
    Ok(())
}

#[test]
fn a_variable_that_means_nothing_is_named() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let start = "start --name web project -- cat";
    let output = scene.with_variable("AGENT_SHIM_NETWROK", "false", start)?.exits(64)?;
    output.complains("$AGENT_SHIM_NETWROK: there is no such setting")?.complains("`AGENT_SHIM_NETWORK`")?;
    scene
        .with_variable("AGENT_SHIM_NETWORK", "maybe", start)?
        .exits(64)?
        .complains("expected true or false")?;
    scene.no_sandbox()?;
    scene.with_variable("AGENT_SHIM_NETWROK", "false", "list")?.success()?;
    scene.with_variable("AGENT_SHIM_NETWORK", "false", start)?.success()?;
    ensure!(scene.record()?["network"] == false);
    scene.with_variable("AGENT_SHIM_NETWROK", "false", "exec web -- true")?.success()?;
    Ok(())
}

#[test]
fn nothing_is_widened_while_nobody_is_there_to_be_asked() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene =
            Scene::with(*who, "command = \"cat\"\nmounts = [\"/etc/hostname:/opt/name:ro\"]\nnested = true")?;
        let output = scene.start()?.exits(3)?;
        let trust = format!("agent-shim config trust {}", scene.project.display());
        output.complains("read /etc/hostname, as /opt/name")?.complains(&trust)?;
        scene.run("run --name web project")?.exits(125)?;
        scene.no_sandbox()?;
        ensure!(scene.run("config show project")?.success()?.text().contains("Nobody has agreed yet"));
        // Looking comes before agreeing.
        scene.run("start -n --name web project")?.success()?.complains("nobody has agreed to this yet")?;
        scene.no_sandbox()?;

        ensure!(scene.run("config trust project")?.success()?.text().contains("/etc/hostname"));
        ensure!(!scene.run("config show project")?.success()?.text().contains("Nobody has agreed yet"));
        scene.start()?.success()?;
        scene.exec("test -e /opt/name")?;
        ensure!(scene.record()?["nested"] == true);

        // The agent has a wish.
        scene.exec("echo 'mounts = [\"/root:/opt/root\", \"/etc/hostname:/opt/name:ro\"]' > /workspace/agent-shim.toml")?;
        scene.run("start --name next project -- cat")?.exits(3)?.complains("/root")?;
        // What was agreed to stays agreed to; the same content is the same question.
        scene.projects("command = \"cat\"\nmounts = [\"/etc/hostname:/opt/name:ro\"]\nnested = true")?;
        scene.run("start --name next project")?.success()?;
        scene.run("config untrust project")?.success()?;
        scene.run("start --name third project")?.exits(3)?;
    }
    Ok(())
}

#[test]
fn a_person_is_asked_once_and_what_they_say_counts() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let scene = Scene::with(*who, "command = \"cat\"\n[variables]\nWORD = \"a\\u001b[2Jb\\nc\"")?;
        let mut no = scene.asked()?;
        no.wait_for("[y/N]")?;
        // Nothing in the file controls the terminal, or looks like a line of ours.
        ensure!(no.shown().contains("set the variable WORD to `a\\x1b[2Jb\\nc` (line 3)"), "{}", no.shown());
        ensure!(!no.shown().contains("\x1b[2J"));
        no.type_in("\r")?;
        ensure!(no.ended()? == 5, "{}", no.shown());
        scene.no_sandbox()?;

        let mut yes = scene.asked()?;
        yes.wait_for("[y/N]")?;
        yes.type_in("y\r")?;
        ensure!(yes.ended()? == 0, "{}", yes.shown());
        let mut again = Pty::spawn(&scene.home.shim(["start", "--name", "next", "project"]))?;
        ensure!(again.ended()? == 0 && !again.shown().contains("[y/N]"), "{}", again.shown());

        scene.projects("command = \"cat\"\n[variables]\nWORD = \"other\"")?;
        let mut changed = Pty::spawn(&scene.home.shim(["start", "--name", "third", "project"]))?;
        changed.wait_for("to `other`")?;
        changed.type_in("\x04")?;
        ensure!(changed.ended()? == 5, "{}", changed.shown());
    }
    Ok(())
}

/// A list that scrolls by, or a line nobody reads to its end, could hide anything.
#[test]
fn what_is_too_much_to_be_read_is_not_asked() -> anyhow::Result<()> {
    let many: String = (0..41).map(|n| format!("V{n} = \"x\"\n")).collect();
    for variables in [many, format!("LONG = \"{}\"", "x".repeat(400))] {
        let scene = Scene::with(Who::Ordinary, &format!("command = \"cat\"\n[variables]\n{variables}"))?;
        let mut asked = scene.asked()?;
        ensure!(asked.ended()? == 3 && asked.shown().contains("too much to be asked"), "{}", asked.shown());
        scene.run("config trust project")?.success()?;
        scene.start()?.success()?;
    }
    Ok(())
}

/// The agent can put anything where the file was.
#[test]
fn whatever_is_not_a_file_is_not_read() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "command = \"cat\"")?;
    scene.start()?.success()?;
    for (what, complaint) in [
        ("ln -s /etc/passwd F", "it is a symbolic link"),
        ("mkfifo F", "it is not a regular file"),
        ("mkdir F", "it is not a regular file"),
        ("truncate -s 1T F", "it is larger than 1048576 bytes"),
        ("printf '\\377' > F", "it is not UTF-8"),
        ("touch F; chmod 0 F", "Permission denied"),
    ] {
        let script = what.replace('F', "/workspace/agent-shim.toml");
        scene.exec(&format!("rm -rf /workspace/agent-shim.toml; {script}"))?;
        let output = scene.run("start --name next project -- cat")?.exits(3)?;
        output.complains(complaint)?.complains("--no-project-config")?;
        scene.run("config trust project")?.exits(3)?;
    }
    Ok(())
}

/// A path is agreed to as it is. The agent can turn a folder of the project into a link to anywhere.
#[test]
fn a_path_that_leads_elsewhere_is_another_question() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let text = "command = \"cat\"\nmounts = [\"./data:/opt/data\"]\nenv-files = \"words\"";
        let scene = Scene::with(*who, text)?;
        let private = scene.home.project("home/private")?;
        scene.home.project("project/data")?;
        scene.home.file("project/words", b"WORD=one\n")?;
        scene.run("config trust project")?.success()?;
        scene.start()?.success()?;
        ensure!(scene.exec("echo $WORD")? == "one");
        scene.run("stop --force web")?.success()?;
        let data = scene.project.join("data");
        fs::remove_dir(&data)?;
        symlink(&private, &data)?;
        let leads = format!("which is {}", private.display());
        scene.run("start --name next project")?.exits(3)?.complains(&leads)?;
        // What was made before it was a link does not follow it either.
        scene.run("start web")?.exits(3)?.complains("a symbolic link in it leads to")?;
    }
    Ok(())
}

#[test]
fn a_sandbox_is_what_it_was_made_with() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "command = \"cat\"\nnetwork = false")?;
    scene.start()?.success()?;
    scene.projects("command = \"cat\"\nnetwork = true\n[limits]\npids = 77")?;
    scene.run("stop --force web")?.success()?;
    scene.run("start web")?.success()?;
    let record = scene.record()?;
    ensure!(record["network"] == false && record["limits"]["pids"].is_null(), "{record}");
    scene.run("stop --force web")?.success()?;
    scene.run("start web --pids 50")?.success()?;
    ensure!(scene.record()?["limits"]["pids"] == 50);
    Ok(())
}

#[test]
fn somebody_elses_configuration_is_not_used() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new(Who::Ordinary)?;
    let path = scene.persons("network = false")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let start = "start --name web project -- cat";
    scene.run(start)?.exits(3)?.complains("others may write to it")?.complains("chmod go-w")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    // Many keep such files elsewhere.
    fs::rename(&path, scene.home.path().join("home/dotfile"))?;
    symlink(Path::new("../../dotfile"), &path)?;
    scene.run(start)?.success()?;
    ensure!(scene.record()?["network"] == false);
    Ok(())
}

#[test]
fn an_explicit_command_beats_configured_agents() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "agent = \"codex\"")?;
    scene.run("start --name web project -- cat")?.success()?;
    let record = scene.record()?;
    ensure!(record["command"] == serde_json::json!(["cat"]) && record["agent"].is_null(), "{record}");
    fs::remove_file(scene.project.join("agent-shim.toml"))?;
    scene.run("start --name next project")?.exits(64)?.complains("there is no command for the agent")?;
    Ok(())
}

/// Keys that were typed ahead are no answer to a question that nobody had seen.
#[test]
fn what_was_typed_before_the_question_is_no_answer() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "command = \"cat\"\n[variables]\nWORD = \"a\"")?;
    // The shell takes the first line, and leaves the second to whoever comes next.
    let script = "read go; exec \"$0\" start --name web project";
    let shim = agent_tests::agent_shim();
    let command = scene.home.command("sh", ["-c".as_ref(), script.as_ref(), shim.as_os_str()]);
    let mut terminal = Pty::spawn(&command)?;
    terminal.type_in("go\ry\r")?;
    terminal.wait_for("[y/N]")?;
    terminal.type_in("n\r")?;
    ensure!(terminal.ended()? == 5, "{}", terminal.shown());
    scene.no_sandbox()
}

#[test]
fn programs_are_told_all_of_it() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "nested = true\n[secrets]\nkey = \"/etc/hostname\"")?;
    let json = |line: &str| scene.run(line)?.success()?.json();
    let file = scene.project.join("agent-shim.toml");
    ensure!(json("config path --json project")?["project"] == file.to_str().context("text")?);
    let shown = json("config show --json project")?;
    let asks = shown["needs_consent"].as_array().context("asks")?;
    ensure!(asks.len() == 2 && asks[1]["key"] == "secrets" && asks[1]["origin"]["line"] == 3, "{shown}");
    let may = json("config trust --json project/agent-shim.toml")?;
    ensure!(
        may["may"].as_array().is_some_and(|may| may.len() == 2)
            && may["sha256"] == shown["files"]["project"]["sha256"]
    );
    ensure!(json("config show --json project")?["needs_consent"].as_array().is_some_and(Vec::is_empty));
    ensure!(json("config untrust --json project")?["had_consent"] == true);
    ensure!(json("config untrust --json project")?["had_consent"] == false);
    // What a dry run would agree to, it does not.
    scene.run("config trust -n project")?.success()?;
    scene.run("start --name web project -- cat")?.exits(3)?;
    fs::remove_file(file)?;
    scene.run("config trust project")?.exits(1)?.complains("there is no agent-shim.toml")?;
    Ok(())
}

#[test]
fn without_nix_the_hosts_tools_are_used_and_that_is_said() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let programs = scene.home.project("programs")?;
    for name in ["bwrap", "setpriv"] {
        let path = ["/usr/bin", "/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join(name));
        symlink(path.iter().find(|path| path.exists()).context("a program")?, programs.join(name))?;
    }
    let start = |said: &str| {
        let mut shim = scene.home.shim("start --name web project -- cat".split(' '));
        shim.env("PATH", &programs).env("AGENT_SHIM_ENV", said);
        finish(shim, b"")
    };
    start("")?.success()?.complains("using the host's tools: Nix is not installed")?;
    ensure!(scene.record()?["environment"] == "host");
    scene.run("destroy --force web")?;
    ensure!(start("host")?.success()?.errors().is_empty(), "who says so needs not be told");
    Ok(())
}

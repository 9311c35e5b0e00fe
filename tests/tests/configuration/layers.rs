//! From files and variables to what runs.

use std::{fs, os::unix::fs::symlink, path::Path};

use agent_tests::{Home, Who, finish, layer};
use anyhow::{Context, ensure};
use serde_json::Value;

use crate::scene::{Scene, shown};

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
    ensure!(shown(&output, "network")? == ("auto".into(), "default".to_owned()));
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
    ensure!(record["limits"]["pids"] == 10 && record["store"] == "closure" && record["network"] == "none");
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
        ("nested = \"no\"", ":1:10: expected true or false, without quotes, found text"),
        ("network = \"no\"", ":1:11: write auto, host, none, nat or bridge=NAME"),
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
        .complains("write auto, host, none")?;
    scene.no_sandbox()?;
    scene.with_variable("AGENT_SHIM_NETWROK", "false", "list")?.success()?;
    scene.with_variable("AGENT_SHIM_NETWORK", "false", start)?.success()?;
    ensure!(scene.record()?["network"] == "none");
    scene.with_variable("AGENT_SHIM_NETWROK", "false", "exec web -- true")?.success()?;
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
    ensure!(record["network"] == "none" && record["limits"]["pids"].is_null(), "{record}");
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
    ensure!(scene.record()?["network"] == "none");
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

#[test]
fn without_nix_the_hosts_tools_are_used_and_that_is_said() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    let programs = scene.home.project("programs")?;
    layer().link_programs(&programs)?;
    let path = ["/usr/bin", "/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join("setpriv"));
    symlink(path.iter().find(|path| path.exists()).context("a program")?, programs.join("setpriv"))?;
    let start = |said: &str| {
        let mut shim = scene.home.shim("start --name web project -- cat".split(' '));
        shim.env("PATH", &programs).env("AGENT_SHIM_ENV", said);
        finish(shim, b"")
    };
    start("")?.success()?.complains("using the host's tools: Nix is not installed")?;
    ensure!(scene.record()?["environment"] == "host");
    scene.run("destroy --force web")?;
    ensure!(start("host")?.success()?.is_quiet(), "who says so needs not be told");
    Ok(())
}

/// What is built beforehand must be what a sandbox will want.
#[test]
fn an_environment_built_by_itself_heeds_the_files_as_run_does() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "[nix]\nsets = [\"rust\"]")?;
    scene.persons("[nix]\npreset = \"codex\"\npackages = [\"jq\"]")?;
    let spec = |words: &str| -> anyhow::Result<serde_json::Value> {
        let mut shim = scene.home.shim(words.split(' '));
        shim.current_dir(&scene.project);
        Ok(finish(shim, b"")?.success()?.json()?["spec"].take())
    };
    let with_all = spec("env build -n --json --nix-sets go")?;
    ensure!(
        with_all["preset"] == "codex" && with_all["sets"] == serde_json::json!(["rust", "go"]),
        "{with_all}"
    );
    // Behind what was said stands what the preset's agent brings.
    let packages = with_all["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(packages.first() == Some(&"jq".into()) && packages.contains(&"gnugrep".into()), "{with_all}");
    let without = spec("env build -n --json --nix-sets go --no-project-config")?;
    ensure!(without["sets"] == serde_json::json!(["go"]), "{without}");
    // These and no others, whatever is configured.
    let exact = scene.run("env build -n --json -I nix:packages=fd")?.success()?.json()?;
    ensure!(
        exact["spec"]["packages"] == serde_json::json!(["fd"]) && exact["spec"]["preset"].is_null(),
        "{exact}"
    );
    scene
        .with_variable("AGENT_SHIM_NIX_PRESENT", "x", "env build -n")?
        .exits(64)?
        .complains("AGENT_SHIM_NIX_PRESET")?;
    scene.with_variable("AGENT_SHIM_NIX_PRESENT", "x", "env list")?.success()?;
    Ok(())
}

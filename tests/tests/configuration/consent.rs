//! A project's file may not widen access by itself.

use std::{fs, os::unix::fs::symlink};

use agent_tests::{Home, Pty, Who};
use anyhow::{Context, ensure};

use crate::scene::Scene;

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
        // What is typed before the question is no answer.
        changed.wait_for("[y/N]")?;
        ensure!(changed.shown().contains("to `other`"), "{}", changed.shown());
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

/// What was not asked, because the person's own file allowed it then, was not agreed to.
#[test]
fn the_same_content_asks_again_where_it_would_widen_more() -> anyhow::Result<()> {
    let scene = Scene::with(Who::Ordinary, "command = \"cat\"\nnested = true\nnetwork = true")?;
    scene.run("config trust project")?.success()?;
    scene.start()?.success()?;
    scene.persons("network = false")?;
    scene.run("start --name next project")?.exits(3)?.complains("share this machine's network")?;
    scene.run("config trust project")?.success()?;
    scene.run("start --name next project")?.success()?;
    Ok(())
}

/// Arguments of an agent say whom it sends its keys to, and whether it asks.
#[test]
fn a_project_gives_an_agent_no_arguments_by_itself() -> anyhow::Result<()> {
    let text = "agent = \"claude\"\ncommand = [\"--settings\", \"{}\"]";
    let scene = Scene::with(Who::Ordinary, text)?;
    let refused = scene.run("start --name web --env host -e ANTHROPIC_API_KEY=x project")?;
    refused.exits(3)?.complains("give the agent `claude` the arguments [\"--settings\",\"{}\"]")?;
    scene.no_sandbox()
}

/// The command that is proposed can be copied, whatever the folder is called.
#[test]
fn a_folders_name_does_not_act_in_a_proposed_command() -> anyhow::Result<()> {
    let scene = Scene::new(Who::Ordinary)?;
    scene.home.project("it's; \u{9b}2J")?;
    scene.home.file("it's; \u{9b}2J/agent-shim.toml", b"command = \"cat\"\nnested = true")?;
    let output = scene.home.run(["start", "--name", "web", "it's; \u{9b}2J"])?.exits(3)?;
    ensure!(!output.errors().contains('\u{9b}'), "{output}");
    output.complains(r"/it\'s; \xc2\x9b2J'")?;
    Ok(())
}

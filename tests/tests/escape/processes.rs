//! Attempts on processes: PID 1's attention, other sandboxes, the host's, and living longer than allowed.

use std::fs;
use std::process::{Child, Stdio};

use agent_tests::{Who, is_alive, layer, until, until_gone};
use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::board::each_person;
use crate::world::{PROBE, World, backwards};

#[test]
fn processes() {
    each_person("processes", |board, world| {
        world.start("box", &[], &["cat"])?;
        world.start("sibling", &[], &["cat"])?;
        let before = world.status("box")?;

        world.inside("box", &["storm"])?.success()?;
        board.attempt("forging the host's signals", world.is_unharmed("box", &before));
        board.attempt("passing descriptors to PID 1 until it has no more", many_descriptors(world, &before));
        board.attempt("making a stop look like an exit", {
            world.inside("box", &["not-an-exit"]).and_then(|output| {
                ensure!(output.code() == 7 && output.text().contains("went on"), "{output}");
                world.is_unharmed("box", &before)
            })
        });

        board.attempt("taking descriptors from commands that are just starting", young_children(world));

        // With a name of its own, too: a number that is taken inside proves nothing.
        let named = format!("600{}", std::process::id());
        let mut of_the_host = world.home.command("sleep", [&named]);
        let mut of_the_host = of_the_host.stdin(Stdio::null()).spawn()?;
        let reached = reach_others(world, &mut of_the_host);
        let sibling = world.status("sibling")?;
        let pid = sibling["init"]["pid"].to_string();
        board.control("a process of the host's", world.outside(&["process", &of_the_host.id().to_string()]));
        board.probed(
            "a process of the host's",
            world.inside("box", &["process", &of_the_host.id().to_string()]),
        );
        let with = ["processes-with", &backwards(&named)];
        board.control("processes of the host's, by a word of theirs", world.outside(&with));
        board.probed("processes of the host's, by a word of theirs", world.inside("box", &with));
        board.probed("a process of another sandbox", world.inside("box", &["process", &pid]));
        board.attempt("killing everything", reached);
        board.attempt("killing everything hits no other sandbox", world.is_unharmed("sibling", &sibling));
        of_the_host.kill()?;
        of_the_host.wait()?;

        // Any number that no other run of this test takes.
        let key = (std::process::id() * 2 + u32::from(world.who == Who::Ordinary)).to_string();
        world.outside(&["shared-memory", &key, "create"])?.success()?;
        let [there, inside] = [
            world.outside(&["shared-memory", &key, "find"])?,
            world.inside("sibling", &["shared-memory", &key, "find"])?,
        ];
        world.outside(&["shared-memory", &key, "remove"])?;
        board.attempt("System V shared memory of the host", {
            if there.text() == "OPEN" && inside.text() == "closed" {
                Ok(())
            } else {
                bail!("{there} {inside}")
            }
        });
        board.attempt("living longer than the sandbox", outlive(world));
        Ok(())
    });
}

/// A race, while the host starts many commands.
fn young_children(world: &World) -> anyhow::Result<()> {
    let path = |name: &str| world.home.path().join("project-box").join(name);
    let seconds = (20 * layer().patience).to_string();
    world
        .home
        .run(["exec", "box", "--detach", "--", PROBE, "young-children", "/workspace/young", &seconds])?
        .success()?;
    until("the race to begin", || Ok(path("young.began").exists().then_some(())))?;
    let told = until("its report", || {
        world.home.run(["exec", "box", "--", "true"])?.success()?;
        Ok(fs::read_to_string(path("young")).ok().filter(|told| told.contains('\n')))
    })?;
    let (caught, taken) = told.split_once('\n').context("two parts")?;
    let caught: usize = caught.trim_start_matches("caught ").parse()?;
    ensure!(taken.is_empty(), "{taken}");
    ensure!(caught >= 10, "it caught only {caught} of them");
    Ok(())
}

/// Datagrams to the notification socket, each with a descriptor.
fn many_descriptors(world: &World, before: &Value) -> anyhow::Result<()> {
    let init = before["init"]["pid"].to_string();
    // Only root may look: PID 1 is not dumpable.
    let count = || fs::read_dir(format!("/proc/{init}/fd")).map(Iterator::count).ok();
    let descriptors = count();
    world.inside("box", &["notify", "/tmp/.agent-notify"])?.success()?;
    world.is_unharmed("box", before)?;
    until("descriptors to be closed", || {
        let now = count();
        Ok((now.unwrap_or(0) <= descriptors.unwrap_or(0) + 2).then_some(()))
    })
}

/// kill(-1, SIGKILL), and what it leaves.
fn reach_others(world: &World, of_the_host: &mut Child) -> anyhow::Result<()> {
    let init = world.status("box")?["init"]["pid"].clone();
    world.sh("box", "kill -9 -1")?;
    ensure!(of_the_host.try_wait()?.is_none(), "a process of the host was killed");
    let status = world.status("box")?;
    ensure!(status["init"]["pid"] == init && status["state"] == "running", "{status:#}");
    Ok(())
}

/// A daemon that ignores what it can ignore.
fn outlive(world: &World) -> anyhow::Result<()> {
    world.start("mortal", &[], &["cat"])?;
    let duration = format!("98{}", std::process::id());
    let daemon = format!(
        "trap '' HUP INT TERM QUIT; setsid sh -c 'setsid sleep {duration} & setsid sleep {duration} &' < /dev/null > /dev/null 2>&1 &"
    );
    world.sh("mortal", &daemon)?.success()?;
    // A pattern that is not among the arguments of who looks for it.
    let count = format!("grep -lsxz '[9]{}' /proc/[0-9]*/cmdline | wc -l", &duration[1..]);
    until("the daemon", || Ok((world.sh("mortal", &count)?.success()?.text() == "2").then_some(())))?;
    // Where processes inside are the host's, they are seen to be alive there; a machine takes them with it.
    let visible = if layer().shares_kernel { 2 } else { 0 };
    ensure!(alive(&duration)? == visible, "{} of them are on the host", alive(&duration)?);
    let init = world.status("mortal")?["init"]["pid"].as_i64().context("init's process")?;
    ensure!(is_alive(init.try_into()?));
    world.home.run(["stop", "mortal"])?.success()?;
    until_gone(init.try_into()?)?;
    until("the end of the daemon", || Ok((alive(&duration)? == 0).then_some(())))
}

/// How many processes of the host have this word as an argument, zombies without arguments left out.
fn alive(word: &str) -> anyhow::Result<usize> {
    let named = |process: &fs::DirEntry| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        command.starts_with(b"sleep\0")
            && command.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    Ok(fs::read_dir("/proc")?.flatten().filter(named).count())
}

/// As many processes as it can get, each as busy making more.
#[test]
fn a_bomb_is_contained() {
    each_person("a bomb", |board, world| {
        world.start("bomb", &["--pids", "100"], &["cat"])?;
        // With a try at a limit of its own first.
        let script = format!(
            "prlimit --nproc=100000:100000 --pid $$ 2> /dev/null; ulimit -p 100000 2> /dev/null; exec {PROBE} bomb"
        );
        world.home.run(["exec", "bomb", "--detach", "--", "sh", "-c", &script])?.success()?;
        let processes =
            || Ok::<_, anyhow::Error>(world.status("bomb")?["init"]["processes"].as_u64().unwrap_or(0));
        let most = until("the bomb to fill its room", || Ok(Some(processes()?).filter(|count| *count > 50)))?;
        board.attempt("more processes than allowed", {
            let now = processes()?.max(most);
            if now <= 100 { Ok(()) } else { Err(anyhow::anyhow!("{now} processes")) }
        });
        board.attempt(
            "processes that leave none to the person",
            world.as_person("for i in 1 2 3; do true & done; wait", &[]).map(drop),
        );
        board.attempt("a sandbox that the host cannot look at", {
            world.home.run(["list", "--json"])?.success().map(drop)
        });
        // Whether there is room for one more is the bomb's to decide; that it is said, and soon, is ours.
        let output = world.home.run(["exec", "bomb", "--", "true"])?;
        println!("a command in a full sandbox exits with {}: {}", output.code(), output.errors().trim());
        board.attempt("a command that neither starts nor fails", {
            if [0, 125].contains(&output.code()) { Ok(()) } else { Err(anyhow::anyhow!("{output}")) }
        });
        let stopped = world.home.run(["stop", "bomb"]).and_then(agent_tests::Output::success);
        board.attempt("a bomb that cannot be stopped", stopped.map(drop));
        let state = world.status("bomb")?["state"].as_str().context("a state")?.to_owned();
        board.attempt(
            "a bomb that goes on",
            if state == "stopped" { Ok(()) } else { Err(anyhow::anyhow!("{state}")) },
        );
        Ok(())
    });
}

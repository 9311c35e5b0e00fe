//! Sandboxes and the environments that they share, over time: built once, kept while somebody uses them, built again when
//! they are gone.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use agent_tests::{Home, Pty, Who, Workshop, finish, is_alive, until};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Everything that starts a sandbox, in all the ways there are, while nothing of Nix can be run.
#[test]
fn a_cached_environment_starts_no_process_of_nix() -> anyhow::Result<()> {
    Workshop::each(|mut shop| {
        shop.start("web", "")?.success()?.complains("built")?;
        let decoys = shop.home_mut().decoy_nix()?;
        let second = shop.start("second", "")?.success()?;
        ensure!(second.errors().is_empty(), "{second}");
        ensure!(shop.environment("second")? == shop.environment("web")?);
        shop.stop("web")?;
        shop.run(["start", "web"])?.success()?;
        shop.run(["restart", "web"])?.success()?;
        shop.inside("web", "jq --version")?.success()?;
        shop.say("run --rm . -- true")?.success()?;
        shop.say("run -n -v --nix-sets go . -- true")?.success()?;
        for line in ["env list", "env gc", "status web", "list --json"] {
            shop.say(line)?.success()?;
        }
        ensure!(decoys.started()?.is_empty(), "{:#?}", decoys.started()?);
        // And one that is not there needs it.
        shop.start("other", "--nix-packages hello")?.exits(3)?;
        ensure!(!decoys.started()?.is_empty());
        ensure!(!shop.sandboxes()?.contains(&"other".to_owned()));
        Ok(())
    })
}

#[test]
fn a_sandbox_keeps_its_environment_until_flags_change_it() -> anyhow::Result<()> {
    Workshop::each(|mut shop| {
        shop.start("web", "--nix-packages hello")?.success()?;
        let first = shop.environment("web")?;
        shop.stop("web")?;
        // What the person says elsewhere meanwhile does not matter.
        shop.home_mut().variable("AGENT_SHIM_NIX_SETS", "docker");
        shop.run(["start", "web"])?.success()?;
        ensure!(shop.environment("web")? == first);
        shop.run(["start", "web", "--nix-sets", "go"])?.exits(2)?.complains("running already")?;
        shop.stop("web")?;
        shop.run(["start", "web", "--nix-sets", "go"])?.success()?;
        let second = shop.environment("web")?;
        ensure!(second != first);
        shop.inside("web", "go version; hello; claude --version")?.success()?;
        shop.inside("web", "docker")?.exits(127)?;
        shop.stop("web")?;
        // What cannot be built changes nothing.
        shop.run(["start", "web", "--nix-packages", "helo"])?
            .exits(64)?
            .complains("names like it are `helo`: hello")?;
        shop.run(["start", "web", "--nix-packages", "broken-build"])?.exits(3)?;
        ensure!(shop.environment("web")? == second);
        shop.run(["start", "web", "--env", "host"])?.success()?;
        let status = shop.status("web")?;
        ensure!(status["environment"] == "host" && status["environment_id"].is_null(), "{status:#}");
        shop.inside("web", "test -e /usr/bin/perl && test ! -e /env")?.success()?;
        shop.stop("web")?;
        shop.run(["start", "web", "-I", "nix:packages=jq"])?.success()?;
        shop.inside("web", "jq --version && test ! -e /usr/bin/perl")?.success()?;
        Ok(())
    })
}

#[test]
fn what_is_listed_and_shown_names_the_environment() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.start("web", "--nix-packages hello")?.success()?;
        shop.start("beside", "--nix-packages pkgs.hello,hello")?.success()?;
        shop.start("plain", "--env host")?.success()?;
        let id = shop.environment("web")?;
        let list = shop.run(["list", "--json"])?.success()?.json()?;
        for sandbox in list.as_array().context("a list")? {
            let (env, env_id) =
                if sandbox["name"] == "plain" { ("host", Value::Null) } else { ("nix", json!(id)) };
            ensure!(sandbox["environment"] == env && sandbox["environment_id"] == env_id, "{sandbox:#}");
        }
        let text = shop.run(["status", "web"])?.success()?.text();
        ensure!(text.lines().any(|line| line.starts_with("environment") && line.contains("nix")), "{text}");
        let record = shop.record("web")?;
        ensure!(record["environment"].to_string().contains(&id), "{record:#}");

        let shown = shop.run(["env", "show", "web", "--json"])?.success()?.json()?;
        ensure!(shown["id"] == id && shown["sandboxes"] == json!(["beside", "web"]), "{shown:#}");
        ensure!(shop.run(["env", "show", &id[..6]])?.success()?.text().contains("beside web"));
        shop.run(["env", "show", "plain"])?.exits(2)?.complains("uses the host's tools")?;
        let environments = shop.run(["env", "list", "--json"])?.success()?.json()?;
        ensure!(environments.as_array().is_some_and(|all| all.len() == 1), "{environments:#}");
        ensure!(environments[0]["sandboxes"] == json!(["beside", "web"]), "{environments:#}");
        Ok(())
    })
}

#[test]
fn gc_keeps_what_sandboxes_use_also_those_that_are_stopped() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.start("web", "-I nix:packages=hello,bash")?.success()?;
        shop.start("other", "-I nix:packages=jq")?.success()?;
        let (web, other) = (shop.environment("web")?, shop.environment("other")?);
        shop.stop("web")?;
        let gc = || shop.run(["env", "gc", "--json"])?.success()?.json();
        let kept = gc()?;
        ensure!(
            kept["dropped"] == json!([]) && kept["kept"].as_array().is_some_and(|kept| kept.len() == 2),
            "{kept:#}"
        );
        ensure!(kept["kept"][0]["reason"] == "used", "{kept:#}");
        shop.run(["start", "web"])?.success()?;
        shop.inside("web", "hello")?.success()?;
        shop.run(["destroy", "--force", "web"])?.success()?;
        let dropped = gc()?;
        ensure!(dropped["dropped"][0]["id"] == web && dropped["kept"][0]["id"] == other, "{dropped:#}");
        let left = fs::read_dir(shop.data().join("envs"))?.count();
        // One that changed sides uses it no longer.
        shop.stop("other")?;
        shop.run(["start", "other", "--env", "host"])?.success()?;
        ensure!(gc()?["dropped"][0]["id"] == other);
        ensure!(left > 0 && fs::read_dir(shop.data().join("envs"))?.count() == 0);
        // `--rm` leaves nothing that anybody uses.
        shop.say("run --rm -I nix:packages=jq . -- sh -c :")?.success()?;
        ensure!(gc()?["dropped"][0]["id"] == other);
        Ok(())
    })
}

/// A command of the shim that goes on.
fn spawn(shop: &Workshop, line: &str) -> anyhow::Result<Child> {
    let mut shim = shop.shim(line.split_whitespace());
    shim.current_dir(shop.project()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(shim.spawn()?)
}

fn code(child: &mut Child) -> anyhow::Result<Option<i32>> {
    Ok(until("the command to end", || Ok(child.try_wait()?))?.code())
}

fn builder_begins(shop: &Workshop) -> anyhow::Result<()> {
    until("the slow builder to begin", || Ok(shop.nix().slow_build_started().exists().then_some(())))
}

/// Waits until no process has this text in its environment or command line.
fn until_unused(text: &Path) -> anyhow::Result<()> {
    let text = text.display().to_string();
    let uses = |entry: &fs::DirEntry| {
        let holds = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&text)
        };
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        pid.is_some_and(is_alive) && (holds("environ") || holds("cmdline"))
    };
    until("all processes to be gone", || {
        Ok((!fs::read_dir("/proc")?.flatten().any(|entry| uses(&entry))).then_some(()))
    })
}

const SLOW: &str = "-I nix:packages=slow-build";

/// One store, because it is empty at first, and filling it takes a while.
fn a_store_of_ones_own(who: Who) -> anyhow::Result<()> {
    let Some(shop) = Workshop::private(who)? else { return Ok(()) };

    // Somebody presses Ctrl-C while it is built.
    let mut command = shop.shim(format!("run --name web {SLOW} . -- true").split_whitespace());
    command.current_dir(shop.project());
    let mut pty = Pty::spawn(&command)?;
    builder_begins(&shop)?;
    pty.type_in("\x03")?;
    let ended = pty.ended()?;
    ensure!(ended == 5, "{ended}: {}", pty.shown());
    ensure!(pty.shown().contains("interrupted by SIGINT"), "{}", pty.shown());
    drop(pty);
    // Or somebody ends the command.
    fs::remove_file(shop.nix().slow_build_started())
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    let mut started = spawn(&shop, &format!("start --name web {SLOW} . -- true"))?;
    builder_begins(&shop)?;
    kill(Pid::from_raw(started.id().cast_signed()), Signal::SIGTERM)?;
    ensure!(code(&mut started)? == Some(5));
    until_unused(shop.path())?;
    ensure!(shop.sandboxes()?.is_empty());
    for folder in ["envs", "specs"] {
        ensure!(fs::read_dir(shop.data().join(folder))?.count() == 0, "{folder}");
    }
    ensure!(shop.run(["env", "list", "--json"])?.json()? == json!([]));

    // Two at once.
    let mut both = [
        spawn(&shop, &format!("start --name one {SLOW} . -- sh -c read"))?,
        spawn(&shop, &format!("start --name two {SLOW} . -- sh -c read"))?,
    ];
    builder_begins(&shop)?;
    shop.nix().release_slow_build()?;
    let mut building = 0;
    for child in &mut both {
        ensure!(code(child)? == Some(0));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().context("a pipe")?, &mut said)?;
        building += said.matches("building 1 package").count();
    }
    ensure!(building == 1, "built {building} times");
    ensure!(shop.environment("one")? == shop.environment("two")?);
    shop.run(["destroy", "--force", "two"])?.success()?;

    // Somebody deletes it: what runs has lost its tools, and the next start builds it again.
    shop.stop("one")?;
    let path = fs::read_link(shop.data().join("envs").join(shop.environment("one")?))?;
    for root in fs::read_dir(shop.nix().state().join("gcroots/auto"))? {
        fs::remove_file(root?.path())?;
    }
    finish(shop.command("nix-store", ["--delete", &path.display().to_string()]), b"")?.success()?;
    ensure!(!path.exists());
    shop.run(["start", "one"])?.success()?.complains("building 1 package")?;
    ensure!(path.exists());
    shop.inside("one", "test -e /env/bin/slow-build")?.success()?;
    // What a sandbox uses, the store's own collector does not take.
    finish(shop.command("nix-store", ["--gc"]), b"")?.success()?;
    shop.inside("one", "test -e /env/bin/slow-build")?.success()?;
    Ok(())
}

#[test]
fn builds_of_an_ordinary_user_can_be_called_off_shared_and_lost() -> anyhow::Result<()> {
    a_store_of_ones_own(Who::Ordinary)
}

#[test]
fn builds_of_root_can_be_called_off_shared_and_lost() -> anyhow::Result<()> {
    if Home::everyone().contains(&Who::Myself) { a_store_of_ones_own(Who::Myself) } else { Ok(()) }
}

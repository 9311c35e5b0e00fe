//! What can be wrong with the environment of a sandbox that is to be made: it is said, and nothing is left behind.

use std::fs;

use agent_tests::{Home, Workshop};
use anyhow::{Context, ensure};
use serde_json::json;

/// Flags, what `run` and `start` exit with, and what they say.
const WRONG: [(&str, i32, i32, &[&str]); 9] = [
    (
        "--nix-packages jq,helo",
        64,
        64,
        &["nixpkgs has no package `helo`", "hint: names like it are `helo`: hello"],
    ),
    ("-I nix:packages=lib", 64, 64, &["no package, but a part of nixpkgs: `lib`"]),
    ("--nix-sets nodjs", 64, 64, &["there is no set `nodjs`", "did you mean `nodejs`?"]),
    ("--nix-preset claud", 64, 64, &["there is no preset `claud`", "did you mean `claude`?"]),
    (r#"-I nix:{"sets":go}"#, 64, 64, &["line 1, column 9", "  |         ^"]),
    (
        "--nix-packages unfree-tool",
        125,
        3,
        &["has an unfree licence", "hint: `--unfree` allows such packages"],
    ),
    (
        "--nix-packages broken-build",
        125,
        3,
        &["building broken-build-1.0 failed", "| broken-build: this is why", ".log"],
    ),
    ("-I nix:packages=jq,other-jq", 125, 3, &["two packages have the same file: ", "other-jq-1.0/bin/jq"]),
    ("--nixpkgs nowhere", 64, 64, &["`nowhere` names no nixpkgs"]),
];

#[test]
fn what_is_wrong_is_said_and_leaves_nothing_behind() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        for (flags, of_run, of_start, says) in WRONG {
            for (subcommand, code) in [("run", of_run), ("start", of_start)] {
                let output = shop.say(&format!("{subcommand} --name web {flags} . -- true"))?.exits(code)?;
                for text in says {
                    ensure!(output.errors().contains(text), "expected `{text}` of {output}");
                }
                ensure!(output.text().is_empty(), "{output}");
            }
        }
        ensure!(shop.sandboxes()?.is_empty());
        // What a builder said is kept until somebody cleans up, and looks like nothing else.
        let list = shop.run(["env", "list", "--json"])?.success()?.json()?;
        let failed = list.as_array().context("a list")?;
        ensure!(failed.iter().all(|env| env["state"] == "unfinished"), "{list:#}");
        shop.run(["env", "gc"])?.success()?;
        ensure!(shop.run(["env", "list", "--json"])?.json()? == json!([]));
        // Allowed, it is there.
        shop.start("web", "-I nix:packages=unfree-tool --unfree")?.success()?;
        shop.inside("web", "unfree-tool")?.success()?;
        Ok(())
    })
}

#[test]
fn an_agent_that_is_not_in_the_environment_is_said_before_anything_is_made() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.say("start --name web -a codex -I nix:packages=jq -e OPENAI_API_KEY=x .")?
            .exits(3)?
            .complains("there is no `codex`")?;
        shop.say("run --name web -a codex --nix-preset claude -e OPENAI_API_KEY=x .")?
            .exits(127)?
            .complains("there is no `codex`")?;
        ensure!(shop.sandboxes()?.is_empty());
        // An agent that is named brings its packages.
        shop.say("start --name web -a codex -p openai -e OPENAI_API_KEY=x .")?.success()?;
        shop.inside("web", "codex --version")?.success()?;
        shop.inside("web", "claude --version")?.exits(127)?;
        Ok(())
    })
}

/// A sandbox whose environment was taken away under it while it cannot be built again.
#[test]
fn a_lost_environment_that_cannot_be_built_is_said() -> anyhow::Result<()> {
    Workshop::each(|mut shop| {
        shop.start("web", "-I nix:packages=jq")?.success()?;
        shop.stop("web")?;
        fs::remove_file(shop.data().join("envs").join(shop.environment("web")?))?;
        let path = shop.search_path();
        shop.home_mut().hide_nix()?;
        if ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"]
            .iter()
            .all(|place| !fs::exists(place).unwrap_or(true))
        {
            shop.run(["start", "web"])?.exits(4)?.complains("nix-build was not found")?;
        }
        ensure!(shop.status("web")?["state"] == "stopped");
        shop.home_mut().variable("PATH", path);
        shop.run(["start", "web"])?.success()?;
        shop.inside("web", "jq --version")?.success()?;
        Ok(())
    })
}

#[test]
fn mounts_that_would_hide_what_is_made_are_refused() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        Home::project(&shop, "further")?;
        for (at, why) in [
            ("/env", "/env is a link there"),
            ("/env/bin", "/env is a link there"),
            ("/usr/share/zoneinfo", "is a link there"),
            ("/var/tmp/x", "/var/tmp is a link there, to /tmp"),
            ("/usr/bin", "it would hide /usr/bin/env"),
            ("/usr/share", "it would hide /usr/share/zoneinfo"),
            ("/home", "it would hide /home/sandbox"),
            ("/var", "it would hide /var/tmp"),
        ] {
            let start = shop.say(&format!("start --name web --mount ../further:{at} . -- sh -c read"))?;
            start.exits(3)?.complains(&format!("/further at {at}: "))?.complains(why)?;
        }
        let store = shop.nix().store().display().to_string();
        shop.say(&format!("run --mount ../further:{store}/x . -- true"))?
            .exits(125)?
            .complains("the store is at")?;
        ensure!(shop.sandboxes()?.is_empty());
        // Beside all that there is room.
        let beside =
            "--mount ../further:/usr/local/bin --mount ../further:/opt/x --mount ../further:/home/else";
        shop.start("web", beside)?.success()?;
        shop.inside("web", "touch /opt/x/file; test -e /usr/local/bin/file && /usr/bin/env jq --version")?
            .success()?;
        Ok(())
    })
}

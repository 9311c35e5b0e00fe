//! Environments that a project's file asks for, and what runs in them beside the agent.

use std::fs;

use agent_tests::{Home, Workshop, finish, until};
use anyhow::{Context, ensure};
use serde_json::json;

const PROJECT: &str = r#"
command = "cat"

[nix]
sets = ["nodejs"]
packages = ["hello"]

[[steps]]
name = "prepare"
command = "node -p 6*7 > step; readlink -f $(command -v node) >> step"

[[services]]
name = "web"
command = "hello service > service; exec sleep 1000"
"#;

#[test]
fn a_projects_packages_steps_and_services_need_no_consent() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.file("project/agent-shim.toml", PROJECT.as_bytes())?;
        shop.say("start --name web .")?.success()?;
        let step = fs::read_to_string(shop.project().join("step"))?;
        let (first, node) = step.trim_end().split_once('\n').unwrap_or_default();
        ensure!(first == "42" && node.starts_with(&shop.nix().store().display().to_string()), "{step}");
        let service = shop.project().join("service");
        let said =
            until("the service", || Ok(fs::read_to_string(&service).ok().filter(|said| !said.is_empty())))?;
        ensure!(said == "hello: service\n", "{said}");
        shop.inside("web", "claude --version; yarn; hello; test ! -e /usr/bin/perl")?.success()?;
        let spec = shop.run(["env", "show", "web", "--json"])?.success()?.json()?["spec"].clone();
        ensure!(spec["sets"] == json!(["nodejs"]) && spec["packages"] == json!(["hello"]), "{spec:#}");

        // `env build` builds what a sandbox of this folder would get.
        let built = shop.say("env build --json")?.success()?.json()?;
        ensure!(built["id"] == shop.environment("web")? && built["cached"] == true, "{built:#}");
        let more = shop.say("env build --nix-sets go --json")?.success()?.json()?;
        ensure!(more["id"] != built["id"], "{more:#}");
        // What a file says is joined by what flags say.
        shop.say("start --name more --nix-sets go .")?.success()?.complains("")?;
        ensure!(shop.environment("more")? == more["id"]);
        Ok(())
    })
}

#[test]
fn where_packages_come_from_needs_consent() -> anyhow::Result<()> {
    let who = Home::everyone()[0];
    let Some(shop) = Workshop::new(who)? else { return Ok(()) };
    let text = format!("command = \"cat\"\n[nix]\nnixpkgs = \"{}/other\"\n", shop.path().display());
    shop.copy_of(shop.nix().nixpkgs(), "other")?;
    shop.file("project/agent-shim.toml", text.as_bytes())?;
    for line in ["start --name web .", "env build"] {
        let mut shim = shop.shim(line.split_whitespace());
        shim.current_dir(shop.project()).env("AGENT_SHIM_NIX_NIXPKGS", "");
        finish(shim, b"")?.exits(3)?.complains("asks for more than a project may have by itself")?;
    }
    ensure!(shop.sandboxes()?.is_empty() && !shop.data().join("envs").exists());
    Ok(())
}

#[test]
fn a_dry_run_says_everything_and_makes_nothing() -> anyhow::Result<()> {
    Workshop::each(|mut shop| {
        let decoys = shop.home_mut().decoy_nix()?;
        let output = shop.say("run -n -v --nix-sets go . -- true")?.success()?;
        let store = shop.nix().store().display().to_string();
        for says in ["pkgs.buildEnv {", "\"go\"", "bwrap", store.as_str(), "/env", "true"] {
            ensure!(output.text().contains(says), "{says}: {output}");
        }
        let json = shop.say("run -n --json --nix-sets go . -- true")?.success()?.json()?;
        ensure!(json["record"]["environment"].to_string().contains("\"go\""), "{json:#}");
        ensure!(shop.sandboxes()?.is_empty() && decoys.started()?.is_empty());
        ensure!(!shop.data().join("envs").exists());
        Ok(())
    })
}

/// What is said about unfree packages must be something that the next command takes.
#[test]
fn what_doctor_advises_is_understood() -> anyhow::Result<()> {
    let Some(mut shop) = Workshop::new(Home::everyone()[0])? else { return Ok(()) };
    let advice = |shop: &Workshop| -> anyhow::Result<Option<String>> {
        let text = shop.say("doctor --env nix")?.text();
        Ok(text.lines().find_map(|line| Some(line.trim().strip_prefix("$ export ")?.to_owned())))
    };
    let line = advice(&shop)?.context("advice")?;
    let (name, value) = line.split_once('=').context("a variable")?;
    shop.home_mut().variable(name, value);
    // What it advises for other things stays.
    ensure!(advice(&shop)?.is_none_or(|line| !line.starts_with(name)));
    shop.start("web", "-I nix:packages=unfree-tool")?.success()?;
    Ok(())
}

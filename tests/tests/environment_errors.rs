//! What can be wrong with an environment: each has its own message, its own code, and says what to do.

use std::fs;

use agent_tests::{Home, Nix, Output, Who, skip};

fn build(home: &Home, nix: &Nix, flags: &[&str]) -> anyhow::Result<Output> {
    let nixpkgs = nix.nixpkgs().display().to_string();
    home.run([&["env", "build", "--nixpkgs", &nixpkgs], flags].concat())
}

/// A person with a Nix that is shared, or nothing where there is none.
fn person() -> anyhow::Result<Option<(Home, Nix)>> {
    let mut home = Home::new(Who::Ordinary)?;
    Ok(home.nix()?.map(|nix| (home, nix)))
}

/// What never came to be is not listed.
fn nothing_stays(home: &Home) -> anyhow::Result<()> {
    assert_eq!(home.run(["env", "list", "--json"])?.json()?, serde_json::json!([]));
    Ok(())
}

#[test]
fn an_unknown_package_comes_with_names_like_it() -> anyhow::Result<()> {
    let Some((home, nix)) = person()? else { return Ok(()) };
    build(&home, &nix, &["-I", "nix:packages=jq,helo"])?
        .exits(64)?
        .complains("error: nixpkgs has no package `helo`\n")?
        .complains("hint: names like it are `helo`: hello")?;
    build(&home, &nix, &["--nix-packages", "nodejs_23"])?.exits(64)?.complains("`nodejs_23`: nodejs_24")?;
    build(&home, &nix, &["--nix-packages", "python312Packages.pipp"])?
        .exits(64)?
        .complains("`python312Packages.pipp`: python312Packages.pip")?;
    build(&home, &nix, &["--nix-packages", "qqqqqqqqq,zzzzzzzzzz"])?
        .exits(64)?
        .complains("nixpkgs has no packages `qqqqqqqqq`, `zzzzzzzzzz`")?
        .complains("search.nixos.org")?;
    nothing_stays(&home)
}

#[test]
fn what_is_no_package_is_called_that() -> anyhow::Result<()> {
    let Some((home, nix)) = person()? else { return Ok(()) };
    for name in ["python312Packages", "not-a-package", "lib"] {
        build(&home, &nix, &["-I", &format!("nix:packages={name}")])?
            .exits(64)?
            .complains(&format!("no package, but a part of nixpkgs: `{name}`"))?
            .complains(&format!("`{name}.NAME`"))?;
    }
    for (name, why) in [("a;b", "needs quotes"), ("a..b", "is empty"), ("\"a", "do not end")] {
        build(&home, &nix, &["-I", &format!("nix:packages={name}")])?
            .exits(64)?
            .complains("is not the name of a package")?
            .complains(why)?;
    }
    nothing_stays(&home)
}

#[test]
fn an_unknown_set_or_preset_lists_the_known_ones() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    for flags in
        [&["--nix-sets", "go,nodjs"][..], &["-I", "nix:sets=nodjs"], &["-I", "nix:{\"sets\":\"nodjs\"}"]]
    {
        home.run([&["env", "build"], flags].concat())?
            .exits(64)?
            .complains("error: there is no set `nodjs`")?
            .complains("did you mean `nodejs`? the sets are nodejs, python, go, rust, kubernetes")?;
    }
    for flags in [&["--nix-preset", "emacs"][..], &["-I", "nix:preset=emacs"]] {
        home.run([&["env", "build"], flags].concat())?
            .exits(64)?
            .complains("error: there is no preset `emacs`")?
            .complains("the presets are claude, codex, gemini, opencode")?;
    }
    Ok(())
}

#[test]
fn a_broken_image_shows_where() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let image = |image: &str| home.run(["env", "build", "-I", image])?.exits(64);
    image("nix:{\"packages\":[\"jq\" \"fd\"]}")?
        .complains("broken at line 1, column 19: expected `,` or `]`")?
        .complains("  | {\"packages\":[\"jq\" \"fd\"]}\n  |                   ^\n")?;
    image("nix:{\"pakages\":[]}")?
        .complains("an image has no `pakages`")?
        .complains("did you mean `packages`?")?;
    image("nix:{\"packages\":7}")?.complains("`packages` of an image is a list of strings, or one string")?;
    image("nix:packages=")?.complains("`packages` of an image is a list of names")?;
    image("docker:debian")?.complains("only those that begin with `nix:` are environments")?;
    image("nix:{\"nixpkgs_pin\":\"25.05\"}")?.complains("`25.05` names no nixpkgs")?;
    Ok(())
}

#[test]
fn unfree_packages_are_refused_unless_a_group_brings_them() -> anyhow::Result<()> {
    let Some((home, nix)) = person()? else { return Ok(()) };
    build(&home, &nix, &["-I", "nix:packages=claude-code"])?
        .exits(3)?
        .complains("the package claude-code-1.2.3 has an unfree licence")?
        .complains("hint: `--unfree` allows such packages")?;
    build(&home, &nix, &["-I", "nix:packages=unfree-tool"])?.exits(3)?.complains("unfree-tool-1.0")?;
    build(&home, &nix, &["--nix-packages", "terraform"])?.exits(3)?.complains("terraform-1.0")?;
    nothing_stays(&home)?;
    build(&home, &nix, &["--nix-preset", "claude"])?.success()?;
    build(&home, &nix, &["-I", "nix:packages=claude-code", "--unfree"])?.success()?;
    Ok(())
}

#[test]
fn a_builder_that_fails_shows_its_last_words_and_its_log() -> anyhow::Result<()> {
    let Some((home, nix)) = person()? else { return Ok(()) };
    let output = build(&home, &nix, &["-I", "nix:packages=jq,broken-build"])?
        .exits(3)?
        .complains("error: building broken-build-1.0 failed\n")?
        .complains("  | broken-build: line 40\n  | broken-build: this is why\n")?;
    assert!(!output.errors().contains("line 20\n"), "{output}");
    let errors = output.errors();
    let (_, log) = errors.trim_end().rsplit_once(' ').unwrap_or_default();
    let log = fs::read_to_string(log)?;
    for line in ["broken-build-1.0> broken-build: line 1\n", "broken-build-1.0> broken-build: this is why\n"]
    {
        assert!(log.contains(line), "{log}");
    }
    Ok(())
}

#[test]
fn two_packages_with_the_same_file_are_named() -> anyhow::Result<()> {
    let Some((home, nix)) = person()? else { return Ok(()) };
    build(&home, &nix, &["-I", "nix:packages=jq,other-jq"])?
        .exits(3)?
        .complains("two packages have the same file: ")?
        .complains("other-jq-1.0/bin/jq")?
        .complains("leave one of them out")?;
    Ok(())
}

#[test]
fn a_full_disk_is_called_that() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix_on_small_disk(160 << 20)? else { return Ok(()) };
    build(&home, &nix, &["-I", "nix:packages=large-build"])?
        .exits(4)?
        .complains("error: no space is left for the Nix store")?
        .complains("nix-collect-garbage")?;
    nothing_stays(&home)
}

#[test]
fn a_daemon_that_does_not_answer_is_named() -> anyhow::Result<()> {
    let Some((mut home, nix)) = person()? else { return Ok(()) };
    home.variable("NIX_REMOTE", "daemon");
    build(&home, &nix, &["-I", "nix:packages=jq"])?
        .exits(4)?
        .complains("error: the Nix daemon does not answer at ")?
        .complains("systemctl start nix-daemon")?;
    nothing_stays(&home)
}

#[test]
fn a_machine_without_nix_is_told_apart() -> anyhow::Result<()> {
    let Some((mut home, nix)) = person()? else { return Ok(()) };
    if ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"]
        .iter()
        .any(|place| fs::exists(place).is_ok_and(|there| there))
    {
        skip("Nix is where it is found without PATH");
        return Ok(());
    }
    home.hide_nix()?;
    build(&home, &nix, &["-I", "nix:packages=jq"])?
        .exits(4)?
        .complains("error: nix-build was not found")?
        .complains("agent-shim doctor")?
        .complains("--env host")?;
    nothing_stays(&home)
}

#[test]
fn a_folder_that_is_not_nixpkgs_is_called_that() -> anyhow::Result<()> {
    let Some((home, _nix)) = person()? else { return Ok(()) };
    let project = home.project("project")?;
    let with =
        |nixpkgs: &str| home.run(["env", "build", "-I", "nix:packages=jq", "--nixpkgs", nixpkgs])?.exits(64);
    with("./nowhere")?.complains("nowhere cannot be used: No such file or directory")?;
    with("./project")?.complains("project is not nixpkgs: it has no default.nix")?;
    with("sixteen")?.complains("`sixteen` names no nixpkgs")?.complains("write a folder")?;
    let commit = "0".repeat(40);
    with(&format!("{commit}:sha256-short"))?
        .complains("`sha256-short` is not the SHA-256 of a package set")?;
    for other in [
        "{ }",
        "{ pkgs ? null }: { }",
        "{ config, overlays }: { lib = 1; jq = derivation { name = \"x\"; system = \"x\"; builder = \"x\"; }; }",
    ] {
        fs::write(project.join("default.nix"), other)?;
        with("./project")?.complains("what was given as nixpkgs is not nixpkgs")?;
    }
    fs::write(project.join("default.nix"), "{ config, overlays }: throw \"this is broken\"")?;
    home.run(["env", "build", "-I", "nix:packages=jq", "--nixpkgs", "./project"])?
        .exits(3)?
        .complains("this is broken")?;
    Ok(())
}

#[test]
fn a_store_that_this_user_cannot_write_to_is_named() -> anyhow::Result<()> {
    let Some((mut home, nix)) = person()? else { return Ok(()) };
    for variable in ["NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR"] {
        home.variable(variable, format!("/usr/no-such-folder/{variable}"));
    }
    build(&home, &nix, &["-I", "nix:packages=jq"])?
        .exits(4)?
        .complains("error: this user cannot write to the Nix store: /usr/no-such-folder")?
        .complains("install it with its daemon")?;
    nothing_stays(&home)
}

#[test]
fn what_cannot_be_fetched_is_named() -> anyhow::Result<()> {
    let Some((mut home, _nix)) = person()? else { return Ok(()) };
    // A proxy that is not there, so that the answer is the same with a network and without one.
    home.variable("https_proxy", "http://127.0.0.1:9");
    home.variable("NIX_CONFIG", "download-attempts = 1\nconnect-timeout = 5");
    home.run(["env", "build", "-I", "nix:packages=jq"])?
        .exits(4)?
        .complains("error: cannot fetch https://github.com/NixOS/nixpkgs/archive/")?
        .complains("`--env host` needs none")?;
    nothing_stays(&home)
}

//! The package set that stands in for nixpkgs: what the other tests of environments are worth depends on it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use agent_tests::{Home, Nix, Output, Who, finish, skip, until};

/// A program of the store where there is nothing but the store, and the shell that the C library looks for.
fn alone(home: &Home, nix: &Nix, package: &Path, script: &str) -> anyhow::Result<Output> {
    finish(alone_command(home, nix, package, script)?, b"")
}

fn alone_command(home: &Home, nix: &Nix, package: &Path, script: &str) -> anyhow::Result<Command> {
    let bash = nix.build(home, "bash")?;
    let coreutils = nix.build(home, "coreutils")?;
    let mut command =
        home.command("bwrap", ["--unshare-user", "--unshare-pid", "--die-with-parent", "--clearenv"]);
    command.args([
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/work",
        "--chdir",
        "/work",
        "--ro-bind",
    ]);
    command.args([nix.store(), nix.store()]).args(["--setenv", "HOME", "/work", "--setenv", "PATH"]);
    command.arg(format!("{}/bin:{}/bin", package.display(), coreutils.display()));
    command.args([std::ffi::OsStr::new("--symlink"), bash.join("bin/bash").as_os_str(), "/bin/sh".as_ref()]);
    command.arg("--").arg(bash.join("bin/bash")).args(["-euc", script]);
    Ok(command)
}

#[test]
fn programs_run_where_there_is_only_the_store() -> anyhow::Result<()> {
    let scripts = [
        ("bash", "test ! -e /usr && test ! -e /lib64 && echo \"$BASH_VERSION\"", "5."),
        ("coreutils", "printf 'b\\na\\n' | sort | tr '\\n' ' '", "a b"),
        (
            "git",
            "git init -q r; cd r; echo 1 >f; git add f; git -c user.name=a -c user.email=a@b commit -qm first
             git clone -q . ../copy; git -C ../copy log --format=%s",
            "first",
        ),
        ("jq", "echo '{\"a\":[1,2]}' | jq -c .a", "[1,2]"),
        ("ripgrep", "echo needle >f; rg --no-heading -n needle f", "1:needle"),
        ("fd", "touch some.rs; fd -e rs", "some.rs"),
        ("fzf", "printf 'one\\ntwo\\n' | fzf -f tw", "two"),
        ("curl", "curl -s file:///proc/self/comm", "curl"),
        (
            "nodejs_24",
            "node -p 'require(\"child_process\").execFileSync(process.execPath, [\"-p\", \"6*7\"]).toString()'",
            "42",
        ),
        (
            "python312",
            "python -c 'import ctypes, hashlib, json, sqlite3, ssl; print(json.dumps([1]))'",
            "[1]",
        ),
        ("python312Packages.pip", "pip --version", "pip "),
        ("kubectl", "kubectl get pods", "kubectl: get pods"),
    ];
    for who in Home::everyone() {
        let mut home = Home::new(*who)?;
        let Some(nix) = home.nix()? else { return Ok(()) };
        for (package, script, expected) in scripts {
            let path = nix.build(&home, package)?;
            let output = alone(&home, &nix, &path, script)?.success()?;
            assert!(output.text().starts_with(expected), "{package}: {output}");
        }
    }
    Ok(())
}

/// What a person types to an agent, and what it leaves in their home.
#[test]
fn agents_say_what_they_were_given_and_keep_state() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    for (package, command, key, state) in [
        ("claude-code", "claude", "ANTHROPIC_BASE_URL", ".claude.json"),
        ("codex", "codex", "OPENAI_API_KEY", ".codex/state.json"),
        ("gemini-cli", "gemini", "GEMINI_API_KEY", ".gemini/state.json"),
        ("opencode", "opencode", "OPENAI_API_KEY", ".local/share/opencode/state.json"),
    ] {
        let path = nix.build(&home, package)?;
        let script = format!(
            "{command} </dev/null; {key}=some {command} --flag 'two words'; echo left $?; cat ~/{state}"
        );
        let output = finish(
            alone_command(&home, &nix, &path, &script.replace("; echo", " || echo"))?,
            b"hi\nexit 3\n",
        )?;
        let text = output.success()?.text();
        for said in [
            "argument: --flag",
            "argument: two words",
            &format!("{key}=some"),
            "found: {\"runs\":1}",
            "heard: hi",
        ] {
            assert!(text.contains(&format!("{command}: {said}\n")), "no `{said}` in {text}");
        }
        assert!(text.ends_with("left 3\n{\"runs\":2}"), "{text}");
    }
    Ok(())
}

#[test]
fn what_is_unfree_or_missing_fails_as_in_nixpkgs() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let build = |words: &[&str]| {
        let mut build = home.command("nix-build", ["--no-out-link"]);
        build.arg(nix.nixpkgs()).args(words);
        finish(build, b"")
    };
    let refused =
        build(&["-A", "claude-code"])?.exits(1)?.complains("error: Package ‘claude-code-1.2.3’ in ")?;
    refused.complains("has an unfree license (‘unfree’), refusing to evaluate.")?;
    let only = "{ allowUnfreePredicate = package: package.pname == \"terraform\"; }";
    build(&["-A", "terraform", "--arg", "config", only])?.success()?;
    build(&["-A", "unfree-tool", "--arg", "config", only])?
        .exits(1)?
        .complains("error: Refusing to evaluate package 'unfree-tool-1.0' in ")?;
    build(&["-A", "nosuch"])?.exits(1)?.complains("attribute 'nosuch'")?;
    let broken =
        build(&["-A", "broken-build"])?.complains("broken-build: line 40\nbroken-build: this is why\n")?;
    broken.complains("failed with exit code 7")?;
    Ok(())
}

#[test]
fn a_closure_has_as_many_paths_as_its_name_says() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    for (package, count) in [("closure50", 50), ("closure500", 500)] {
        let path = nix.build(&home, package)?;
        assert_eq!(nix.closure(&home, &path)?.len(), count);
    }
    Ok(())
}

/// Trees of links, made by an expression as a person might write it.
#[test]
fn trees_of_links_are_made_as_by_nixpkgs() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let build = |expression: &str| {
        let expression =
            format!("with import {} {{ config = {{ }}; }}; {expression}", nix.nixpkgs().display());
        finish(home.command("nix-build", ["--no-out-link", "-E", &expression]), b"")
    };
    let tree = build(
        "buildEnv { name = \"tree\"; paths = [ git jq tzdata ]; pathsToLink = [ \"/bin\" \"/share/zoneinfo\" ];
           postBuild = \"mkdir $out/etc\"; }",
    )?;
    let tree = tree.success()?.text();
    let entries = |folder: &str| -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(Path::new(&tree).join(folder))?;
        let mut names: Vec<_> = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into()))
            .collect::<anyhow::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(entries("")?, ["bin", "etc", "share"]);
    assert_eq!(entries("share")?, ["zoneinfo"]);
    assert_eq!(entries("bin")?, ["git", "git-receive-pack", "git-upload-archive", "git-upload-pack", "jq"]);

    build("buildEnv { name = \"clash\"; paths = [ jq other-jq ]; }")?
        .exits(100)?
        .complains("error: collision between `")?;
    let ranked = build(
        "let worse = other-jq // { meta.priority = 1000; }; in buildEnv { name = \"ranked\"; paths = [ worse jq ]; }",
    )?;
    let program = std::fs::read_link(format!("{}/bin/jq", ranked.success()?.text()))?;
    assert!(program.to_string_lossy().contains("-jq-12/"), "{}", program.display());
    build("symlinkJoin { name = \"join\"; paths = [ jq other-jq ]; }")?.success()?;
    let info = build("closureInfo { rootPaths = [ git jq ]; }")?.success()?.text();
    let listed = std::fs::read_to_string(format!("{info}/store-paths"))?;
    for package in ["bash-12", "git-12", "glibc-12", "jq-12"] {
        assert!(listed.contains(package), "no {package} in {listed}");
    }
    assert_eq!(listed.lines().count(), 4, "{listed}");
    Ok(())
}

/// The harness's own promises: a build that waits, a disk that fills, programs that are hidden or replaced.
#[test]
fn a_store_of_ones_own_can_be_broken() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let mut home = Home::new(*who)?;
        let Some(nix) = home.private_nix()? else { return Ok(()) };
        let mut build = home.command("nix-build", ["--no-out-link", "-A", "slow-build"]);
        let mut build = build.arg(nix.nixpkgs()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        until("the builder to begin", || Ok(nix.slow_build_started().exists().then_some(())))?;
        assert!(build.try_wait()?.is_none());
        nix.release_slow_build()?;
        assert!(build.wait()?.success());

        let decoys = home.decoy_nix()?;
        finish(home.command("nix-build", ["--version"]), b"")?.exits(97)?;
        assert_eq!(decoys.started()?, ["nix-build --version"]);
        home.hide_nix()?;
        finish(home.command("sh", ["-c", "command -v bwrap && ! command -v nix-build nix"]), b"")?
            .success()?;
    }
    Ok(())
}

#[test]
fn a_small_disk_fills() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix_on_small_disk(16 << 20)? else { return Ok(()) };
    let mut build = home.command("nix-build", ["--no-out-link", "-A", "large-build"]);
    build.arg(nix.nixpkgs());
    let output = finish(build, b"")?;
    assert_ne!(output.code(), 0, "{output}");
    output.complains("No space left on device")?;
    Ok(())
}

/// An agent that people use, from its registry into the store, on the store's node.
#[test]
fn a_real_agent_runs_from_the_store() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let folder = home.project("gemini")?;
    let mut install = home.command("npm", ["install", "--ignore-scripts", "--omit=optional"]);
    install
        .args(["--no-audit", "--no-fund", "--fetch-retries=0", "--prefix"])
        .arg(&folder)
        .arg("@google/gemini-cli");
    // How this machine gets at the registry is its own affair.
    for name in ["NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "https_proxy", "npm_config_registry"] {
        install.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    match finish(install, b"") {
        Ok(output) if output.code() == 0 => {}
        Ok(output) => {
            skip(&format!(
                "npm cannot install a real agent: {}",
                output.errors().lines().find(|line| !line.is_empty()).unwrap_or_default()
            ));
            return Ok(());
        }
        Err(error) => {
            skip(&format!("npm cannot install a real agent: {error}"));
            return Ok(());
        }
    }
    let expression = format!(
        "with import {} {{ config = {{ }}; }}; writeShellScriptBin \"gemini\"
         ''exec ${{nodejs_24}}/bin/node ${{{}}}/node_modules/@google/gemini-cli/bundle/gemini.js \"$@\"''",
        nix.nixpkgs().display(),
        folder.display()
    );
    let build = home.command("nix-build", ["--no-out-link", "-E", &expression]);
    let path = finish(build, b"")?.success()?.text();
    let version = alone(&home, &nix, Path::new(&path), "gemini --version")?.success()?.text();
    assert!(version.split('.').count() >= 3, "{version}");
    Ok(())
}

//! Environments of Nix: built once, found again without Nix, dropped when nobody uses them. Nix is real, and the package
//! set is `tests/nixpkgs`.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use agent_tests::{Home, Nix, Output, Who, deadline, finish, is_alive, skip, until};
use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// `env build` of these flags, with the stand-in for nixpkgs.
fn build(home: &Home, nix: &Nix, flags: &[&str]) -> anyhow::Result<Output> {
    let nixpkgs = nix.nixpkgs().display().to_string();
    home.run([&["env", "build", "--nixpkgs", &nixpkgs], flags].concat())
}

/// The id and the store path that a build has printed.
fn built(output: Output) -> anyhow::Result<(String, PathBuf)> {
    let output = output.success()?;
    let text = output.text();
    let (id, path) = text.split_once("  ").with_context(|| format!("two words from {output}"))?;
    Ok((id.to_owned(), path.into()))
}

/// The state of an environment, as it is listed.
fn state(home: &Home, id: &str) -> anyhow::Result<Option<String>> {
    let list = home.run(["env", "list", "--json"])?.success()?.json()?;
    let all = list.as_array().context("a list")?;
    Ok(all.iter().find(|env| env["id"] == id).and_then(|env| env["state"].as_str()).map(str::to_owned))
}

#[test]
fn an_environment_is_built_once_and_found_without_a_process() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let mut home = Home::new(*who)?;
        let Some(nix) = home.nix()? else { return Ok(()) };
        let (id, path) = built(build(&home, &nix, &["-I", "nix:packages=jq,fd"])?)?;
        assert!(path.starts_with(nix.store()), "{}", path.display());
        assert_eq!(fs::read_link(home.data().join("envs").join(&id))?, path);
        let expression = fs::read_to_string(home.data().join(format!("specs/{id}.nix")))?;
        assert!(expression.contains("path = [ \"jq\" ];"), "{expression}");
        for inside in ["bin/jq", "bin/fd", ".agent-shim/sh", ".agent-shim/env", ".agent-shim/zoneinfo/UTC"] {
            assert!(path.join(inside).exists(), "{inside}");
        }
        let certificates = fs::read_to_string(path.join(".agent-shim/ca-bundle.crt"))?;
        assert!(certificates.contains("BEGIN CERTIFICATE"));
        // Exact means exact: what every sandbox needs is there, and not on its PATH.
        assert!(!path.join("bin/bash").exists() && !path.join("bin/ls").exists());

        let decoys = home.decoy_nix()?;
        for spelling in ["nix:packages=jq,fd", "nix:packages=,nixpkgs#fd, pkgs.jq,,jq"] {
            assert_eq!(built(build(&home, &nix, &["-I", spelling])?)?, (id.clone(), path.clone()));
        }
        let list = home.run(["env", "list"])?.success()?.text();
        assert!(list.contains(&id) && list.contains("built"), "{list}");
        let cached = build(&home, &nix, &["-I", "nix:packages=fd,jq", "--json"])?.success()?.json()?;
        assert_eq!((&cached["cached"], &cached["id"]), (&true.into(), &id.as_str().into()));
        assert_eq!(decoys.started()?, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn the_packages_run_and_what_was_asked_for_is_shown() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let flags = ["--nix-preset", "codex", "--nix-packages", "python312Packages.pip", "--nix-sets", "go"];
    let (id, path) = built(build(&home, &nix, &flags)?)?;
    for (program, says) in [("jq", "jq-"), ("pip", "pip "), ("go", "go: --version"), ("node", "v")] {
        let output = finish(home.command(path.join("bin").join(program), ["--version"]), b"")?.success()?;
        assert!(output.text().starts_with(says), "{output}");
    }
    let shown = home.run(["env", "show", &id[..8]])?.success()?.text();
    for line in ["codex", "python312Packages.pip", "store paths", "pkgs.buildEnv {", " MiB"] {
        assert!(shown.contains(line), "{line}\n---\n{shown}");
    }
    let json = home.run(["env", "show", &id, "--json"])?.success()?.json()?;
    assert_eq!(json["spec"]["preset"], "codex");
    assert_eq!(json["state"], "built");
    assert!(json["size_bytes"].as_u64() > Some(1_000_000), "{json}");
    assert!(json["store_paths"].as_u64() > Some(10), "{json}");
    home.run(["env", "show", "zzzzzz"])?
        .exits(1)?
        .complains("there is no environment and no sandbox `zzzzzz`")?;
    Ok(())
}

/// Everything in the catalog exists in a package set that is like nixpkgs, and nothing gets in another's way.
#[test]
fn every_preset_and_every_set_can_be_built() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    for preset in ["claude", "codex", "gemini", "opencode"] {
        built(build(&home, &nix, &["--nix-preset", preset])?)?;
    }
    let sets = "nodejs,python,go,rust,kubernetes,terraform,docker,aws,gcp";
    let (_, path) = built(build(&home, &nix, &["--nix-sets", sets])?)?;
    for program in
        ["claude", "node", "python", "go", "cargo", "kubectl", "terraform", "docker", "aws", "gcloud"]
    {
        assert!(path.join("bin").join(program).exists(), "{program}");
    }
    Ok(())
}

/// `other-jq` has a program of the same name as the preset's `jq`.
#[test]
fn what_was_named_more_directly_wins() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let (_, path) = built(build(&home, &nix, &["--nix-preset", "codex", "--nix-packages", "other-jq"])?)?;
    let jq = fs::canonicalize(path.join("bin/jq"))?;
    assert!(jq.display().to_string().contains("other-jq"), "{}", jq.display());
    assert!(path.join("bin/other-jq").exists());
    Ok(())
}

/// In a container the user often has no entry in /etc/passwd, and no variable either.
#[test]
fn people_without_a_name_can_build() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let mut shim = home.shim(["env", "build", "-I", "nix:packages=jq", "--nixpkgs"]);
    shim.arg(nix.nixpkgs()).env_remove("USER");
    finish(shim, b"")?.success()?;
    let mut doctor = home.shim(["doctor", "--env", "nix"]);
    doctor.env_remove("USER");
    let said = finish(doctor, b"")?;
    ensure!(!said.text().contains("nix-broken"), "{said}");
    Ok(())
}

#[test]
fn a_dry_run_prints_the_expression_and_makes_nothing() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let decoys = home.decoy_nix()?;
    let output = build(&home, &nix, &["-n", "-I", "nix:packages=jq"])?.success()?;
    assert!(output.text().contains("pkgs.buildEnv {"), "{output}");
    let json = build(&home, &nix, &["-n", "--json", "-I", "nix:packages=jq"])?.success()?.json()?;
    assert_eq!(json["spec"]["packages"], serde_json::json!(["jq"]));
    assert!(!home.data().join("envs").exists());
    assert_eq!(decoys.started()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn names_are_names_whatever_they_contain() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let bait = home.path().join("bait");
    let exec = format!("builtins.toFile \"x\" (builtins.readFile {})", bait.display());
    for name in [
        r#""${builtins.abort "here"}""#.replace("\"here\"", r#"\"here\""#),
        r#""\" ]; } ]; evil = builtins.abort \"here\"; x = [ { path = [ \"""#.to_owned(),
        r#""''; builtins.abort ''here""#.to_owned(),
        r##""# comment""##.to_owned(),
        format!("\"${{{}}}\"", exec.replace('"', "\\\"")),
    ] {
        let output = build(&home, &nix, &["-I", &format!("nix:packages={name}")])?.exits(64)?;
        assert!(output.errors().contains("nixpkgs has no package"), "{output}");
        assert!(!output.errors().contains("evaluation aborted"), "{output}");
    }
    // What only Nix takes without quotes, and what it takes with them alone.
    for name in ["_1password", "\"odd.name\"", "nested.deeply.hello", "nested.\"deeply\".hello"] {
        built(build(&home, &nix, &["-I", &format!("nix:packages={name}")])?)?;
    }
    Ok(())
}

/// The person's own settings of nixpkgs would make another environment of the same name.
#[test]
fn the_persons_own_nixpkgs_settings_do_not_matter() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    home.variable("NIXPKGS_ALLOW_UNFREE", "1");
    home.variable("NIX_PATH", "nixpkgs=/nowhere");
    build(&home, &nix, &["-I", "nix:packages=unfree-tool"])?.exits(3)?.complains("has an unfree licence")?;
    built(build(&home, &nix, &["-I", "nix:packages=unfree-tool", "--unfree"])?)?;
    Ok(())
}

#[test]
fn an_environment_whose_store_path_is_gone_is_built_again() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let (id, path) = built(build(&home, &nix, &["-I", "nix:packages=hello"])?)?;
    // Somebody deletes the roots and runs the collector.
    for root in fs::read_dir(nix.state().join("gcroots/auto"))? {
        fs::remove_file(root?.path())?;
    }
    finish(home.command("nix-store", ["--delete", &path.display().to_string()]), b"")?.success()?;
    assert_eq!(state(&home, &id)?.as_deref(), Some("gone"));
    assert_eq!(built(build(&home, &nix, &["-I", "nix:packages=hello"])?)?, (id.clone(), path.clone()));
    assert_eq!(state(&home, &id)?.as_deref(), Some("built"));

    // Somebody deletes it behind the store's back.
    finish(home.command("chmod", ["-R", "u+w", &path.display().to_string()]), b"")?.success()?;
    fs::remove_dir_all(&path)?;
    build(&home, &nix, &["-I", "nix:packages=hello"])?
        .exits(4)?
        .complains("has lost")?
        .complains("--repair")?;
    Ok(())
}

#[test]
fn what_a_folder_of_nixpkgs_holds_is_looked_at_again_on_demand() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let flags = ["-I", "nix:packages=changing"];
    let set = |text: &str| -> anyhow::Result<()> {
        let package = format!("pkgs: _: {{ changing = pkgs.writeTextDir \"text\" \"{text}\"; }}");
        fs::write(nix.nixpkgs().join("scripted.nix"), package)?;
        Ok(())
    };
    set("one")?;
    let (id, first) = built(build(&home, &nix, &flags)?)?;
    set("two")?;
    assert_eq!(built(build(&home, &nix, &flags)?)?, (id.clone(), first.clone()));
    let (same_id, second) = built(build(&home, &nix, &[&flags[..], &["--rebuild"]].concat())?)?;
    assert_eq!(same_id, id);
    assert_eq!(fs::read_to_string(second.join("text"))?, "two");
    // Sandboxes that run may still use the first, so it stays until `env gc`.
    finish(home.command("nix-store", ["--delete", &first.display().to_string()]), b"")?.exits(1)?;
    assert_eq!(built(build(&home, &nix, &[&flags[..], &["--rebuild"]].concat())?)?.1, second);
    finish(home.command("nix-store", ["--delete", &first.display().to_string()]), b"")?.success()?;
    Ok(())
}

/// A build that goes on, and what it says line by line.
struct Running {
    child: Child,
    said: mpsc::Receiver<String>,
    all: Vec<String>,
}

impl Running {
    fn start(home: &Home, nix: &Nix, package: &str) -> anyhow::Result<Self> {
        let mut command = home.shim(["env", "build", "--nixpkgs"]);
        command.arg(nix.nixpkgs()).args(["-I", &format!("nix:packages={package}")]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stderr.take().context("its standard error")?).lines();
        let (tell, said) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Ok(Self { child, said, all: Vec::new() })
    }

    /// Waits for a line that holds this.
    fn says(&mut self, what: &str) -> anyhow::Result<()> {
        let end = Instant::now() + deadline();
        loop {
            match self.said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.all.push(line);
                    if self.all.last().is_some_and(|line| line.contains(what)) {
                        return Ok(());
                    }
                }
                Err(_) => bail!("it never said `{what}` but {:#?}", self.all),
            }
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    fn end(mut self) -> anyhow::Result<Output> {
        let status = until("the build to end", || Ok(self.child.try_wait()?))?;
        let mut stdout = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            std::io::Read::read_to_end(&mut pipe, &mut stdout)?;
        }
        while let Ok(line) = self.said.recv_timeout(deadline()) {
            self.all.push(line);
        }
        let stderr = self.all.join("\n").into_bytes();
        Ok(Output { command: "agent-shim env build".to_owned(), status, stdout, stderr })
    }
}

fn wait_for_slow_build(nix: &Nix) -> anyhow::Result<()> {
    until("the slow builder to begin", || Ok(nix.slow_build_started().exists().then_some(())))
}

/// Waits until no process has this store in its command line or environment.
fn until_unused(store: &Path) -> anyhow::Result<()> {
    let store = store.display().to_string();
    let is_of_it = |entry: &fs::DirEntry| {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        pid.is_some_and(is_alive) && String::from_utf8_lossy(&read("environ")).contains(&store)
    };
    until("all processes of the build to be gone", || {
        Ok((!fs::read_dir("/proc")?.flatten().any(|entry| is_of_it(&entry))).then_some(()))
    })
}

#[test]
fn two_starts_at_once_build_once() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let mut first = Running::start(&home, &nix, "slow-build")?;
    first.says("building 1 package")?;
    wait_for_slow_build(&nix)?;
    let mut second = Running::start(&home, &nix, "slow-build")?;
    second.says("another agent-shim is building it; waiting for that")?;
    // What is being built is not dropped meanwhile.
    home.run(["env", "gc"])?.success()?.complains("it is built or taken into use just now")?;
    nix.release_slow_build()?;
    let (first, second) = (first.end()?.success()?, second.end()?.success()?);
    assert_eq!(first.text(), second.text());
    assert!(!second.errors().contains("building 1 package"), "{second}");
    Ok(())
}

#[test]
fn one_who_waits_can_be_called_off() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let first = Running::start(&home, &nix, "slow-build")?;
    wait_for_slow_build(&nix)?;
    let mut second = Running::start(&home, &nix, "slow-build")?;
    second.says("waiting for that")?;
    second.signal(Signal::SIGINT)?;
    second.end()?.exits(5)?.complains("interrupted by SIGINT")?;
    nix.release_slow_build()?;
    first.end()?.success()?;
    Ok(())
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing_that_looks_finished() -> anyhow::Result<()> {
    for (who, signal) in
        [(Who::Ordinary, Signal::SIGINT), (Who::Myself, Signal::SIGTERM), (Who::Ordinary, Signal::SIGHUP)]
    {
        let mut home = Home::new(who)?;
        let Some(nix) = home.private_nix()? else { return Ok(()) };
        let running = Running::start(&home, &nix, "slow-build")?;
        wait_for_slow_build(&nix)?;
        running.signal(signal)?;
        running.end()?.exits(5)?.complains(&format!("interrupted by {signal}"))?.complains("hint: ")?;
        until_unused(&nix.store())?;
        for folder in ["envs", "specs"] {
            assert_eq!(fs::read_dir(home.data().join(folder))?.count(), 0, "{folder}");
        }
        nix.release_slow_build()?;
        built(build(&home, &nix, &["-I", "nix:packages=slow-build"])?)?;
    }
    Ok(())
}

#[test]
fn a_build_that_is_killed_is_taken_up_by_the_next() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let running = Running::start(&home, &nix, "slow-build")?;
    wait_for_slow_build(&nix)?;
    let id = home.run(["env", "list", "--json"])?.json()?[0]["id"].as_str().context("an id")?.to_owned();
    running.signal(Signal::SIGKILL)?;
    running.end()?.exits(137)?;
    assert_eq!(state(&home, &id)?.as_deref(), Some("unfinished"));
    nix.release_slow_build()?;
    assert_eq!(built(build(&home, &nix, &["-I", "nix:packages=slow-build"])?)?.0, id);
    assert_eq!(state(&home, &id)?.as_deref(), Some("built"));
    Ok(())
}

#[test]
fn gc_drops_what_no_sandbox_uses() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let mut home = Home::new(*who)?;
        let Some(nix) = home.private_nix()? else { return Ok(()) };
        let (id, path) = built(build(&home, &nix, &["-I", "nix:packages=hello"])?)?;
        let dry = home.run(["env", "gc", "-n"])?.success()?;
        assert!(dry.text().contains(&format!("would drop {id}  hello")), "{dry}");

        // A record that cannot be read may name any environment.
        let odd = home.data().join("agents/odd");
        finish(home.command("mkdir", ["-p", &odd.display().to_string()]), b"")?.success()?;
        fs::write(odd.join("sandbox.json"), "{")?;
        let kept = home.run(["env", "gc", "--json"])?.success()?.json()?;
        assert_eq!(kept["kept"][0]["reason"], "unknown");
        assert_eq!(kept["kept"][0]["sandboxes"], serde_json::json!(["odd"]));
        home.run(["env", "gc"])?.success()?.complains("the record of odd cannot be read")?;
        fs::remove_dir_all(odd)?;

        let dropped = home.run(["env", "gc", "--json", "--collect"])?.success()?.json()?;
        assert_eq!(dropped["dropped"][0]["id"], id.as_str());
        assert!(dropped["store"].as_str().is_some_and(|says| says.contains("deleted")), "{dropped}");
        assert!(!path.exists());
        assert_eq!(home.run(["env", "list", "--json"])?.json()?, serde_json::json!([]));
    }
    Ok(())
}

/// The link is what keeps the store's collector away.
#[test]
fn a_built_environment_survives_the_stores_collector() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.private_nix()? else { return Ok(()) };
    let (_, path) = built(build(&home, &nix, &["-I", "nix:packages=hello"])?)?;
    finish(home.command("nix-store", ["--gc"]), b"")?.success()?;
    assert!(path.join("bin/hello").exists());
    let mut query = home.command("nix-store", ["-qR"]);
    query.arg(&path);
    for path in finish(query, b"")?.success()?.text().lines() {
        ensure!(Path::new(path).exists(), "{path} is gone");
    }
    Ok(())
}

#[test]
fn a_flake_can_stand_for_nixpkgs() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let archive = home.path().join("set.tar.gz");
    let parent = nix.nixpkgs().parent().context("a parent")?.display().to_string();
    let mut tar = home.command("tar", ["-C", &parent, "-czf"]);
    tar.arg(&archive).arg(nix.nixpkgs().file_name().context("a name")?);
    finish(tar, b"")?.success()?;
    let reference = format!("file://{}", archive.display());
    let flags = ["env", "build", "-I", "nix:packages=hello", "--nixpkgs", &reference];
    let off = home.run(flags)?;
    if off.code() == 0 {
        skip("flakes cannot be switched off here");
    } else {
        off.exits(4)?.complains("flakes are switched off in this Nix")?.complains("experimental-features")?;
    }
    home.variable("NIX_CONFIG", "experimental-features = nix-command flakes");
    let (_, path) = built(home.run(flags)?)?;
    assert!(path.join("bin/hello").exists());
    Ok(())
}

/// One who cannot read the folder of the data cannot be told what is in it.
#[test]
fn folders_that_others_can_change_are_not_trusted() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut home = Home::new(Who::Ordinary)?;
    let Some(nix) = home.nix()? else { return Ok(()) };
    let (id, _) = built(build(&home, &nix, &["-I", "nix:packages=jq"])?)?;
    let envs = home.data().join("envs");
    fs::set_permissions(&envs, fs::Permissions::from_mode(0o777))?;
    for command in [&["env", "list"][..], &["env", "gc"], &["env", "show", &id]] {
        home.run(command)?.exits(3)?.complains("others may write to it")?;
    }
    build(&home, &nix, &["-I", "nix:packages=jq"])?.exits(3)?.complains("cannot be trusted")?;
    fs::set_permissions(&envs, fs::Permissions::from_mode(0o700))?;
    // A link that was bent leads to nothing that we have a list of.
    fs::remove_file(envs.join(&id))?;
    symlink("/etc", envs.join(&id))?;
    assert_eq!(state(&home, &id)?.as_deref(), Some("unfinished"));
    Ok(())
}

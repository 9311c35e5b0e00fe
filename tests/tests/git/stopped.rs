//! A sandbox that does not run can be pulled from, fetched from and pushed to, and stays as it is.

use std::{fs, process::Stdio};

use agent_tests::{Home, Part, Sandbox, Traces, Who, until, until_gone};
use anyhow::{Context, ensure};

use crate::support::{Case, contents, git, repository};

impl Case {
    fn stopped(who: Who, script: &str) -> anyhow::Result<Self> {
        let case = Self::start(who)?;
        case.inside(script)?;
        case.sandbox.tell("stop", &["--force"])?.success()?;
        Ok(case)
    }

    /// Nothing runs, and nothing of an endpoint is on disk.
    fn is_quiet(&self) -> anyhow::Result<()> {
        let looked = until("everything to be gone", || {
            let quiet = Traces::of(&self.sandbox)?.processes.is_empty();
            Ok((quiet && !self.endpoint().exists()).then_some(()))
        });
        looked.with_context(|| format!("{:#?}", Traces::of(&self.sandbox).map(|traces| traces.processes)))
    }

    fn endpoint(&self) -> std::path::PathBuf {
        self.sandbox.folder().join("endpoint")
    }

    /// Has git inside stop in the middle of what it sends, until the file `~/go` is there. A repository of this form is
    /// left to git: what is served without it has no hook.
    const STUCK: &str = "git config core.repositoryformatversion 1; git config extensions.noop-v1 true
        printf '[uploadpack]\\n\\tpackObjectsHook = /home/sandbox/hook\\n' > ~/.gitconfig;
        printf '#!/bin/sh\\ntouch ~/reached\\nwhile ! [ -e ~/go ]; do sleep 0.02; done\\nexec \"$@\"\\n' > ~/hook
        chmod +x ~/hook; echo two >> file; git commit -qam two";

    fn reached(&self) -> anyhow::Result<()> {
        let file = self.sandbox.folder().join("home/reached");
        until("git to be in the middle", || Ok(file.exists().then_some(())))
    }

    /// A pull in the background.
    fn pulling(&self) -> anyhow::Result<std::process::Child> {
        let into = self.clone.to_string_lossy();
        let mut pull = self.sandbox.shim(["pull", "box", "--into", &*into]);
        Ok(pull.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }
}

#[test]
fn pull_from_one_that_was_stopped() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::stopped(*who, "echo two >> file; git commit -qam two")?;
        let status = case.sandbox.status()?;
        let told = case.pull(&["--json"])?.success()?.json()?;
        ensure!(told["commits"] == 1, "{told:#}");
        ensure!(!case.at("refs/agents/box/heads/main")?.is_empty());
        case.is_quiet()?;
        // Nobody takes it for a start.
        let after = case.sandbox.status()?;
        ensure!(after == status, "{status:#}\n{after:#}");
        ensure!(case.pull(&[])?.success()?.text() == "box: nothing new");
        case.sandbox.tell("start", &[])?.success()?;
        case.inside("git status")?;
    }
    Ok(())
}

#[test]
fn pull_from_a_clone_that_was_never_home() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let project = repository(&home, "project")?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
        let work = "cd /workspace; git config user.name A; git config user.email a@b; echo 2 > file; git commit -qam 2";
        sandbox.sh(work)?.success()?;
        sandbox.tell("stop", &[])?.success()?;
        sandbox.tell("pull", &[])?.success()?;
        git(&sandbox, &project, &["diff", "--quiet", "refs/agents/box/HEAD^", "HEAD"])?.success()?;
    }
    Ok(())
}

#[test]
fn pull_from_one_that_was_killed() -> anyhow::Result<()> {
    for parts in [&[Part::Init][..], &[Part::Monitor, Part::Layer, Part::Init]] {
        let case = Case::start(Who::Ordinary)?;
        case.inside("echo two >> file; git commit -qam two")?;
        for part in parts {
            case.sandbox.kill(*part)?;
        }
        ensure!(case.pull(&["--json"])?.success()?.json()?["commits"] == 1);
        ensure!(case.sandbox.status()?["state"] == "stopped");
        case.is_quiet()?;
    }
    Ok(())
}

#[test]
fn plain_git_with_one_that_was_stopped() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, "git branch work")?;
    let home = &case.sandbox;
    let listed = git(home, home.path(), &["ls-remote", "agent::box"])?.success()?;
    ensure!(listed.text().contains("\trefs/heads/work"), "{listed}");
    git(home, home.path(), &["clone", "-q", "agent::box", "home/new"])?.success()?;
    case.git(&["commit", "-q", "--allow-empty", "-m", "from the host"])?.success()?;
    case.git(&["push", "-q", "agent::box", "HEAD:refs/heads/new"])?.success()?;
    case.git(&["fetch", "-q", "agent::box", "refs/heads/new"])?.success()?;
    ensure!(case.at("FETCH_HEAD")? == case.at("HEAD")?);
    case.is_quiet()
}

/// Whatever runs in there finds the folders and the tools of the sandbox, and nothing else of it.
#[test]
fn nothing_of_the_persons_gets_in() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        repository(&home, "project")?;
        let secret = home.file("key", b"s3cret")?;
        let mounted = home.project("mounted")?;
        let flags = [
            "-e".to_owned(),
            "TOKEN=t0ken".to_owned(),
            "--secret".to_owned(),
            format!("key={}", secret.display()),
            "--mount".to_owned(),
            format!("{}:/mnt/data", mounted.display()),
        ];
        let sandbox = Sandbox::builder().home(home).flags(flags).agent("touch ~/agent-ran; cat").start()?;
        let ran = sandbox.folder().join("home/agent-ran");
        until("the agent", || Ok(ran.exists().then_some(())))?;
        let hook = "#!/bin/sh\nenv > ~/seen\nls /run/secrets /mnt/data >> ~/seen 2>&1\n\
            cat /proc/net/dev >> ~/seen\necho whole >> ~/seen\n";
        let plant = "mkdir -p /workspace/.git/hooks; cd /workspace/.git/hooks; cat > post-receive; chmod +x post-receive; rm ~/agent-ran";
        sandbox.run_with_input(["exec", "-i", "box", "--", "sh", "-c", plant], hook.as_bytes())?.success()?;
        sandbox.tell("stop", &["--force"])?.success()?;
        git(&sandbox, sandbox.project(), &["push", "-q", "agent::box", "HEAD:refs/heads/new"])?.success()?;
        let seen = fs::read_to_string(sandbox.folder().join("home/seen"))?;
        ensure!(seen.contains("whole"), "{seen}");
        for absent in ["t0ken", "s3cret", "key\n", "eth0"] {
            ensure!(!seen.contains(absent), "{absent} in {seen}");
        }
        ensure!(seen.matches("No such file").count() == 2 && seen.contains("lo:"), "{seen}");
        ensure!(!ran.exists(), "the agent was started");
    }
    Ok(())
}

#[test]
fn two_at_once_both_arrive() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, Case::STUCK)?;
    let first = case.pulling()?;
    case.reached()?;
    let second = case.pulling()?;
    // A start does not wait for as long as a pull may take, and says who is in the way.
    case.sandbox.tell("start", &[])?.exits(2)?.complains("another command")?;
    fs::write(case.sandbox.folder().join("home/go"), b"")?;
    let outputs = [first.wait_with_output()?, second.wait_with_output()?];
    let said: Vec<_> = outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout)).collect();
    ensure!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    ensure!(said[0].contains("1 commit,") && said[1].contains("nothing new"), "{said:?}");
    case.is_quiet()
}

#[test]
fn one_that_begins_to_run_is_pulled_from_as_it_runs() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, "echo two >> file; git commit -qam two")?;
    for _ in 0..3 {
        let mut start = case.sandbox.shim(["start", "box"]);
        let mut start = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        case.pull(&[])?.success()?;
        // The pull may have been first: then it was in the way.
        let code = start.wait()?.code();
        ensure!(matches!(code, Some(0 | 2)), "{code:?}");
        case.sandbox.run(["stop", "--force", "box"])?;
        case.is_quiet()?;
    }
    Ok(())
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_that_runs() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::stopped(*who, Case::STUCK)?;
        let before = contents(&case.clone.join(".git/refs"))?;
        let mut pull = case.pulling()?;
        case.reached()?;
        pull.kill()?;
        pull.wait()?;
        case.is_quiet()?;
        ensure!(contents(&case.clone.join(".git/refs"))? == before);
        fs::write(case.sandbox.folder().join("home/go"), b"")?;
        ensure!(case.pull(&["--json"])?.success()?.json()?["commits"] == 1);
        case.is_quiet()?;
    }
    Ok(())
}

/// However early the command is killed.
#[test]
fn a_pull_that_is_killed_at_any_moment_leaves_nothing_that_runs() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, "echo two >> file; git commit -qam two")?;
    for pause in 0..12 {
        let mut pull = case.pulling()?;
        std::thread::sleep(std::time::Duration::from_millis(pause * 3));
        pull.kill()?;
        pull.wait()?;
        case.is_quiet()?;
    }
    ensure!(case.pull(&[])?.success()?.text().starts_with("box:"));
    Ok(())
}

/// The process that keeps the way in: without it the pull fails, and nothing runs on.
#[test]
fn a_keeper_that_is_killed_takes_everything_with_it() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, Case::STUCK)?;
    let pull = case.pulling()?;
    case.reached()?;
    let keeper = Traces::of(&case.sandbox)?.processes.into_iter().find(|one| one.contains("--endpoint"));
    let pid: i32 = keeper.context("no keeper")?.split(':').next().unwrap_or_default().parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    until_gone(pid)?;
    let output = pull.wait_with_output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    until("everything to be gone", || Ok(Traces::of(&case.sandbox)?.processes.is_empty().then_some(())))?;
    fs::write(case.sandbox.folder().join("home/go"), b"")?;
    case.pull(&[])?.success()?;
    case.is_quiet()
}

/// Agents beside the main one are started as little as that one is.
#[test]
fn pull_from_one_with_worktrees() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    let sandbox = Sandbox::builder()
        .home(home)
        .flags(["--workspace", "clone"])
        .agent("echo started >> ~/started; exec cat")
        .start()?;
    sandbox.run(["worktree", "add", "fix", "box", "--create"])?.success()?;
    let work =
        "cd /workspace/.worktrees/fix; git -c user.name=A -c user.email=a@b commit -q --allow-empty -m fix";
    sandbox.sh(work)?.success()?;
    let started = sandbox.folder().join("home/started");
    let agents = || Ok::<_, anyhow::Error>(fs::read_to_string(&started).unwrap_or_default().lines().count());
    until("both agents", || Ok((agents()? == 2).then_some(())))?;
    sandbox.tell("stop", &["--force"])?.success()?;
    sandbox.tell("pull", &[])?.success()?;
    let shown = git(&sandbox, &project, &["log", "-1", "--format=%s", "refs/agents/box/heads/fix"])?;
    ensure!(shown.success()?.text() == "fix" && agents()? == 2);
    Ok(())
}

/// Where its tools were removed, by `env gc` or with the whole store, what comes with init is enough.
#[test]
fn pull_from_one_whose_environment_is_gone() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        repository(&home, "project")?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
        sandbox.sh(
            "cd /workspace; git -c user.name=A -c user.email=a@b commit -q --allow-empty -m 2; touch new",
        )?;
        sandbox.tell("stop", &["--force"])?.success()?;
        let path = sandbox.folder().join("sandbox.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        let spec = serde_json::json!({ "packages": ["jq"], "nixpkgs": { "path": "/nowhere" } });
        record["environment"] = serde_json::json!({ "nix": { "id": "a".repeat(26), "spec": spec } });
        // In place, so that it stays the person's own file.
        fs::write(&path, serde_json::to_vec(&record)?)?;
        let told = sandbox.tell("pull", &["--json"])?.success()?.json()?;
        ensure!(told["commits"] == 1, "{told:#}");
        sandbox.tell("destroy", &[])?.exits(2)?.complains("not committed")?;
        sandbox.tell("destroy", &["--pull"])?.success()?;
    }
    Ok(())
}

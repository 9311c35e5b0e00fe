//! Sandboxes with the tools of a Nix environment: what there is inside, and what of the host is not.

use std::{fs, os::unix::fs::PermissionsExt};

use agent_tests::{Pty, Workshop, finish, skip};
use anyhow::ensure;

const KEY: &str = "sk-the-key-that-must-not-leak";

#[test]
fn run_is_claude_in_its_preset_at_a_terminal() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        for (line, code) in [("run --name web .", 7), ("run --nix-preset claude -a claude -p anthropic .", 0)]
        {
            let mut command = shop.shim(line.split_whitespace());
            command.current_dir(shop.project()).env("ANTHROPIC_API_KEY", KEY);
            let mut pty = Pty::spawn(&command)?;
            pty.wait_for("claude: ready in /workspace")?;
            ensure!(pty.shown().contains("claude: argument: --dangerously-skip-permissions"));
            pty.type_in("hello\r")?;
            pty.wait_for("claude: heard: hello")?;
            pty.type_in("run node -p 6*7; type -P claude\r")?;
            pty.wait_for("42")?;
            pty.wait_for("/env/bin/claude")?;

            // The agent has the key, nothing else has, and no file of ours does.
            let name = shop.sandboxes()?.pop().unwrap_or_default();
            pty.type_in("run env | rg -c ^CLAUDE_API_KEY=sk-the-key; echo looked\r")?;
            pty.wait_for("\n1\r\nlooked")?;
            let beside = shop.inside(&name, "env; tr '\\0' '\\n' </proc/1/environ || true")?.success()?;
            ensure!(!beside.text().contains(KEY), "{beside}");
            let grep = finish(shop.command("grep", ["-rl", KEY, "data"]), b"")?.exits(1)?;
            ensure!(grep.text().is_empty(), "{grep}");
            // What every agent takes for granted is no part of a preset, and comes with the agent.
            let granted = "ps >/dev/null; find / -maxdepth 1 | sed s,^/,, | grep -qx env; type -P tar diff";
            shop.inside(&name, granted)?.success()?;
            let status = shop.status(&name)?;
            ensure!(status["environment"] == "nix", "{status:#}");

            pty.type_in(&format!("exit {code}\r"))?;
            ensure!(pty.ended()? == code, "{}", pty.shown());
            shop.run(["destroy", "--force", &name])?.success()?;
        }
        Ok(())
    })
}

#[test]
fn without_nix_the_hosts_tools_are_used_and_that_is_said_in_one_line() -> anyhow::Result<()> {
    if ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"]
        .iter()
        .any(|place| fs::exists(place).unwrap_or(true))
    {
        skip("Nix is where it is found without PATH");
        return Ok(());
    }
    Workshop::each(|mut shop| {
        shop.home_mut().hide_nix()?;
        let output =
            shop.say("run --name web . -- sh -c test${IFS}-x${IFS}/usr/bin/perl&&exit${IFS}6")?.exits(6)?;
        let is_of_machine = |line: &&str| line.starts_with("note: the machine");
        let said: Vec<String> =
            output.errors().lines().filter(|line| !is_of_machine(line)).map(str::to_owned).collect();
        ensure!(
            said == ["using the host's tools: Nix is not installed (`--env host` says so without asking)"],
            "{output}"
        );
        ensure!(shop.status("web")?["environment"] == "host");
        // Whoever asks for packages gets no other tools than those.
        for flags in ["--env nix", "--nix-sets go", "-I nix:packages=jq"] {
            shop.start("other", flags)?
                .exits(4)?
                .complains("error: nix-build was not found")?
                .complains("--env host")?;
            shop.say(&format!("run {flags} . -- true"))?.exits(125)?.complains("nix-build was not found")?;
        }
        ensure!(shop.sandboxes()? == ["web"]);
        Ok(())
    })
}

#[test]
fn sets_are_added_and_images_are_exact() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.start("sets", "--nix-sets nodejs,python,kubernetes")?.success()?;
        let script = "claude --version; node -p 1+1; python -c 'print(3)'; kubectl get pods; pip --version; jq --version";
        let text = shop.inside("sets", script)?.success()?.text();
        for says in ["claude: 1.2.3\n2\n3\nkubectl: get pods\npip ", "jq-1."] {
            ensure!(text.contains(says), "{text}");
        }
        // Only a list of packages comes without a preset.
        let image = r#"nix:{"packages":["nodejs_24","python312"],"sets":"go"}"#;
        for (name, image, programs) in [
            ("json", image, "go gofmt gopls node python python3 claude"),
            ("packages", "nix:packages=jq,fd", "fd jq"),
            ("set", "nix:sets=docker", "docker"),
            ("preset", "nix:preset=codex", "codex jq node"),
        ] {
            shop.start(name, &format!("-I {image}"))?.success()?;
            let list = shop.inside(name, "cd /env/bin; echo *")?.success()?.text();
            let has = |program: &str| list.split(' ').any(|word| word == program);
            ensure!(programs.split(' ').all(has), "{image}: {list}");
            ensure!(name != "packages" || list == programs, "{image}: {list}");
        }
        Ok(())
    })
}

/// Real programs, each as it is used.
const WORK: [(&str, &str); 7] = [
    ("set -o pipefail; printf 'b\\na\\n' | sort | tr '\\n' ' '", "a b"),
    (
        "git init -q r; cd r; echo 1 >f; git add f; git -c user.name=a -c user.email=a@b commit -qm first
         git clone -q . ../copy; git -C ../copy log --format=%s",
        "first",
    ),
    ("echo '{\"a\":[1,2]}' | jq -c .a", "[1,2]"),
    ("echo needle >f; rg --no-heading -n needle f", "1:needle"),
    ("node -p 'require(\"child_process\").execSync(\"echo from a shell\").toString()'", "from a shell"),
    ("claude --version; bash -c 'exec claude --version'", "claude: 1.2.3\nclaude: 1.2.3"),
    ("printf '#!/usr/bin/env node\\nconsole.log(2*3)' >s; chmod +x s; ./s
      printf '#!/bin/sh\\necho sh' >t; chmod +x t; ./t; printf '#!/bin/bash\\necho $((1+1))' >u; chmod +x u; ./u", "6\nsh\n2"),
];

#[test]
fn programs_work_where_there_is_nothing_of_the_host() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.start("web", "")?.success()?;
        for (script, says) in WORK {
            let output = shop.inside("web", script)?.success()?;
            ensure!(output.text().trim_end() == says, "{output}");
        }
        let usr = shop
            .inside("web", "cd /usr; echo * */*; ls -A /bin /lib /lib64 /sbin 2>/dev/null || true")?
            .text();
        ensure!(usr == "bin share bin/env share/zoneinfo\n/bin:\nbash\nsh", "{usr}");
        let root = shop.inside("web", "ls -A /")?.text();
        let store = shop.nix().store();
        let first = store.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
        let expected =
            ["bin", "dev", "env", "etc", "home", "proc", "run", "sys", "tmp", "usr", "var", "workspace"];
        for found in root.lines() {
            ensure!(expected.contains(&found) || Some(found) == first.as_deref(), "/{found} in {root}");
        }
        for path in [
            shop.path(),
            shop.project(),
            &shop.nix().state(),
            "/etc/shadow".as_ref(),
            "/etc/debian_version".as_ref(),
            "/var/lib/dpkg".as_ref(),
            "/usr/lib".as_ref(),
        ] {
            shop.inside("web", &format!("test ! -e {}", path.display()))?.success()?;
        }
        // The host's own programs are not there by any name.
        shop.inside("web", "perl -v || /usr/bin/perl -v")?.exits(127)?;
        Ok(())
    })
}

#[test]
fn what_programs_look_for_is_there() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        shop.start("web", "--nix-packages glibcLocales")?.success()?;
        shop.start("alone", "--no-network")?.success()?;
        for (script, says) in [
            ("readlink -f /env", shop.nix().store().display().to_string()),
            (
                "echo $PATH $HOME $SHELL $TMPDIR",
                "/env/bin:/usr/bin:/bin /home/sandbox /bin/bash /tmp".to_owned(),
            ),
            ("id -un; id -gn; whoami; echo ~", "sandbox\nsandbox\nsandbox\n/home/sandbox".to_owned()),
            ("rg -c . /etc/passwd", "3".to_owned()),
            (
                "rg -q 'BEGIN CERT' $SSL_CERT_FILE $NIX_SSL_CERT_FILE /etc/ssl/certs/ca-certificates.crt && echo yes",
                "yes".to_owned(),
            ),
            ("echo $LANG; head -c 0 $LOCALE_ARCHIVE && echo there", "C.UTF-8\nthere".to_owned()),
            ("TZ=Europe/Berlin date -d @0 +%H:%M; TZ=Asia/Tokyo date -d @0 +%H", "01:00\n09".to_owned()),
            (
                "node -p 'new Date(0).toLocaleString(\"en\", {timeZone: \"Europe/Berlin\", hour: \"numeric\"})'",
                "1".to_owned(),
            ),
        ] {
            let output = shop.inside("web", script)?.success()?;
            ensure!(output.text().starts_with(&says), "expected {says}: {output}");
        }
        let has_resolver = fs::exists("/etc/resolv.conf")?;
        shop.inside("web", "cat /etc/resolv.conf")?.exits(i32::from(!has_resolver))?;
        shop.inside("alone", "test ! -e /etc/resolv.conf && test ! -e /etc/services")?.success()?;
        // Nothing of it can be changed.
        for path in [
            "/env/bin/jq",
            "/env/new",
            "/etc/passwd",
            "/usr/bin/env",
            "/bin/new",
            "$(readlink -f /env/bin/jq)",
        ] {
            ensure!(shop.inside("web", &format!("echo x >{path}"))?.code() != 0, "{path}");
        }
        ensure!(shop.inside("web", "rm -rf /env/bin/jq /usr/bin/env; jq --version")?.code() != 0);
        shop.inside("web", "jq --version && /usr/bin/env true")?.success()?;
        Ok(())
    })
}

/// The agent is one of the project's own, and the shell that it is written for is only in the environment.
#[test]
fn a_script_of_the_project_can_be_the_agent() -> anyhow::Result<()> {
    Workshop::each(|shop| {
        let script = "#!/usr/bin/env bash\nset -o pipefail\necho \"$BASH_VERSION\" >said\nexit 9\n";
        let file = shop.file("project/agent", script.as_bytes())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        shop.say("run --rm . -- ./agent")?.exits(9)?;
        ensure!(fs::read_to_string(shop.project().join("said"))?.starts_with("5."));
        ensure!(shop.sandboxes()?.is_empty());
        shop.say("run --rm -I nix:packages=jq . -- bash -c true")?.success()?;
        shop.say("run --rm -I nix:packages=jq . -- perl")?.exits(127)?;
        Ok(())
    })
}

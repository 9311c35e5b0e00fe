//! Exit codes: the command's own, 128 + N, and 125, 126, 127.

use agent_tests::{Sandbox, layer};

#[test]
fn every_code_is_the_commands_own() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    for code in (0..=255).step_by(256 / layer().often(256)) {
        sandbox.sh(&format!("exit {code}"))?.exits(code)?;
    }
    Ok(())
}

#[test]
fn a_signal_is_128_and_its_number() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    // Those that end a process which does nothing about them, the first and last real-time ones included.
    for signal in [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 31, 34, 64] {
        sandbox.sh(&format!("ulimit -c 0; kill -{signal} $$; exit 99"))?.exits(128 + signal)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_run_says_why() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let file = sandbox.project().join("not-executable");
    std::fs::write(&file, "#!/bin/sh\n")?;
    let no_interpreter = sandbox.project().join("no-interpreter");
    std::fs::write(&no_interpreter, "#!/no/such/interpreter\n")?;
    std::fs::set_permissions(&no_interpreter, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--", "no-such-command"], 127, "no-such-command"),
        (&["--", "/no/such/file"], 127, "/no/such/file"),
        (&["--", "/workspace/not-executable"], 126, "ermission denied"),
        (&["--", "/workspace"], 126, "/workspace"),
        (&["--", "/workspace/no-interpreter"], 127, "no-interpreter"),
        (&["-w", "/no/such/folder", "--", "true"], 125, "/no/such/folder"),
        (&["-u", "nobody-here", "--", "true"], 125, "there is no user `nobody-here` inside"),
        (&["-e", "BROKEN", "--", "true"], 64, "BROKEN"),
        (&["--no-such-flag", "--", "true"], 64, "--no-such-flag"),
    ];
    for (args, code, about) in cases {
        let output = sandbox.run(["exec", "box"].iter().chain(args))?;
        assert_eq!(output.text(), "", "{output}");
        assert_eq!(output.errors().matches("error:").count(), 1, "{output}");
        output.exits(code)?.complains(about)?;
    }
    let output = sandbox.run(["exec", "no-such-sandbox", "--", "true"])?;
    output.exits(125)?.complains("no-such-sandbox")?;
    Ok(())
}

#[test]
fn in_a_stopped_sandbox_nothing_runs() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    sandbox.tell("stop", &[])?.success()?;
    let output = sandbox.sh("true")?;
    output.exits(125)?.complains("agent-shim start box")?;
    Ok(())
}

//! Variables, folder, user and what else a command is born with.

use agent_tests::{Home, Sandbox};

#[test]
fn variables_and_folder_are_as_asked_for() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().flags(["-e", "BASE=base", "-e", "BOTH=base"]).start()?;
    let show = "printf '%s|%s|%s|%s' \"$BASE\" \"$BOTH\" \"$OWN\" \"$PWD\"";
    let args = ["exec", "-e", "BOTH=own", "-e", "OWN=a b=c", "-w", "/tmp", "box", "--", "sh", "-c", show];
    assert_eq!(sandbox.run(args)?.exits(0)?.text(), "base|own|a b=c|/tmp");
    assert_eq!(sandbox.sh("pwd")?.exits(0)?.text(), "/workspace");
    // Nothing of the caller's own environment.
    let mut command = sandbox.shim(["exec", "box", "--", "env"]);
    command.env("CALLERS_OWN", "1").env("SSH_AUTH_SOCK", "/x");
    let env = agent_tests::finish(command, b"")?.exits(0)?.text();
    assert!(!env.contains("CALLERS_OWN") && !env.contains("SSH_AUTH_SOCK"), "{env}");
    assert!(env.lines().any(|line| line.starts_with("PATH=")), "{env}");
    Ok(())
}

#[test]
fn arguments_and_variables_need_not_be_text() -> anyhow::Result<()> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let sandbox = Sandbox::builder().start()?;
    let odd = OsStr::from_bytes(b"\xff -x\n'\"$(id)");
    let args = ["exec", "box", "--", "printf", "%s"].map(OsStr::new);
    let output = sandbox.run(args.into_iter().chain([odd, OsStr::new("")]))?.exits(0)?;
    assert_eq!(output.stdout, odd.as_bytes());
    Ok(())
}

#[test]
fn the_user_is_the_agents_or_who_was_asked_for() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = Sandbox::builder().who(*who).start()?;
        let id = sandbox.sh("id -u; id -g")?.exits(0)?.text();
        let own = id.lines().next().unwrap_or_default().to_owned();
        let same = sandbox.run(["exec", "-u", &own, "box", "--", "id", "-u"])?.exits(0)?;
        assert_eq!(same.text(), own);
        // There is one user inside and no privilege to become another.
        let other = sandbox.run(["exec", "-u", "54321", "box", "--", "id", "-u"])?;
        other.exits(125)?.complains("taking on its user and groups")?;
    }
    Ok(())
}

#[test]
fn a_command_starts_with_plain_signals_no_stray_descriptors_and_no_privileges() -> anyhow::Result<()> {
    let sandbox = Sandbox::builder().start()?;
    let status = sandbox.run(["exec", "box", "--", "cat", "/proc/self/status"])?.exits(0)?.text();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    let nothing = "0000000000000000";
    for name in ["SigBlk:", "SigIgn:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(name), nothing, "{name}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    // 3 is the folder that ls itself reads.
    let descriptors = sandbox.run(["exec", "-i", "box", "--", "ls", "/proc/self/fd"])?.exits(0)?.text();
    assert_eq!(descriptors, "0\n1\n2\n3");
    Ok(())
}

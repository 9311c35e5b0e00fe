//! Two at once, killed at any moment, and no room left.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::scene::Scene;

#[test]
fn two_at_once_wait_for_each_other() {
    let scene = Scene::new();
    for round in 0..5 {
        scene.write("x", round.to_string());
        let taken: Vec<_> = (0..6)
            .map(|_| scene.agent_git(&["take"]).stdout(Stdio::piped()).spawn().unwrap())
            .collect::<Vec<_>>()
            .into_iter()
            .map(|child| Scene::answer(&child.wait_with_output().unwrap())["snapshots"][0]["outcome"].clone())
            .filter(|outcome| outcome == "taken")
            .collect();
        assert_eq!(taken.len(), 1);
    }
    assert_eq!(scene.refs().len(), 5);
    scene.fsck();
}

/// While files come and go, and while each snapshot is killed somewhere on its way.
#[test]
fn killed_at_any_moment_nothing_is_broken() {
    let scene = Scene::new();
    for n in 0..300 {
        scene.write(format!("d{}/f{n}", n % 17), vec![b'x'; 3000 + n]);
    }
    for round in 0..50_u64 {
        for n in 0..40_u64 {
            let n = (n * 7 + round) % 300;
            scene.write(format!("d{}/f{n}", n % 17), format!("{round} {n}").repeat(500));
        }
        let _ = fs::remove_file(scene.root.join(format!("d{}/f{round}", round % 17)));
        let mut child = scene.agent_git(&["take"]).stdout(Stdio::null()).spawn().unwrap();
        // Moments spread over the whole of it, in no order.
        thread::sleep(Duration::from_micros(round * 7919 % 50 * 600));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    scene.fsck();
    let left: Vec<_> = fs::read_dir(scene.root.join(".git/refs/agents/snapshots/main"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| fs::read(entry.path()).unwrap().len() != 41)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let outcome = scene.outcome(&[]);
    let newest = scene.refs().pop().unwrap();
    assert_eq!(scene.git(&["rev-parse", &format!("{newest}^{{tree}}")]), scene.by_git(false), "{outcome:#}");
    assert_eq!(scene.outcome(&[])["outcome"], "unchanged");
    scene.fsck();
}

/// In a file system of its own that has no room.
#[test]
fn a_full_disk_is_said_and_does_no_harm() {
    let scene = Scene::new();
    let script = "set -e; mount -t tmpfs -o size=3m none \"$1\"; cd \"$1\"; git init -q .; echo x > file; git add .; \
        git commit -q -m x; head -c 1500000 /dev/urandom > large; head -c 1200000 /dev/urandom > more; \
        set +e; \"$2\" snapshot take \"$1\"; git fsck --strict || exit 9; rm more; \"$2\" snapshot take \"$1\"; \
        git fsck --strict || exit 9";
    let place = scene.root.parent().unwrap().join("small");
    fs::create_dir(&place).unwrap();
    let mut command: Command = scene.command("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(&place).arg(env!("CARGO_BIN_EXE_agent-git"));
    let output = command.output();
    let said = output
        .as_ref()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mut lines = said.lines();
    let Some(first) = lines.next() else {
        eprintln!("skipped: no file system can be mounted here: {output:?}");
        return;
    };
    assert!(first.contains("disk-full"), "{said} {output:?}");
    assert_ne!(output.unwrap().status.code(), Some(9), "{said}");
    // What was removed made room for the rest.
    assert!(
        lines.next().is_some_and(|line| line.contains("\"taken\"") || line.contains("disk-full")),
        "{said}"
    );
}

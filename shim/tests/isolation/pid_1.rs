//! Who PID 1 is, and what it was given.

use std::fs::File;
use std::process::Command;

use agent_shim::isolation::{Caller, Layer, PromisedFd};

use super::world::{Outcome, World, each_user, expect, layer, reap};

#[test]
fn pid_1_is_an_unprivileged_user_with_nothing_to_gain() {
    each_user("pid_1::pid_1_is_an_unprivileged_user_with_nothing_to_gain", |world| {
        let printed = world.run(
            "echo pid $$; echo user $(id -un) $(id -u) $(id -g) $(id -gn); echo host $(hostname)
             pwd; echo path $PATH
             grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr '\t' ' '
             awk '$5 == \"/usr\" { print \"usr\", $6 }' /proc/self/mountinfo
             exit 7",
        )?;
        let nothing = "0000000000000000";
        expect(
            &printed,
            &[
                "pid 1",
                "user sandbox 1000 1000 sandbox",
                "host web",
                "/",
                "path /usr/local/bin:/usr/bin:/bin",
                &format!("CapInh: {nothing}"),
                &format!("CapPrm: {nothing}"),
                &format!("CapEff: {nothing}"),
                &format!("CapBnd: {nothing}"),
                &format!("CapAmb: {nothing}"),
                "NoNewPrivs: 1",
            ],
        )?;
        let usr = printed.lines().find(|line| line.starts_with("usr ")).ok_or("no /usr")?;
        assert!(usr.contains("ro") && usr.contains("nosuid") && usr.contains("nodev"), "{usr}");
        assert_eq!(layer().report(world.folder.path())?.exit_code, Some(7));
        Ok(())
    });
}

/// As in a rootless container. bwrap leaves its capabilities to whoever it takes for root.
#[test]
fn root_of_a_user_namespace_has_nothing_to_gain_either() -> Outcome {
    const INSIDE: &str = "IN_A_USER_NAMESPACE";
    const NAME: &str = "pid_1::root_of_a_user_namespace_has_nothing_to_gain_either";
    if std::env::var_os(INSIDE).is_none() {
        let mut again = Command::new("unshare");
        again.args(["--user", "--map-root-user"]).arg(std::env::current_exe()?).args(["--exact", NAME]);
        let output = again.env(INSIDE, "1").output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    let mut world = World::new();
    assert!(rustix::process::getuid().is_root() && world.request.caller == Caller::Ordinary);
    let printed = world.run("id -u; grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | sort -u -k 2")?;
    assert_eq!(printed, "1000\nCapInh:\t0000000000000000\n");
    Ok(())
}

#[test]
fn nested_user_namespaces_need_permission() {
    each_user("pid_1::nested_user_namespaces_need_permission", |world| {
        let script = "unshare --user true 2>/dev/null && echo nested
                      unshare --mount true 2>/dev/null && echo mounts; echo end";
        assert_eq!(world.run(script)?, "end\n");
        world.request.nested_namespaces = true;
        assert_eq!(world.run(script)?, "nested\nend\n");
        Ok(())
    });
}

#[test]
fn only_promised_descriptors_reach_init() {
    each_user("pid_1::only_promised_descriptors_reach_init", |world| {
        let leak = File::open("/etc/passwd")?;
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty())?;
        let spec = File::open("/dev/null")?;
        // A gap on purpose: what lies between must not pass either.
        world.request.fds = vec![PromisedFd { name: "spec", number: 5 }];
        // A child is asked, because a shell holds its own script open, for itself alone.
        let (launched, mut output) =
            world.launch("readlink -v /proc/self/fd/*", vec![("spec", spec.into())])?;
        let printed = output.all()?;
        reap(&launched)?;
        drop(leak);
        // The three standard ones and the promised one; the pattern found one more, which is the shell's and gone.
        let links: Vec<&str> = printed.lines().filter(|line| !line.contains("No such file")).collect();
        assert_eq!(links.len(), 4, "{printed}");
        assert_eq!((links[0], links[3]), ("/dev/null", "/dev/null"), "{printed}");
        assert!(links[1].starts_with("pipe:") && links[2].starts_with("pipe:"), "{printed}");
        Ok(())
    });
}

#[test]
fn a_missing_descriptor_is_refused_before_anything_starts() {
    let mut world = World::new();
    world.request.fds = vec![PromisedFd { name: "spec", number: 5 }];
    let error = world.launch("true", vec![]).err().unwrap();
    assert!(error.to_string().contains("no descriptor for `spec`"), "{error}");
}

/// The fallback for `--pids`: what other sandboxes of the same user run does not count.
#[test]
fn a_process_limit_counts_this_sandbox_alone() {
    each_user("pid_1::a_process_limit_counts_this_sandbox_alone", |world| {
        let mut neighbour = World::new();
        let crowd = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo up; wait";
        let (_crowd, mut crowd) = neighbour.launch(crowd, vec![])?;
        crowd.line("up")?;
        let printed = world.run(
            // dash ends at the first fork that fails, so another one tries.
            "prlimit --nproc=20 --pid 1; i=0; while [ $i -lt 10 ]; do sleep 60 & i=$((i+1)); done; echo ten
             while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo forty",
        )?;
        expect(&printed, &["ten"])?;
        assert!(!printed.contains("forty") && printed.contains("fork"), "{printed}");
        Ok(())
    });
}

//! What cannot be, said so that a person can do something about it.

use std::process::Command;

use agent_shim::isolation::{ErrorKind, Layer, Limits};

use super::world::{World, each_user, layer, reap};

#[test]
fn limits_without_controllers_are_refused_not_dropped() {
    let mut world = World::new();
    world.request.limits = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
    match layer().plan(&world.request) {
        Ok(plan) => assert!(plan.limits.cgroup.is_some()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Requirement);
            assert!(error.to_string().starts_with("--memory cannot be enforced here because "), "{error}");
        }
    }
}

/// Inside a user namespace that allows no more of them, bwrap fails as on a host that forbids them.
#[test]
fn a_host_without_user_namespaces_is_explained() {
    let script =
        "echo 0 > /proc/sys/user/max_user_namespaces && exec bwrap --unshare-user --ro-bind / / true";
    let output =
        Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", script]).output().unwrap();
    assert!(!output.status.success());
    let error = layer().explain(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(error.kind(), ErrorKind::Requirement, "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_failed_launch_leaves_no_process_and_says_why() {
    each_user("refused::a_failed_launch_leaves_no_process_and_says_why", |world| {
        // A script without an interpreter to run it.
        world.request.environment.mounts.clear();
        let (launched, mut output) = world.launch("true", vec![])?;
        let printed = output.all()?;
        assert_eq!(reap(&launched)?, 1);
        let error = layer().explain(&printed).to_string();
        assert_eq!(error, "bwrap failed: execvp /run/agent/init: No such file or directory");
        Ok(())
    });
}

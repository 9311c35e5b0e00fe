use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::runtime::{Kind, Runtime};
use super::*;
use crate::isolation::limits::LimitPlan;
use crate::isolation::plan::{Access, Caller, Mount, Namespaces, Network, PromisedFd};

fn plan() -> LaunchPlan {
    LaunchPlan {
        layer: "oci",
        program: "/usr/bin/crun".into(),
        hostname: "web".to_owned(),
        folder: "/data/web".into(),
        caller: Caller::Ordinary,
        mounts: vec![
            Mount::system("/usr"),
            Mount::Proc { at: "/proc".to_owned() },
            Mount::system("/proc/sys"),
            Mount::Dev { at: "/dev".to_owned() },
            Mount::Seal { at: "/dev".to_owned() },
            Mount::Dir { at: "/etc".to_owned(), mode: 0o755 },
            Mount::text("/etc/passwd", "it's\n"),
            Mount::given("/src/my project", "/workspace", Access::ReadWrite),
            Mount::Seal { at: "/".to_owned() },
        ],
        readable: vec![],
        namespaces: Namespaces { network: Network::None, nested: false },
        env: vec![],
        fds: vec![PromisedFd { name: "control", number: 3 }, PromisedFd { name: "spec", number: 4 }],
        command: ["/run/agent/init", "--spec-fd", "4"].map(str::to_owned).to_vec(),
        limits: LimitPlan::default(),
        machine: None,
        container: None,
        dies_with_parent: false,
    }
}

fn runtime(kind: Kind) -> Runtime {
    Runtime { program: Path::new("/usr/bin").join(kind.name()), kind }
}

fn config(plan: &LaunchPlan, kind: Kind) -> serde_json::Value {
    let bundle = bundle::bundle(plan, &runtime(kind), Path::new("/bin/agent-shim")).unwrap();
    serde_json::to_value(&bundle.job.config).unwrap()
}

#[test]
fn a_container_has_no_rights_and_no_id_but_its_own() {
    let config = config(&plan(), Kind::Crun);
    let process = &config["process"];
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        assert_eq!(process["capabilities"][set], serde_json::json!([]), "{set}");
    }
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["user"], serde_json::json!({ "uid": 1000, "gid": 1000 }));
    let map = serde_json::json!([{ "hostID": 0, "containerID": 1000, "size": 1 }]);
    assert_eq!((&config["linux"]["uidMappings"], &config["linux"]["gidMappings"]), (&map, &map));
    let kinds: Vec<_> =
        config["linux"]["namespaces"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
    assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "network", "user"]);
    assert_eq!(config["root"]["readonly"], true);
    assert_eq!(config["linux"]["devices"], serde_json::json!([]));
}

/// Its stage that becomes root of the container's user namespace cannot be left out.
#[test]
fn runc_leaves_the_last_step_to_init() {
    let config = config(&plan(), Kind::Runc);
    assert_eq!(config["process"]["user"], serde_json::json!({ "uid": 0, "gid": 0 }));
    let args = serde_json::json!(["/run/agent/init", "--own-id", "1000", "--spec-fd", "4"]);
    assert_eq!(config["process"]["args"], args);
    assert!(config["linux"]["uidMappings"].is_null());
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(!namespaces.iter().any(|one| one["type"] == "user"));
}

#[test]
fn what_is_in_proc_is_covered_and_not_mounted() {
    let config = config(&plan(), Kind::Crun);
    let mounts: Vec<_> =
        config["mounts"].as_array().unwrap().iter().map(|mount| &mount["destination"]).collect();
    assert_eq!(mounts, ["/usr", "/proc", "/dev", "/dev/pts", "/workspace"]);
    let read_only = config["linux"]["readonlyPaths"].as_array().unwrap();
    assert!(read_only.iter().any(|path| path == "/proc/sys"));
    let mut nested = plan();
    nested.namespaces.nested = true;
    let config = self::config(&nested, Kind::Crun);
    assert_eq!(config["linux"]["maskedPaths"], serde_json::json!([]));
    let refused = config["linux"]["seccomp"]["syscalls"].to_string();
    assert!(!refused.contains("\"mount\"") && refused.contains("\"keyctl\""));
}

#[test]
fn an_endpoint_has_a_lease_and_a_spec_that_waits() {
    let mut plan = plan();
    plan.dies_with_parent = true;
    let bundle = bundle::bundle(&plan, &runtime(Kind::Crun), Path::new("/bin/agent-shim")).unwrap();
    let job = &bundle.job;
    assert_eq!((job.awaited, job.lease, job.inherited), (Some(4), Some(5), 3));
    assert_eq!((bundle.job_fd, bundle.record_fd), (6, 7));
    let args = job.config.process().as_ref().unwrap().args().clone().unwrap();
    assert_eq!(args[1..], ["--lease-fd", "5", "--spec-fd", "4"]);
}

#[test]
fn the_commands_are_those_of_the_launcher() {
    let plan = plan();
    let bundle = bundle::bundle(&plan, &runtime(Kind::Crun), Path::new("/bin/agent-shim")).unwrap();
    let shell = shown::to_shell(&plan, &bundle);
    for line in [
        "# descriptor 4 is inherited: spec",
        "mkdir binds/0; mount --rbind -o ro,nosuid,nodev /usr binds/0",
        "mkdir binds/1; mount --rbind -o nosuid,nodev '/src/my project' binds/1",
        "mkdir -m 755 rootfs/etc",
        r"printf %s $'it\'s\n' > rootfs/etc/passwd; chmod 644 rootfs/etc/passwd",
    ] {
        assert!(shell.lines().any(|one| one == line), "{line} is not in\n{shell}");
    }
    let start = "cat > config.json <<'JSON'\n";
    let json = &shell[shell.find(start).unwrap() + start.len()..shell.find("\nJSON\n").unwrap()];
    let shown: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(shown, serde_json::to_value(&bundle.job.config).unwrap());
    assert!(shell.ends_with("</dev/null\nEND\n"));
}

#[test]
fn crun_is_preferred_and_runc_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let search = folder.path().as_os_str();
    assert!(Oci::find(search, None).is_err());
    for (name, kind) in [("runc", Kind::Runc), ("crun", Kind::Crun)] {
        let path = folder.path().join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Runtime::find(search, None).unwrap().kind, kind);
    }
    let error = Oci::find(OsStr::new("/no/bin"), None).unwrap_err();
    assert_eq!(error.kind(), crate::isolation::ErrorKind::Requirement);
    assert!(error.to_string().contains("/no/bin") && error.hint().is_some(), "{error}");
}

#[test]
fn the_last_words_tell_who_failed() {
    let said = |printed: &str| explain(printed, |_| None, Kind::Runc).to_string();
    let printed = "level=error msg=\"no such thing\"\noci: running the runtime: it ended with 1\n";
    assert_eq!(said(printed), "runc failed: level=error msg=\"no such thing\"");
    assert_eq!(said("oci: mounting /x: no such file"), "oci failed: mounting /x: no such file");
    assert_eq!(
        said("oci: running the runtime: it was killed by signal 9"),
        "oci failed: running the runtime: it was killed by signal 9"
    );
    assert_eq!(said("agent-init: error: no spec\n"), "agent-init failed: no spec");
    assert_eq!(said(""), "oci failed: it exited without saying why");
    assert!(said("oci: making a user namespace: Operation not permitted").contains("user namespaces"));
    let long = format!("oci: {}\u{1b}", "x".repeat(1000));
    assert!(
        said(&long).chars().count() < crate::isolation::said::SAID_MAX_CHARS + 20
            && !said(&long).contains('\u{1b}')
    );
}

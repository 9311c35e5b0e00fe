//! The document as people write it, and the ways to get it wrong.

use super::*;

fn problems(json: &str) -> Vec<String> {
    match InitSpec::from_json(json.as_bytes()) {
        Err(SpecError::Invalid { problems }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("expected problems with {json}, got {other:?}"),
    }
}

fn error(json: &str) -> String {
    InitSpec::from_json(json.as_bytes()).expect_err(json).to_string()
}

#[test]
fn an_empty_document_is_all_defaults() {
    let spec = InitSpec::from_json(b"{}").unwrap();
    assert_eq!(spec, InitSpec::default());
    assert!(!spec.hardening.nested_user_namespaces && spec.hardening.seccomp);
}

#[test]
fn the_documented_example_is_valid_and_survives_a_round_trip() {
    let page = include_str!("../../../docs/init-spec.md");
    let example = page.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let spec = InitSpec::from_json(example.as_bytes()).unwrap();
    assert_eq!(InitSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
    assert_eq!(spec.services[1].after, ["db"]);
}

#[test]
fn every_field_is_documented() {
    fn keys(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map.iter().filter(|(key, _)| *key != "env" && *key != "a") {
                    into.push(key.clone());
                    keys(value, into);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
            _ => {}
        }
    }
    let spec = InitSpec {
        control: Some(Control { listen: Listen::Fd(3), token: Some(TokenSource::Fd(4)) }),
        user: Some(User::default()),
        readable: vec!["/nix/store/a".to_owned()],
        agent: Some(Agent {
            terminal: Some(Terminal::default()),
            health: Some(Health::default()),
            readiness: Readiness::Command(ReadyCommand::default()),
            ..Agent::default()
        }),
        agents: vec![("a".to_owned(), Agent::default())],
        steps: vec![Step::default()],
        services: vec![Service::default()],
        watch: Some(Watch { repository: Some("/workspace".to_owned()), quiet_ms: Some(30_000) }),
        ..InitSpec::default()
    };
    let page = include_str!("../../../docs/init-spec.md");
    let mut all = Vec::new();
    keys(&serde_json::to_value(&spec).unwrap(), &mut all);
    assert!(all.len() > 40);
    for key in all {
        let named = page.contains(&format!("`{key}`")) || page.contains(&format!("\"{key}\""));
        assert!(named, "docs/init-spec.md does not mention `{key}`");
    }
}

#[test]
fn a_later_version_is_called_that_even_with_fields_we_do_not_know() {
    let message = error(r#"{"version": 2, "hologram": true}"#);
    assert_eq!(message, "the spec has version 2, this init understands versions 1 to 1");
    assert!(error(r#"{"version": 0}"#).contains("version 0"));
}

#[test]
fn unknown_fields_are_refused_at_every_depth() {
    for json in [
        r#"{"agnet": {}}"#,
        r#"{"agent": {"argv": ["a"], "restrat": {}}}"#,
        r#"{"agent": {"argv": ["a"], "restart": {"backof": {}}}}"#,
        r#"{"agent": {"argv": ["a"], "readiness": {"command": {"argv": ["t"], "retries": 1}}}}"#,
        r#"{"control": {"listen": {"fd": 3}, "tokn": {"fd": 4}}}"#,
        r#"{"control": {"listen": {"fd": 3}, "token": {"inline": "s3cret"}}}"#,
        r#"{"user": {"uid": 1, "gid": 1, "shell": "/bin/sh"}}"#,
        r#"{"hardening": {"seccmp": false}}"#,
    ] {
        assert!(error(json).contains("unknown"), "{json}: {}", error(json));
    }
}

#[test]
fn readiness_is_a_word_or_an_object() {
    let read = |json: &str| serde_json::from_str::<Readiness>(json).unwrap();
    assert_eq!(read(r#""none""#), Readiness::None);
    assert_eq!(read(r#""first-output""#), Readiness::FirstOutput);
    assert_eq!(read(r#""notify""#), Readiness::Notify);
    assert_eq!(read(r#"{"delay_ms": 300}"#), Readiness::DelayMs(300));
    let Readiness::Command(command) = read(r#"{"command": {"argv": ["pg_isready"]}}"#) else { panic!() };
    assert_eq!((command.interval_ms, command.timeout_ms), (250, 5_000));
}

#[test]
fn a_size_beyond_the_limit_is_refused_before_parsing() {
    let json = vec![b' '; MAX_SPEC_BYTES + 1];
    assert!(matches!(InitSpec::from_json(&json), Err(SpecError::TooLarge { .. })));
}

#[test]
fn every_problem_is_reported_not_only_the_first() {
    let found = problems(
        r#"{"name": "-x", "agent": {"argv": []}, "limits": {"pids": 0},
            "services": [{"name": "agent", "argv": [""]}]}"#,
    );
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn problems_name_their_place() {
    let table = [
        (r#"{"steps": [{"name": "a/b", "argv": ["x"]}]}"#, "steps[0].name: is not 1 to 63"),
        (r#"{"steps": [{"name": "a", "argv": ["x", "\u0000"]}]}"#, "steps[0].argv: contains a NUL"),
        (r#"{"steps": [{"name": "a", "argv": ["x"], "timeout_ms": 0}]}"#, "steps[0].timeout_ms: is 0"),
        (r#"{"env": {"A=B": "c"}}"#, "env: has a name that is empty or contains"),
        (r#"{"env": {"A": "\u0000"}}"#, "env: has a value that contains a NUL"),
        (r#"{"workdir": "work"}"#, "workdir: is not an absolute path"),
        (r#"{"control": {"listen": {"fd": 0}}}"#, "control.listen.fd: is a standard descriptor"),
        (r#"{"control": {"listen": {"vsock_port": 9}}}"#, "control.token: is needed with a vsock port"),
        (r#"{"control": {"listen": {"unix": "/s"}}}"#, "control.token: is needed with a socket path"),
        (
            r#"{"control": {"listen": {"fd": 3}, "token": {"fd": 3}}}"#,
            "control.token.fd: is the listening socket",
        ),
        (r#"{"user": {"uid": 4294967295, "gid": 1}}"#, "user: has an id of 4294967295"),
        (r#"{"readable": ["store/a"]}"#, "readable: are not absolute paths in one folder"),
        (r#"{"readable": ["/store/a", "/store/a/b"]}"#, "readable: are not"),
        (r#"{"readable": ["/store/a", "/stor"]}"#, "readable: are not"),
        (r#"{"readable": ["/store/.."]}"#, "readable: are not"),
        (r#"{"readable": ["/store/."]}"#, "readable: are not"),
        (r#"{"readable": ["/store/"]}"#, "readable: are not"),
        (r#"{"readable": ["/store/../x/a"]}"#, "readable: are not"),
        (r#"{"readable": ["/store//a"]}"#, "readable: are not"),
        (r#"{"readable": ["/a"]}"#, "readable: are not"),
        (r#"{"readable": [""]}"#, "readable: are not"),
        (
            r#"{"readable": ["/store/a"], "hardening": {"nested_user_namespaces": true}}"#,
            "readable: cannot be combined with",
        ),
        (
            r#"{"readable": ["/store/a"],
                "hardening": {"nested_user_namespaces": true, "no_new_privileges": false, "seccomp": false,
                              "landlock_scope": false, "ignore_inside_signals": false}}"#,
            "readable: cannot be combined with",
        ),
        (r#"{"shutdown": {"total_ms": 0}}"#, "shutdown.total_ms: is 0"),
        (r#"{"watch": {"quiet_ms": 10}}"#, "watch.quiet_ms: is 10"),
        (r#"{"watch": {"repository": "x"}}"#, "watch.repository: is not an absolute path"),
        (r#"{"linger_ms": 9999999999}"#, "linger_ms: is 9999999999"),
        (r#"{"agent": {"argv": ["a"], "terminal": {"cols": 0}}}"#, "agent.terminal: has no room"),
        (
            r#"{"agent": {"argv": ["a"], "terminal": {"term": "a b"}}}"#,
            "agent.terminal.term: is not the name",
        ),
        (
            r#"{"services": [{"name": "s", "argv": ["a"], "readiness": {"delay_ms": 60000}}]}"#,
            "services[0].readiness: comes no earlier",
        ),
        (
            r#"{"agent": {"argv": ["a"], "restart": {"backoff": {"initial_ms": 500, "max_ms": 100}}}}"#,
            "agent.restart.backoff.max_ms: is 100, not between 500",
        ),
        (
            r#"{"agent": {"argv": ["a"], "health": {"argv": ["h"], "interval_ms": 1}}}"#,
            "agent.health.interval_ms: is 1",
        ),
    ];
    for (json, expected) in table {
        let found = problems(json);
        assert_eq!(found.len(), 1, "{json}: {found:#?}");
        assert!(found[0].starts_with(expected), "{json}: {found:#?}");
    }
}

#[test]
fn names_are_unique_across_steps_and_services() {
    let found =
        problems(r#"{"steps": [{"name": "a", "argv": ["x"]}], "services": [{"name": "a", "argv": ["y"]}]}"#);
    assert_eq!(found, ["steps, services, agents: `a` is there twice"]);
}

#[test]
fn after_must_be_known_and_acyclic() {
    let found = problems(
        r#"{"services": [{"name": "a", "argv": ["x"], "after": ["b"]}, {"name": "b", "argv": ["x"], "after": ["a"]},
                         {"name": "c", "argv": ["x"], "after": ["nope"]}, {"name": "d", "argv": ["x"], "after": ["d"]}]}"#,
    );
    assert_eq!(
        found,
        [
            "services[2].after: `nope` is not a service",
            "services: `a`, `b`, `d` wait for each other by `after`"
        ]
    );
}

/// The longest list still fits the document, with names as long as they get in a real store.
#[test]
fn readable_paths_are_bounded() {
    let spec = |count: usize| {
        let paths = (0..count).map(|i| format!("/home/somebody/nix/store/{i:032}-{i:0>192}"));
        InitSpec { readable: paths.collect(), ..InitSpec::default() }
    };
    let json = serde_json::to_vec(&spec(MAX_READABLE)).unwrap();
    assert_eq!(InitSpec::from_json(&json).unwrap(), spec(MAX_READABLE));
    let problem = spec(MAX_READABLE + 1).validate().unwrap_err()[0].to_string();
    assert_eq!(problem, "readable: has 16385 entries, more than 16384");
}

#[test]
fn counts_are_bounded() {
    let step = |i: usize| Step { name: format!("s{i}"), argv: vec!["x".into()], ..Step::default() };
    let spec = InitSpec { steps: (0..65).map(step).collect(), ..InitSpec::default() };
    assert_eq!(spec.validate().unwrap_err()[0].to_string(), "steps: has 65 entries, more than 64");
    let spec = InitSpec { steps: (0..64).map(step).collect(), ..InitSpec::default() };
    assert!(spec.validate().is_ok());
}

#[test]
fn further_agents_are_like_the_main_one_but_have_names_and_terminals() {
    let two = |name: &str, terminal: &str| {
        format!(r#"{{"agent": {{"argv": ["a"]}}, "agents": {{"{name}": {{"argv": ["b"]{terminal}}}}}}}"#)
    };
    let spec = InitSpec::from_json(two("fix", r#", "terminal": {}"#).as_bytes()).unwrap();
    assert_eq!((spec.agents[0].0.as_str(), spec.agents[0].1.argv.as_slice()), ("fix", &["b".to_owned()][..]));
    assert_eq!(InitSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
    assert_eq!(problems(&two("fix", "")), ["agents.fix.terminal: is missing"]);
    assert_eq!(problems(&two("agent", r#", "terminal": {}"#)), ["agents.name: is the agent's own"]);
    assert_eq!(problems(&two("-x", r#", "terminal": {}"#)).len(), 1);
    // An older init refuses fields that it does not know, so they are written only where there is something to say.
    assert!(!InitSpec::default().to_json().contains("agents"));
}

#[test]
fn further_agents_share_the_units_names_and_are_bounded() {
    let agents = |count: usize| {
        let agents: Vec<_> =
            (0..count).map(|i| format!(r#""a{i}": {{"argv": ["a"], "terminal": {{}}}}"#)).collect();
        format!(r#"{{"services": [{{"name": "b", "argv": ["b"]}}], "agents": {{{}}}}}"#, agents.join(","))
    };
    InitSpec::from_json(agents(MAX_AGENTS).as_bytes()).unwrap();
    assert_eq!(problems(&agents(MAX_AGENTS + 1)), ["agents: has 17 entries, more than 16"]);
    let twice = agents(2).replace("a1", "a0");
    assert_eq!(problems(&twice), ["steps, services, agents: `a0` is there twice"]);
    let taken = agents(1).replace("a0", "b");
    assert_eq!(problems(&taken), ["steps, services, agents: `b` is there twice"]);
}

#[test]
fn an_agent_that_comes_later_can_be_the_main_one_once_more() {
    let main = Agent {
        argv: vec!["main".to_owned()],
        env: [("KEY", "secret"), ("A", "1")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Agent::default()
    };
    let json = r#"{"env": {"A": "2"}, "workdir": "/x", "terminal": {}}"#;
    let agent = Agent::further("fix", json, Some(&main)).unwrap();
    assert_eq!(
        (agent.argv[0].as_str(), agent.env["KEY"].as_str(), agent.env["A"].as_str()),
        ("main", "secret", "2")
    );
    assert_eq!(agent.workdir.as_deref(), Some("/x"));
    for (name, json) in [("fix", json), ("a/b", json), ("fix", "{}"), ("fix", "[]"), ("fix", r#"{"x": 1}"#)] {
        let main = (name != "fix").then_some(&main);
        assert!(Agent::further(name, json, main).is_err(), "{name} {json}");
    }
}

fn machine(change: impl FnOnce(&mut serde_json::Value)) -> Result<InitSpec, SpecError> {
    let mut spec = serde_json::json!({
        "user": { "uid": 1000, "gid": 1000 },
        "machine": {
            "modules": ["/modules/virtio.ko"],
            "root": { "tag": "root", "kind": "9p" },
            "mounts": [
                { "kind": "proc", "at": "/proc" },
                { "kind": "dev", "at": "/dev", "kvm": true },
                { "kind": "dev", "at": "/dev" },
                { "kind": "tmpfs", "at": "/tmp", "size_bytes": 65536, "mode": 1023 },
                { "kind": "read-only", "at": "/etc" },
            ],
            "network": { "address": "10.0.2.15/24", "gateway": "10.0.2.2" },
            "umask": 63,
            "report": "/dev/ttyS1",
        },
    });
    change(&mut spec);
    InitSpec::from_json(&serde_json::to_vec(&spec).unwrap())
}

#[test]
fn a_machine_is_read_as_it_is_written() {
    let spec = machine(|_| {}).unwrap();
    assert_eq!(InitSpec::from_json(spec.to_json().as_bytes()).unwrap(), spec);
    let machine = spec.machine.unwrap();
    assert_eq!(machine.root.kind, ShareKind::Plan9);
    assert_eq!(machine.mounts[1], MachineMount::Dev { at: "/dev".into(), kvm: true });
    assert_eq!(machine.mounts[2], MachineMount::Dev { at: "/dev".into(), kvm: false });
    assert_eq!(machine.mounts[3], MachineMount::Tmpfs { at: "/tmp".into(), size_bytes: 65536, mode: 0o1777 });
    assert_eq!(machine.network.unwrap().parse(), Some(([10, 0, 2, 15].into(), 24)));

    let asks = self::machine(|spec| spec["machine"]["network"] = serde_json::json!({})).unwrap();
    assert_eq!(asks.machine.unwrap().network, Some(Interface { address: None, gateway: None }));
}

#[test]
fn a_machine_is_checked_in_all_its_parts() {
    use serde_json::json;
    let many = |entry: serde_json::Value| json!(vec![entry; 257]);
    for (path, value, complaint) in [
        ("/user/uid", json!(0), "user: must be an ordinary one"),
        ("/user/gid", json!(0), "user: must be an ordinary one"),
        ("/machine/modules", many(json!("/x")), "machine.modules: are too many"),
        ("/machine/modules/0", json!("x.ko"), "machine.modules[0]: is not an absolute path"),
        ("/machine/root/tag", json!(""), "machine.root.tag: must have 1 to 31 bytes"),
        ("/machine/root/kind", json!("nfs"), "unknown variant `nfs`"),
        ("/machine/mounts", many(json!({ "kind": "proc", "at": "/proc" })), "machine.mounts: are too many"),
        ("/machine/mounts/0/at", json!("proc"), "machine.mounts[0].at: is not an absolute path"),
        (
            "/machine/mounts/0",
            json!({ "kind": "proc", "at": "/", "kvm": true }),
            "`kvm` is for a mount of kind `dev`",
        ),
        ("/machine/mounts/0", json!({ "kind": "proc", "at": "/", "size": 1 }), "unknown field `size`"),
        ("/machine/mounts/0", json!({ "kind": "tmpfs", "at": "/" }), "needs `size_bytes` and `mode`"),
        ("/machine/mounts/3/size_bytes", json!(0), "machine.mounts[3].size_bytes: must be at least 1"),
        ("/machine/mounts/3/mode", json!(0o4755), "machine.mounts[3].mode: is no mode of a folder"),
        ("/machine/network/address", json!("10.0.2.15"), "machine.network.address: must be an IPv4 address"),
        (
            "/machine/network/address",
            json!("10.0.2.15/33"),
            "machine.network.address: must be an IPv4 address",
        ),
        (
            "/machine/network",
            json!({ "gateway": "10.0.2.2" }),
            "machine.network.gateway: comes with an address, or from the network",
        ),
        ("/machine/network/gateway", json!("fe80::1"), "machine.network.gateway: must be an IPv4 address"),
        ("/machine/umask", json!(0o1000), "machine.umask: is no mask of permissions"),
        ("/machine/report", json!("ttyS1"), "machine.report: is not an absolute path"),
    ] {
        let error = machine(|spec| *spec.pointer_mut(path).unwrap() = value).unwrap_err().to_string();
        assert!(error.contains(complaint), "{path}: {error}");
    }
    assert!(machine(|spec| drop(spec.as_object_mut().unwrap().remove("user"))).is_err());
}

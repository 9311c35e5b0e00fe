//! Machines that cannot be booted say why, on the console and to the host, and end.

use agent_tests::{Files, Machine};
use serde_json::json;

/// Boots what was spoilt, and checks what it says.
fn refuses(spoil: impl FnOnce(&mut Files), texts: &[&str]) -> anyhow::Result<()> {
    let Some(mut machine) = Machine::launch(json!({}), spoil)? else { return Ok(()) };
    let ended = machine.ended()?;
    assert_eq!(ended.report, "{\"exit-code\": 125}\n", "{}", ended.console);
    for text in texts {
        assert!(ended.console.contains(text), "`{text}` is not in: {}", ended.console);
    }
    assert!(!ended.console.contains("Kernel panic"), "{}", ended.console);
    Ok(())
}

fn in_spec(files: &mut Files, change: impl FnOnce(&mut serde_json::Value)) {
    let (_, text) = files.0.get_mut("agent/spec.json").expect("a spec");
    let mut spec = serde_json::from_slice(text).expect("JSON");
    change(&mut spec);
    *text = spec.to_string().into_bytes();
}

#[test]
fn a_bad_spec_is_told() -> anyhow::Result<()> {
    let spoil = |files: &mut Files| in_spec(files, |spec| spec["nonsense"] = json!(1));
    refuses(spoil, &["agent-init: error: the spec cannot be read: unknown field `nonsense`"])
}

#[test]
fn no_spec_is_told() -> anyhow::Result<()> {
    let spoil = |files: &mut Files| drop(files.0.remove("agent/spec.json"));
    refuses(spoil, &["agent-init: error: reading the spec: No such file or directory"])
}

#[test]
fn a_module_that_is_missing_or_broken_is_named() -> anyhow::Result<()> {
    let missing = |files: &mut Files| {
        in_spec(files, |spec| {
            spec["machine"]["modules"].as_array_mut().expect("a list").push(json!("/modules/none.ko"))
        });
    };
    refuses(missing, &["agent-init: error: reading the kernel module /modules/none.ko: No such file"])?;
    let broken = |files: &mut Files| {
        files.0.insert("modules/broken.ko".into(), (0o600, b"no module".to_vec()));
        in_spec(files, |spec| {
            spec["machine"]["modules"].as_array_mut().expect("a list").push(json!("/modules/broken.ko"))
        });
    };
    refuses(broken, &["agent-init: error: loading the kernel module /modules/broken.ko: Exec format error"])
}

#[test]
fn a_share_that_nobody_offers_is_named() -> anyhow::Result<()> {
    let spoil = |files: &mut Files| in_spec(files, |spec| spec["machine"]["root"]["tag"] = json!("other"));
    refuses(spoil, &["agent-init: error: mounting the root file system", "with the tag `other`"])
}

#[test]
fn a_mount_that_cannot_be_made_is_named() -> anyhow::Result<()> {
    let spoil = |files: &mut Files| {
        in_spec(files, |spec| spec["machine"]["mounts"][0]["at"] = json!("/nowhere"));
    };
    refuses(spoil, &["agent-init: error: mounting /nowhere: proc: No such file or directory"])
}

#[test]
fn a_machine_whose_host_could_not_be_told_from_its_programs_is_refused() -> anyhow::Result<()> {
    let spoil = |files: &mut Files| drop(files.0.remove("agent/token"));
    refuses(spoil, &["agent-init: error: reading the token"])
}

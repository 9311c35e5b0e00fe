//! What goes on working in a sandbox that shows only a part of a store, and what can be learned of the rest.

use std::{collections::BTreeMap, path::Path};

use agent_tests::{Home, Output, Store, View, Who};
use anyhow::ensure;

const PROGRAMS: &str = include_str!("programs.py");

const VIEWS: [View; 4] = [View::Whole, View::ByInit, View::Nested, View::BelowTmp];

fn each_person(test: fn(Who) -> anyhow::Result<()>) {
    for who in Home::everyone() {
        if let Err(error) = test(*who) {
            panic!("as {who:?}: {error:#}");
        }
    }
}

fn filled(who: Who) -> anyhow::Result<Store> {
    let store = Store::new(who, Path::new(env!("CARGO_BIN_EXE_isolated")))?;
    store.add("aaa-tool/bin/tool", b"#!/bin/sh\necho the tool runs\n", 0o555)?;
    store.add("bbb-file", b"a file\n", 0o444)?;
    store.add_link("ccc-link", "bbb-file")?;
    store.add("xxx-other/secret", b"a secret", 0o444)?;
    store.add_link("xxx-other/link", "../bbb-file")?;
    store.choose(&["aaa-tool", "bbb-file", "ccc-link"].map(str::to_owned))?;
    store.home().file("project/programs.py", PROGRAMS.as_bytes())?;
    Ok(store)
}

fn programs(store: &Store, view: View) -> anyhow::Result<Output> {
    store.run(view, &["python3", "/workspace/programs.py", view.at()])?.success()
}

/// Renames and links across folders, descriptors opened again, memory files, sockets, watches, debuggers, programs that
/// use Landlock themselves: a rule that is missing would break one of them.
#[test]
fn programs_notice_nothing() {
    each_person(|who| {
        for view in VIEWS {
            let store = filled(who)?;
            let output = programs(&store, view)?;
            let text = output.text();
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("learned")).collect();
            let broken: Vec<&&str> = lines.iter().filter(|line| !line.ends_with(": ok")).collect();
            ensure!(lines.len() > 30 && broken.is_empty(), "{view:?}: {broken:#?} {output}");
        }
        Ok(())
    });
}

/// The table of docs/isolation.md.
#[test]
fn what_can_be_learned_of_the_rest() {
    const LISTS: [&str; 3] = ["list /", "list the store's parent", "list the store"];
    const CONTENT: [&str; 2] = ["list another package", "read another package"];
    const OUTSIDE: [&str; 4] = [
        "stat another package",
        "follow another package's link",
        "enter another package",
        "watch another package",
    ];
    each_person(|who| {
        for view in VIEWS {
            let store = filled(who)?;
            let output = programs(&store, view)?;
            let text = output.text();
            let learned: BTreeMap<&str, &str> =
                text.lines().filter_map(|line| line.strip_prefix("learned\t")?.split_once('\t')).collect();
            let expect = |names: &[&str], outcome: &str| {
                for name in names {
                    ensure!(
                        learned.get(name) == Some(&outcome),
                        "{view:?}: {name} is not {outcome}: {learned:#?}"
                    );
                }
                Ok(())
            };
            let (lists, content, outside) = match view {
                View::Whole => ("works", "works", "works"),
                View::ByInit => ("EACCES", "EACCES", "works"),
                View::Nested | View::BelowTmp => ("works", "ENOENT", "ENOENT"),
            };
            expect(&LISTS, lists)?;
            expect(&CONTENT, content)?;
            expect(&OUTSIDE, outside)?;
            expect(&["watch the store"], "works")?;
        }
        Ok(())
    });
}

/// An agent that sandboxes its own tools with bubblewrap, in a sandbox that shows a closure.
#[test]
fn nested_sandboxes_work_with_a_tree() {
    each_person(|who| {
        let store = filled(who)?;
        let script = "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all /nix/store/aaa-tool/bin/tool
            bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
              --ro-bind /nix/store /nix/store --unshare-all ls /nix/store";
        let output = store.run(View::Nested, &["sh", "-c", script])?.success()?;
        ensure!(output.text() == "the tool runs\naaa-tool\nbbb-file\nccc-link", "{output}");
        Ok(())
    });
}

/// Init opens each path, so one that went after the shim had looked is refused there.
#[test]
fn a_package_that_is_gone_keeps_nothing_from_being_said() {
    each_person(|who| {
        let store = filled(who)?;
        store.choose(&["aaa-tool".to_owned(), "ggg-gone".to_owned()])?;
        for view in [View::ByInit, View::Nested] {
            let output = store.run(view, &["true"])?.exits(125)?;
            let gone = store.path("ggg-gone");
            output.complains(&format!("{} is not in the store any more", gone.display()))?;
        }
        Ok(())
    });
}

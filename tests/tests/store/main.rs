//! What goes on working in a sandbox that shows only a part of a store, and what can be learned of the rest.

use std::{collections::BTreeMap, fs, path::Path};

use agent_tests::{Home, Init, Output, Store, View, Who, finish, until};
use anyhow::ensure;
use serde_json::json;

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

/// The table of docs/store.md.
#[test]
fn what_can_be_learned_of_the_rest() {
    const LISTS: [&str; 3] = ["list /", "list the store's parent", "list the store"];
    const CONTENT: [&str; 1] = ["read another package"];
    const OUTSIDE: [&str; 5] = [
        "list another package",
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
            let (content, outside) = match view {
                View::Whole => ("works", "works"),
                View::ByInit => ("EACCES", "works"),
                View::Nested | View::BelowTmp => ("ENOENT", "ENOENT"),
            };
            expect(&LISTS, "works")?;
            expect(&CONTENT, content)?;
            expect(&OUTSIDE, outside)?;
            expect(&["watch the store"], "works")?;
        }
        Ok(())
    });
}

/// Events are told by folder: a watch on the host's store hears of the host, one on a tree of our own does not.
#[test]
fn a_watch_on_the_store_hears_of_the_host() {
    const WATCH: &str = r#"
import ctypes, os, select, sys
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
assert libc.inotify_add_watch(watch, sys.argv[1].encode(), 0x20) > 0
open("/workspace/watching", "w").close()
heard = select.select([watch], [], [], 2)[0]
print(os.read(watch, 4096)[16:].rstrip(b"\0").decode() if heard else "nothing")
"#;
    each_person(|who| {
        for (view, expected) in
            [(View::Whole, "yyy-file"), (View::ByInit, "yyy-file"), (View::Nested, "nothing")]
        {
            let store = filled(who)?;
            store.add("yyy-file", b"a file of others", 0o444)?;
            let watching = store.home().path().join("project/watching");
            let command = store.command(view, &["python3", "-c", WATCH, view.at()]);
            let heard = std::thread::spawn(|| finish(command, b""));
            until("the watch to end", || {
                if watching.exists() {
                    fs::read(store.path("yyy-file"))?;
                }
                Ok(heard.is_finished().then_some(()))
            })?;
            let output = heard.join().map_err(|_| anyhow::anyhow!("the sandbox's thread"))??;
            ensure!(output.text() == expected, "{view:?}: {output}");
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

/// One that went after the shim had looked.
#[test]
fn init_names_an_entry_that_is_missing_and_starts_nothing() -> anyhow::Result<()> {
    let mut init = Init::start_alone(json!({
        "agent": { "argv": ["touch", "/tmp/work/ran"] },
        "readable": ["/usr/share/gone"],
    }))?;
    ensure!(init.ended()? == 125);
    let (_, errors) = init.printed();
    ensure!(errors.contains("/usr/share/gone: No such file or directory"), "{errors}");
    ensure!(!init.work().join("ran").exists());
    Ok(())
}

#[test]
fn a_package_that_is_gone_is_named_before_anything_starts() {
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

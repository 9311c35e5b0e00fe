//! Attempts on packages of a store that are not in the closure.

use std::path::Path;

use agent_protocol::message::ExecRequest;
use agent_tests::{Output, Store, View, exec, shell, until};
use anyhow::{Context, ensure};

use crate::board::{Board, attempts, each_person};
use crate::world::{World, backwards};

const ATTEMPTS: &str = include_str!("store_attempts.py");

/// The ways to keep a closure, each with a word for what keeps it.
const VIEWS: [(View, &str); 3] =
    [(View::ByInit, "init"), (View::Nested, "mounts"), (View::BelowTmp, "mounts")];

#[test]
fn packages_beside_the_closure() {
    each_person("store", |board, world| {
        let store = filled(world)?;
        let argv = |view: View| {
            ["python3", "/workspace/attempts.py", view.at(), &backwards(&world.marker)].map(str::to_owned)
        };
        let by_agent = |view: View| {
            let argv = argv(view);
            store.run(view, &argv.each_ref().map(String::as_str))?.success()
        };
        let whole = by_agent(View::Whole)?;
        for attempt in attempts(&whole)? {
            let works = attempt.outcome == "OPEN";
            let expected = attempt.plain == "open";
            let said = format!("{} with the whole store: {}", attempt.name, attempt.detail);
            board.attempt(
                &format!("the control of `{}`", attempt.name),
                if works == expected || attempt.plain == "depends" {
                    Ok(())
                } else {
                    Err(anyhow::anyhow!(said))
                },
            );
        }
        for (view, kept_by) in VIEWS {
            let output = by_agent(view)?;
            let said = format!("kept by {kept_by}");
            ensure!(output.errors().starts_with(&said), "expected `{said}`: {output}");
            closed(board, &format!("the agent, {view:?}"), &output)?;

            let sandbox = store.start(view)?;
            until("init to listen", || Ok(sandbox.socket().exists().then_some(())))?;
            let request = ExecRequest { argv: argv(view).map(String::into_bytes).to_vec(), ..shell("") };
            let done = until("init to answer", || Ok(exec(sandbox.socket(), &request).ok()))?;
            let done = done.map_err(|failure| anyhow::anyhow!("{failure}"))?;
            let output = Output { stdout: done.stdout, stderr: done.stderr, ..output };
            closed(board, &format!("exec, {view:?}"), &output)?;
        }
        Ok(())
    });
}

fn closed(board: &mut Board, by: &str, output: &Output) -> anyhow::Result<()> {
    let attempts = attempts(output)?;
    ensure!(attempts.len() > 30, "{output}");
    for attempt in attempts {
        let closed = if attempt.outcome == "closed" { Ok(()) } else { Err(anyhow::anyhow!(attempt.detail)) };
        board.attempt(&format!("{} by {by}", attempt.name), closed);
    }
    Ok(())
}

/// A store with a small closure, and others' packages that hold the marker.
fn filled(world: &World) -> anyhow::Result<Store> {
    let store = Store::new(world.who, Path::new(env!("CARGO_BIN_EXE_isolated")))?;
    let marker = &world.marker;
    store.add("aaa-tool/bin/tool", b"#!/bin/sh\necho the tool runs\n", 0o555)?;
    store.add_link("aaa-tool/other", "../xxx-other")?;
    store.add("bbb-file", b"a file\n", 0o444)?;
    store.add_link("ddd-link-to-other", "yyy-file")?;
    store.add("xxx-other/secret", marker.as_bytes(), 0o444)?;
    store.add("xxx-other/bin/tool", format!("#!/bin/sh\necho {marker}\n").as_bytes(), 0o555)?;
    store.add("yyy-file", marker.as_bytes(), 0o444)?;
    store.add_program("zzz-elf/bin/true", Path::new("/bin/true"))?;
    let libc = ["/lib64/libc.so.6", "/usr/lib/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6"];
    let library = libc.iter().map(Path::new).find(|path| path.exists()).context("a library of the host")?;
    store.add_program("xxx-other/lib.so", library)?;
    let closure = ["aaa-tool", "bbb-file", "ddd-link-to-other"].map(str::to_owned);
    store.choose(&closure)?;
    store.home().file("project/attempts.py", ATTEMPTS.as_bytes())?;
    Ok(store)
}

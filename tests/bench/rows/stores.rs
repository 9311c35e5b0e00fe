//! What it costs to show a part of a store: at a start, and for each file of it that is used.

use std::{path::Path, process::Stdio, time::Instant};

use agent_tests::{Home, Store, View, Who};
use anyhow::Context;

use super::{Setting, against, beyond};
use crate::{
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{Fifo, Guard, millis, processes},
};

/// Packages in the store, of which a closure has a part.
const PACKAGES: usize = 2500;

/// A store like Nix's: names as long, most of them folders.
fn filled(setting: &Setting<'_>, who: Who) -> anyhow::Result<(Store, Vec<String>)> {
    let store = Store::new(who, Path::new(env!("CARGO_BIN_EXE_isolated")))?;
    let mut names = Vec::new();
    for number in 0..PACKAGES {
        // Spread over the alphabet, as hashes are.
        let hash = number.wrapping_mul(0x9e37_79b9) & 0xffff_ffff;
        let name = format!("{hash:08x}{hash:024}-package-{number}-1.{number}");
        match number % 10 {
            9 => store.add(&name, b"a file", 0o444)?,
            _ => store.add(&format!("{name}/share/doc/readme"), b"a file", 0o444)?,
        }
        names.push(name);
    }
    store.add_program(&format!("{}/bin/floor", names[0]), &setting.workshop.floor())?;
    let own = store.home().path().join("project/floor");
    agent_tests::copy_program(&setting.workshop.floor(), &own)?;
    Ok((store, names))
}

/// From the shim's work to an agent that runs.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    const VIEWS: [(&str, View, usize); 7] = [
        ("whole", View::Whole, 0),
        ("by init, 50", View::ByInit, 50),
        ("by init, 500", View::ByInit, 500),
        ("by init, 2000", View::ByInit, 2000),
        ("tree, 50", View::Nested, 50),
        ("tree, 500", View::Nested, 500),
        ("tree, 2000", View::Nested, 2000),
    ];
    let mut rows = Vec::new();
    for who in Home::everyone() {
        let (store, names) = filled(setting, *who)?;
        let project = store.home().path().join("project");
        let ready = Fifo::new(&project)?;
        nix::unistd::chown(&project.join("ready"), Some(store.home().uid().into()), None)?;
        let once = |view: View, count: usize| -> anyhow::Result<f64> {
            store.choose(&names[..count])?;
            let mut command = store.command(view, &["/workspace/floor", "hello", "/workspace/ready"]);
            // Each bind beside a tree makes it dearer, and an environment from a store has few.
            command.env("BARE", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let began = Instant::now();
            let guard = Guard(command.spawn()?);
            ready.wait()?;
            let took = began.elapsed();
            processes::tree(guard.pid()).into_iter().for_each(processes::end);
            Ok(millis(took))
        };
        let contenders = VIEWS
            .map(|(name, view, count)| Contender::repeated(name, 2, move || once(view, count)))
            .into_iter()
            .collect();
        let whom = if *who == Who::Myself && store.home().uid() == 0 { "root" } else { "an ordinary user" };
        rows.push(Row {
            name: "store",
            what: format!("a store inside: launch to agent executed, as {whom}"),
            unit: Unit::Milliseconds,
            series: in_turn(setting.rounds(8), contenders)?,
            targets: vec![
                beyond("by init, 500", "whole", 3.0),
                beyond("by init, 2000", "whole", 25.0),
                beyond("tree, 500", "whole", 25.0),
                beyond("tree, 2000", "whole", 150.0),
            ],
        });
    }
    Ok(rows)
}

/// What each use of a file costs, with as many rules as a large closure has.
pub(super) fn using(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    const COUNT: usize = 2000;
    let (store, names) = filled(setting, Who::Ordinary)?;
    store.choose(&names[..COUNT])?;
    let mut rows = Vec::new();
    for (how, what, times) in [
        ("open", "open and close a file", "20000"),
        ("stat", "look at one", "20000"),
        ("exec", "execute one", "300"),
    ] {
        let once = |view: View| -> anyhow::Result<f64> {
            let file = format!("{}/{}/bin/floor", view.at(), names[0]);
            let output = store.run(view, &["/workspace/floor", "touch", how, &file, times])?.success()?;
            output.text().parse().with_context(|| format!("reading {output}"))
        };
        let contenders = vec![
            Contender::repeated("by init, 2000", 2, || once(View::ByInit)),
            Contender::repeated("whole", 2, || once(View::Whole)),
            Contender::repeated("tree, 2000", 2, || once(View::Nested)),
        ];
        rows.push(Row {
            name: "store-use",
            what: format!("{what} of a store"),
            unit: Unit::Microseconds,
            series: in_turn(setting.rounds(6), contenders)?,
            targets: vec![against("by init, 2000", "whole", if how == "exec" { 1.05 } else { 1.5 })],
        });
    }
    Ok(rows)
}

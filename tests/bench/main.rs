//! Prints how fast and how small we are, next to others that do the same on the same machine in the same minute.
//!
//! `cargo bench -p agent-tests --bench peers -- [--only ROW]... [--rounds N] [--quantile Q] [--json]`
//!
//! Times are printed and never asserted: see `tests/budgets.rs` for what does not depend on the machine.

// Without a test harness nobody calls the unit tests here; `tests.rs` does.
#![cfg_attr(test, allow(dead_code, unused_imports))]

use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, bail};

mod machine;
mod ours;
mod rounds;
mod rows;
mod stats;
mod table;
mod terminal;
mod tools;

use rows::{ROWS, Setting};
use stats::Quantile;

/// What the command line asks for.
struct Options {
    only: Vec<String>,
    rounds: Option<usize>,
    typical: Quantile,
    json: bool,
}

fn main() -> ExitCode {
    // `cargo test --all-targets` runs this as well, and wants to know only that it runs.
    if !env::args().any(|argument| argument == "--bench") {
        println!("nothing was asked: see `cargo bench -p agent-tests --bench peers -- --help`");
        return ExitCode::SUCCESS;
    }
    match parse(env::args().skip(1)).and_then(|options| options.map_or(Ok(true), |options| run(&options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `None` where only help was wanted.
fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Option<Options>> {
    let mut options = Options { only: Vec::new(), rounds: None, typical: Quantile::MEDIAN, json: false };
    while let Some(argument) = args.next() {
        let mut value = || args.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {}
            "--json" => options.json = true,
            "--only" => options.only.push(value()?),
            "--rounds" => options.rounds = Some(value()?.parse::<usize>().context("--rounds")?.max(1)),
            "--quantile" => options.typical = Quantile(value()?.parse().context("--quantile")?),
            "-h" | "--help" => {
                println!("--only ROW      one row, may be repeated: {}", names().join(", "));
                println!("--rounds N      instead of each row's own number");
                println!(
                    "--quantile Q    stands for many samples: 0.5, the median; lower where others use the machine"
                );
                println!("--json          for programs");
                return Ok(None);
            }
            other => bail!("`{other}` is not known; see --help"),
        }
    }
    if let Some(unknown) = options.only.iter().find(|name| !names().contains(&name.as_str())) {
        bail!("there is no row `{unknown}`, there are {}", names().join(", "));
    }
    Ok(Some(options))
}

fn names() -> Vec<&'static str> {
    ROWS.iter().map(|(name, _)| *name).collect()
}

/// Whether every row could be measured.
fn run(options: &Options) -> anyhow::Result<bool> {
    enter_a_plain_hierarchy()?;
    let workshop = tools::Workshop::new()?;
    let setting = Setting { workshop: &workshop, rounds: options.rounds };
    let mut all = true;
    let mut json = Vec::new();
    for (name, measure) in ROWS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        match measure(&setting) {
            Ok(rows) if options.json => json.extend(rows.iter().map(|row| row.to_json(options.typical))),
            Ok(rows) => rows.iter().for_each(|row| println!("{}", row.to_text(options.typical))),
            Err(error) => {
                eprintln!("{name}: not measured: {error:#}\n");
                all = false;
            }
        }
    }
    if options.json {
        println!("{:#}", serde_json::Value::from(json));
    }
    Ok(all)
}

/// crun refuses to work where the version 2 of control groups hangs below version 1. As root we can go where
/// it does not: a mount namespace of our own, with version 2 alone.
fn enter_a_plain_hierarchy() -> anyhow::Result<()> {
    const ENTERED: &str = "AGENT_SHIM_BENCH_ENTERED";
    let is_hybrid = fs::exists("/sys/fs/cgroup/unified").unwrap_or(false);
    if !is_hybrid || !nix::unistd::geteuid().is_root() || env::var_os(ENTERED).is_some() {
        return Ok(());
    }
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(env::current_exe()?).args(env::args_os().skip(1));
    Err(command.env(ENTERED, "1").exec()).context("starting unshare")
}

//! The command line: one file per subcommand, each with its arguments, its help and what it does.

mod agents;
mod agree;
mod attach;
mod completions;
mod config;
mod context;
mod destroy;
mod doctor;
mod env;
mod env_args;
mod error;
mod events;
mod exec;
mod follow;
mod image;
mod keep;
mod launch_args;
mod list;
mod logs;
mod man;
mod merge_report;
mod monitor;
mod output;
mod prepare;
mod pull;
mod pull_progress;
mod push;
mod resolve;
mod restart;
mod run;
mod snapshot;
mod start;
mod status;
mod stop;
mod tools;
mod workspace;
mod worktree;

use std::{ffi::OsString, process::ExitCode};

use clap::{Args, FromArgMatches, Parser, Subcommand};
use rustix::{fs::Mode, process::umask};

use self::{
    context::{Context, Global},
    error::CliError,
};
use crate::{isolation, repo::helper};

/// Run coding agents in sandboxes that outlive the terminal
///
/// NAME can be left out inside a project that has one sandbox.
///
/// Exit codes: 0 done, 1 no such sandbox, 2 wrong state, 3 failed, 4 the machine lacks something, 5 cancelled, 64 wrong usage.
/// `run` and `exec` end with the code of what they ran, 128 + N for signal N; 125 means that agent-shim failed, 126 that
/// the command cannot be executed, 127 that it does not exist.
#[derive(Parser, Debug)]
#[command(name = "agent-shim", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Start(start::StartArgs),
    Attach(attach::AttachArgs),
    Exec(exec::ExecArgs),
    Stop(stop::StopArgs),
    Restart(restart::RestartArgs),
    Destroy(destroy::DestroyArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    #[command(visible_alias = "sync")]
    Pull(pull::PullArgs),
    Push(push::PushArgs),
    Snapshot(snapshot::SnapshotArgs),
    Worktree(worktree::WorktreeArgs),
    Logs(logs::LogsArgs),
    Events(events::EventsArgs),
    Config(config::ConfigArgs),
    Agents(agents::AgentsArgs),
    Env(env::EnvCommandArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Monitor(monitor::MonitorArgs),
}

/// The whole program: from the arguments to the exit code. Errors are printed here and nowhere else.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    keep_ours_usable();
    let args: Vec<OsString> = args.into_iter().collect();
    if helper::is_called(args.first()) {
        return helper::main(&args[1..]);
    }
    if let Some(code) = isolation::own_process(&args) {
        return code;
    }
    let (global, command) = match parse(&args) {
        Ok(parsed) => parsed,
        Err(error) => return error::usage(&error),
    };
    let style = error::Style::of(&command);
    let color = global.color;
    let done = match &command {
        // It says itself what is wrong with the data folder.
        Command::Doctor(args) => doctor::run(&global, args),
        _ => Context::new(global).and_then(|ctx| dispatch(&ctx, command)),
    };
    match done {
        Ok(code) => code,
        Err(error) => error.print(color, style),
    }
}

/// A umask that takes rights from the owner would close what we make to ourselves. What it takes from others stays.
fn keep_ours_usable() {
    let given = umask(Mode::RWXG | Mode::RWXO);
    umask(given - Mode::RWXU);
}

/// Builds only the subcommand that the first argument names: the whole tree would cost `exec` more than its connection.
fn parse(args: &[OsString]) -> Result<(Global, Command), clap::Error> {
    macro_rules! one_of {
        ($($name:literal => $variant:ident($arguments:ty),)*) => {
            match args.get(1).and_then(|arg| arg.to_str()) {
                $(Some($name) => parse_one::<$arguments>($name, &args[1..])
                    .map(|(global, arguments)| (global, Command::$variant(arguments))),)*
                _ => Cli::try_parse_from(args).map(|cli| (cli.global, cli.command)),
            }
        };
    }
    one_of! {
        "run" => Run(run::RunArgs),
        "start" => Start(start::StartArgs),
        "attach" => Attach(attach::AttachArgs),
        "exec" => Exec(exec::ExecArgs),
        "stop" => Stop(stop::StopArgs),
        "restart" => Restart(restart::RestartArgs),
        "destroy" => Destroy(destroy::DestroyArgs),
        "list" => List(list::ListArgs),
        "status" => Status(status::StatusArgs),
        "pull" => Pull(pull::PullArgs),
        "push" => Push(push::PushArgs),
        "sync" => Pull(pull::PullArgs),
        "snapshot" => Snapshot(snapshot::SnapshotArgs),
        "worktree" => Worktree(worktree::WorktreeArgs),
        "logs" => Logs(logs::LogsArgs),
        "events" => Events(events::EventsArgs),
        "config" => Config(config::ConfigArgs),
        "agents" => Agents(agents::AgentsArgs),
        "env" => Env(env::EnvCommandArgs),
        "doctor" => Doctor(doctor::DoctorArgs),
        "monitor" => Monitor(monitor::MonitorArgs),
    }
}

fn parse_one<A: Args + FromArgMatches>(
    name: &'static str,
    args: &[OsString],
) -> Result<(Global, A), clap::Error> {
    let command = A::augment_args(clap::Command::new(name)).bin_name(format!("agent-shim {name}"));
    let mut command = Global::augment_args(command);
    let mut matches = command.try_get_matches_from_mut(args)?;
    let global = Global::from_arg_matches_mut(&mut matches)?;
    Ok((global, A::from_arg_matches_mut(&mut matches)?))
}

/// `start`, for a look at its flags.
#[cfg(test)]
pub(crate) fn launch_command() -> clap::Command {
    start::StartArgs::augment_args(clap::Command::new("start"))
}

fn dispatch(ctx: &Context, command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run(args) => run::run(ctx, &args),
        Command::Start(args) => start::run(ctx, &args),
        Command::Attach(args) => attach::run(ctx, &args),
        Command::Exec(args) => exec::run(ctx, args),
        Command::Stop(args) => stop::run(ctx, &args),
        Command::Restart(args) => restart::run(ctx, &args),
        Command::Destroy(args) => destroy::run(ctx, &args),
        Command::List(args) => list::run(ctx, &args),
        Command::Status(args) => status::run(ctx, &args),
        Command::Pull(args) => pull::run(ctx, &args),
        Command::Push(args) => push::run(ctx, &args),
        Command::Snapshot(args) => snapshot::run(ctx, &args),
        Command::Worktree(args) => worktree::run(ctx, &args),
        Command::Logs(args) => logs::run(ctx, &args),
        Command::Events(args) => events::run(ctx, &args),
        Command::Config(args) => config::run(ctx, &args),
        Command::Agents(args) => agents::run(ctx, &args),
        Command::Env(args) => env::run(ctx, &args),
        Command::Doctor(args) => doctor::run(&ctx.global, &args),
        Command::Completions(args) => completions::run(ctx, &args),
        Command::Man(args) => man::run(ctx, &args),
        Command::Monitor(args) => monitor::run(ctx, &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &str) -> Result<(Global, Command), clap::Error> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&args)
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_subcommand_alone_means_what_it_means_in_the_tree() {
        for line in [
            "agent-shim exec web -it -e A=B -w /tmp --timeout 5s -- sh -c true",
            "agent-shim start --name web --env host /src -- agent --flag",
            "agent-shim run --rm -- bash -v",
            "agent-shim list --json",
            "agent-shim stop web --force -v",
            "agent-shim logs -f web",
            "agent-shim worktree add fix --create web -- sh -c true",
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let tree = Cli::try_parse_from(&args).unwrap();
            let (global, command) = parse(&args).unwrap();
            assert_eq!(format!("{global:?} {command:?}"), format!("{:?} {:?}", tree.global, tree.command));
        }
    }

    #[test]
    fn every_subcommand_is_found_alone() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            if ["completions", "man"].contains(&name) {
                continue;
            }
            let error = parsed(&format!("agent-shim {name} --help")).unwrap_err();
            let (help, about) = (error.to_string(), command.get_about().unwrap().to_string());
            assert!(help.contains(&format!("Usage: agent-shim {name}")), "{help}");
            assert!(help.starts_with(&about), "{help}");
        }
    }

    #[test]
    fn global_flags_may_stand_before_the_subcommand() {
        let (global, _) = parsed("agent-shim --json -v list").unwrap();
        assert!(global.json && global.verbose == 1);
    }

    #[test]
    fn what_stands_behind_two_dashes_is_the_agents() {
        let Ok((global, Command::Run(args))) = parsed("agent-shim run . -- agent --prompt x --json") else {
            panic!()
        };
        assert_eq!(args.launch.command, ["agent", "--prompt", "x", "--json"]);
        assert!(!global.json);
    }
}
